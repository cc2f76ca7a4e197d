"""Several processes that train one model: `energax fit --coordinator`, SLURM, and one that is lost.

All on loopback.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from energax import training
from energax.cli._base import BadInput, Hosts


def free_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, (np.random.default_rng(0).random((500, 12)) < 0.3).astype(float))
    return path


STARTED = []


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    yield
    while STARTED:
        STARTED.pop().kill()  # a worker whose command is gone ends by itself


def start(arguments, *, environment=None):
    process = subprocess.Popen(
        [sys.executable, "-m", "energax.cli", *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def start_all(num, arguments):
    where = f"127.0.0.1:{free_port()}"
    told = ["--coordinator", where, "--num-processes", num, "--process-id"]
    return [start([*arguments, *told, i]) for i in range(num)]


def ends(processes, seconds=300):
    """(exit status, stdout, stderr) of each."""
    out = [process.communicate(timeout=seconds) for process in processes]
    return [(p.returncode, *text) for p, text in zip(processes, out, strict=True)]


def parameters(run):
    with jax.enable_x64(True):
        energy = training.load(run).energy
    return np.concatenate(
        [np.ravel(a) for a in (energy.weight, energy.visible_bias, energy.hidden_bias)]
    )


def fit_options(rows, out, num_steps, *more):
    return ["fit", rows, "--out", out, "--num-steps", num_steps, "--hidden", "16", *more]


def test_options_that_do_not_go_together_are_refused(monkeypatch):
    assert Hosts.of(None, None, None) is None
    assert Hosts.of("here:80", 1, 0) is None
    for given in (("here:80", 2, None), (None, 2, 1), ("here", 2, 0), ("here:80", 2, 2)):
        with pytest.raises(BadInput, match="--"):
            Hosts.of(*given)
    assert Hosts.of("[::1]:80", 4, 3) == Hosts("[::1]:80", 4, 3)
    slurm = {
        "SLURM_JOB_ID": "65536",
        "SLURM_STEP_NODELIST": "node[07-08]",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
    }
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert Hosts.of(None, None, None) is None  # a job's own shell
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert Hosts.of(None, None, None) == Hosts("node07:61440", 4, 2)
    assert Hosts.of("here:80", 2, 1) == Hosts("here:80", 2, 1)


@pytest.mark.slow
def test_four_processes_and_two_take_the_steps_of_one(rows, tmp_path):
    ((status, out, _),) = ends([start(fit_options(rows, tmp_path / "1", 20, "--json"))])
    assert status == 0
    for num in (2, 4):
        run = tmp_path / str(num)
        told = ends(start_all(num, fit_options(rows, run, 20, "--json")))
        assert [status for status, _, _ in told] == [0] * num, told
        assert all(not out for _, out, _ in told[1:])  # one answer, from process 0
        assert json.loads(told[0][1])["last"].keys() == json.loads(out)["last"].keys()
        assert np.abs(parameters(run) - parameters(tmp_path / "1")).max() < 1e-4


@pytest.mark.slow
def test_slurm_is_found_and_a_batch_that_cannot_be_shared_is_refused(rows, tmp_path):
    job = free_port()  # JAX makes a port of it
    tasks = [
        {
            "SLURM_JOB_ID": str(job),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_PROCID": str(i),
            "SLURM_LOCALID": str(i),
        }
        for i in range(2)
    ]
    wanted = fit_options(rows, tmp_path / "run", 20, "--batch-size", "51")
    told = ends([start(wanted, environment=task) for task in tasks])
    assert [status for status, _, _ in told] == [2, 2] or sorted(t[0] for t in told) == [1, 2], told
    assert any("expected a multiple of 2" in err for _, _, err in told)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_process_ends_the_others_and_the_run_goes_on(rows, tmp_path, victim):
    run = tmp_path / "run"
    options = fit_options(rows, run, 20_000, "--checkpoint-every", "100")
    both = start_all(2, options)
    wait_for_checkpoint(run, both)
    lost, other = both[victim], both[1 - victim]
    # 0: the worker is killed, as it is where memory runs out; 1: what the user started is
    killed = child_of(lost.pid) if victim == 0 else lost.pid
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    ((status, _, said),) = ends([other], seconds=60)
    assert time.monotonic() - began < 60 and status == 1, said
    assert "training ended, as " in said and "energax resume" in said
    assert f"process {victim}" in said.split("training ended")[1]
    assert "Traceback" not in said and "stack trace" not in said
    if victim == 0:
        ((status, _, said),) = ends([lost], seconds=60)
        assert status == 1 and "SIGKILL" in said
    assert not (run / "fit.json").exists()
    before = newest(run)
    if victim == 1:  # four go on for a while, who would take long on two cores
        four = start_all(4, ["resume", run])
        wait_for_checkpoint(run, four, after=before)
        for process in four:
            process.terminate()
        ends(four, seconds=60)
        before = newest(run)
    ((status, out, said),) = ends([start(["resume", run, "--json"])])
    assert status == 0, said
    assert json.loads(out)["num_steps"] == 20_000 > before >= 100
    assert np.isfinite(parameters(run)).all()


def newest(run: Path) -> int:
    found = [int(path.stem.removeprefix("step-")) for path in (run / "checkpoints").glob("*.json")]
    return max(found, default=0)


def wait_for_checkpoint(run, processes, after=0):
    for _ in range(12_000):
        if newest(run) > after:
            return
        assert all(process.poll() is None for process in processes), ends(processes)
        time.sleep(0.02)
    raise AssertionError("no checkpoint within four minutes")


def child_of(pid):
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
