"""Training on rows that are read a window at a time."""

import itertools
import warnings

import numpy as np
import pytest

from energax import io, random, training
from energax.energies import BernoulliRBM, MultivariateNormal
from energax.objectives import PersistentCD, ScoreMatching
from energax.spaces import Binary, Real
from energax.training.loop.preparing.windows import Windows

KEY = random.key(6)


def numbered(path, num):
    np.save(path, np.arange(float(num))[:, None].repeat(2, 1))
    return io.open_rows(path)


@pytest.mark.parametrize("num, window_rows", [(10_000, 1_000), (1_003, 130), (500, 20)])
def test_a_pass_shows_every_row_at_most_once_and_most_of_them(tmp_path, num, window_rows):
    rows = numbered(tmp_path / "a.npy", num)
    windows = Windows(rows, Real((2,)), batch_size=10, window_rows=window_rows, key=KEY)
    a_pass = windows._a_pass
    assert windows.size <= window_rows
    seen = [
        np.concatenate([windows.load(turn * a_pass + i)[:, 0] for i in range(a_pass)])
        for turn in range(12)
    ]
    for each in seen:
        assert len(np.unique(each)) == len(each) == a_pass * windows.size > num - 2 * windows.size
    assert set(np.concatenate(seen)) == set(range(num))  # those that wait have their turn
    assert (
        any(
            (np.sort(a) != np.sort(b)).any() if len(a) == len(b) else True
            for a, b in itertools.pairwise(seen)
        )
        or a_pass * windows.size == num
    )
    first = windows.load(0)[:, 0]
    assert np.abs(np.mean(first) - num / 2) < 4.5 * num / np.sqrt(12 * windows._num)
    again = Windows(rows, Real((2,)), batch_size=10, window_rows=window_rows, key=KEY)
    np.testing.assert_array_equal(again.load(a_pass + 1), windows.load(a_pass + 1))
    other = Windows(rows, Real((2,)), batch_size=10, window_rows=window_rows, key=random.key(7))
    assert (other.load(0) != windows.load(0)).any()


def normal_file(path, num=20_000):
    rng = np.random.default_rng(1)
    x = np.sort(rng.normal(2.0, 1.5, num))  # an order that would mislead
    np.save(path, np.stack([x, -0.5 * x + rng.normal(size=num)], 1))
    return np.load(path)


def test_a_file_in_windows_trains_as_well_as_the_whole(tmp_path):
    whole = normal_file(tmp_path / "a.npy")
    start = MultivariateNormal([0.0, 0.0], np.eye(2))
    fitted = training.fit(
        start,
        io.open_rows(tmp_path / "a.npy"),
        ScoreMatching(),
        key=KEY,
        num_epochs=20,
        learning_rate=0.02,
        window_rows=2_000,
        average=0.99,
    )
    assert fitted.reliable and fitted.num_steps == 20 * 200
    assert np.allclose(fitted.energy.mean, whole.mean(0), atol=0.06)
    assert np.allclose(fitted.energy.covariance, np.cov(whole.T), atol=0.12)


def spins_file(path):
    rng = np.random.default_rng(3)
    io.write_data(path, (rng.random((3_000, 6)) < [0.1, 0.3, 0.5, 0.7, 0.9, 0.2]).astype(np.int64))
    return io.open_rows(path)


class Stop(Exception):
    pass


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, ending):
    rows = spins_file(tmp_path / f"a.{ending}")
    energy = BernoulliRBM.random(6, 3, key=KEY)
    options = {"key": KEY, "num_steps": 150, "window_rows": 700}
    objective = PersistentCD(num_chains=20)
    due = training.fit(energy, rows, objective, **options)

    def stop(step, metrics):
        if step >= 70:
            raise Stop

    folder = tmp_path / "run"
    with pytest.raises(Stop):
        training.fit(
            energy,
            rows,
            objective,
            checkpoint_dir=folder,
            checkpoint_every=13,
            callback=stop,
            **options,
        )
    got = training.resume(folder, data=rows)
    np.testing.assert_array_equal(got.energy.weight, due.energy.weight)
    np.testing.assert_array_equal(got.history["loss"], due.history["loss"])
    other = spins_file(tmp_path / f"b.{ending}")
    same = training.resume(folder, data=other)  # the same bytes under another name
    np.testing.assert_array_equal(same.energy.weight, due.energy.weight)
    rng = np.random.default_rng(4)
    io.write_data(tmp_path / f"c.{ending}", rng.integers(0, 2, (3_000, 6)))
    with pytest.raises(ValueError, match="data"):
        training.resume(folder, data=io.open_rows(tmp_path / f"c.{ending}"))
    with pytest.raises(ValueError, match="window_rows"):
        training.fit(
            energy,
            rows,
            objective,
            checkpoint_dir=folder,
            resume=True,
            **(options | {"window_rows": 900}),
        )


def test_a_small_file_is_taken_whole(tmp_path):
    rows = spins_file(tmp_path / "a.csv")
    energy = BernoulliRBM.random(6, 3, key=KEY)
    one = training.fit(energy, rows, PersistentCD(), key=KEY, num_steps=60)
    two = training.fit(energy, rows.read(0, 3_000), PersistentCD(), key=KEY, num_steps=60)
    np.testing.assert_array_equal(one.energy.weight, two.energy.weight)


def test_rows_outside_the_space_are_named_when_their_window_comes(tmp_path):
    x = np.zeros((3_000, 4))
    x[2_345, 1] = 7.0
    np.save(tmp_path / "a.npy", x)
    energy = BernoulliRBM.random(4, 2, key=KEY)
    with pytest.raises(ValueError, match=r"a\.npy, rows from 2,"):
        training.fit(
            energy,
            io.open_rows(tmp_path / "a.npy"),
            PersistentCD(),
            key=KEY,
            num_steps=600,
            window_rows=320,
        )


def test_what_needs_all_rows_says_so(tmp_path):
    rows = spins_file(tmp_path / "a.csv")
    energy = BernoulliRBM.random(6, 3, key=KEY)
    for options, told in (
        ({"optimizer": "lbfgs"}, "all rows"),
        ({"early_stopping": 0.1}, "EarlyStopping"),
        ({"early_stopping": training.EarlyStopping(0.1)}, "EarlyStopping"),
        ({"window_rows": 50}, "minibatch of 100"),
        ({"window_rows": 0}, "window_rows"),
    ):
        with pytest.raises(ValueError, match=told), warnings.catch_warnings():
            training.fit(energy, rows, PersistentCD(), key=KEY, **({"window_rows": 320} | options))
    with pytest.raises(ValueError, match="window_rows"):
        training.fit(energy, rows.read(0, 100), PersistentCD(), key=KEY, window_rows=50)
    with pytest.raises(ValueError, match="shape"):
        training.fit(BernoulliRBM.random(5, 2, key=KEY), rows, key=KEY, window_rows=320)
    assert Binary((6,)).validate(rows.read(0, 2), batch=True, name="x").shape == (2, 6)
