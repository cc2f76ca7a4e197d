"""What a running training tells outside: TensorBoard's files and the page that reloads itself."""

import struct

import numpy as np

from energax import random, training
from energax.energies import BernoulliRBM
from energax.report import LiveReport
from energax.training import TensorBoard

KEY = random.key(2)


def run(callback, num_steps=200):
    rows = (np.random.default_rng(0).random((300, 6)) < 0.3).astype(np.float32)
    energy = BernoulliRBM.random(6, 3, key=KEY)
    return training.fit(energy, rows, key=KEY, num_steps=num_steps, callback=callback)


def events(folder):
    """{(tag, step): value} that TensorBoard shows of all event files: length, check, event, check,
    and so on. Where a session starts, events of its step and later ones are void. None is twice."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found = {}
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = struct.unpack("<Q", data[at : at + 8])[0]
            event = Event.FromString(data[at + 12 : at + 12 + size])
            if event.session_log.status == SessionLog.START:
                found = {place: value for place, value in found.items() if place[1] < event.step}
            told = {(v.tag, event.step): v.simple_value for v in event.summary.value}
            assert not set(told) & set(found), "an event that was there already"
            found |= told
            at += size + 16
    return found


def test_tensorboard_files_hold_the_metrics(tmp_path):
    told = {}
    with TensorBoard(tmp_path / "board") as board:

        def callback(step, metrics):
            board(step, metrics)
            told.update({(name, step): value for name, value in metrics.items() if name != "step"})

        run(callback)
    found = events(tmp_path / "board")
    assert set(found) == set(told) and ("loss", 200) in found
    assert all(abs(found[k] - told[k]) <= 1e-6 * (1 + abs(told[k])) for k in told)


def test_a_run_that_goes_on_repeats_no_event(tmp_path):
    """Events of steps after the checkpoint are void: the run that goes on writes them anew."""
    rows = (np.random.default_rng(0).random((300, 6)) < 0.3).astype(np.float32)
    options = {"key": KEY, "num_steps": 100, "checkpoint_dir": tmp_path / "kept"}
    options |= {"checkpoint_every": 20}
    whole = training.fit(
        BernoulliRBM.random(6, 3, key=KEY), rows, **options | {"checkpoint_dir": None}
    )
    with TensorBoard(tmp_path / "board") as board:
        training.fit(BernoulliRBM.random(6, 3, key=KEY), rows, callback=board, keep=5, **options)
    for step in (60, 80, 100):  # as if it had been killed before they were written
        (tmp_path / "kept" / f"step-{step:09d}.json").unlink()
    assert max(step for _, step in events(tmp_path / "board")) == 100
    at = training.step_to_go_on_from(tmp_path / "kept")
    assert at == 40
    with TensorBoard(tmp_path / "board", first_step=at + 1) as board:
        training.resume(tmp_path / "kept", data=rows, checkpoint_every=20, callback=board)
    found = events(tmp_path / "board")
    assert ("loss", 100) in found
    for (tag, step), value in found.items():
        assert abs(value - whole.history[tag][step - 1]) <= 1e-6 * (1 + abs(value))
    assert training.step_to_go_on_from(tmp_path / "none") == 0


def test_what_a_training_wrote_on_the_way_into_trouble_is_void(tmp_path):
    with TensorBoard(tmp_path) as board:
        for step, loss in ((10, 1.0), (20, 2.0), (30, 9.0), (25, 3.0), (35, 4.0), (30, 5.0)):
            board(step, {"loss": loss})
    assert events(tmp_path) == {("loss", 10): 1.0, ("loss", 20): 2.0, ("loss", 25): 3.0} | {
        ("loss", 30): 5.0
    }


def test_what_is_not_finite_is_left_out(tmp_path):
    with TensorBoard(tmp_path) as board:
        board(3, {"step": 2.0, "loss": np.nan, "gap": np.inf, "energy_data": 1.5})
    assert events(tmp_path) == {("energy_data", 3): 1.5}


def test_the_page_is_written_while_training_runs(tmp_path):
    path = tmp_path / "report.html"
    seen = []
    live = LiveReport(path, "a run", every_seconds=0.0)

    def callback(step, metrics):
        live(step, metrics)
        seen.append((step, path.read_text()))

    with live:
        run(callback)
    assert "step 200, training has ended" in path.read_text()
    assert 'http-equiv="refresh"' not in path.read_text()
    for step, page in seen:
        assert f"a run: step {step:,}, still training" in page
        assert 'http-equiv="refresh"' in page and "data:image/png" in page and "loss: " in page


def test_the_page_waits(tmp_path):
    path = tmp_path / "report.html"
    live = LiveReport(path, every_seconds=1e9)
    live(1, {"loss": 1.0, "gap": 0.0})
    page = path.read_text()
    for step in range(2, 100):
        live(step, {"loss": 1.0 / step, "gap": 0.0})
    assert path.read_text() == page
    live.close()
    assert "step 99, training has ended" in path.read_text()
