"""p(y | x): its objective and its answer against closed forms, and an RBM that classifies."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import energax as ex
from energax import random
from energax.energies._base import partition_trainable
from energax.objectives import ConditionalLikelihood

SPACE = ex.Record(x=ex.Real(2), y=ex.Categorical(1, 3))


def softmax(params, point):
    """log p(y | x) is linear in x; the part of x alone must not matter."""
    x, y = point["x"], point["y"][0]
    return (params["w"] @ x + params["b"])[y] - jnp.sum((x - 5.0) ** 4)


def truth():
    w = np.array([[1.2, -0.4], [-0.7, 0.9], [0.3, -1.1]])
    return ex.from_log_density(softmax, SPACE, params={"w": w, "b": np.array([0.3, -0.5, 0.1])})


def rows(num, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(0.5, 1.5, (num, 2))
    logits = x @ np.asarray(truth().params["w"]).T + np.asarray(truth().params["b"])
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (rng.random((num, 1)) > p.cumsum(1)).sum(1, keepdims=True)
    return {"x": x, "y": y}, p


def test_classify_is_the_softmax_of_f():
    data, p = rows(50)
    found = ex.classify(truth(), {"x": data["x"]})
    np.testing.assert_allclose(found, p, atol=1e-4)  # f itself is near -1,000
    np.testing.assert_allclose(found, ex.classify(truth(), data), atol=0)
    assert found.dtype == np.float64


def test_loss_and_gradient_are_those_of_the_closed_form():
    data, p = rows(30)
    energy, objective = truth(), ConditionalLikelihood()
    batch = jax.tree.map(jnp.asarray, SPACE.validate(data, batch=True))
    theta, fixed = partition_trainable(energy)

    def loss(theta):
        return objective(eqx.combine(theta, fixed), None, batch, None, key=random.key(0))[0]

    expected = -np.log(p[np.arange(30), data["y"][:, 0]]).mean()
    assert float(loss(theta)) == pytest.approx(expected, abs=2e-4)
    gradient = jax.grad(loss)(theta)
    residual = p - np.eye(3)[data["y"][:, 0]]
    np.testing.assert_allclose(gradient.params["w"], residual.T @ data["x"] / 30, atol=2e-4)
    np.testing.assert_allclose(gradient.params["b"], residual.mean(0), atol=2e-4)


def test_the_truth_is_recovered_within_its_sandwich_errors():
    num = 20_000
    data, _ = rows(num, seed=1)
    fit = ex.fit(
        truth(),
        data,
        ConditionalLikelihood(),
        key=random.key(1),
        num_steps=1500,
        learning_rate=0.02,
        batch_size=2000,
        average=0.99,
    )
    w, b = np.asarray(fit.energy.params["w"]), np.asarray(fit.energy.params["b"])
    true_w, true_b = np.asarray(truth().params["w"]), np.asarray(truth().params["b"])
    # Only differences between classes are determined.
    found = np.concatenate([(w - w[2])[:2], (b - b[2])[:2, None]], 1).ravel()
    true = np.concatenate([(true_w - true_w[2])[:2], (true_b - true_b[2])[:2, None]], 1).ravel()
    z = np.concatenate([data["x"], np.ones((num, 1))], 1)
    logits = z @ np.concatenate([true_w, true_b[:, None]], 1).T
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    information = np.zeros((6, 6))
    for i in range(2):
        for j in range(2):
            weight = p[:, i] * ((i == j) - p[:, j])
            information[3 * i : 3 * i + 3, 3 * j : 3 * j + 3] = (z * weight[:, None]).T @ z
    error = np.sqrt(np.diag(np.linalg.inv(information)))  # the model is true: as the sandwich
    assert (np.abs(found - true) < 4.5 * error).all(), (found - true) / error


def test_a_classification_rbm_learns_digits_like_classes():
    rng = np.random.default_rng(2)
    prototypes = (rng.random((3, 12)) < 0.5).astype(float)
    label = rng.integers(0, 3, (1500, 1))
    x = np.where(rng.random((1500, 12)) < 0.1, 1 - prototypes[label[:, 0]], prototypes[label[:, 0]])
    space = ex.Record(x=ex.Binary(12), y=ex.Categorical(1, 3))
    data = {"x": x, "y": label}
    train, test = (
        {k: v[part] for k, v in data.items()} for part in (slice(1000), slice(1000, None))
    )
    start = ex.energies.RBM.random(space, 8, key=random.key(0), data=train, scale=0.1)
    fit = ex.fit(start, train, ConditionalLikelihood(), key=random.key(1), num_steps=500)
    p = ex.classify(fit.energy, {"x": test["x"]})
    distance = np.abs(test["x"][:, None] - prototypes).sum(-1)
    best = (distance.argmin(1) == test["y"][:, 0]).mean()  # Bayes, but for ties
    assert (p.argmax(1) == test["y"][:, 0]).mean() > best - 0.02
    assert -np.log(p[np.arange(500), test["y"][:, 0]]).mean() < 0.2


def test_what_has_no_such_part_is_refused():
    flat = ex.from_log_density(lambda x: -jnp.sum(x**2), ex.Real(2))
    with pytest.raises(TypeError, match="Record of which 'y' is one part"):
        ex.classify(flat, np.zeros((2, 2)))
    record = ex.from_log_density(
        lambda p: -jnp.sum(p["x"] ** 2) - jnp.sum(p["y"] ** 2),
        ex.Record(x=ex.Real(1), y=ex.Real(1)),
    )
    with pytest.raises(TypeError, match="infinitely many"):
        ex.classify(record, {"x": np.zeros((2, 1))})
    with pytest.raises(ValueError, match=r"keys \['x'\]"):
        ex.classify(truth(), {"z": np.zeros((2, 1))})
    data, _ = rows(4)
    with pytest.raises(TypeError, match="target="):
        ex.fit(truth(), data, ConditionalLikelihood("z"), key=random.key(0))
