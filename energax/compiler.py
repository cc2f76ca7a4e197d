"""What XLA is told before it starts, lest it gives wrong sums on CPUs without a word.

jaxlib 0.10.2 fuses a product and the sum after it, Σ_j g(x W)_j over many rows, into kernels of
another library, of which some are wrong: for a W of equal numbers, and over more than some 16,000
rows for any (jax issue 39103). `import energax` turns those kernels off; XLA reads this once, when
JAX is first used. Every answer first asks `check_arithmetic` whether it came in time.
"""

import functools
import os
import warnings

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_WITHOUT = f"{_FLAG}=-reduce"
_FIRST, _BEYOND = (0, 10, 2), (0, 12)
"""Versions of jaxlib that are told. XLA ends the process at a flag that it doesn't know."""


class WrongArithmetic(UserWarning):
    """Warned when a sum that XLA computed in this process is wrong."""


def set_flags() -> None:
    """Puts into XLA_FLAGS what this version of jaxlib needs, unless the user has set it."""
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags and not flags.startswith("-"):
        return  # the name of a file of flags
    numbers = (int(part) for part in jaxlib.version.__version__.split(".")[:3] if part.isdigit())
    if _FIRST <= tuple(numbers) < _BEYOND and _FLAG not in flags:
        # In front: XLA reads no further than to a word without a dash, as some write them.
        os.environ["XLA_FLAGS"] = f"{_WITHOUT} {flags}".strip()


@functools.cache
def check_arithmetic() -> bool:
    """Whether sums known to go wrong come out right; warns `WrongArithmetic` where they do not.

    It compiles two small programs, once in a process.
    """
    if jax.default_backend() != "cpu" or _sums_are_right():
        return True
    warnings.warn(
        f"XLA computes wrong sums in this process (jaxlib {jaxlib.version.__version__}, jax issue "
        "39103), so that any answer may be wrong without a sign: import energax before JAX is "
        f"first used, or start Python with XLA_FLAGS='{_WITHOUT}'",
        WrongArithmetic,
        stacklevel=3,
    )
    return False


def _sums_are_right() -> bool:
    """Σ_j g(x W)_j for the two W of the smallest programs that are known to go wrong."""
    equal, unit = np.full((8, 8), 1.5, np.float32), np.eye(3, dtype=np.float32)
    few, many = (np.arange(n, dtype=np.float32).reshape(-1, d) for n, d in ((4096, 8), (98307, 3)))
    with jax.ensure_compile_time_eval():  # wherever it is called from, these are run
        sums = jax.jit(lambda x: jnp.sum(x @ equal, axis=1))(few)
        squares = jax.jit(jax.vmap(lambda v: jnp.sum((unit @ v) ** 2)))(many)
    return bool(
        np.allclose(sums, np.sum(few @ equal, axis=1), rtol=1e-3)
        and np.allclose(squares, np.sum(many**2, axis=1), rtol=1e-3)
    )
