"""fit: the same as a plain loop, every row once an epoch, and a stop with the cause on trouble."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from energax import random, training
from energax.energies import BernoulliRBM, MultivariateNormal, from_log_density, frozen
from energax.energies._base import partition_trainable
from energax.objectives import MaximumLikelihood, PersistentCD
from energax.objectives._base import AbstractObjective
from energax.results import UnreliableResult
from energax.samplers import ULA
from energax.spaces import Binary, Count, Ordinal, Real, Record, Spin

KEY = random.key(41)


def binary_rows(num=400, sites=5, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((num, sites)) < np.linspace(0.2, 0.8, sites)).astype(np.float32)


def rbm(seed=0, visible=5, hidden=3):
    return BernoulliRBM.random(visible, hidden, key=random.key(seed), scale=0.3)


def same(a, b):
    """Bit for bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


# ---- the loop --------------------------------------------------------------------------------


def test_it_is_a_plain_loop_made_fast():
    """Plain gradient descent with the average of Optax's ema, written out."""
    rows, energy, rate, decay = binary_rows(), rbm(), 0.2, 0.9
    fitted = training.fit(
        energy,
        rows,
        MaximumLikelihood(),
        key=KEY,
        optimizer=optax.sgd(rate),
        num_steps=30,
        batch_size=len(rows),
        average=decay,
    )
    theta, fixed = partition_trainable(energy)
    mean = theta
    objective, losses, norms = MaximumLikelihood(), [], []

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(theta):
        return objective(eqx.combine(theta, fixed), None, rows, None, key=KEY)[0]

    for t in range(30):
        value, gradient = loss(theta)
        losses.append(float(value))
        norms.append(float(optax.tree.norm(gradient)))
        theta = jax.tree.map(lambda p, g: p - rate * g, theta, gradient)
        keep = min(decay, (1 + t) / (10 + t))
        mean = jax.tree.map(lambda m, p, k=keep: k * m + (1 - k) * p, mean, theta)
    np.testing.assert_allclose(fitted.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(fitted.history["gradient_norm"], norms, rtol=1e-4)
    np.testing.assert_allclose(fitted.history["update_norm"], rate * np.asarray(norms), rtol=1e-4)
    np.testing.assert_array_equal(fitted.history["step"], np.arange(30))
    for a, b in zip(
        jax.tree.leaves(fitted.energy), jax.tree.leaves(eqx.combine(mean, fixed)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


class Rows(AbstractObjective):
    """Reports which rows came, for data that are their own numbers."""

    def init(self, energy, data, *, key):
        return None, None

    def __call__(self, energy, params, batch, carry, *, key):
        used = jnp.zeros(8).at[batch].set(1.0)
        metrics = {"first": batch[0].astype(float), "mask": used @ 2.0 ** jnp.arange(8)}
        return energy.params**2, None, metrics


def test_an_epoch_has_every_row_once_in_a_new_order():
    energy = from_log_density(lambda p, x: p * x, Count(()), params=jnp.asarray(1.0))
    options = dict(num_epochs=6, batch_size=2, learning_rate=0.1)
    fitted = training.fit(energy, np.arange(8), Rows(), key=KEY, **options)
    assert fitted.num_steps == 24
    masks = fitted.history["mask"].astype(int).reshape(6, 4)
    assert (np.bitwise_or.reduce(masks, axis=1) == 255).all() and (masks.sum(1) == 255).all()
    assert len({tuple(epoch) for epoch in masks}) > 1
    again = training.fit(energy, np.arange(8), Rows(), key=KEY, **options)
    np.testing.assert_array_equal(again.history["first"], fitted.history["first"])
    other = training.fit(energy, np.arange(8), Rows(), key=random.key(2), **options)
    assert (other.history["first"] != fitted.history["first"]).any()
    # 7 rows in twos: one row of each epoch waits, another one each time.
    odd = training.fit(energy, np.arange(7), Rows(), key=KEY, num_epochs=20, batch_size=2)
    masks = odd.history["mask"].astype(int).reshape(20, 3)
    left = {127 - int(mask) for mask in masks.sum(1)}
    assert len(left) > 3 and left <= {2**i for i in range(7)}


def test_new_values_do_not_compile_anew():
    traces = []

    def f(params, x):
        traces.append(1)
        return params @ x

    def start(value):
        return from_log_density(f, Binary((4,)), params=jnp.full(4, value))

    def run(value, rate, seed, num_steps):
        rows = binary_rows(sites=4, seed=seed)
        key = random.key(seed)
        return training.fit(start(value), rows, key=key, learning_rate=rate, num_steps=num_steps)

    run(0.1, 0.01, 0, 50)
    start(0.1)
    before = len(traces)
    start(0.2)
    to_check = len(traces) - before
    before = len(traces)
    run(0.2, 0.02, 1, 70)
    assert len(traces) - before <= 2 * to_check  # the checks of start and fit, no step


def test_all_kinds_of_points_and_float64():
    record = Record(a=Real((2,)), b=Spin((3,)), n=Count(()))
    rng = np.random.default_rng(0)
    rows = {
        "a": rng.normal(size=(50, 2)),
        "b": np.sign(rng.normal(size=(50, 3))),
        "n": rng.poisson(2.0, 50),
    }

    def f(params, x):
        return (
            -0.5 * jnp.sum((x["a"] - params["m"]) ** 2)
            + params["h"] * jnp.sum(x["b"])
            - 0.3 * x["n"]
        )

    start = from_log_density(f, record, params={"m": jnp.zeros(2), "h": jnp.asarray(0.1)})
    fitted = training.fit(start, rows, key=KEY, num_steps=20, batch_size=10)
    assert isinstance(fitted.objective, PersistentCD)
    assert np.isfinite(fitted.history["loss"]).all()
    assert (np.asarray(fitted.energy.params["m"]) != 0).all()
    with jax.enable_x64(True):
        wide = training.fit(rbm(), binary_rows(), key=random.key(0), num_steps=20, average=0.9)
        assert wide.energy.weight.dtype == jnp.float64
        assert wide.history["loss"][-1] < wide.history["loss"][0]


class Parts(eqx.Module):
    free: jax.Array
    held: eqx.Module
    number: jax.Array

    def __call__(self, x):
        return self.free @ x + self.held(x) + self.number @ x


class Linear(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight @ x


def test_only_float_arrays_outside_frozen_parts_move():
    whole = Parts(np.ones(5, np.float32), frozen(Linear(jnp.ones(5))), jnp.arange(5))
    start = from_log_density(whole, Binary((5,)))
    fitted = training.fit(start, binary_rows(), key=KEY, num_steps=5).energy.function
    assert (np.asarray(fitted.free) != 1).all()
    np.testing.assert_array_equal(fitted.held.module.weight, 1)
    np.testing.assert_array_equal(fitted.number, np.arange(5))


def test_exponential_families_match_moments():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 2)) @ [[1.0, 0.4], [0.0, 0.7]] + [2.0, -1.0]
    fitted = training.fit(MultivariateNormal([0.0, 0.0], np.eye(2)), rows, key=KEY)
    np.testing.assert_allclose(fitted.energy.mean, rows.mean(0), rtol=1e-4)
    np.testing.assert_allclose(
        fitted.energy.covariance, np.cov(rows, rowvar=False, bias=True), rtol=1e-3
    )
    assert fitted.reliable and fitted.num_steps == 1
    expected = 0.5 * np.linalg.slogdet(2 * np.pi * np.cov(rows, rowvar=False, bias=True))[1] + 1
    assert fitted.history["loss"][-1] == pytest.approx(expected, rel=1e-4)


def test_validation_callback_progress_and_time(capsys):
    seen = []
    held = binary_rows(60, seed=1)
    fitted = training.fit(
        rbm(),
        binary_rows(),
        PersistentCD(),
        key=KEY,
        num_steps=100,
        validation=held,
        progress=True,
        callback=lambda step, metrics: seen.append((step, metrics["gap"])),
    )
    steps = fitted.history["validation_step"]
    np.testing.assert_array_equal(steps, np.arange(2, 101, 2))
    energy = -np.mean([float(fitted.energy.log_density(x)) for x in held])
    assert fitted.history["validation_energy"][-1] == pytest.approx(energy, rel=1e-4)
    train = -np.mean([float(fitted.energy.log_density(x)) for x in binary_rows()[:60]])
    assert fitted.history["validation_gap"][-1] == pytest.approx(energy - train, abs=1e-4)
    assert seen[-1] == (100, fitted.history["gap"][-1]) and not fitted.time_limited
    captured = capsys.readouterr()
    assert "training" in captured.err and captured.out == ""
    short = training.fit(
        rbm(), binary_rows(), PersistentCD(), key=KEY, num_steps=10**6, max_seconds=0.05
    )
    assert short.time_limited and 0 < short.num_steps < 10**6


def test_long_runs_log_some_steps():
    rows = np.zeros((4, 1))
    energy = from_log_density(lambda p, x: p * x[0], Spin((1,)), params=jnp.asarray(0.3))
    fitted = training.fit(energy, rows - 1, key=KEY, num_steps=20_001)
    np.testing.assert_array_equal(fitted.history["step"], np.arange(0, 20_001, 3))


# ---- trouble ---------------------------------------------------------------------------------


def root(params, x):
    return jnp.sqrt(params) * x[0]


def shrinking(optimizer=None, num_steps=400, **options):
    """√p falls below 0 at a step that only Adam's rate decides: the loss is NaN from there on."""
    start = from_log_density(root, Ordinal((1,), 4), params=jnp.asarray(1.0))
    rows = np.zeros((20, 1))
    return training.fit(start, rows, key=KEY, optimizer=optimizer, num_steps=num_steps, **options)


def test_a_loss_that_becomes_nan_stops_training_with_its_cause(tmp_path):
    with pytest.warns(UnreliableResult, match="became NaN"):
        fitted = shrinking(learning_rate=0.01)
    failed = int(fitted.history["step"][-1])
    assert failed > 60 and not np.isfinite(fitted.history["loss"][-1])
    assert not fitted.reliable
    (reason,) = fitted.reasons
    assert f"became NaN at step {failed}: lower learning_rate (now 0.01)" in reason
    assert reason.endswith(f"went back to step {fitted.num_steps}")
    assert failed - 19 <= fitted.num_steps <= failed - 10
    # It is the state that training passed through, wherever chunks end.
    adam = optax.adam(0.01)
    with pytest.warns(UnreliableResult, match="learning_rate of your optimizer"):
        stopped = shrinking(adam, checkpoint_dir=tmp_path, checkpoint_every=3)
    through = shrinking(adam, num_steps=stopped.num_steps)
    assert through.reliable
    same(through.energy, stopped.energy)
    with pytest.warns(UnreliableResult):
        same(shrinking(adam).energy, stopped.energy)
    # No checkpoint is of the way into trouble, and from the last one a lower rate goes on.
    newest = sorted(tmp_path.glob("step-*.json"))[-1]
    assert newest.stem == f"step-{stopped.num_steps:09d}"
    rescued = training.resume(
        tmp_path,
        stopped.energy,
        data=np.zeros((20, 1)),
        optimizer=optax.adam(1e-4),
        num_steps=stopped.num_steps + 20,
    )
    assert rescued.reliable and rescued.num_steps == stopped.num_steps + 20


@pytest.mark.parametrize(
    ("f", "params", "match"),
    [
        (lambda p, x: p * x[0] * jnp.nan, 1.0, "energy of the data is NaN before any update"),
        (lambda p, x: jnp.where(x[0] > 0, -jnp.inf, p), 1.0, "is infinite before any update"),
        (lambda p, x: jnp.sqrt(p * p) * x[0], 0.0, "the gradient is NaN before any update"),
    ],
)
def test_energies_that_are_wrong_from_the_start_are_told_apart(f, params, match):
    start = from_log_density(f, Ordinal((1,), 4), params=jnp.asarray(params))
    with pytest.warns(UnreliableResult, match=match):
        fitted = training.fit(start, np.ones((20, 1)), key=KEY, num_steps=50)
    assert not fitted.reliable and fitted.num_steps == 0
    same(fitted.energy, start)


def test_energies_that_run_apart_stop_training():
    """f = p·x on the line has no normaliser: the chains run away and p with them."""
    start = from_log_density(lambda p, x: p @ x, Real((2,)), params=jnp.asarray([0.3, -0.1]))
    rows = np.random.default_rng(0).normal(size=(200, 2))
    objective = PersistentCD(num_steps=10, sampler=ULA(1.0))
    with pytest.warns(UnreliableResult, match=r"ran apart, to a gap of .* lower learning_rate"):
        fitted = training.fit(start, rows, objective, key=KEY, learning_rate=0.5, num_steps=2000)
    assert not fitted.reliable and fitted.num_steps < 1990
    assert np.isfinite(np.asarray(fitted.energy.params)).all()
    gaps = np.abs(fitted.history["gap"])
    limit = 1000 * (2 + max(abs(fitted.history["energy_data"][0]), gaps[0]))
    assert gaps[-1] > limit and (gaps[:-1] <= limit).all()


def test_chains_that_do_not_keep_up_are_told():
    """A rate of 10 never gives NaN on spins, only nonsense."""
    rows = np.sign(np.random.default_rng(0).normal(size=(500, 6)) + 0.3)

    def f(params, x):
        return x @ params @ x

    start = from_log_density(f, Spin((6,)), params=jnp.zeros((6, 6)))
    with pytest.warns(UnreliableResult, match="the chains do not keep up"):
        training.fit(
            start, rows, PersistentCD(num_steps=2), key=KEY, num_steps=400, learning_rate=10.0
        )


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (np.random.default_rng(0).normal(0, 100, (50, 5)), "expected only 0 and 1"),
        (np.full((3, 5), np.nan), r"15 value\(s\) are NaN"),
        (np.zeros((3, 4)), r"expected shape \(rows, 5\)"),
        (np.zeros((0, 5)), "at least one row"),
        (np.zeros(5), r"expected shape \(rows, 5\)"),
        ([["a"] * 5], "expected numbers"),
    ],
)
def test_data_outside_the_space_are_refused(rows, match):
    with pytest.raises(ValueError, match=match):
        training.fit(rbm(), rows, key=KEY)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_steps": 5, "num_epochs": 2}, "not both"),
        ({"num_steps": 0}, "num_steps: expected a whole number from 1, got 0"),
        ({"batch_size": -1}, "batch_size: expected a whole number"),
        ({"checkpoint_every": 0}, "checkpoint_every: expected a whole number"),
        ({"learning_rate": -0.1}, "learning_rate: expected a positive number"),
        ({"learning_rate": 0.1, "optimizer": optax.adam(0.1)}, "not both"),
        ({"average": 1.0}, "average: expected a decay between 0 and 1"),
        ({"keep": 0}, "keep: expected a whole number"),
        ({"resume": True}, "resume=True needs checkpoint_dir="),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        training.fit(rbm(), binary_rows(), key=KEY, **options)


def test_energies_that_cannot_be_trained_are_refused():
    rows = binary_rows()
    with pytest.raises(ValueError, match=r"nothing to train.*params="):
        training.fit(from_log_density(jnp.sum, Binary((5,))), rows, key=KEY)
    with pytest.raises(ValueError, match="nothing to train"):
        training.fit(frozen(rbm()), rows, key=KEY)
    with pytest.raises(ValueError, match="parameters are not all finite"):
        training.fit(BernoulliRBM(np.full((5, 3), np.nan)), rows, key=KEY)
    with pytest.raises(TypeError, match="expects one random key"):
        training.fit(rbm(), rows, key=0)
