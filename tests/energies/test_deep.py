"""Deep Boltzmann machines against sums over all states of all layers, parameters off zero."""

import itertools
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import energax as ex
from energax.energies import DeepBoltzmannMachine
from energax.energies._base import partition_trainable
from energax.energies.boltzmann import RBMPath
from energax.objectives import MeanFieldPCD

SIZES = (5, 4, 3, 2)


def make(scale=0.7, sizes=SIZES, seed=4):
    rng = np.random.default_rng(seed)
    weights = [rng.normal(0, scale, (a, b)) for a, b in pairwise(sizes)]
    return DeepBoltzmannMachine(weights, [rng.normal(0.2, 0.5, n) for n in sizes])


def states(n):
    return np.array(list(itertools.product((0.0, 1.0), repeat=n)))


def joint(model):
    """f of all states of all layers, an axis each, in NumPy."""
    weights = [np.asarray(w, np.float64) for w in model.weights]
    biases = [np.asarray(b, np.float64) for b in model.biases]
    all_states = [states(len(b)) for b in biases]
    total = 0.0
    for i, (x, b) in enumerate(zip(all_states, biases, strict=True)):
        shape = [1] * len(biases)
        shape[i] = len(x)
        total = total + (x @ b).reshape(shape)
    for i, w in enumerate(weights):
        pair = all_states[i] @ w @ all_states[i + 1].T
        shape = [1] * len(biases)
        shape[i], shape[i + 1] = pair.shape
        total = total + pair.reshape(shape)
    return total


def log_sum(f, axes):
    top = f.max()
    return np.log(np.exp(f - top).sum(axis=axes)) + top


def test_odd_layers_are_summed_out():
    model = make()
    f = log_sum(joint(model), (1, 3))  # (visible, hidden_2)
    v, h = states(5), states(3)
    for i, j in ((0, 0), (7, 3), (31, 7), (12, 5)):
        found = -float(model({"visible": jnp.asarray(v[i]), "hidden_2": jnp.asarray(h[j])}))
        assert abs(found - f[i, j]) < 2e-5


@pytest.mark.parametrize("sizes", [(5, 4, 3), SIZES], ids=str)
def test_log_z_and_its_path_are_those_of_all_layers(sizes):
    model = make(sizes=sizes)
    truth = log_sum(joint(model), None)
    z = ex.log_z(model, key=ex.random.key(0))
    assert z.reliable and abs(z.value - truth) < 1e-5
    assert isinstance(model.path(ex.energies.default_base(model.space)), RBMPath)
    estimate = ex.log_z(model, key=ex.random.key(1), method="ais")
    assert abs(estimate.value - truth) < max(4 * estimate.std_err, 0.02)


@pytest.mark.parametrize("scale", [0.1, 0.7])
def test_the_bound_is_below_and_near_where_layers_are_nearly_independent(scale):
    model = make(scale)
    v = jnp.asarray(states(5))
    truth = log_sum(joint(model), (1, 2, 3))
    layers = model.mean_field(v, 200)
    bound = np.asarray(model.bound(layers))
    assert (bound <= truth + 1e-4).all()
    assert (truth - bound).max() < (0.01 if scale < 0.5 else 0.6)
    few = np.asarray(model.bound(model.mean_field(v, 2)))
    assert few.mean() < bound.mean() + 1e-5
    # It is E_q of the joint plus the entropy of q, whatever q is.
    means = [np.asarray(x[3], np.float64) for x in model.mean_field(v, 1)]
    q = [np.prod(np.where(states(len(m)) == 1, m, 1 - m), axis=1) for m in means[1:]]
    f = joint(model)[int(np.flatnonzero((states(5) == means[0]).all(1))[0])]
    entropy = -sum((p * np.log(np.maximum(p, 1e-300))).sum() for p in q)
    expected = np.einsum("abc,a,b,c->", f, *q) + entropy
    assert abs(float(model.bound(model.mean_field(v, 1))[3]) - expected) < 1e-4


