"""Records moved part by part, from exact starts of a law with closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from energax.energies._base import batched
from energax.energies.function import from_log_density
from energax.random import key
from energax.samplers import mixed
from energax.samplers._base import run
from energax.samplers.gibbs import SiteGibbs
from energax.samplers.langevin import MALA
from energax.samplers.locally_informed import DiscreteLangevin, GibbsWithGradients
from energax.samplers.metropolis import Metropolis
from energax.samplers.mixed import Mixed
from energax.spaces import Binary, Categorical, Count, Real, Record
from tests.exact import P_LIMIT, chi_square

SPACE = Record(bits=Binary(2), height=Real(1), kind=Categorical((), 3))
RNG = np.random.default_rng(6)
LOG_WEIGHT = RNG.normal(0, 0.6, (4, 3))
MEAN = RNG.normal(0.5, 1.0, (4, 3))
SD = np.array([[0.7], [1.2], [0.9], [1.5]]) * [1.0, 0.6, 1.3]


def f(tables, x):
    """log w(s) − (a − m(s))²/2σ(s)² − log σ(s), s the bits and the kind; weights interpolated so
    that f is smooth in the bits."""
    factor, log_weight, mean, sd = tables
    b = x["bits"]
    corner = jnp.array([(1 - b[0]) * (1 - b[1]), (1 - b[0]) * b[1], b[0] * (1 - b[1]), b[0] * b[1]])
    w, m, s = (corner @ table[:, x["kind"]] for table in (log_weight, mean, sd))
    return factor * (w - 0.5 * ((x["height"][0] - m) / s) ** 2 - jnp.log(s))


def energy(factor=1.0):
    tables = [jnp.asarray(a, float) for a in (factor, LOG_WEIGHT, MEAN, SD)]
    return from_log_density(f, SPACE, params=tables)


def exact_draws(num):
    rng = np.random.default_rng(3)
    prob = np.exp(LOG_WEIGHT).ravel()
    s = rng.choice(12, num, p=prob / prob.sum())
    corner, kind = s // 3, s % 3
    height = rng.normal(MEAN[corner, kind], SD[corner, kind])
    return {
        "bits": np.stack([corner // 2, corner % 2], 1).astype(np.float32),
        "height": height[:, None].astype(np.float32),
        "kind": kind.astype(np.int32),
    }


@eqx.filter_jit
def after(sampler, energy, x):
    """The ensemble after five steps."""
    state, tuning = sampler.init(energy, x, key=key(0))
    return run(sampler, energy, state, tuning, key=key(1), num_steps=5, keep=False)[0].x


def p_value(x):
    """χ² of (bits, kind) and which eighth of its normal law the height lies in, jointly."""
    x = jax.tree.map(np.asarray, x)
    corner = (2 * x["bits"][:, 0] + x["bits"][:, 1]).astype(int)
    z = (x["height"][:, 0].astype(float) - MEAN[corner, x["kind"]]) / SD[corner, x["kind"]]
    cell = np.minimum((stats.norm.cdf(z) * 8).astype(int), 7)
    counts = np.bincount((corner * 3 + x["kind"]) * 8 + cell, minlength=96)
    return chi_square(counts, np.repeat(np.exp(LOG_WEIGHT).ravel() / 8, 8))


FITTING = Mixed(bits=GibbsWithGradients(max_flips=1), height=MALA(0.8), kind=SiteGibbs())
OTHERS = Mixed(kind=Metropolis(0.4), bits=DiscreteLangevin(1.5), height=Metropolis(1.0))


@pytest.mark.parametrize("sampler", [FITTING, OTHERS], ids=["fitting", "others"])
def test_exact_draws_stay_exact_and_mutants_do_not(sampler, monkeypatch):
    x = jax.tree.map(jnp.asarray, exact_draws(24_000))
    assert p_value(x) > 1e-3
    assert p_value(after(sampler, energy(), x)) > P_LIMIT
    backwards = sampler.reversal()
    assert backwards.names == sampler.names[::-1]
    if sampler is FITTING:
        assert p_value(after(sampler, energy(0.6), x)) < 1e-9
        assert p_value(after(sampler, energy(-0.3), x)) < 1e-9
        # What a part cached before the others moved must not be used
        monkeypatch.setattr(mixed, "_ready", lambda sampler, energy, state, value: state)
        turned = Mixed(height=MALA(0.8), bits=GibbsWithGradients(max_flips=1), kind=SiteGibbs())
        assert p_value(after(turned, energy(), x)) < 1e-9


def test_each_part_is_tuned_over_the_ensemble():
    sampler = Mixed(height=MALA(), bits=DiscreteLangevin(), kind=SiteGibbs())
    x = jax.tree.map(jnp.asarray, exact_draws(100))
    state, tuning = eqx.filter_jit(sampler.init)(energy(), x, key=key(0))
    state, tuning, _ = run(
        sampler, energy(), state, tuning, key=key(1), num_steps=200, adapt=True, keep=False
    )
    state, _, trace = run(sampler, energy(), state, tuning, key=key(2), num_steps=20)
    np.testing.assert_allclose(state.log_density, batched(energy(), state.x), atol=1e-4)
    found = sampler.describe(state, tuning)
    assert 0.3 < float(found["height: step_size"]) < 30
    sd = float(np.std(exact_draws(50_000)["height"]))
    np.testing.assert_allclose(tuning["height"].moments.sd, sd, rtol=0.2)
    assert trace.x["height"].shape == (20, 100, 1)
    fresh = eqx.filter_jit(sampler.refresh)(energy(0.5), state)
    np.testing.assert_allclose(fresh.log_density, batched(energy(0.5), state.x), atol=1e-4)
    gradient = jax.vmap(lambda p: jax.grad(lambda h: f_of(0.5)({**p, "height": h}))(p["height"]))
    np.testing.assert_allclose(fresh.parts["height"].gradient, gradient(state.x), atol=1e-4)


def f_of(factor):
    return energy(factor).log_density


def test_parts_are_chosen_by_their_own_energies():
    def choose(part):
        return MALA() if isinstance(part.space, Real) else SiteGibbs()

    sampler = Mixed.of(energy(), choose)
    assert {n: type(s).__name__ for n, s in sampler.parts.items()} == {
        "bits": "SiteGibbs", "height": "MALA", "kind": "SiteGibbs"
    }  # fmt: skip
    assert sampler.is_exact and sampler.evaluations_per_step(energy()) == 1 + 1 + 2 + 3


def test_what_does_not_fit_is_refused():
    x = jax.tree.map(jnp.asarray, exact_draws(4))
    with pytest.raises(ValueError, match="each of the parts"):
        Mixed(height=MALA(), bits=SiteGibbs()).init(energy(), x, key=key(0))
    with pytest.raises(TypeError, match="MALA moves x on Real"):
        Mixed(height=MALA(), bits=MALA(), kind=SiteGibbs()).init(energy(), x, key=key(0))
    with pytest.raises(TypeError, match="part 'a'"):
        Mixed(a=3)
    with pytest.raises(ValueError, match="a sampler for each part"):
        Mixed()
    counts = from_log_density(lambda x: -1.0 * jnp.sum(x), Count(3))
    with pytest.raises(TypeError, match="Record"):
        Mixed(x=Metropolis()).init(counts, jnp.zeros((2, 3), jnp.int32), key=key(0))
