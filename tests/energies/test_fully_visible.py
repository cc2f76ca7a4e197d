"""Boltzmann machines against enumeration in NumPy and against the Ising model they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax.energies import BoltzmannMachine, IndependentBernoulli, Ising, Potts
from energax.energies._base import GeometricPath, batched
from energax.energies.lattice import PairwisePath
from energax.energies.lattice._base import pairwise
from energax.random import key
from energax.samplers import ColouredGibbs, default_sampler
from energax.spaces import Binary, Categorical, Spin
from tests.exact import (
    P_LIMIT,
    after_steps,
    all_points,
    enumerated,
    one_step_matrix,
    transition_p_value,
)

RNG = np.random.default_rng(4)
UNITS = 5
J = np.triu(RNG.normal(0.1, 0.7, (UNITS, UNITS)), 1)
J = (J + J.T).astype(np.float32)
H = RNG.normal(-0.3, 0.5, UNITS)
SPACES = {"spins": Spin(UNITS), "bits": Binary(UNITS)}


def machine(space):
    return BoltzmannMachine(J, H, space=space)


def energies(x):
    return -np.einsum("ri,ij,rj->r", x, J, x) / 2 - x @ H


@pytest.fixture(params=SPACES)
def space(request):
    return SPACES[request.param]


def test_energy_differences_and_coupling(space):
    model, x = machine(space), all_points(space)
    points = jnp.asarray(x, float)
    np.testing.assert_array_equal(model.coupling, J)
    np.testing.assert_allclose(-batched(model, points), energies(x), atol=1e-5)
    np.testing.assert_allclose(-model.ensemble_log_density(points), energies(x), atol=1e-5)
    found = model.ensemble_site_differences(points)
    np.testing.assert_allclose(found, jax.vmap(model.site_differences)(points), atol=1e-6)
    for site in range(UNITS):
        other = x.copy()
        other[:, site] = -x[:, site] if isinstance(space, Spin) else 1 - x[:, site]
        np.testing.assert_allclose(found[:, site], energies(other) - energies(x), atol=1e-5)


def test_on_spins_it_is_the_ising_model_of_the_complete_graph():
    model = machine(Spin(UNITS))
    ising = Ising(model.edges, model.couplings, H, num_sites=UNITS)
    np.testing.assert_allclose(
        enumerated(model).log_density, enumerated(ising).log_density, atol=1e-12
    )
    assert isinstance(default_sampler(model), ColouredGibbs)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_sweep_redraws_one_unit_after_the_other(space, backwards):
    """Against the product of the conditionals' transition matrices."""
    model = machine(space)
    exact = enumerated(model)
    size, matrix = len(exact.prob), np.eye(len(exact.prob))
    for site in range(UNITS)[::-1] if backwards else range(UNITS):
        step = np.zeros((size, size))
        rest = np.delete(exact.x, site, axis=1)
        for a in range(size):
            same = (rest == rest[a]).all(axis=1)
            step[a, same] = exact.prob[same] / exact.prob[same].sum()
        matrix = matrix @ step
    sampler = ColouredGibbs(backwards=backwards)
    counts = one_step_matrix(sampler, model, key=key(7))
    assert transition_p_value(counts, matrix) > P_LIMIT
    other = ColouredGibbs(backwards=not backwards)
    assert transition_p_value(one_step_matrix(other, model, key=key(8)), matrix) < 1e-9


def test_exact_draws_stay_exact_draws(space):
    exact = enumerated(machine(space))
    x = jnp.asarray(exact.draw(20_000, seed=3), jnp.float32)
    after = after_steps(ColouredGibbs(), machine(space), x, key=key(1), num_steps=3)
    assert exact.p_value(after) > P_LIMIT