def test_mean_field_solves_its_equations():
    model = make(0.5)
    layers = model.mean_field(jnp.asarray(states(5)), 300)
    for i in range(1, 4):
        pull = layers[i - 1] @ model.weights[i - 1] + model.biases[i]
        if i < 3:
            pull = pull + layers[i + 1] @ model.weights[i].T
        np.testing.assert_allclose(layers[i], jax.nn.sigmoid(pull), atol=1e-5)


def test_the_objectives_gradient_is_that_of_the_bound_on_the_likelihood():
    """Chains replaced by exact draws: E_q[∇E] − E_p[∇E] within its Monte Carlo error."""
    model = make(0.5, sizes=(5, 3, 2))
    rows = jnp.asarray(states(5)[[3, 9, 17, 30]])
    theta, fixed = partition_trainable(model)

    def loss(theta):
        energy = eqx.combine(theta, fixed)
        layers = jax.lax.stop_gradient(energy.mean_field(rows, 100))
        return energy.log_z_by_sum() - jnp.mean(energy.bound(layers))

    exact = jax.grad(loss)(theta)
    objective = MeanFieldPCD(num_steps=30, num_chains=40_000, num_updates=100)
    _, carry = objective.init(model, rows, key=ex.random.key(0))

    @eqx.filter_grad
    def sampled(theta):
        return objective(eqx.combine(theta, fixed), None, rows, carry, key=ex.random.key(1))[0]

    found = sampled(theta)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, atol=5 * 0.5 / np.sqrt(40_000))


def test_trained_layer_by_layer_and_then_as_a_whole():
    """On rows of a known law the exact likelihood goes up at both stages."""
    rng = np.random.default_rng(6)
    group = rng.integers(0, 3, 800)
    prototypes = np.array([[1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 0, 1], [1, 0, 0, 1, 0, 1]], float)
    rows = np.where(rng.random((800, 6)) < 0.1, 1 - prototypes[group], prototypes[group])

    def likelihood(model):
        f = log_sum(joint(model), tuple(range(1, len(model.biases))))
        index = (rows @ 2 ** np.arange(5, -1, -1)).astype(int)
        return float((f - log_sum(f, None))[index].mean())

    start = ex.pretrain(rows, (6, 4), key=ex.random.key(0), num_steps=600, learning_rate=0.02)
    fit = ex.fit(start, rows, key=ex.random.key(1), num_steps=1200, learning_rate=0.01)
    assert isinstance(fit.objective, MeanFieldPCD)
    p = rows.mean(0)
    independent = float((rows * np.log(p) + (1 - rows) * np.log1p(-p)).sum(1).mean())
    _, count = np.unique(rows, axis=0, return_counts=True)
    best = float((count / 800 * np.log(count / 800)).sum())  # no model of these rows does better
    assert independent + 0.1 < likelihood(start) < best
    assert likelihood(fit.energy) > likelihood(start) - 0.02
    assert likelihood(fit.energy) > best - 0.25
    scores = ex.variational_bound(fit.energy, rows, key=ex.random.key(2))
    assert scores.reliable and scores.log_prob.mean() <= likelihood(fit.energy) + 1e-4
    assert likelihood(fit.energy) - scores.log_prob.mean() < 0.3


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="units of the next"):
        DeepBoltzmannMachine([np.zeros((3, 2)), np.zeros((3, 2))])
    with pytest.raises(ValueError, match="biases of"):
        DeepBoltzmannMachine([np.zeros((3, 2)), np.zeros((2, 2))], [np.zeros(3)])
    with pytest.raises(TypeError, match="PersistentCD"):
        rbm = ex.energies.BernoulliRBM(np.zeros((3, 2)))
        ex.fit(rbm, np.zeros((4, 3)), MeanFieldPCD(), key=ex.random.key(0))
    with pytest.raises(ValueError, match="variational_bound"):
        ex.fit(make(), np.zeros((4, 5)), key=ex.random.key(0), validation=np.zeros((4, 5)))
    with pytest.raises(TypeError, match=r"AbstractDeepEnergy|score_samples"):
        ex.variational_bound(rbm, np.zeros((1, 3)), key=ex.random.key(0))
    with pytest.raises(ValueError, match="two or more hidden"):
        ex.pretrain(np.zeros((4, 3)), (2,), key=ex.random.key(0))
