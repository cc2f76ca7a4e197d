"""`sample` on parts of x, without draws, from a checkpoint, and on several devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import energax as ex
from energax import random
from energax.energies import BernoulliRBM, Ising
from energax.samplers import MALA
from energax.samplers._base import run
from tests.exact import enumerated

COVARIANCE = np.array([[1.0, 0.7, -0.2], [0.7, 2.0, 0.4], [-0.2, 0.4, 0.5]])
PRECISION = jnp.asarray(np.linalg.inv(COVARIANCE))
CENTRE = jnp.array([1.0, -2.0, 0.5])


def normal():
    return ex.from_log_density(
        lambda x: -0.5 * (x - CENTRE) @ PRECISION @ (x - CENTRE), ex.Real((3,))
    )


def rbm():
    rng = np.random.default_rng(3)
    return BernoulliRBM(rng.normal(0, 1, (6, 4)), rng.normal(size=6), rng.normal(size=4))


def ising():
    edges = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4), (1, 3)]
    fields = [0.1, -0.4, 0.3, 0.2, -0.2]
    return Ising(edges, [0.4, -0.3, 0.6, 0.2, 0.5, -0.7], fields, num_sites=5)


@pytest.mark.parametrize("sampler", [None, ex.samplers.Metropolis()], ids=["default", "Metropolis"])
def test_a_held_coordinate_leaves_the_conditional_normal(sampler):
    given = np.array([np.nan, 1.0, np.nan])
    draws = ex.sample(normal(), 500, key=ex.random.key(1), given=given, sampler=sampler)
    free, held = [0, 2], [1]
    gain = COVARIANCE[np.ix_(free, held)] @ np.linalg.inv(COVARIANCE[np.ix_(held, held)])
    mean = np.asarray(CENTRE)[free] + gain @ (given[held] - np.asarray(CENTRE)[held])
    var = np.diag(COVARIANCE[np.ix_(free, free)] - gain @ COVARIANCE[np.ix_(held, free)])
    assert draws.reliable and draws.x.shape == (4, 125, 3)
    assert np.all(draws.x[..., 1] == 1.0) and draws.mean[1] == 1.0 and draws.sd[1] == 0
    assert draws.constant.tolist() == [False, True, False]
    assert np.all(abs(draws.mean[free] - mean) < 4.5 * draws.mcse_mean[free])
    assert np.all(abs(draws.sd[free] - np.sqrt(var)) < 4.5 * draws.mcse_sd[free])
    f = jax.vmap(normal().log_density)(jnp.asarray(draws.flat()))
    np.testing.assert_allclose(draws.log_density.ravel(), f, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [rbm, ising])
def test_held_sites_keep_the_family_and_its_sampler(make):
    energy = make()
    low = 0.0 if make is rbm else -1.0
    given = np.full(energy.space.num_sites, np.nan)
    given[1], given[3] = 1.0, low
    draws = ex.sample(energy, 4_000, key=ex.random.key(2), given=given)
    assert draws.sampler == ("BlockGibbs" if make is rbm else "ColouredGibbs")
    assert draws.reliable
    exact = enumerated(energy)
    fits = (exact.x[:, 1] == 1.0) & (exact.x[:, 3] == low)
    prob = exact.prob[fits] / exact.prob[fits].sum()
    mean = prob @ exact.x[fits]
    error = np.maximum(draws.mcse_mean, 1e-9)
    assert np.all(abs(draws.mean - mean) < 4.5 * error)
    where = {row.tobytes(): f for row, f in zip(exact.x, exact.log_density, strict=True)}
    flat = draws.flat().astype(float)
    f = [where[row.tobytes()] for row in flat]
    np.testing.assert_allclose(draws.log_density.ravel(), f, rtol=1e-4, atol=1e-4)


def test_parts_of_a_record_are_held_by_name():
    space = ex.Record(a=ex.Real((2,)), b=ex.Binary((3,)), n=ex.Count((1,)))

    def f(x):
        pull = x["b"][0] - 2 * x["b"][1]
        n = x["n"][0].astype(float)
        return (
            -0.5 * jnp.sum((x["a"] - pull) ** 2)
            + 0.3 * jnp.sum(x["b"])
            + n * jnp.log(2.0)
            - jax.lax.lgamma(n + 1.0)
        )

    energy = ex.from_log_density(f, space)
    given = {"b": np.array([1.0, 1.0, 0.0]), "n": np.array([4])}
    draws = ex.sample(energy, 400, key=ex.random.key(3), given=given)
    assert draws.reliable and set(draws.x) == {"a", "b", "n"}
    assert np.all(draws.x["n"] == 4) and draws.x["b"].shape == (8, 50, 3)
    assert np.all(abs(draws.mean["a"] + 1) < 4.5 * draws.mcse_mean["a"])
    assert draws.mean["b"].tolist() == [1, 1, 0] and np.all(draws.constant["n"])
    with pytest.raises(ValueError, match="some but not all"):
        ex.sample(energy, 10, key=ex.random.key(0), given={"c": 1.0})


def test_summaries_alone():
    full = ex.sample(normal(), 100, key=ex.random.key(4))
    none = ex.sample(normal(), 0, key=ex.random.key(4))
    assert none.x.shape == (8, 0, 3) and none.log_density.shape == (8, 0)
    np.testing.assert_array_equal(none.mean, full.mean)
    assert none.reliable


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit(tmp_path):
    def hard(budget, path):
        energy = ex.from_log_density(  # two modes that chains seldom cross: never converged
            lambda x: jnp.logaddexp(-2.0 * (x[0] - 3.0) ** 2, -2.0 * (x[0] + 3.0) ** 2),
            ex.Real((1,)),
        )
        with pytest.warns(ex.UnreliableResult):
            return ex.sample(
                energy,
                50,
                key=ex.random.key(5),
                sampler=ex.samplers.Metropolis(),
                max_evaluations=budget,
                num_warmup=512,
                checkpoint=path,
            )

    path = tmp_path / "run.json"
    short = hard(90_000, path)
    longer = hard(200_000, path)
    straight = hard(200_000, tmp_path / "other.json")
    assert short.num_steps < longer.num_steps
    again = hard(200_000, path)  # nothing left to do
    for draws in (longer, again):
        np.testing.assert_array_equal(draws.x, straight.x)
        np.testing.assert_array_equal(draws.mean, straight.mean)
        assert draws.acceptance == straight.acceptance and draws.reasons == straight.reasons
        assert draws.num_evaluations == straight.num_evaluations


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.json"
    ex.sample(normal(), 16, key=ex.random.key(6), checkpoint=path)
    first = ex.sample(normal(), 16, key=ex.random.key(6), checkpoint=path)
    assert first.reliable
    with pytest.raises(ValueError, match="key"):
        ex.sample(normal(), 16, key=ex.random.key(7), checkpoint=path)
    with pytest.raises(ValueError, match="sampler"):
        ex.sample(
            normal(), 16, key=ex.random.key(6), checkpoint=path, sampler=ex.samplers.MALA(0.3)
        )
    with pytest.raises(ValueError, match="json"):
        ex.sample(normal(), 16, key=ex.random.key(6), checkpoint=tmp_path / "run.npz")
    with pytest.raises(FileNotFoundError, match="folder"):
        ex.sample(normal(), 16, key=ex.random.key(6), checkpoint=tmp_path / "no" / "run.json")
    data = path.read_text()
    path.write_text(data[: len(data) // 2])
    with pytest.raises(ValueError, match="damaged"):
        ex.sample(normal(), 16, key=ex.random.key(6), checkpoint=path)


DEVICES = """
import hashlib, sys, jax, jax.numpy as jnp, numpy as np, warnings
warnings.simplefilter("ignore")
import energax as ex
from energax.energies import Ising
real = ex.from_log_density(lambda x: -jnp.sum((x - 1) ** 4), ex.Real((3,)))
count = ex.from_log_density(
    lambda n: jnp.sum(n * jnp.log(3.0) - jax.lax.lgamma(n + 1.0)), ex.Count((2,)))
