"""Pseudo-likelihood, probability flow and ratio matching against enumerated conditionals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from energax import random, training
from energax.energies import BernoulliRBM, BoltzmannMachine, Ising, Potts, from_log_density
from energax.energies._base import partition_trainable
from energax.objectives import (
    ConcreteScoreMatching,
    MinimumProbabilityFlow,
    PseudoLikelihood,
    RatioMatching,
)
from energax.spaces import Binary, Categorical, Count, Ordinal, Real, Record, Spin
from tests.exact import enumerated

KEY = random.key(31)
OBJECTIVES = {
    "pseudo-likelihood": PseudoLikelihood(),
    "probability flow": MinimumProbabilityFlow(),
    "ratio matching": RatioMatching(),
    "concrete score": ConcreteScoreMatching(),
}
RNG = np.random.default_rng(5)


def function(space):
    """An energy that does not know its one-site changes."""

    def f(params, x):
        x = jnp.ravel(x).astype(float)
        return params["b"] @ x + params["w"] * jnp.sum(x[:-1] * x[1:] ** 2)

    size = np.size(space.example())
    params = {"b": 0.4 * RNG.normal(size=size), "w": np.asarray(0.3)}
    return from_log_density(f, space, params=params)


def rbm():
    return BernoulliRBM(RNG.normal(0, 1, (5, 3)), RNG.normal(0.3, 1, 5), RNG.normal(-0.2, 1, 3))


def machine(space):
    coupling = np.triu(RNG.normal(0, 0.6, (4, 4)), 1)
    return BoltzmannMachine(coupling + coupling.T, RNG.normal(0.2, 0.5, 4), space=space)


EDGES = np.array([(0, 1), (1, 2), (2, 0), (2, 3)])


def potts(encoding):
    space = Categorical((2, 2), 3, encoding)
    return Potts(EDGES, RNG.normal(0.2, 0.8, 4), RNG.normal(0, 0.6, (4, 3)), space=space)


ENERGIES = {
    "bits": function(Binary((2, 3))),
    "spins": function(Spin((4,))),
    "categories": function(Categorical((3,), 4)),
    "one-hot": function(Categorical((2,), 3, "onehot")),
    "ordinal": function(Ordinal((3,), 4)),
    "Ising": Ising(EDGES, RNG.normal(0, 0.7, 4), RNG.normal(0.2, 0.5, 4), space=Spin((2, 2))),
    "Potts": potts("index"),
    "Potts, one-hot": potts("onehot"),
    "RBM": rbm(),
    "machine of spins": machine(Spin(4)),
    "machine of bits": machine(Binary(4)),
}


def changed_states(exact, space):
    """(states, sites, k): the number of the state with a site at each of its k values."""
    sites = space.num_sites
    points = exact.x
    if isinstance(space, Categorical) and space.encoding == "onehot":
        points = points.argmax(-1)
    codes = points.reshape(len(points), sites)
    values = np.unique(codes)
    number = {tuple(row): i for i, row in enumerate(codes)}
    out = np.empty((len(codes), sites, len(values)), int)
    for state, row in enumerate(codes):
        for site in range(sites):
            for j, value in enumerate(values):
                other = row.copy()
                other[site] = value
                out[state, site, j] = number[tuple(other)]
    return out


def population(name, f, changed, states):
    """The mean loss of `states`, from f of all states and the definitions alone."""
    log_p = f[changed] - jax.nn.logsumexp(f[changed], axis=-1, keepdims=True)
    own = changed == jnp.arange(len(f))[:, None, None]
    here = jnp.sum(jnp.where(own, log_p, 0.0), axis=-1)
    if name == "pseudo-likelihood":
        terms = -here
    elif name == "ratio matching":
        terms = jnp.sum((own - jnp.exp(log_p)) ** 2, axis=-1) / 2
    elif name == "concrete score":
        rise = f[changed] - f[:, None, None]
        each = jnp.exp(2 * rise) / 2 - jnp.exp(-rise)
        terms = jnp.sum(jnp.where(own, 0.0, each), axis=-1)
    else:
        ratio = jnp.exp((f[changed] - f[:, None, None]) / 2)
        terms = jnp.sum(jnp.where(own, 0.0, ratio), axis=-1)
    return jnp.mean(jnp.sum(terms, axis=-1)[states])


def split(energy):
    """(flat θ, function from it to the energy)."""
    theta, fixed = partition_trainable(energy)
    flat, unravel = ravel_pytree(theta)
    return flat, lambda vector: eqx.combine(unravel(vector.astype(flat.dtype)), fixed)


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("name", ENERGIES)
def test_loss_and_gradient_are_those_of_the_enumerated_conditionals(name, kind):
    energy, objective = ENERGIES[name], OBJECTIVES[kind]
    exact = enumerated(energy)
    states = np.random.default_rng(0).integers(len(exact.prob), size=9)
    points = jnp.asarray(exact.x, energy.space.dtype)
    flat, build = split(energy)
    assert objective.init(energy, points[states], key=KEY) == (None, None)

    @eqx.filter_jit
    @jax.value_and_grad
    def ours(vector):
        return objective(build(vector), None, points[states], None, key=KEY)[0]

    changed = changed_states(exact, energy.space)

    @eqx.filter_jit
    @jax.value_and_grad
    def truth(vector):
        f = jax.vmap(build(vector).log_density)(points)
        return population(kind, f, changed, states)

    value, gradient = ours(flat)
    expected, slope = truth(flat)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert np.abs(slope).max() > 0.01
    np.testing.assert_allclose(gradient, slope, atol=3e-5 * np.abs(slope).max() + 1e-5)


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("name", ["ordinal", "Potts", "RBM", "machine of spins"])
def test_the_truth_is_stationary_in_the_population(name, kind):
    """Σ_x p(x) ∇loss(x) = 0 at the truth, and is not at 0.9 of its parameters."""
    energy, objective = ENERGIES[name], OBJECTIVES[kind]
    exact = enumerated(energy)
    points = jnp.asarray(exact.x, energy.space.dtype)[:, None]
    weight = jnp.asarray(exact.prob, float)
    flat, build = split(energy)

    def losses(vector):
        model = build(vector)
        return jax.lax.map(lambda x: objective(model, None, x, None, key=KEY)[0], points)

    slope = jax.jit(jax.grad(lambda vector: weight @ losses(vector)))
    scale = max(1.0, float(weight @ jnp.abs(losses(flat))))  # what is rounded, of squared ratios
    assert np.abs(slope(flat)).max() < 3e-6 * scale
    assert np.abs(slope(0.9 * flat)).max() > 1e-3 * scale


def z_scores(energy, objective, found, counts, contrasts):
    """(found − truth)/error of identifiable combinations of θ, by the sandwich H⁻¹ S H⁻¹/N."""
    points = jnp.asarray(enumerated(energy).x, energy.space.dtype)[:, None]
    flat, build = split(energy)
    seen = np.flatnonzero(counts)
    weight = jnp.asarray(counts[seen] / counts.sum(), float)

    def losses(vector):
        model = build(vector)
        return jax.lax.map(
            lambda x: objective(model, None, x, None, key=KEY)[0], points[seen], batch_size=64
        )

    at = split(found)[0]
    slopes = np.asarray(jax.jit(jax.jacrev(losses))(at), float)
    hessian = np.asarray(jax.jit(jax.hessian(lambda v: weight @ losses(v)))(at), float)
    spread = (slopes * np.asarray(weight)[:, None]).T @ slopes
    inverse = np.linalg.pinv(hessian, rcond=1e-5, hermitian=True)
    covariance = contrasts @ (inverse @ spread @ inverse) @ contrasts.T / counts.sum()
    error = np.sqrt(np.diag(covariance))
    return contrasts @ (np.asarray(at) - np.asarray(flat)) / error, contrasts @ flat / error


def potts_contrasts(model):
    """Couplings, and fields against those of value 0 (a constant in a site's fields is nothing)."""
    edges, (sites, values) = len(model.couplings), model.fields.shape
    rows = np.zeros((edges + sites * (values - 1), edges + sites * values))
    rows[:edges, :edges] = np.eye(edges)
    for n, (i, j) in enumerate((i, j) for i in range(sites) for j in range(1, values)):
        rows[edges + n, edges + i * values + j] = 1
        rows[edges + n, edges + i * values] = -1
    return rows


def ten_sites():
    rng = np.random.default_rng(9)
    edges = np.argwhere(np.triu(rng.random((10, 10)) < 0.3, 1))
    return Ising(edges, rng.choice([-0.5, 0.5], len(edges)), rng.normal(0, 0.3, 10), num_sites=10)


TRUTHS = {
    "2 spins": Ising([(0, 1)], 0.6, [0.2, -0.4], num_sites=2),
    "10 spins": ten_sites(),
    "4 sites of 3 values": ENERGIES["Potts"],
    "5 + 1 units": BernoulliRBM(
        [[1.2], [-0.8], [0.9], [1.5], [-1.1]], [0.3, -0.2, 0.4, -0.5, 0.1], [-0.3]
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("name", TRUTHS)
def test_parameters_are_recovered_from_exact_draws(name, kind):
    energy, objective = TRUTHS[name], OBJECTIVES[kind]
    exact = enumerated(energy)
    rows = exact.draw(100_000, seed=12)
    flat, build = split(energy)
    start = energy if name == "5 + 1 units" else build(0.0 * flat)
    fitted = training.fit(start, rows, objective, key=KEY, optimizer="lbfgs")
    assert fitted.reliable, fitted.reasons
    counts = np.bincount(exact.index(rows), minlength=len(exact.prob))
    contrasts = potts_contrasts(energy) if isinstance(energy, Potts) else np.eye(len(flat))
    z, size = z_scores(energy, objective, fitted.energy, counts, contrasts)
    assert np.abs(z).max() < 4.5
    assert np.abs(z + 0.3 * size).max() > 6  # a truth of 0.7 times the parameters is told apart


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_what_has_no_few_values_is_refused(kind):
    for space in (Real((2,)), Count((2,)), Record(a=Spin((2,)))):
        energy = from_log_density(lambda x: 0.0 * sum(map(jnp.sum, jax.tree.leaves(x))), space)
        with pytest.raises(TypeError, match=r"lists the values of a site, .*PersistentCD"):
            OBJECTIVES[kind].init(energy, None, key=KEY)


def test_cost_counts_the_energies_of_changes():
    objective = PseudoLikelihood()
    assert objective.evaluations_per_step(ENERGIES["Ising"], 10) == 20
    assert objective.evaluations_per_step(ENERGIES["categories"], 10) == 10 * (1 + 3 * 3)


def test_a_full_batch_of_an_rbm_is_taken_in_pieces():
    """One product of rows × visible × hidden numbers would be 4 GB here."""
    rng = np.random.default_rng(0)
    model = BernoulliRBM(0.1 * rng.normal(size=(100, 50)), 0.2, -0.1)
    rows = jnp.asarray(rng.random((4000, 100)) < 0.4, float)
    flat, build = split(model)

    def loss(vector):
        return PseudoLikelihood()(build(vector), None, rows, None, key=KEY)[0]

    compiled = jax.jit(jax.grad(loss)).lower(flat).compile()
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 200e6
    parts = [PseudoLikelihood()(model, None, part, None, key=KEY)[0] for part in jnp.split(rows, 8)]
    assert float(loss(flat)) == pytest.approx(float(np.mean(parts)), rel=1e-5)
