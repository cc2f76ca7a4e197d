"""Runs that recovered, killed and resumed: to the same end, bit for bit."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from energax import training
from energax.energies import from_log_density
from energax.objectives import PersistentCD
from energax.results import UnreliableResult, plain
from energax.samplers import ULA
from energax.spaces import Real
from tests.training.test_checkpoint import same, steps_kept
from tests.training.test_recover import (
    KEY,
    ROWS,
    linear,
    normal_at,
    rbm,
    train_chains,
    train_linear,
)


class Killed(Exception):
    pass


def kill_after(step, times=1):
    """Raises at the first call from `step` on; after going back calls start over."""
    seen = [0]

    def callback(now, metrics):
        if now >= step:
            seen[0] += 1
            if seen[0] >= times:
                raise Killed

    return callback


def recoveries_kept(folder):
    """Those in the newest checkpoint."""
    found = training._base.newest_archive(folder)
    return found.info["settings"]["recoveries"] if found else []


@pytest.fixture(scope="module")
def whole():
    fitted = train_chains()
    assert fitted.reliable and len(fitted.recoveries) >= 2
    return fitted


def same_recoveries(a, b):
    same(a, b)
    assert a.recoveries == b.recoveries and a.reasons == b.reasons


def test_where_chunks_end_changes_no_bit(tmp_path, whole):
    for every in (7, 30):
        fitted = train_chains(checkpoint_dir=tmp_path / str(every), checkpoint_every=every)
        same_recoveries(fitted, whole)
    assert steps_kept(tmp_path / "7") == [189, 196, 200]


def killed(folder, place, **options):
    """A run that was killed with its one checkpoint at `place`."""
    options |= {"checkpoint_dir": folder, "checkpoint_every": place, "keep": 1}
    with pytest.raises(Killed):
        train_chains(**options, callback=kill_after(place))
    assert steps_kept(folder) == [place]


def test_killed_anywhere_it_resumes_to_the_same_end(tmp_path, whole):
    """Before the trouble, on all of the last steps before it, and after the recovery."""
    first, second = whole.recoveries[:2]
    window = range(first.back_to, first.step + 1)
    for place in (3, *window, second.back_to + 2, second.step, second.step + 5, 150):
        folder = tmp_path / str(place)
        killed(folder, place)
        back = training.resume(folder, normal_at(1.0), data=ROWS, validation=ROWS[:50])
        same_recoveries(back, whole)


def test_killed_twice_around_a_recovery(tmp_path, whole):
    """The second pass over the steps that were given up is another branch."""
    first = whole.recoveries[0]
    calls = (first.step - first.back_to) // 2 + 1 + 3  # the last three after the recovery
    options = {"checkpoint_dir": tmp_path, "checkpoint_every": 2, "keep": 1}
    with pytest.raises(Killed):
        train_chains(**options, callback=kill_after(first.back_to, times=calls))
    assert recoveries_kept(tmp_path)[0]["step"] == first.step  # it had recovered
    assert steps_kept(tmp_path)[-1] < first.step
    with pytest.raises(Killed):
        train_chains(**options, resume=True, callback=kill_after(first.back_to + 8))
    same_recoveries(train_chains(**options, resume=True), whole)


def test_early_stopping_goes_back_with_the_training(tmp_path):
    """Looks of the steps given up are given up, also where a checkpoint fell among them."""
    watch = training.EarlyStopping(0.2, every=4, patience=1000)
    options = {"early_stopping": watch, "validation": None}
    whole = train_chains(**options)
    (first, *_) = whole.recoveries
    looks = whole.history["log_likelihood_step"]
    np.testing.assert_array_equal(looks, np.arange(0, 201, 4))
    for place in range(first.back_to, first.step + 1, 3):
        folder = tmp_path / str(place)
        killed(folder, place, **options)
        back = training.resume(folder, normal_at(1.0), data=ROWS)
        same_recoveries(back, whole)
        assert plain(dataclasses.asdict(back.early_stopping)) == plain(
            dataclasses.asdict(whole.early_stopping)
        )


def test_trouble_without_recovery_ends_the_same_after_a_resume(tmp_path):
    """A checkpoint on the way into trouble holds what training goes back to."""
    with pytest.warns(UnreliableResult):
        ended = train_chains(recover=False)
    failed = int(ended.history["step"][-1])
    for place in range(failed - 12, failed + 1, 4):
        folder = tmp_path / str(place)
        killed(folder, place, recover=False)
        with pytest.warns(UnreliableResult):
            back = training.resume(folder, normal_at(1.0), data=ROWS, validation=ROWS[:50])
        same_recoveries(back, ended)


def test_a_run_that_ended_in_trouble_goes_on_with_recovery(tmp_path, whole):
    """As if it had been asked for from the start; without being asked it ends there again."""
    options = {"validation": ROWS[:50], "data": ROWS}
    with pytest.warns(UnreliableResult):
        train_chains(recover=False, checkpoint_dir=tmp_path)
    with pytest.warns(UnreliableResult):
        training.resume(tmp_path, normal_at(1.0), **options)
    back = training.resume(tmp_path, normal_at(1.0), **options, recover=True)
    same_recoveries(back, whole)


def test_lengthened_chains_resume(tmp_path):
    chains = PersistentCD(num_steps=10, sampler=ULA(1.0))
    with pytest.warns(UnreliableResult):
        ended = train_linear(chains)
    place = ended.recoveries[1].back_to + 1
    folder = tmp_path / "run"
    options = {"checkpoint_dir": folder, "checkpoint_every": place}

    def callback(now, metrics):
        if now == place and len(recoveries_kept(folder)) == 2:
            raise Killed

    with pytest.raises(Killed):
        train_linear(chains, **options, callback=callback)
    rows = np.random.default_rng(0).normal(size=(200, 2))
    start = from_log_density(linear, Real((2,)), params=jnp.zeros(2))
    with pytest.warns(UnreliableResult):
        back = training.resume(folder, start, data=rows)
    same_recoveries(back, ended)
    assert back.objective.num_steps == ended.objective.num_steps == 40


def test_clip_resumes_with_its_value(tmp_path):
    rows = (np.random.default_rng(0).random((130, 5)) < 0.2).astype(np.float32)
    options = {"num_steps": 60, "batch_size": 10, "key": KEY, "clip": 0.1}
    whole = training.fit(rbm(), rows, **options)
    with pytest.raises(Killed):
        training.fit(rbm(), rows, **options, checkpoint_dir=tmp_path, callback=kill_after(1))
    with pytest.raises(Killed):
        training.fit(
            rbm(),
            rows,
            **options,
            checkpoint_dir=tmp_path,
            checkpoint_every=10,
            resume=True,
            callback=kill_after(30),
        )
    same(training.resume(tmp_path, data=rows), whole)
    free = training.fit(rbm(), rows, **{**options, "clip": None})
    assert not bool(eqx.tree_equal(free.energy, whole.energy))
