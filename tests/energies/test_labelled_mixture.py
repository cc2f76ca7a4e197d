"""Mixtures of which the component is seen, against SciPy's normals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import energax as ex
from energax.energies import Gaussian, LabelledMixture, Mixture

PLANE = ex.Real((2,))
# The middle one is of another kind, so that components are not kept in the order of the labels
PARTS = [
    Gaussian(PLANE, [0.3, -1.0], cholesky=[[0.5, 0.0], [0.7, 2.0]]),
    Mixture([Gaussian(PLANE, [2.0, 0.0], 0.4), Gaussian(PLANE, [-2.0, 1.0], 0.9)], [0.2, 0.8]),
    Gaussian(PLANE, [1.3, 1.0], cholesky=[[1.5, 0.0], [-0.2, 0.4]]),
]
WEIGHTS = np.array([0.5, 0.2, 0.3])
ENERGY = LabelledMixture(PARTS, 7 * WEIGHTS)


def by_hand(x):
    """log p(x, y), (num, 3)."""
    factors = np.array([[[0.5, 0.0], [0.7, 2.0]], [[1.5, 0.0], [-0.2, 0.4]]])
    first, last = factors @ factors.swapaxes(1, 2)
    two = 0.2 * stats.multivariate_normal([2, 0], 0.16 * np.eye(2)).pdf(x)
    two += 0.8 * stats.multivariate_normal([-2, 1], 0.81 * np.eye(2)).pdf(x)
    each = [
        stats.multivariate_normal([0.3, -1.0], first).pdf(x),
        two,
        stats.multivariate_normal([1.3, 1.0], last).pdf(x),
    ]
    return np.log(WEIGHTS * np.stack(each, 1))


def test_joint_and_posterior_are_those_of_scipy():
    x = np.random.default_rng(0).normal(0, 1.5, (40, 2))
    log_p = by_hand(x)
    for y in range(3):
        points = {"x": jnp.asarray(x), "y": jnp.full(40, y)}
        np.testing.assert_allclose(
            jax.vmap(ENERGY.log_prob)(points), log_p[:, y], rtol=3e-5, atol=3e-5
        )
    total = np.logaddexp.reduce(log_p, 1)
    posterior = np.exp(log_p - total[:, None])
    np.testing.assert_allclose(ex.classify(ENERGY, {"x": x}), posterior, atol=3e-5)
    marginal = jax.vmap(ENERGY.mixture.log_prob)(jnp.asarray(x))
    np.testing.assert_allclose(marginal, total, rtol=3e-5, atol=3e-5)
    assert ex.log_z(ENERGY, key=ex.random.key(0)).value == 0


def test_draws_come_with_the_label_of_their_component():
    num = 20_000
    drawn = ENERGY.draw(num, key=ex.random.key(3))
    x, y = np.asarray(drawn["x"], np.float64), np.asarray(drawn["y"])
    counts = np.bincount(y, minlength=3)
    assert stats.chisquare(counts, num * WEIGHTS).pvalue > 1e-6
    mean = np.array([[0.3, -1.0], [-1.2, 0.8], [1.3, 1.0]])
    for k in range(3):
        own = x[y == k]
        assert (np.abs(own.mean(0) - mean[k]) < 5.5 * own.std(0) / np.sqrt(len(own))).all()


def test_what_has_no_labels_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        LabelledMixture(PARTS[:1])
    record = ex.Record(y=ex.Real((2,)))
    with pytest.raises(ValueError, match='"y" is the component'):
        LabelledMixture([ex.energies.default_base(record)] * 2)


def test_parts_of_a_record_stand_beside_the_label():
    record = ex.Record(a=PLANE, b=ex.Categorical((), 2))
    share = np.array([[0.3, 0.7], [0.9, 0.1]])
    parts = [
        ex.energies.RecordReference(
            record,
            {
                "a": PARTS[2 * k],
                "b": ex.energies.IndependentCategorical(record.parts["b"], np.log(share[k])),
            },
        )
        for k in range(2)
    ]
    energy = LabelledMixture(parts, [0.4, 0.6])
    a, b = np.random.default_rng(1).normal(size=(6, 2)), np.array([0, 1, 0, 1, 0, 1])
    normals = np.stack([jax.vmap(PARTS[2 * k].log_prob)(jnp.asarray(a)) for k in range(2)], 1)
    joint = np.log([0.4, 0.6]) + normals + np.log(share[:, b].T)
    for y in range(2):
        points = {"a": jnp.asarray(a), "b": jnp.asarray(b), "y": jnp.full(6, y)}
        np.testing.assert_allclose(jax.vmap(energy.log_prob)(points), joint[:, y], atol=3e-5)
    posterior = np.exp(joint - np.logaddexp.reduce(joint, 1)[:, None])
    found = ex.classify(energy, {"a": a, "b": b}, target="y")
    np.testing.assert_allclose(found, posterior, atol=3e-5)
    drawn = energy.draw(4_000, key=ex.random.key(0))
    assert set(drawn) == {"a", "b", "y"}
    second = np.asarray(drawn["b"])[np.asarray(drawn["y"]) == 1]
    assert second.mean() == pytest.approx(0.1, abs=0.03)
