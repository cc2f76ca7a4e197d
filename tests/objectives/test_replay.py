"""Chains from a stock: who restarts and where, the gradient with exact draws, and the entropy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from energax import random, training
from energax.energies import from_log_density
from energax.energies.exponential_family import Normal
from energax.objectives import ImprovedCD, ReplayCD
from energax.objectives.chains.replay import Stock
from energax.samplers import MALA
from energax.spaces import Box, Real, Record, Spin
from tests.exact import P_LIMIT
from tests.objectives.test_contrastive_divergence import Stay, gradient_of, gradients

KEY = random.key(8)


def quartic(theta=0.7, n=3):
    return from_log_density(lambda p, x: -p * jnp.sum(x**4), Real((n,)), params=jnp.asarray(theta))


def exact_quartic(num, n=3, theta=0.7, seed=0):
    """p ∝ exp(−θ x⁴): θ x⁴ is Gamma(1/4)."""
    rng = np.random.default_rng(seed)
    x = (rng.gamma(0.25, 1 / theta, (num, n))) ** 0.25
    return (x * rng.choice([-1, 1], x.shape)).astype(np.float32)


@pytest.mark.parametrize("restart", [0.0, 0.3, 1.0])
def test_the_stated_share_restarts_and_all_places_have_their_turn(restart):
    """The kernel stays, so that a point is new only if its chain restarted."""
    objective = ReplayCD(
        num_steps=1,
        num_chains=20,
        size=200,
        restart=restart,
        base=Normal(np.full(3, 5.0), np.full(3, 0.1)),
        sampler=Stay(),
    )
    energy, batch = quartic(), np.ones((4, 3), np.float32)
    _, stock = objective.init(energy, batch, key=KEY)
    assert stock.points.shape == (200, 3) and abs(float(stock.points.mean()) - 5) < 0.05
    stock = eqx.tree_at(lambda s: s.points, stock, jnp.zeros((200, 3)))
    call = eqx.filter_jit(objective)
    told, was, turns = 0, np.zeros((200, 3)), np.zeros(200)
    for i in range(100):
        _, stock, metrics = call(energy, None, batch, stock, key=jax.random.fold_in(KEY, i))
        now = np.asarray(stock.points)
        changed = (now != was).any(1)
        told += 20 * float(metrics["restarted"])
        assert changed.sum() == round(20 * float(metrics["restarted"]))
        assert np.all(abs(now[changed] - 5) < 1)  # a draw of the base
        was, turns = now, turns + changed
    if restart in (0.0, 1.0):
        assert told == 2_000 * restart
    else:
        assert stats.binomtest(round(told), 2_000, restart).pvalue > P_LIMIT
    if restart == 1.0:  # Σ (turns − 10)²/10 over runs of 20 places is no χ², but it is far below
        assert turns.min() > 0 and turns.max() < 30


@pytest.mark.parametrize("objective", [ReplayCD, ImprovedCD])
def test_with_exact_draws_the_gradient_is_that_of_the_likelihood(objective):
    num = 20_000
    options = {"weight": 0.0} if objective is ImprovedCD else {}
    replay = objective(
        num_steps=2, num_chains=num, size=num, restart=0.0, sampler=MALA(), **options
    )
    energy = quartic()
    batch = np.random.default_rng(3).normal(0.2, 0.6, (50, 3)).astype(np.float32)
    _, stock = replay.init(energy, batch, key=KEY)
    stock = Stock(jnp.asarray(exact_quartic(num)), stock.tuning, stock.base)
    gradient, *_ = gradient_of(replay, energy, batch, stock)
    due = (batch.astype(float) ** 4).sum(1).mean() - 3 / (4 * 0.7)
    # var x⁴ = 1/(4 θ²) a coordinate
    error = np.sqrt(3 / (4 * 0.7**2) / num)
    assert abs(float(gradient.params) - due) < 4.5 * error
    assert abs(0.9 * float(gradient.params) - due) > 6 * error


def test_the_truth_is_found_by_chains_that_restart():
    energy = from_log_density(
        lambda p, x: -0.5 * jnp.sum(jnp.exp(2 * p["a"]) * (x - p["m"]) ** 2),
        Real((2,)),
        params={"a": jnp.zeros(2), "m": jnp.zeros(2)},
    )
    rows = np.random.default_rng(0).normal([1.2, -0.7], [0.5, 1.6], (4_000, 2)).astype(np.float32)
    fitted = training.fit(
        energy, rows, ReplayCD(num_steps=5, size=1_000), key=KEY, learning_rate=0.02, average=0.99
    )
    assert fitted.reliable
    p = fitted.energy.params
    assert np.allclose(p["m"], rows.mean(0), atol=0.1)
    assert np.allclose(np.exp(-p["a"]), rows.std(0), rtol=0.08)
    assert abs(fitted.history["restarted"].mean() - 0.05) < 0.005


def test_the_gradient_of_kl_is_that_of_normals():
    """In two dimensions, p = N(0, 1/θ), the stock N(0, v), v' after the last step: the gradient is
    (θ − 1/v) dv'/dθ, θ of f itself and the density of the stock held fixed."""
    v, theta, size = 0.3, 1.0, 0.3
    energy = from_log_density(
        lambda p, x: -p * jnp.sum(x**2) / 2, Real((2,)), params=jnp.asarray(theta)
    )
    objective = ImprovedCD(
        num_steps=1,
        num_chains=1_000,
        size=1_000,
        restart=0.0,
        sampler=Stay(),
        step_size=size,
        weight=1.0,
    )
    rng = np.random.default_rng(1)
    call, got = gradients(objective), []
    own = objective.init(energy, np.ones((4, 2)), key=KEY)[1]
    for i in range(300):
        x = jnp.asarray(rng.normal(0, np.sqrt(v), (1_000, 2)), jnp.float32)
        # data and chains are the same points: their halves cancel, and the KL is left
        stock = Stock(x, own.tuning, own.base)
        gradient, *_ = call(energy, x, stock, jax.random.fold_in(KEY, i))
        got.append(float(gradient.params))
    s2 = size**2 * v
    slope = -s2 * (1 - s2 * theta / 2) * v
    due, without = (theta - 1 / v) * slope, theta * slope
    mean, error = np.mean(got), np.std(got) / np.sqrt(len(got))
    assert abs(mean - due) < 4.5 * error + 0.1 * abs(due)
    assert abs(mean - without) > 8 * error  # without the entropy


