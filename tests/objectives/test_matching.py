"""Regression on the way from noise to rows: what ∇f comes to, against integrals in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from energax import random, training
from energax.energies import from_log_density
from energax.energies._base import partition_trainable
from energax.objectives import EnergyMatching, EquilibriumMatching, PersistentCD
from energax.objectives.matching import _assigned
from energax.spaces import Box, Real, Record, Spin

KEY = random.key(4)


def bowl(a, m, power=2):
    """∇f = −a (x − m)^(power − 1)."""
    return from_log_density(
        lambda p, x: -p * jnp.sum((x - m) ** power) / power, Real((1,)), params=jnp.asarray(a)
    )


def slope_found(objective, rows, m, power=2, key=KEY):
    """The a of least loss, which is a parabola in a."""
    _, carry = objective.init(bowl(0.0, m), rows, key=key)

    @eqx.filter_jit
    def gradient(a):
        theta, fixed = partition_trainable(bowl(a, m, power))

        def loss(theta):
            return objective(eqx.combine(theta, fixed), None, rows, carry, key=key)[0]

        return eqx.filter_grad(loss)(theta).params

    at_zero, at_one = (float(gradient(jnp.asarray(a))) for a in (0.0, 1.0))
    return at_zero / (at_zero - at_one)


@pytest.mark.parametrize("steepness, decay_from", [(4.0, 0.8), (2.5, 0.3)])
def test_equilibrium_matching_of_a_normal(steepness, decay_from):
    """In units of the spread cov(x_t, x₁ − x₀) = 2t − 1 and var x_t = t² + (1 − t)²."""
    m, s = 2.0, 1.5
    rows = np.random.default_rng(0).normal(m, s, (400_000, 1)).astype(np.float32)
    objective = EquilibriumMatching(steepness, decay_from)

    def pull(t):
        return min(1.0, (1 - t) / (1 - decay_from)) * (2 * t - 1)

    due = -steepness * quad(pull, 0, 1, points=[decay_from])[0] / (2 / 3) / s**2
    assert due > 0.02
    assert slope_found(objective, rows, m) == pytest.approx(due, abs=0.02)


def two_points(num, seed):
    """±1 with a spread of 0.3: mean 0, variance 1.09."""
    rng = np.random.default_rng(seed)
    return (rng.choice([-1.0, 1.0], (num, 1)) + 0.3 * rng.normal(size=(num, 1))).astype(np.float32)


def test_energy_matching_goes_straight_to_the_rows():
    """In one dimension the best pairing is by rank; T∇f is fitted to x₁ − x₀ by least squares."""
    temperature, sd = 0.25, np.sqrt(1.09)
    objective = EnergyMatching(temperature)
    got = [
        slope_found(objective, two_points(1_000, seed), 0.0, 4, jax.random.fold_in(KEY, seed))
        for seed in range(8)
    ]
    # the same by ranks, of large samples and in units of the data's spread
    rng = np.random.default_rng(5)
    x1 = np.sort(two_points(400_000, 6)[:, 0].astype(float) / sd)
    x0 = np.sort(rng.normal(size=len(x1)))

    def fitted(x0):
        t = rng.random(len(x1))
        cube = ((1 - t) * x0 + t * x1) ** 3
        return -np.mean(cube * (x1 - x0)) / np.mean(cube**2) / temperature / sd**4

    due, apart = fitted(x0), fitted(rng.permutation(x0))
    error = np.std(got) / np.sqrt(len(got))
    assert abs(np.mean(got) - due) < 4.5 * error + 0.03 * abs(due)
    assert abs(due) > 10 * error and abs(due - apart) > 10 * error


def test_pairs_are_those_of_least_distance():
    rng = np.random.default_rng(2)
    x0, x1 = rng.normal(size=(2, 60, 1))
    order = _assigned(x0, x1)
    assert np.array_equal(np.argsort(x0[order, 0]), np.argsort(x1[:, 0]))
    x0, x1 = rng.normal(size=(2, 6, 3))
    from itertools import permutations

    best = min(permutations(range(6)), key=lambda p: ((x0[list(p)] - x1) ** 2).sum())
    assert tuple(_assigned(x0, x1)) == best


def test_a_contrast_is_a_share_of_the_loss_and_keeps_its_chains():
    rows = two_points(200, 3)
    contrast = PersistentCD(num_steps=2, num_chains=30)
    both = EnergyMatching(0.5, contrast, share=0.3)
    energy = bowl(0.8, 0.1)
    _, carry = both.init(energy, rows, key=KEY)
    loss, new, metrics = both(energy, None, rows, carry, key=KEY)
    added = metrics["energy_data"] - metrics["energy_samples"]
    assert float(loss) == pytest.approx(float(0.3 * metrics["transport"] + 0.7 * added), rel=1e-4)
    assert (np.asarray(new[1].state.x) != np.asarray(carry[1].state.x)).any()
    assert both.evaluations_per_step(energy, 10) > EnergyMatching().evaluations_per_step(energy, 10)


def test_a_hill_stands_where_the_rows_are():
    """f of a network, trained from nothing, is higher at rows than where noise alone comes."""
    from energax.energies import MLP

    rng = np.random.default_rng(4)
    angle = rng.uniform(0, 2 * np.pi, 2_000)
    rows = 2 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.1 * rng.normal(size=(2_000, 2))
    energy = MLP(Real((2,)), 64, key=KEY)
    fitted = training.fit(
        energy, rows.astype(np.float32), EquilibriumMatching(), key=KEY, num_steps=1_500
    )
    f = jax.vmap(fitted.energy.log_density)
    on, off = f(jnp.asarray(rows[:500], jnp.float32)), f(jnp.zeros((1, 2)))
    assert float(jnp.quantile(on, 0.1)) > float(off[0]) + 0.3


def test_what_does_not_fit_is_refused():
    for made, told in (
        (lambda: EquilibriumMatching(0.0), "steepness"),
        (lambda: EquilibriumMatching(decay_from=1.0), "decay_from"),
        (lambda: EnergyMatching(-1.0), "temperature"),
        (lambda: EnergyMatching(share=1.0), "share"),
    ):
        with pytest.raises(ValueError, match=told):
            made()
    with pytest.raises(TypeError, match="contrast"):
        EnergyMatching(contrast="pcd")  # type: ignore[arg-type]
    for space in (Spin((3,)), Box(0.0, 1.0, (2,)), Record(a=Real((2,)), b=Spin((1,)))):
        energy = from_log_density(lambda x: 0.0 * sum(map(jnp.sum, jax.tree.leaves(x))), space)
        for objective in (EquilibriumMatching(), EnergyMatching()):
            with pytest.raises(TypeError, match="Real"):
                objective.init(energy, None, key=KEY)
