"""XLA's wrong sums are turned off in time, or warned of. Programs run in processes of their own."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
import pytest

from energax import compiler

AFFECTED = (0, 10, 2) <= tuple(int(n) for n in jaxlib.version.__version__.split(".")[:3]) < (0, 11)
ENERGY = "ex.from_log_density(lambda x: -(x @ x), ex.Real(3))"
ASK = f"print(ex.log_ratio({ENERGY}, [0.0, 0, 0], [1.0, 1, 0]))"


def run(code, flags=None):
    """(stdout, stderr) of a fresh interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    if flags is not None:
        environment["XLA_FLAGS"] = flags
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "flags", [None, "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"]
)
def test_importing_energax_first_is_enough(flags):
    out, err = run(f"import energax as ex; {ASK}", flags)
    assert float(out) == 2.0 and "WrongArithmetic" not in err


@pytest.mark.skipif(not AFFECTED, reason="this jaxlib computes right as it is")
@pytest.mark.parametrize("how", ["JAX was used before", "the user's flags"])
def test_what_comes_too_late_is_warned_of_once(how):
    first = "import jax.numpy as jnp; jnp.ones(3) + 1; " if how.startswith("JAX") else ""
    flags = None if first else "--xla_cpu_experimental_ynn_fusion_type=+reduce"
    out, err = run(f"{first}import energax as ex; {ASK}; {ASK}", flags)
    assert float(out.split()[0]) == 2.0 and err.count("computes wrong sums") == 1


def test_only_versions_that_know_the_flag_are_told(monkeypatch):
    for number, is_told in (
        ("0.10.1", False),
        ("0.10.2", True),
        ("0.11.0.dev20260101", True),
        ("0.12.0", False),
        ("1.0", False),
    ):
        monkeypatch.setattr(jaxlib.version, "__version__", number)
        for flags in ("", "--xla_a=1"):
            monkeypatch.setenv("XLA_FLAGS", flags)
            compiler.set_flags()
            assert ("ynn_fusion_type=-reduce" in os.environ["XLA_FLAGS"]) == is_told
            assert os.environ["XLA_FLAGS"].endswith(flags)
    monkeypatch.setattr(jaxlib.version, "__version__", "0.10.2")
    for flags in ("a_file_of_flags.txt", "--xla_cpu_experimental_ynn_fusion_type=dot"):
        monkeypatch.setenv("XLA_FLAGS", flags)
        compiler.set_flags()
        assert os.environ["XLA_FLAGS"] == flags


def test_products_and_sums_over_rows_are_right():
    """Batches of a layer and a sum, of all kinds that f of one point brings with it."""
    assert compiler.check_arithmetic()
    rng = np.random.default_rng(0)
    layers = {
        "tanh": (jnp.tanh, np.tanh),
        "square": (jnp.square, np.square),
        "softplus": (jax.nn.softplus, lambda u: np.logaddexp(u, 0)),
    }
    sums = {"sum": (jnp.sum, np.sum), "max": (jnp.max, np.max)}
    for case in range(40):
        rows = int(np.exp(rng.uniform(0, np.log(70_000))))
        d, h = rng.integers(1, 24, 2)
        kind = ("argument", "constant", "equal", "unit")[case % 4]
        weight = {"equal": np.full((d, h), 1.3), "unit": np.eye(d, h)}.get(
            kind, rng.normal(size=(d, h))
        )
        weight = weight.astype(np.float32)
        x, c = (rng.normal(size=shape).astype(np.float32) for shape in ((rows, d), h))
        layer, total = (
            list(options.values())[rng.integers(len(options))] for options in (layers, sums)
        )

        def f(w, v, c=c, layer=layer, total=total, turned=case % 8 > 3):
            return total[0](layer[0]((w.T @ v if turned else v @ w) + c))

        if kind == "argument":
            found = jax.jit(jax.vmap(f, (None, 0)))(weight, x)
        else:
            found = jax.jit(jax.vmap(lambda v, w=weight, f=f: f(w, v)))(x)
        wanted = total[1](layer[1](x.astype(np.float64) @ weight + c), axis=1)
        np.testing.assert_allclose(
            found, wanted, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(wanted).max())
        )