def test_it_trains_records_of_reals():
    space = Record(a=Real((2,)), b=Real(()))
    energy = from_log_density(
        lambda p, x: -0.5 * jnp.sum((x["a"] - p["a"]) ** 2) - 0.5 * (x["b"] - p["b"]) ** 2,
        space,
        params={"a": jnp.zeros(2), "b": jnp.zeros(())},
    )
    rng = np.random.default_rng(2)
    rows = {
        "a": rng.normal([1.0, -1.0], 1, (2_000, 2)).astype(np.float32),
        "b": rng.normal(0.5, 1, 2_000).astype(np.float32),
    }
    fitted = training.fit(
        energy, rows, ImprovedCD(num_steps=5, size=500), key=KEY, learning_rate=0.02, average=0.99
    )
    assert np.allclose(fitted.energy.params["a"], [1, -1], atol=0.15)
    assert abs(float(fitted.energy.params["b"]) - 0.5) < 0.15
    assert np.all(np.isfinite(fitted.history["kl"]))


def test_what_does_not_fit_is_refused():
    for options, told in (
        ({"size": 50}, "num_chains=100"),
        ({"restart": 1.5}, "probability"),
        ({"num_steps": 0}, "whole number"),
    ):
        with pytest.raises(ValueError, match=told):
            ReplayCD(**options)
    with pytest.raises(TypeError, match="normalised"):
        ReplayCD(base=quartic())
    with pytest.raises(ValueError, match="weight"):
        ImprovedCD(weight=-1.0)
    with pytest.raises(ValueError, match="step_size"):
        ImprovedCD(step_size=0.0)
    for space in (Spin((3,)), Box(0.0, 1.0, (2,))):
        energy = from_log_density(lambda x: 0.0 * jnp.sum(x), space)
        with pytest.raises(TypeError, match="Real coordinates"):
            ImprovedCD().init(energy, np.ones((4, *space.shape)), key=KEY)
