"""Samplers for ℝⁿ on boxes: exact starts stay exact, also where the density is high at a wall."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import energax.random as random
from energax.energies import Tempered, Unconstrained, from_log_density
from energax.energies._base import batched
from energax.samplers import HMC, MALA, ULA, Transformed
from energax.samplers._base import run
from energax.spaces import Binary, Box, Record
from tests.exact import P_LIMIT, after_steps, ks

NUM = 20_000
RATE = 2.5
SPACE = Record(edge=Box([1.0, -jnp.inf], [3.0, 2.0]), spike=Box([0.0], [jnp.inf]))


def f(x):
    """edge₀ rises to its wall at 3; 2 − edge₁ ~ Exp(edge₀); spike ~ Gamma(0.6), infinite at 0."""
    edge, spike = x["edge"], x["spike"][0]
    gap = 2 - edge[1]
    return RATE * edge[0] + jnp.log(edge[0]) - edge[0] * gap - 0.4 * jnp.log(spike) - spike


ENERGY = from_log_density(f, SPACE)
SAMPLERS = {
    "HMC": Transformed(HMC(3, step_size=0.5)),
    "MALA": Transformed(MALA(0.4)),
}


def draw(seed):
    rng = np.random.default_rng(seed)
    u = rng.random(NUM)
    first = 3 + np.log(u + (1 - u) * np.exp(-2 * RATE)) / RATE
    second = 2 - rng.exponential(size=NUM) / first
    spike = rng.gamma(0.6, size=(NUM, 1))
    edge = np.stack([first, second], -1).astype(np.float32)
    return {"edge": edge, "spike": spike.astype(np.float32)}


def judge(x):
    first, second = x["edge"].astype(float).T
    mass = 1 - np.exp(-2 * RATE)
    p_first = ks(first, lambda t: (np.exp(RATE * (t - 3)) - np.exp(-2 * RATE)) / mass)
    p_second = ks((2 - second) * first, stats.expon.cdf)
    return 3 * min(p_first, p_second, ks(x["spike"], stats.gamma(0.6).cdf))


def p_value(sampler, energy=ENERGY, num_steps=12):
    after = after_steps(sampler, energy, draw(1), key=random.key(2), num_steps=num_steps)
    SPACE.validate(after, batch=True)
    return judge(after)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_target_is_kept_and_mutants_are_not(name, monkeypatch):
    sampler = SAMPLERS[name]
    assert p_value(sampler) > P_LIMIT
    assert p_value(sampler, Tempered(ENERGY, 0.85)) < 1e-9
    if name == "HMC":
        jacobian = Unconstrained.log_jacobian
        for factor in (0.85, -1.0):
            monkeypatch.setattr(
                Unconstrained, "log_jacobian", lambda self, y, s=factor: s * jacobian(self, y)
            )
            jax.clear_caches()
            assert p_value(sampler) < 1e-9
        monkeypatch.undo()
        jax.clear_caches()


def test_the_state_is_the_point_and_its_own_log_density():
    sampler = Transformed(MALA())
    x = jax.tree.map(lambda a: jnp.asarray(a[:6]), draw(3))
    state, tuning = sampler.init(ENERGY, x, key=random.key(0))
    state, tuning, trace = run(
        sampler, ENERGY, state, tuning, key=random.key(1), num_steps=60, adapt=True
    )
    np.testing.assert_allclose(state.log_density, batched(ENERGY, state.x), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(state.x["edge"], trace.x["edge"][-1])
    assert "step_size" in sampler.describe(state, tuning)
    other = Tempered(ENERGY, 0.5)
    fresh = sampler.refresh(other, state)
    np.testing.assert_array_equal(fresh.x["edge"], state.x["edge"])
    np.testing.assert_allclose(fresh.log_density, batched(other, state.x), rtol=1e-4, atol=1e-4)
    moved = eqx.tree_at(lambda s: s.x["spike"], state, state.x["spike"] + 1)
    again = sampler.refresh(ENERGY, moved)
    np.testing.assert_allclose(again.x["spike"], moved.x["spike"], rtol=1e-5)
    np.testing.assert_array_equal(again.x["edge"], state.x["edge"])


def test_it_is_as_exact_as_what_it_runs_and_refuses_what_is_no_box():
    assert Transformed(MALA()).is_exact and not Transformed(ULA(0.1)).is_exact
    energy = from_log_density(lambda x: 1.0 * jnp.sum(x), Binary((2,)))
    with pytest.raises(TypeError, match="Metropolis"):
        Transformed(MALA()).init(energy, jnp.ones((3, 2)), key=random.key(0))
