"""The penalty on energies against the formula written out, its target by enumeration, and drift."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import fsolve

from energax import random, training
from energax.energies import MLP, BernoulliRBM, DeepBoltzmannMachine, from_log_density
from energax.energies._base import partition_trainable
from energax.objectives import (
    ContrastiveDivergence,
    EnergyPenalty,
    LatentPCD,
    MaximumLikelihood,
    MeanFieldPCD,
    PersistentCD,
    PseudoLikelihood,
    ReplayCD,
    ScoreMatching,
)
from energax.objectives._base import AbstractObjective
from energax.objectives.chains._base import two_phases
from energax.spaces import Binary, Ordinal, Real, Record, Spin
from tests.objectives.recovery import banana, banana_draws

KEY = random.key(23)
RNG = np.random.default_rng(4)


class Given(AbstractObjective):
    """Contrastive divergence from samples that are given."""

    samples: jax.Array

    def init(self, energy, data, *, key):
        return None, None

    def __call__(self, energy, params, batch, carry, *, key):
        loss, metrics = two_phases(energy, batch, self.samples)
        return loss, None, metrics


def gradients(loss, energy):
    theta, fixed = partition_trainable(energy)
    return jax.tree.leaves(eqx.filter_grad(lambda t: loss(eqx.combine(t, fixed)))(theta))


def rbm():
    return BernoulliRBM(RNG.normal(0, 0.8, (4, 3)), RNG.normal(0.4, 0.5, 4), RNG.normal(0, 0.5, 3))


def mlp():
    return MLP(Real((4,)), 5, 2, key=KEY)


@pytest.mark.parametrize("make", [rbm, mlp])
@pytest.mark.parametrize("equal", [False, True])
def test_its_gradient_is_that_of_the_formula(make, equal):
    """Also where all energies are the same, where the root in their spread has no slope."""
    with jax.enable_x64(True):
        data, samples = ((RNG.random((n, 4)) < 0.5).astype(float) for n in (6, 9))
        if equal:
            data[:], samples[:] = data[0], samples[0]
        data, samples = jnp.asarray(data), jnp.asarray(samples)
        energy, strength = make(), 0.3
        objective = EnergyPenalty(Given(samples), strength)

        def written(energy):
            phases = [jax.vmap(energy)(x) for x in (data, samples)]
            penalty = strength * sum(jnp.mean(e**2) for e in phases)
            return jnp.mean(phases[0]) - jnp.mean(phases[1]) + penalty

        def loss(energy):
            return objective(energy, None, data, None, key=KEY)[0]

        assert float(loss(energy)) == pytest.approx(float(written(energy)), rel=1e-6)
        found, wanted = gradients(loss, energy), gradients(written, energy)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
        assert any((np.abs(b) > 1e-3).any() for b in wanted)


@pytest.mark.parametrize(
    "inner", [ContrastiveDivergence(2), PersistentCD(2, 8), ReplayCD(2, 8, size=50)]
)
def test_chains_give_both_halves(inner):
    energy, data = mlp(), jnp.asarray(RNG.normal(size=(6, 4)), float)
    found = []
    for objective in (inner, EnergyPenalty(inner, 0.5)):
        params, carry = objective.init(energy, data, key=KEY)
        found.append(objective(energy, params, data, carry, key=KEY))
    (plain, _, metrics), (loss, _, told) = found
    squares = sum(metrics[f"energy_{n}"] ** 2 + metrics[f"energy_{n}_sd"] ** 2 for n in SIDES)
    assert float(loss - plain) == pytest.approx(0.5 * float(squares), rel=1e-4)
    assert float(told["energy_penalty"]) == pytest.approx(0.5 * float(squares), rel=1e-4)
    assert set(told) == {*metrics, "energy_penalty"}


SIDES = "data", "samples"


def deep():
    draw = lambda *shape: RNG.normal(0.2, 0.7, shape)
    return DeepBoltzmannMachine([draw(4, 3), draw(3, 2)], [draw(4), draw(3), draw(2)])


def seen_and_hidden():
    def f(p, x):
        return x["x"] @ p["w"] @ x["z"] + p["b"] @ x["x"]

    space = Record(x=Spin((4,)), z=Binary((2,)))
    params = {"w": jnp.asarray(RNG.normal(0, 0.9, (4, 2))), "b": jnp.asarray(RNG.normal(0, 0.4, 4))}
    return from_log_density(f, space, params=params)


@pytest.mark.parametrize("kind", ["layers", "parts"])
def test_chains_with_hidden_units_give_both_halves(kind):
    """The gradient that is added is that of s mean E² at the data, and at the chains' points."""
    bits = (RNG.random((6, 4)) < 0.5).astype(float)
    with jax.enable_x64(True):
        if kind == "layers":
            energy, data = deep(), jnp.asarray(bits)
            inner = MeanFieldPCD(num_steps=2, num_chains=8)
        else:
            energy, data = seen_and_hidden(), {"x": jnp.asarray(2 * bits - 1)}
            inner = LatentPCD("z", num_steps=2, num_chains=8, num_hidden_steps=3)
        objective, strength = EnergyPenalty(inner, 0.3), 0.3
        params, carry = objective.init(energy, data, key=KEY)

        def told(energy):
            return inner(energy, params, data, carry, key=KEY)

        x = told(energy)[1].state.x

        def samples_half(energy):
            return strength * jnp.mean(jax.vmap(energy)(x) ** 2)

        def data_half(energy):
            metrics = told(energy)[2]
            return strength * (metrics["energy_data"] ** 2 + metrics["energy_data_sd"] ** 2)

        def added(energy):
            both = objective(energy, params, data, carry, key=KEY)[0]
            return both - told(energy)[0]

        wanted = float(samples_half(energy) + data_half(energy))
        assert float(added(energy)) == pytest.approx(wanted, rel=1e-6)
        halves = gradients(samples_half, energy), gradients(data_half, energy)
        for found, *parts in zip(gradients(added, energy), *halves, strict=True):
            np.testing.assert_allclose(found, sum(parts), rtol=1e-6, atol=1e-9)
        assert all(any((np.abs(g) > 1e-3).any() for g in half) for half in halves)
        if kind == "layers":
            layers = jax.lax.stop_gradient(energy.mean_field(data, inner.num_updates))
            square = jnp.mean(energy.expected_energy(layers) ** 2)
            assert float(data_half(energy)) == pytest.approx(strength * float(square), rel=1e-6)


