"""What a training tells of itself: curves that stay short, and the file that others read."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from energax import random, training
from energax.energies import BernoulliRBM
from energax.io import DamagedFile
from energax.training import Curves, ProgressFile, read_progress

KEY = random.key(2)


def test_curves_stay_short_and_evenly_spaced():
    curves = Curves()
    for step in range(9_000):
        curves(step, {"step": step - 1.0, "loss": 1.0 / (step + 1)})
    history = curves.history
    steps = history["step"]
    assert 1_000 <= len(steps) <= 2_001 and steps[0] == 0 and steps[-1] > 8_900
    assert len(set(np.diff(steps))) == 1
    np.testing.assert_array_equal(history["loss"], 1.0 / (steps + 1))


def test_steps_that_were_given_up_are_dropped():
    curves = Curves()
    for step, loss in ((1, 5.0), (2, 4.0), (3, 9.0), (2, 3.5), (4, 3.0)):
        curves(step, {"loss": loss})
    curves(5, {"loss": 2.0, "gap": 0.5})
    np.testing.assert_array_equal(curves.history["step"], [1, 2, 4, 5])
    np.testing.assert_array_equal(curves.history["loss"], [5.0, 3.5, 3.0, 2.0])
    np.testing.assert_array_equal(curves.history["gap"], [np.nan, np.nan, np.nan, 0.5])


def test_a_training_tells_what_its_history_says(tmp_path):
    path = tmp_path / "progress.json"
    rows = (np.random.default_rng(0).random((300, 6)) < 0.3).astype(np.float32)
    seen = []
    with ProgressFile(path, num_steps=120, every_seconds=0.0) as file:

        def callback(step, metrics):
            file(step, metrics)
            seen.append(read_progress(path))

        energy = BernoulliRBM.random(6, 3, key=KEY)
        run = training.fit(energy, rows, key=KEY, num_steps=120, callback=callback)
    assert [told.state for told in seen] == ["training"] * len(seen)
    assert seen[0].process == os.getpid() and not seen[0].is_lost and seen[-1].num_steps == 120
    told = read_progress(path)
    assert told.state == "ended" and told.step == 120
    rows_told = (told.history["step"] - 1).astype(int)  # step t is after row t − 1
    for name in ("loss", "energy_data", "gradient_norm"):
        np.testing.assert_allclose(told.history[name], run.history[name][rows_told])


@pytest.mark.parametrize(
    ("fault", "state"), [(KeyboardInterrupt, "interrupted"), (RuntimeError, "failed")]
)
def test_how_it_ended_is_told_and_a_resumed_run_goes_on(tmp_path, fault, state):
    path = tmp_path / "progress.json"
    with pytest.raises(fault), ProgressFile(path) as file:
        for step in (10, 20, 30):
            file(step, {"loss": 1.0 / step, "gap": np.nan})
        raise fault
    told = read_progress(path)
    assert told.state == state and "NaN" not in path.read_text()
    np.testing.assert_array_equal(told.history["gap"], [np.nan] * 3)
    with ProgressFile(path, every_seconds=0.0) as file:  # from the checkpoint of step 20
        file(30, {"loss": 7.0})
        np.testing.assert_array_equal(read_progress(path).history["step"], [10, 20, 30])
    np.testing.assert_array_equal(read_progress(path).history["loss"], [0.1, 0.05, 7.0])


def test_a_process_that_is_gone_is_lost_on_its_own_machine_only(tmp_path):
    path = tmp_path / "progress.json"
    ProgressFile(path).__enter__()
    told = json.loads(path.read_text())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for change, lost in (
        ({}, False),
        ({"process": gone.pid}, True),
        ({"process": gone.pid, "state": "ended"}, False),
        ({"process": gone.pid, "host": "elsewhere"}, False),
    ):
        path.write_text(json.dumps(told | change))
        assert read_progress(path).is_lost == lost


@pytest.mark.parametrize("text", ["", "[]", '{"state": "training"}', '{"history": {"a": ["b"]}}'])
def test_what_is_no_record_is_told_and_trained_over(tmp_path, text):
    path = tmp_path / "progress.json"
    path.write_text(text)
    with pytest.raises(DamagedFile, match="no record of a training"):
        read_progress(path)
    with ProgressFile(path) as file:
        file(1, {"loss": 1.0})
    assert read_progress(path).step == 1


def test_writing_takes_little_of_the_time(tmp_path):
    """With no pause asked for, a writing is at least fifty times its own length before the next."""
    path = tmp_path / "progress.json"
    file = ProgressFile(path, every_seconds=0.0)
    written = []
    file._write = lambda state, write=file._write: (written.append(state), write(state))
    for step in range(200):
        file(step, {"loss": 0.0})
    assert 1 <= len(written) < 100
