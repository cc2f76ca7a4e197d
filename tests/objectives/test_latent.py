"""Hidden parts and joint classifiers against the exact likelihood of small records."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from energax import random, training
from energax.energies import from_log_density
from energax.energies._base import partition_trainable
from energax.objectives import (
    ContrastiveDivergence,
    JointClassifier,
    LatentPCD,
    MaximumLikelihood,
    PersistentCD,
)
from energax.objectives.chains.latent import LatentChains
from energax.objectives.conditional import Marginal
from energax.spaces import Binary, Categorical, Real, Record, Spin
from tests.exact import enumerated
from tests.objectives.test_contrastive_divergence import gradient_of, gradients

KEY = random.key(19)
RNG = np.random.default_rng(7)


def joint(seed, space=None):
    """Three spins that are seen and two bits that are not."""
    rng = np.random.default_rng(seed)
    params = {
        "w": rng.normal(0, 0.9, (3, 2)),
        "b": rng.normal(0, 0.4, 3),
        "c": rng.normal(0, 0.4, 2),
    }

    def f(p, x):
        z = x["z"].astype(float)
        return x["x"] @ p["w"] @ z + p["b"] @ x["x"] + p["c"] @ z + 0.3 * z[0] * z[1]

    space = Record(x=Spin((3,)), z=Binary((2,))) if space is None else space
    return from_log_density(f, space, params=jax.tree.map(jnp.asarray, params))


def states(energy):
    """(all points, log p of each, log p of the x of each)."""
    x = np.array(np.meshgrid(*[[-1, 1]] * 3, indexing="ij")).reshape(3, -1).T
    z = np.array(np.meshgrid(*[[0, 1]] * 2, indexing="ij")).reshape(2, -1).T
    points = {
        "x": np.repeat(x, len(z), 0).astype(np.float32),
        "z": np.tile(z, (len(x), 1)).astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, points), len(z)


def exact_nll(energy, rows):
    """−mean log p(x) of rows, exact."""
    points, num_hidden = states(energy)
    f = jax.vmap(energy.log_density)(points)
    of_x = jax.nn.logsumexp(f.reshape(-1, num_hidden), axis=1)
    number = ((rows["x"] > 0) @ np.array([4, 2, 1])).astype(int)
    return jax.nn.logsumexp(f) - jnp.mean(of_x[number])


def flat(gradient):
    return np.asarray(ravel_pytree(gradient)[0], float)


def test_with_exact_chains_the_gradient_is_that_of_the_seen_parts():
    energy, num = joint(0), 4_000
    points, _ = states(energy)
    f = np.asarray(jax.vmap(energy.log_density)(points), float)
    p = np.exp(f - f.max())
    p /= p.sum()
    rows = {"x": np.asarray(points["x"])[RNG.integers(0, 32, 300)]}
    theta, fixed = partition_trainable(energy)
    due = flat(jax.grad(lambda t: exact_nll(eqx.combine(t, fixed), rows))(theta))
    objective = LatentPCD("z", num_steps=1, num_chains=num, num_hidden_steps=15)
    _, carry = objective.init(energy, rows, key=KEY)
    got, call = [], gradients(objective)
    for i in range(40):
        drawn = RNG.choice(32, num, p=p)
        x = jax.tree.map(lambda a, drawn=drawn: a[drawn], points)
        state = eqx.tree_at(lambda s: s.x, carry.state, x)
        chains = LatentChains(state, carry.tuning, carry.hidden_tuning)
        gradient, _, _, metrics = call(energy, rows, chains, jax.random.fold_in(KEY, i))
        got.append(flat(gradient))
    got = np.array(got)
    error = got.std(0, ddof=1) / np.sqrt(len(got))
    assert np.abs((got.mean(0) - due) / error).max() < 4.5
    assert np.abs(0.8 * due / error).max() > 8
    assert set(metrics) >= {"energy_data", "energy_samples", "acceptance"}


@pytest.mark.slow
def test_a_fit_comes_near_the_best_likelihood():
    truth, start = joint(1), joint(2)
    points, _ = states(truth)
    f = np.asarray(jax.vmap(truth.log_density)(points), float)
    drawn = RNG.choice(32, 3_000, p=np.exp(f) / np.exp(f).sum())
    rows = {"x": np.asarray(points["x"])[drawn]}
    fitted = training.fit(start, rows, LatentPCD("z"), key=KEY, learning_rate=0.02, average=0.99)
    assert fitted.reliable
    best = float(exact_nll(truth, rows))
    assert float(exact_nll(start, rows)) > best + 0.1
    assert float(exact_nll(fitted.energy, rows)) < best + 0.01


def test_hidden_reals_are_inferred():
    """x = w z + noise, z ~ N(0, 1): the variance of x is w² + s²."""

    def f(p, x):
        noise = (x["x"] - p["w"] * x["z"]) ** 2 / (2 * 0.5**2)
        return -jnp.sum(noise) - x["z"][0] ** 2 / 2

    energy = from_log_density(
        f, Record(x=Real((2,)), z=Real((1,))), params={"w": jnp.asarray([0.5, 0.5])}
    )
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(3_000, 1)) * [1.4, -0.8] + 0.5 * rng.normal(size=(3_000, 2))
    objective = LatentPCD(("z",), num_steps=5, num_hidden_steps=10)
    assert objective.data_space(energy) == Record(x=Real((2,)))
    fitted = training.fit(
        energy, {"x": rows.astype(np.float32)}, objective, key=KEY, learning_rate=0.02, average=0.99
    )
    w = np.asarray(fitted.energy.params["w"])
    assert np.allclose(np.abs(w), [1.4, 0.8], atol=0.12) and w[0] * w[1] < 0


def labelled(seed):
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(0, 0.8, (3, 4)), "b": rng.normal(0, 0.4, 3)}

    def f(p, x):
        return p["w"][x["y"][0]] @ x["x"] + p["b"][x["y"][0]] + 0.4 * x["x"][0] * x["x"][1]

    space = Record(x=Spin((4,)), y=Categorical((1,), 3))
    return from_log_density(f, space, params=jax.tree.map(jnp.asarray, params))


def test_a_joint_classifier_is_the_joint_likelihood():
    """With the exact likelihood of p(x), log p(y | x) + log p(x) = log p(x, y) to rounding."""
    energy = labelled(0)
    exact = enumerated(energy)
    rows = exact.draw(60, seed=1)
    objective = JointClassifier(MaximumLikelihood())
    _, carry = objective.init(energy, rows, key=KEY)
    gradient, loss, _, metrics = gradient_of(objective, energy, rows, carry)
    other, whole, *_ = gradient_of(MaximumLikelihood(), energy, rows, None)
    assert float(loss) == pytest.approx(float(whole), rel=1e-5)
    np.testing.assert_allclose(flat(gradient), flat(other), atol=2e-6)
    f = jax.vmap(energy.log_density)(rows)
    assert float(metrics["log_conditional"]) == pytest.approx(
        float(jnp.mean(f + jax.vmap(Marginal(energy, "y"))(_without(rows)))), rel=1e-4
    )
    heavy = JointClassifier(MaximumLikelihood(), weight=3.0)
    _, loss3, *_ = gradient_of(heavy, energy, rows, carry)
    assert float(loss3) == pytest.approx(
        float(loss) - 2 * float(metrics["log_conditional"]), rel=1e-4
    )


def _without(rows):
    return {name: part for name, part in rows.items() if name != "y"}


def test_a_joint_classifier_trains_by_chains():
    truth, start = labelled(0), labelled(3)
    rows = enumerated(truth).draw(4_000, seed=2)
    fitted = training.fit(
        start,
        rows,
        JointClassifier(PersistentCD(num_steps=3)),
        key=KEY,
        learning_rate=0.02,
        average=0.99,
    )

    def nll(energy):
        exact = enumerated(energy)
        return exact.log_z - exact.log_density[exact.index(rows)].mean()

    assert nll(start) > nll(truth) + 0.3
    assert nll(fitted.energy) < nll(truth) + 0.02
    assert fitted.history["right"][-1] > fitted.history["right"][0]


def test_cd_starts_on_mixed_records():
    space = Record(a=Real((2,)), b=Spin((2,)))
    energy = from_log_density(
        lambda p, x: -0.5 * jnp.sum((x["a"] - p * x["b"]) ** 2), space, params=jnp.asarray(0.3)
    )
    rng = np.random.default_rng(0)
    b = rng.choice([-1.0, 1.0], (500, 2)).astype(np.float32)
    rows = {"a": (0.9 * b + rng.normal(size=b.shape)).astype(np.float32), "b": b}
    fitted = training.fit(
        energy, rows, ContrastiveDivergence(num_steps=3), key=KEY, learning_rate=0.02, num_steps=600
    )
    assert abs(float(fitted.energy.params) - 0.9) < 0.15


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="hidden"):
        LatentPCD(())
    with pytest.raises(ValueError, match="num_hidden_steps"):
        LatentPCD("z", num_hidden_steps=0)
    for hidden in ("other", ("x", "z")):
        with pytest.raises(TypeError, match="some but not all of the parts"):
            LatentPCD(hidden).data_space(joint(0))
    with pytest.raises(TypeError, match="Record"):
        LatentPCD("z").data_space(from_log_density(lambda x: jnp.sum(x), Spin((2,))))
    with pytest.raises(TypeError, match="objective"):
        JointClassifier("pcd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weight"):
        JointClassifier(PersistentCD(), weight=-1.0)
    with pytest.raises(TypeError, match="'z'"):
        JointClassifier(PersistentCD(), target="z").init(labelled(0), None, key=KEY)
