"""RBMs against brute force over the hidden and visible states, in NumPy, biases off zero."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax.energies import _base
from energax.energies._base import batched, partition_trainable
from energax.energies.boltzmann import AnnealedRBM, BernoulliRBM, RBMPath
from energax.energies.boltzmann._base import numbers
from energax.energies.boltzmann._base import rbm as module
from energax.energies.reference import IndependentBernoulli, default_base
from energax.random import key
from energax.spaces import Binary, Real
from tests.exact import P_LIMIT, all_points, chi_square, enumerated, finite_difference

RNG = np.random.default_rng(3)
WEIGHT = RNG.normal(0, 1.0, (5, 4))
VISIBLE = RNG.normal(0.4, 0.8, 5)
HIDDEN = RNG.normal(-0.5, 0.8, 4)
V = np.array(np.meshgrid(*[[0.0, 1.0]] * 5, indexing="ij")).reshape(5, -1).T
H = np.array(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij")).reshape(4, -1).T
JOINT = -(V @ VISIBLE)[:, None] - (H @ HIDDEN)[None] - V @ WEIGHT @ H.T
"""E(v, h) of all pairs, in NumPy."""
BASE = IndependentBernoulli(Binary(5), [0.7, -0.4, 1.1, -1.5, 0.2])


def rbm():
    return BernoulliRBM(weight=WEIGHT, visible_bias=VISIBLE, hidden_bias=HIDDEN)


def path() -> RBMPath:
    found = rbm().path(BASE)
    assert isinstance(found, RBMPath)
    return found


def test_free_energy_joint_energy_and_hidden_means_are_sums_over_the_hidden_states():
    joint = rbm().joint_energy(jnp.asarray(V[:, None]), jnp.asarray(H[None]))
    np.testing.assert_allclose(joint, JOINT, atol=1e-5)
    weight = np.exp(-JOINT)
    f = np.log(weight.sum(1))
    np.testing.assert_allclose(batched(rbm(), jnp.asarray(V, float)), f, atol=1e-5)
    np.testing.assert_allclose(
        rbm().hidden_mean(jnp.asarray(V)), weight @ H / weight.sum(1)[:, None], atol=1e-6
    )


def test_conditional_draws_have_the_conditional_probabilities():
    model, num = rbm(), 20_000
    weight = np.exp(-JOINT)
    v = jnp.repeat(jnp.asarray(V[7], float)[None], num, 0)
    h = np.asarray(model.sample_hidden(v, key=key(0)))
    counts = np.bincount((h @ [8, 4, 2, 1]).astype(int), minlength=16)
    assert chi_square(counts, weight[7]) > P_LIMIT
    assert chi_square(counts, weight[8]) < 1e-9
    h = jnp.repeat(jnp.asarray(H[5], float)[None], num, 0)
    v = np.asarray(model.sample_visible(h, key=key(1)))
    counts = np.bincount((v @ [16, 8, 4, 2, 1]).astype(int), minlength=32)
    assert chi_square(counts, weight[:, 5]) > P_LIMIT
    assert chi_square(counts, weight[:, 6]) < 1e-9


@pytest.mark.parametrize(
    ("flip", "chunk"), [(False, 16), (True, 2**21)], ids=["hidden, chunks", "visible, at once"]
)
def test_log_z_by_sum(flip, chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    model = BernoulliRBM(WEIGHT.T, HIDDEN, VISIBLE) if flip else rbm()
    assert model.num_summed_states == 16
    truth = np.log(np.exp(-JOINT).sum())
    log_z, gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda e: e.log_z_by_sum()))(model)
    assert abs(float(log_z) - truth) < 1e-5
    joint = np.exp(-JOINT - truth)  # ∂ log Z / ∂W = E[v hᵀ], ∂b = E[v], ∂c = E[h]
    expected = V.T @ joint @ H
    np.testing.assert_allclose(gradient.weight, expected.T if flip else expected, atol=1e-5)
    ends = gradient.hidden_bias, gradient.visible_bias
    np.testing.assert_allclose(ends[flip], joint.sum(0) @ H, atol=1e-5)
    np.testing.assert_allclose(ends[not flip], joint.sum(1) @ V, atol=1e-5)


def test_too_many_states_to_sum_are_refused():
    with pytest.raises(ValueError, match="too many to sum"):
        BernoulliRBM(jnp.zeros((40, 31))).log_z_by_sum()


def test_gradients_against_finite_differences():
    model, x = rbm(), jnp.asarray(V[11])
    trainable, rest = partition_trainable(model)
    assert len(jax.tree.leaves(trainable)) == 3

    def energy(trainable):
        return eqx.combine(trainable, rest)(x)

    found = jax.tree.leaves(jax.grad(energy)(trainable))
    expected = jax.tree.leaves(finite_difference(energy, trainable))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(
        jax.grad(model)(x.astype(float)), finite_difference(model, V[11]), atol=1e-5
    )


def test_site_differences_are_differences():
    model = rbm()
    f = enumerated(model)
    found = np.asarray(jax.jit(jax.vmap(model.site_differences))(jnp.asarray(V, float)))
    for site in range(5):
        flipped = V.copy()
        flipped[:, site] = 1 - flipped[:, site]
        expected = f.log_density[f.index(V)] - f.log_density[f.index(flipped)]
        np.testing.assert_allclose(found[:, site], expected, atol=1e-5)


def test_softplus_changes_keep_their_digits():
    """Where softplus is large or the change small, a subtraction of totals would lose them."""
    a, d = np.meshgrid(
        [-200.0, -30.0, -2.0, 0.3, 5.0, 90.0], [-300.0, -4.0, -1e-4, 0.0, 1e-6, 2.0, 150.0]
    )
    exact = np.logaddexp(0, a + d) - np.logaddexp(0, a)  # float64
    found = numbers.softplus_change(jnp.asarray(a[0], float), jnp.asarray(d, float))
    np.testing.assert_allclose(found, exact, rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(
        _base.softplus(jnp.asarray(a, float)), np.logaddexp(0, a), rtol=1e-6, atol=1e-30
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log1p_keeps_its_digits(dtype):
    t = np.concatenate([np.linspace(-0.5, 1, 200_001), np.geomspace(1e-35, 1, 1000)]).astype(dtype)
    t = np.concatenate([t, -t[-1000:][t[-1000:] <= 0.5]])
    with jax.enable_x64(dtype == np.float64):
        found = np.asarray(_base.log1p(jnp.asarray(t)))
        slope = np.asarray(jax.vmap(jax.grad(_base.log1p))(jnp.asarray(t)))
    assert found.dtype == dtype
    digits = 3e-7 if dtype == np.float32 else 1e-13  # XLA's own log1p is off by 3e-14
    np.testing.assert_allclose(found, np.log1p(t.astype(np.float64)), rtol=digits)
    np.testing.assert_allclose(slope, 1 / (1 + t.astype(np.float64)), rtol=2 * digits)


# The path


def test_path_starts_at_the_base_with_the_hidden_units_counted():
    start = enumerated(path().at(0.0))
    assert abs(start.log_z - float(path().log_z0)) < 1e-5
    np.testing.assert_allclose(start.prob, enumerated(BASE).prob, rtol=1e-5)
    assert start.p_value(np.asarray(path().draw(20_000, key=key(2)))) > P_LIMIT


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_every_rung_is_the_rbm_of_scaled_weights(beta):
    rung = path().at(beta)
    plain = BernoulliRBM(
        beta * WEIGHT, (1 - beta) * np.asarray(BASE.logits) + beta * VISIBLE, beta * HIDDEN
    )
    assert isinstance(rung, AnnealedRBM)
    x = jnp.asarray(V, float)
    np.testing.assert_allclose(batched(rung, x), batched(plain, x), atol=1e-5)
    np.testing.assert_allclose(rung.hidden_mean(x), plain.hidden_mean(x), atol=1e-6)
    assert abs(float(rung.log_z_by_sum()) - enumerated(plain).log_z) < 1e-5
    assert rung.num_summed_states == 16
    if beta == 1.0:
        np.testing.assert_allclose(batched(rung, x), batched(rbm(), x), atol=1e-6)


def test_increments_add_up_and_are_differences_both_ways():
    increments = jax.jit(jax.vmap(path().increment, (0, None, None)))
    x, order = jnp.asarray(V, float), enumerated(rbm()).index(V)
    f = {beta: enumerated(path().at(beta)).log_density[order] for beta in (0.0, 0.2, 0.7, 1.0)}
    total = np.zeros(len(V))
    for b0, b1 in pairwise(f):
        step = np.asarray(increments(x, b0, b1))
        np.testing.assert_allclose(step, f[b1] - f[b0], atol=1e-5)
        np.testing.assert_allclose(increments(x, b1, b0), f[b0] - f[b1], atol=1e-5)
        total += step
    np.testing.assert_allclose(total, enumerated(rbm()).log_density[order] - f[0.0], atol=1e-5)


def test_increments_of_a_large_rbm_keep_their_digits():
    """784-500, a step of 2^-13: the totals, near 1,000, are known to 6e-5 in float32."""
    beta = 0.5 + 2**-13
    rng = np.random.default_rng(5)
    weight, bias = rng.normal(0, 0.3, (784, 500)), rng.normal(0, 1, 784)
    hidden_bias = rng.normal(2, 1, 500)
    big = BernoulliRBM(weight, bias, hidden_bias).path(default_base(Binary(784)))
    v = (rng.random((16, 784)) < 0.5).astype(float)
    found = jax.vmap(lambda x: big.increment(x, 0.5, beta))(jnp.asarray(v, float))
    u = v @ weight + hidden_bias

    def f(beta):
        return beta * (v @ bias) + np.logaddexp(0, beta * u).sum(1)

    np.testing.assert_allclose(found, f(beta) - f(0.5), rtol=1e-6, atol=3e-7)
    x = jnp.asarray(v, float)
    naive = batched(big.at(beta), x) - batched(big.at(0.5), x)
    assert np.abs(naive - (f(beta) - f(0.5))).max() > 1e-5


def test_an_annealing_step_costs_two_matrix_products():
    """The increment, the refresh and the step share the product vW, whatever β is."""
    from energax.samplers._base import State
    from energax.samplers.gibbs import BlockGibbs

    sampler, chains = BlockGibbs(), 100
    big = BernoulliRBM(jnp.ones((70, 50))).path(default_base(Binary(70)))

    @eqx.filter_jit
    def step(path, x, b0, b1, key):
        gain = jax.vmap(lambda v: path.increment(v, b0, b1))(x)
        state = sampler.refresh(path.at(b1), State(x, gain))
        return sampler.step(path.at(b1), state, None, key=key)[0].x, gain

    x = jnp.zeros((chains, 70))
    lowered = step.lower(big, x, jnp.array(0.2), jnp.array(0.3), key(0))
    text = lowered.compile().compiled.as_text()
    products = [line for line in text.splitlines() if " dot(" in line or "matmul" in line]
    large = [line for line in products if "f32[100,70]" in line or "f32[100,50]" in line]
    assert len([line for line in large if "= f32[100,1]" not in line]) == 2, products


def test_other_bases_get_the_geometric_path():
    class Odd(_base.AbstractNormalised):
        space: Binary = Binary(5)
        log_z = property(lambda self: jnp.log(32.0))

        def __call__(self, x):
            return 0.0 * jnp.sum(x)

        def draw(self, num, *, key):
            return jax.random.bernoulli(key, 0.5, (num, 5)).astype(float)

    assert isinstance(rbm().path(Odd()), _base.GeometricPath)
    spins = IndependentBernoulli(Binary((5, 1)), 0.0)
    assert isinstance(rbm().path(spins), _base.GeometricPath)


# Made and changed


def test_tilt_is_the_posterior_under_bit_flips():
    """p(v | seen) ∝ p(v) Π rate^{v≠seen} (1 − rate)^{v=seen}, rate 0.2."""
    seen, rate = V[13], 0.2
    posterior = enumerated(rbm().tilt((2 * seen - 1) * np.log((1 - rate) / rate)))
    points = all_points(Binary(5))
    flips = (points != seen).sum(1)
    expected = enumerated(rbm()).prob * rate**flips * (1 - rate) ** (5 - flips)
    np.testing.assert_allclose(posterior.prob, expected / expected.sum(), rtol=1e-5)


def test_random_starts_at_the_base_rates():
    data = (RNG.random((200, 30)) < np.linspace(0.1, 0.9, 30)).astype(int)
    data[:, 0] = 0  # a pixel that is never on must not get an infinite bias
    model = BernoulliRBM.random(30, 20, key=key(4), data=data, scale=0.05)
    share = (data.sum(0) + 0.5) / (len(data) + 1)
    np.testing.assert_allclose(jax.nn.sigmoid(model.visible_bias), share, rtol=1e-5)
    assert 0.04 < float(model.weight.std()) < 0.06
    assert model.space == Binary(30) and not model.hidden_bias.any()
    with pytest.raises(ValueError, match="only 0 and 1"):
        BernoulliRBM.random(30, 20, key=key(4), data=data * 0.5)
    rare = BernoulliRBM.random(30, 20, key=key(4), data=data, scale=1e-4, hidden_rate=0.05)
    assert np.allclose(rare.hidden_mean(data.astype(float)), 0.05, atol=1e-3)
    with pytest.raises(ValueError, match="hidden_rate: expected a number between 0 and 1, got 1"):
        BernoulliRBM.random(30, 20, key=key(4), hidden_rate=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": np.zeros(4)}, r"\(visible, hidden\), got \(4,\)"),
        (
            {"weight": np.zeros((4, 2)), "visible_bias": np.zeros(2)},
            r"visible_bias of shape \(4,\)",
        ),
        ({"weight": np.zeros((4, 2)), "hidden_bias": np.zeros(4)}, r"hidden_bias of shape \(2,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BernoulliRBM(**arguments)


def test_a_space_of_another_size_is_refused():
    with pytest.raises(ValueError, match="ONE point"):
        rbm().with_space(Real((7,)))