def test_path_from_independent_units(space):
    base = IndependentBernoulli(space, [0.6, -1.0, 0.3, 1.4, -0.2])
    path = machine(space).path(base)
    assert isinstance(path, PairwisePath)
    start = enumerated(path.at(0.0))
    assert abs(start.log_z - float(path.log_z0)) < 1e-5
    np.testing.assert_allclose(start.prob, enumerated(base).prob, rtol=1e-5)
    x = all_points(space)
    f = [enumerated(path.at(beta)).log_density for beta in (0.0, 0.4, 1.0)]
    found = jax.vmap(path.increment, (0, None, None))(jnp.asarray(x, float), 0.4, 1.0)
    np.testing.assert_allclose(found, f[2] - f[1], atol=1e-5)
    np.testing.assert_allclose(f[2], -energies(x), atol=1e-5)
    other = Binary(UNITS) if isinstance(space, Spin) else Spin(UNITS)
    assert isinstance(machine(space).path(IndependentBernoulli(other, 0.3)), GeometricPath)


def test_tilted_and_with_units_held_it_is_one_itself(space):
    model, field = machine(space), RNG.normal(0, 1, UNITS)
    x = all_points(space)
    np.testing.assert_allclose(
        enumerated(model.tilt(field)).log_density, -energies(x) + x @ field, atol=1e-5
    )
    given = np.array([np.nan, 1.0, np.nan, x.min(), np.nan])
    conditional = model.condition(x=given)
    held = model.restrict(conditional)
    assert isinstance(held, BoltzmannMachine)
    difference = enumerated(held).log_density - enumerated(conditional).log_density
    np.testing.assert_allclose(difference, difference[0], atol=1e-5)


def test_zeros_starts_from_the_base_rates(space):
    rows = enumerated(machine(space)).draw(200, seed=0)
    start = BoltzmannMachine.zeros(space, rows)
    assert not np.any(start.couplings)
    exact = enumerated(start)
    ups = (exact.prob[:, None] * (exact.x > 0)).sum(0)
    np.testing.assert_allclose(ups, ((rows > 0).sum(0) + 0.5) / 201, rtol=1e-5)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"shape \(units, units\), got \(5, 4\)"):
        BoltzmannMachine(J[:, :4])
    with pytest.raises(ValueError, match="symmetric coupling with zeros on its diagonal"):
        BoltzmannMachine(np.triu(J))
    with pytest.raises(ValueError, match="symmetric coupling with zeros on its diagonal"):
        BoltzmannMachine(J + np.eye(UNITS))
    with pytest.raises(ValueError, match=r"fields \(one a unit\) of shape \(5,\)"):
        BoltzmannMachine(J, H[:3])
    with pytest.raises(TypeError, match="Spin or Binary"):
        BoltzmannMachine(J, H, space=Categorical(UNITS, 2))
    with pytest.raises(ValueError, match=r"a space of shape \(5,\)"):
        BoltzmannMachine(J, H, space=Spin((1, 5)))


# What Ising and Potts give of a batch, by a matrix of all pairs and by neighbours

EDGES = np.array([(0, 1), (1, 2), (2, 0), (2, 3), (4, 3), (2, 4)])
W = RNG.normal(0.2, 0.6, len(EDGES))


@pytest.mark.parametrize("dense", [0, 10**6], ids=["by neighbours", "all pairs"])
def test_a_batch_on_a_graph_is_what_its_points_are(dense, monkeypatch):
    monkeypatch.setattr(pairwise, "DENSE", dense)
    space = Spin((3, 2))
    for model in (
        Ising(EDGES, W, RNG.normal(0.3, 0.5, 6), space=space),
        Potts(EDGES, W, RNG.normal(0.3, 0.5, (6, 3)), space=Categorical((2, 3), 3)),
        Potts(EDGES, W, RNG.normal(0.3, 0.5, (6, 3)), space=Categorical((2, 3), 3, "onehot")),
    ):
        x = jnp.asarray(all_points(model.space)[::5], model.space.dtype)
        np.testing.assert_allclose(
            model.ensemble_site_differences(x), jax.vmap(model.site_differences)(x), atol=1e-5
        )
        np.testing.assert_allclose(model.ensemble_log_density(x), batched(model, x), atol=1e-5)
