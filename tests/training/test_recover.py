"""Trouble and what follows: knobs that are turned, on record."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from energax import random, training
from energax.energies import BernoulliRBM, from_log_density
from energax.objectives import (
    DenoisingScoreMatching,
    MaximumLikelihood,
    Penalised,
    PersistentCD,
    PseudoLikelihood,
)
from energax.objectives._base import AbstractObjective
from energax.results import UnreliableResult
from energax.samplers import ULA
from energax.spaces import Ordinal, Real

KEY = random.key(43)
GRID = Ordinal((1,), 9)
TRUE = 0.5  # the precision


def normal(precision, x):
    """A normal on a grid; NaN where the precision is below 0: an update too far ends it."""
    return -0.5 * precision * (x[0] - 4.0) ** 2 + 0.5 * jnp.log(precision)


def normal_at(precision):
    return from_log_density(normal, GRID, params=jnp.asarray(precision))


def rows_of_normal(num=200):
    """As many of each value as the true normal gives, so that its precision fits best."""
    x = np.arange(9)
    p = np.exp(-0.5 * TRUE * (x - 4.0) ** 2)
    return np.repeat(x, np.round(num * p / p.sum()).astype(int))[:, None]


ROWS = rows_of_normal()


def train(objective=None, *, start=20.0, learning_rate=1.0, num_steps=200, **options):
    """Adam overshoots from a precision of 20 to below 0 unless its rate is well below 1."""
    if "optimizer" not in options:
        options["learning_rate"] = learning_rate
    return training.fit(
        normal_at(start),
        ROWS,
        objective or MaximumLikelihood(),
        key=KEY,
        num_steps=num_steps,
        **{"batch_size": len(ROWS), "recover": True, **options},
    )


def train_chains(**options):
    """The same by chains and minibatches, with everything that a checkpoint holds."""
    return train(
        PersistentCD(num_steps=2, num_chains=20),
        **{"batch_size": 20, "average": 0.9, "validation": ROWS[:50], **options},
    )


# ---- it recovers -----------------------------------------------------------------------------


def test_an_exploding_rate_is_halved_until_it_suits():
    fitted = train()
    assert fitted.reliable and fitted.reasons == () and fitted.num_steps == 200
    assert abs(float(fitted.energy.params) - TRUE) < 0.01
    first, *_ = recoveries = fitted.recoveries
    assert 1 <= len(recoveries) <= 5
    rates = [1.0, *(each.new for each in recoveries)]
    assert rates == [0.5**i for i in range(len(rates))]
    for each, old in zip(recoveries, rates, strict=False):
        assert each.changed == "learning_rate" and each.old == old and not each.in_chains
        assert f"became NaN at step {each.step}" in each.cause
        assert each.step - 19 <= each.back_to <= each.step - 10
        assert f"with learning_rate {each.new:g} instead of {old:g}" in str(each)
    assert first.back_to >= 10  # or nothing here tells the state gone back to from the first
    # Without it, the training ends at the first.
    with pytest.warns(UnreliableResult, match="became NaN"):
        ended = train(recover=False)
    assert (ended.num_steps, ended.history["step"][-1]) == (first.back_to, first.step)
    assert ended.recoveries == () and not ended.reliable


def leaping(at, rate):
    """SGD whose update number `at` is far too long."""
    return optax.sgd(lambda count: jnp.where(count == at, rate, 0.1))


def unbounded():
    return from_log_density(
        lambda p, x: -0.5 * p * (x[0] - 4.0) ** 2, GRID, params=jnp.asarray(2.0)
    )


@pytest.mark.parametrize("objective", [PseudoLikelihood(), MaximumLikelihood()])
def test_a_loss_that_leaps_and_stays_there_is_trouble_though_all_is_finite(objective):
    rows = ROWS.astype(np.int32)
    options = {"key": KEY, "num_steps": 200, "batch_size": 20}
    away = {**options, "optimizer": leaping(60, 3e3)}
    with pytest.warns(UnreliableResult, match="the loss ran away, to"):
        ended = training.fit(unbounded(), rows, objective, **away)
    assert ended.history["step"][-1] == 65  # the fifth step with what update 60 led to
    assert 46 <= ended.num_steps <= 55 and abs(float(ended.energy.params) - TRUE) < 0.3
    with pytest.warns(UnreliableResult, match="thr(ew|own)"):  # it leaps still, though not so far
        fitted = training.fit(unbounded(), rows, objective, recover=True, **away)
    assert fitted.num_steps == 200 and 2 <= len(fitted.recoveries) <= 5
    assert all("the loss ran away, to" in each.cause for each in fitted.recoveries)
    assert [each.new for each in fitted.recoveries[:2]] == [0.5, 0.25]
    assert not fitted.recoveries[0].in_chains


def test_one_odd_minibatch_is_none():
    """A row far away makes the loss of its minibatch, once an epoch, a million times the usual."""
    rows = np.random.default_rng(0).normal(size=(400, 1)).astype(np.float32)
    rows[7] = 1e4
    energy = from_log_density(
        lambda p, x: -0.5 * jnp.exp(p) * x[0] ** 2, Real((1,)), params=jnp.asarray(0.0)
    )
    fitted = training.fit(
        energy,
        rows,
        DenoisingScoreMatching(0.5),
        key=KEY,
        num_steps=200,
        batch_size=20,
        learning_rate=1e-3,
    )
    assert fitted.history["loss"].max() > 1e5 * np.median(fitted.history["loss"])
    assert fitted.num_steps == 200 and "ran away" not in str(fitted.reasons)


def test_it_goes_on_as_a_run_from_there_would():
    """Half the rate, moments forgotten; parameters and chains as they were."""
    whole, half = optax.adam(1.0), optax.adam(0.5)
    fitted = train(optimizer=whole)
    (first, second, *_) = (*fitted.recoveries, None)
    assert first.changed == "update_scale" and (first.old, first.new) == (1.0, 0.5)
    there = train(optimizer=whole, num_steps=first.back_to).energy
    end = 200 if second is None else second.back_to
    on = train(start=there.params, optimizer=half, num_steps=end - first.back_to)
    # Maximum likelihood of all rows knows no step, so that a run of its own sees the same.
    mine = fitted.history["loss"][first.back_to : end]
    np.testing.assert_allclose(mine, on.history["loss"], rtol=1e-5)
    np.testing.assert_array_equal(fitted.history["step"], np.arange(200))


def test_the_record_is_saved_and_comes_back(tmp_path):
    fitted = train()
    json.dumps([dataclasses.asdict(each) for each in fitted.recoveries], allow_nan=False)
    back_to = [each.back_to for each in fitted.recoveries]
    np.testing.assert_array_equal(fitted.history["recovery_step"], back_to)
    troubles = [each.step for each in fitted.recoveries]
    np.testing.assert_array_equal(fitted.history["recovery_trouble"], troubles)
    fitted.save(tmp_path)
    back = training.load(tmp_path, energy=normal_at(1.0))
    assert back.recoveries == fitted.recoveries != ()
    np.testing.assert_array_equal(back.history["recovery_step"], back_to)


def test_a_schedule_of_your_own_goes_on_where_it_was():
    """SGD whose rate is 0 after 100 updates must stay at 0, whatever was recovered from."""
    late = optax.scale_by_schedule(lambda count: jnp.where(count < 100, 1.0, 0.0))
    optimizer = optax.chain(optax.scale_by_adam(), late, optax.scale(-1.0))
    fitted = train(optimizer=optimizer)
    assert fitted.recoveries and fitted.recoveries[0].back_to >= 10
    moved = fitted.history["update_norm"] > 0
    np.testing.assert_array_equal(np.flatnonzero(moved), np.arange(100))


def test_a_lower_rate_does_not_compile_anew():
    traces = []

    def traced(precision, x):
        traces.append(1)
        return normal(precision, x)

    def run(recover, rate):
        start = from_log_density(traced, GRID, params=jnp.asarray(20.0))
        traces.clear()
        objective, options = MaximumLikelihood(), {"learning_rate": rate, "num_steps": 200}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableResult)
            fitted = training.fit(start, ROWS, objective, key=KEY, recover=recover, **options)
        return len(fitted.recoveries), len(traces)

    run(True, 1.0)  # compiles what is compiled once, the look at the rows in trouble too
    recoveries, with_them = run(True, 1.1)
    assert recoveries >= 2
    none, without = run(False, 0.01)
    assert none == 0 and with_them == without


# ---- chains ----------------------------------------------------------------------------------


def linear(slope, x):
    """It has no normaliser on the line: chains run away at any rate."""
    return slope @ x


def train_linear(objective, **options):
    rows = np.random.default_rng(0).normal(size=(200, 2))
    start = from_log_density(linear, Real((2,)), params=jnp.asarray([0.3, -0.1]))
    options = {"learning_rate": 0.5, "num_steps": 2000, "recover": True, **options}
    return training.fit(start, rows, objective, key=KEY, **options)


def test_where_samples_are_at_fault_the_sampler_takes_more_steps_too(tmp_path):
    """Rate and steps take turns; the end names the cause and what had been tried."""
    chains = PersistentCD(num_steps=10, sampler=ULA(1.0))
    with pytest.warns(UnreliableResult, match=r"ran apart.*samples' are below: chains escaped"):
        fitted = train_linear(Penalised(chains, l2=1e-6, where="params"))
    told = [(each.changed, each.old, each.new) for each in fitted.recoveries]
    assert told == [
        ("learning_rate", 0.5, 0.25),
        ("objective.num_steps", 10, 20),
        ("learning_rate", 0.25, 0.125),
        ("objective.num_steps", 20, 40),
        ("learning_rate", 0.125, 0.0625),
    ]
    assert all(each.in_chains for each in fitted.recoveries)
    (reason,) = fitted.reasons
    assert "lower learning_rate (now 0.0625) or take more sampler steps" in reason
    assert "; 5 of 5 recoveries had been tried; training went back to step" in reason
    assert fitted.objective.objective.num_steps == 40
    assert np.isfinite(np.asarray(fitted.energy.params)).all()
    fitted.save(tmp_path)
    assert training.load(tmp_path, energy=fitted.energy).recoveries == fitted.recoveries
    with pytest.warns(UnreliableResult, match="2 of 2 recoveries had been tried"):
        assert len(train_linear(chains, recover=2).recoveries) == 2


def test_chains_that_accept_nothing_end_the_training():
    """A step of 10⁶ is never accepted; no rate mends that."""
    rows = np.random.default_rng(0).normal(size=(200, 2))
    start = from_log_density(lambda p, x: -p * x @ x, Real((2,)), params=jnp.asarray(0.5))
    with pytest.warns(UnreliableResult, match=r"accepted less than 0\.01 .* another sampler"):
        fitted = training.fit(
            start,
            rows,
            Frozen(),
            key=KEY,
            num_steps=3000,
            learning_rate=1e-3,
            recover=True,
        )
    assert fitted.history["step"][-1] == 1199  # accepts for 200 steps, then 1000 without
    assert fitted.recoveries == () and fitted.num_steps == 1180


class Frozen(AbstractObjective):
    """Chains that stop to accept at step 200, but for step 100, which must not count."""

    def init(self, energy, data, *, key):
        return None, jnp.zeros(())

    def __call__(self, energy, params, batch, carry, *, key):
        accepts = (carry < 200) & (carry != 100)
        loss = jnp.mean(jax.vmap(energy)(batch))
        metrics = {"energy_data": loss, "acceptance": jnp.where(accepts, 0.5, 0.001)}
        return loss * 1e-3, carry + 1, metrics


# ---- what no knob mends ----------------------------------------------------------------------


def test_the_limit_ends_it_with_the_cause():
    with pytest.warns(UnreliableResult, match="became NaN"):
        fitted = train(learning_rate=64.0, recover=2)
    assert [each.new for each in fitted.recoveries] == [32.0, 16.0]
    (reason,) = fitted.reasons
    assert "lower learning_rate (now 16); 2 of 2 recoveries had been tried" in reason
    assert reason.endswith(f"went back to step {fitted.num_steps}")
    assert np.isfinite(float(fitted.energy.params)) and not fitted.reliable


@pytest.mark.parametrize("recover", [False, True])
def test_rows_whose_energy_is_nan_are_named(recover):
    """One row lies where the function is NaN: lower rates do not help, and none is tried."""
    rows = np.random.default_rng(0).normal(size=(300, 1))
    rows[17] = 9.0

    def broken(p, x):
        return -p * x[0] ** 2 + jnp.sqrt(8.0 - x[0])

    start = from_log_density(broken, Real((1,)), params=jnp.asarray(0.5))
    with pytest.warns(UnreliableResult, match="energy of the data became NaN") as caught:
        fitted = training.fit(
            start, rows, PersistentCD(), key=KEY, num_steps=400, batch_size=5, recover=recover
        )
    assert len(caught) == 1 and fitted.recoveries == ()
    (reason,) = fitted.reasons
    assert (
        f"by 1 row(s) of its minibatch it is so with the parameters of step {fitted.num_steps}"
        in reason
    )
    assert "(row 17 of those trained on is the first): check the energy there" in reason
    assert 0 < fitted.history["step"][-1] < 60  # in the first epoch


def test_a_region_of_nan_that_training_walks_into_ends_at_the_limit():
    """√p · x: every rate leads p below 0 in the end."""
    start = from_log_density(
        lambda p, x: jnp.sqrt(p) * x[0], Ordinal((1,), 4), params=jnp.asarray(1.0)
    )
    with pytest.warns(UnreliableResult, match="3 of 3 recoveries had been tried"):
        fitted = training.fit(
            start, np.zeros((20, 1)), key=KEY, num_steps=2000, learning_rate=0.1, recover=3
        )
    assert "learning_rate (now 0.0125)" in fitted.reasons[0]
    assert len(fitted.recoveries) == 3 and float(fitted.energy.params) > 0


def test_rows_whose_energy_is_nan_are_named_at_the_first_step_too():
    rows = np.random.default_rng(0).normal(size=(300, 1))
    rows[17] = 9.0
    start = from_log_density(
        lambda p, x: -p * x[0] ** 2 + jnp.sqrt(8.0 - x[0]), Real((1,)), params=jnp.asarray(0.5)
    )
    with pytest.warns(UnreliableResult, match=r"\(row 17 of those trained on is the first\)"):
        fitted = training.fit(start, rows, PersistentCD(), key=KEY, num_steps=50, batch_size=299)
    (reason,) = fitted.reasons
    assert "NaN before any update, and the energy of 1 row(s) of its minibatch" in reason
    assert fitted.num_steps == 0 and fitted.recoveries == ()


def test_energies_that_are_wrong_from_the_start_are_not_tried_again():
    start = from_log_density(
        lambda p, x: p * x[0] * jnp.nan, Ordinal((1,), 4), params=jnp.asarray(1.0)
    )
    with pytest.warns(UnreliableResult, match="before any update: check that the energy"):
        fitted = training.fit(start, np.ones((20, 1)), key=KEY, num_steps=50, recover=True)
    assert fitted.recoveries == () and fitted.num_steps == 0


# ---- clip ------------------------------------------------------------------------------------


def rbm():
    return BernoulliRBM.random(5, 3, key=random.key(0), scale=0.3)


def test_clip_bounds_the_norm_as_optax_does():
    rows = (np.random.default_rng(0).random((130, 5)) < 0.2).astype(np.float32)
    options = {"num_steps": 60, "batch_size": 10, "key": KEY}
    limit = 0.4
    clipped = training.fit(rbm(), rows, optimizer=optax.sgd(1.0), clip=limit, **options)
    same_rule = optax.chain(optax.clip_by_global_norm(limit), optax.sgd(1.0))
    theirs = training.fit(rbm(), rows, optimizer=same_rule, **options)
    for mine, other in zip(
        jax.tree.leaves(clipped.energy), jax.tree.leaves(theirs.energy), strict=True
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)
    norms, moved = clipped.history["gradient_norm"], clipped.history["update_norm"]
    long = norms > limit
    assert 5 < long.sum() < 55  # both kinds are there
    np.testing.assert_allclose(moved[long], limit, rtol=1e-5)
    np.testing.assert_allclose(moved[~long], norms[~long], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"recover": -1}, "recover: expected True, False or a whole number from 0.*got -1"),
        ({"clip": 0.0}, "clip: expected a positive number, got 0.0"),
        ({"clip": float("nan")}, "clip: expected a positive number, got nan"),
        ({"recover": True, "optimizer": "lbfgs"}, "no use for recover=: leave it out"),
        ({"clip": 1.0, "optimizer": "lbfgs"}, "no use for clip=: leave it out"),
    ],
)
def test_values_that_do_not_suit_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        training.fit(rbm(), np.zeros((20, 5)), PseudoLikelihood(), key=KEY, **options)


def test_an_explosion_in_the_first_steps_is_trouble():
    rows = (np.random.default_rng(0).random((500, 20)) < 0.3).astype(np.float32)
    energy = BernoulliRBM.random(20, 10, key=KEY)
    with pytest.warns(UnreliableResult):
        fit = training.fit(
            energy, rows, PersistentCD(), key=KEY, optimizer=optax.sgd(1e6), num_steps=100
        )
    assert not fit.reliable and "ran apart" in fit.reasons[0] and fit.num_steps == 0
    np.testing.assert_array_equal(fit.energy.weight, energy.weight)