for energy in (real, count, Ising.grid((4, 4), 0.2, 0.1)):
    draws = ex.sample(energy, 64, key=ex.random.key(8), num_warmup=256, num_steps=512)
    parts = [np.asarray(draws.x), np.asarray(draws.mean), np.asarray(draws.mcse_mean)]
    print(draws.sampler, hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest())
"""


@pytest.mark.slow
def test_draws_are_bit_for_bit_the_same_on_1_2_4_and_8_devices():
    seen = {}
    for count in (1, 2, 4, 8):
        flags = f"--xla_force_host_platform_device_count={count}"
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", DEVICES], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        seen[count] = done.stdout
    assert len(set(seen.values())) == 1, seen
    assert len(seen[1].splitlines()) == 3


def test_the_chains_are_spread_over_the_devices():
    code = """
import jax, jax.numpy as jnp, energax as ex
from energax.samplers.driver.choose import Job
seen = []
old = Job._advance
def spy(self, *a, **k):
    out = old(self, *a, **k)
    seen.append(len(self.state.x.sharding.device_set))
    return out
Job._advance = spy
ex.sample(ex.from_log_density(lambda x: -jnp.sum(x**4), ex.Real((2,))), 8, key=ex.random.key(0))
assert set(seen) == {4}, seen
"""
    flags = "--xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_held_sites_leave_the_exact_law():
    """χ² over the free states, chains far apart enough to be independent."""
    energy = rbm()
    given = np.array([np.nan, 1.0, np.nan, np.nan, 0.0, np.nan])
    draws = ex.sample(energy, 3_000, key=ex.random.key(9), given=given, num_steps=3_000)
    exact = enumerated(energy)
    fits = (exact.x[:, 1] == 1.0) & (exact.x[:, 4] == 0.0)
    prob = exact.prob[fits] / exact.prob[fits].sum()
    counts = np.bincount(exact.index(draws.flat()), minlength=len(exact.prob))
    assert counts[~fits].sum() == 0
    assert stats.chisquare(counts[fits], 3_000 * prob).pvalue > 1e-6


def test_a_traced_switch_learns_or_does_not():
    energy = ex.from_log_density(lambda x: -0.5 * jnp.sum((x - 0.3) ** 2), ex.Real((3,)))
    sampler, keys = MALA(), random.split(random.key(0))
    state, tuning = sampler.init(energy, jnp.ones((4, 3)), key=keys[0])

    def after(adapt, num_steps):
        return run(sampler, energy, state, tuning, key=keys[1], num_steps=num_steps, adapt=adapt)

    for adapt in (True, False):
        wanted, got = after(adapt, 20), after(jnp.asarray(adapt), 20)
        for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(got), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        with jax.disable_jit():  # where only one branch is looked at
            after(jnp.asarray(adapt), 1)
    learned, kept = after(jnp.asarray(True), 20)[1], after(jnp.asarray(False), 20)[1]
    differs = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != b)), learned, kept)
    assert any(jax.tree.leaves(differs))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.all(a == b)), kept, tuning))