@pytest.mark.parametrize(
    ("inner", "energy", "data"),
    [
        (PseudoLikelihood(), rbm(), (RNG.random((6, 4)) < 0.5).astype(np.float32)),
        (MaximumLikelihood(), rbm(), (RNG.random((6, 4)) < 0.5).astype(np.float32)),
        (ScoreMatching(), banana(), banana_draws(6, 0).astype(np.float32)),
    ],
)
def test_without_samples_it_is_of_the_data_alone(inner, energy, data):
    objective = EnergyPenalty(inner, 0.5)
    params, carry = objective.init(energy, data, key=KEY)
    plain = inner(energy, params, data, carry, key=KEY)[0]
    added = objective(energy, params, data, carry, key=KEY)[0] - plain
    assert float(added) == pytest.approx(
        0.5 * float(jnp.mean(jax.vmap(energy)(data) ** 2)), rel=1e-4
    )
    assert objective.is_deterministic == inner.is_deterministic and not objective.fits_moments


def polynomial(p, x):
    return p[0] * x[0] + p[1] * x[0] ** 2 / 5 + p[2]


def test_the_target_is_the_one_in_the_docstring():
    """E_data[(1 + 2sE)∇E] = E_p[(1 − 2sE)∇E], by enumeration; p[2] moves the level alone."""
    strength, x = 0.1, np.arange(6.0)
    share = np.array([0.30, 0.05, 0.10, 0.05, 0.20, 0.30])
    slopes = -np.stack([x, x**2 / 5, np.ones(6)])

    def both(theta):
        e = slopes.T @ theta
        p = np.exp(-e - np.logaddexp.reduce(-e))
        return slopes @ (share * (1 + 2 * strength * e) - p * (1 - 2 * strength * e))

    target = fsolve(both, np.array([-0.5, 0.5, 0.0]))
    assert np.abs(both(target)).max() < 1e-9
    energy = slopes.T @ target
    p = np.exp(-energy) / np.exp(-energy).sum()
    assert (share + p) @ energy == pytest.approx(0, abs=1e-9)  # E = 0 is half-way
    rows = np.repeat(np.arange(6), np.round(200 * share).astype(int))[:, None]
    start = from_log_density(polynomial, Ordinal((1,), 6), params=jnp.asarray([0.0, 0.0, 3.0]))
    fitted = training.fit(
        start,
        rows,
        EnergyPenalty(PersistentCD(num_steps=1, num_chains=2000), strength),
        key=KEY,
        num_steps=1500,
        batch_size=len(rows),
        learning_rate=0.03,
    )
    assert fitted.reliable, fitted.reasons
    np.testing.assert_allclose(fitted.energy.params, target, atol=0.03)
    # Which is not the maximum of the likelihood: differences shrink.
    likely = training.fit(start, rows, MaximumLikelihood(), key=KEY, learning_rate=0.03)
    assert abs(float(likely.energy.params[1])) > 1.2 * abs(target[1])


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="expected strength from 0, got -1"):
        EnergyPenalty(PersistentCD(), -1.0)
    with pytest.raises(TypeError):
        EnergyPenalty("PCD")

    class Silent(Given):
        def __call__(self, energy, params, batch, carry, *, key):
            loss, _, metrics = super().__call__(energy, params, batch, carry, key=key)
            return loss, None, {"energy_data": metrics["energy_data"]}

    x = jnp.zeros((2, 4))
    with pytest.raises(TypeError, match="metrics of Silent lack energy_data_sd"):
        EnergyPenalty(Silent(x))(mlp(), None, x, None, key=KEY)
