"""A lost process: several processes train one model, and one of them is killed."""

import concurrent.futures
import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np

from benchmarks._faults import saved, trainings
from benchmarks._faults.ground import (
    RECOVERED,
    Done,
    Ended,
    Ground,
    Verdict,
    claim,
    finite_everywhere,
    no_traceback,
    pick,
)
from benchmarks._faults.kill import Moment, until_step
from benchmarks._faults.trainings import COMMANDS, EVERY, STEPS, Training

NUM = 2  # what divides the minibatches
VARIANTS = "the worker", "the command"


def lost_process(rng: np.random.Generator, ground: Ground, done: Done) -> Verdict:
    """The others must end by themselves with the cause named; all started again, they must come to
    the same end as without the fault, from the newest checkpoint."""
    training, victim = pick(rng, COMMANDS), int(rng.integers(NUM))
    variant = pick(rng, VARIANTS)
    done.training, done.variant = training.name, f"{variant} of process {victim} of {NUM}"
    wanted = _unfaulted(ground, training)
    step, then = EVERY * int(rng.integers(1, STEPS // EVERY - 2)), float(rng.uniform(0, 0.01))
    with ground.fresh() as folder:
        run = folder / "run"
        moment = until_step(run, step, then)

        def act(process: subprocess.Popen) -> bool:
            if not moment(process):
                return False
            pid = process.pid if variant == "the command" else _child(process.pid)
            os.kill(pid, signal.SIGKILL)
            return True

        done.moment = f"{1000 * then:.0f} ms after step {step}"
        fit = trainings.fit(training, ground.data(training), run)
        ended = _all(ground, fit, victim, act)
        if all(each.status == 0 for each in ended):
            done.moment += " (it ended first)"
        else:
            for i, each in enumerate(ended):
                if i == victim and variant == "the command":
                    continue
                no_traceback(training, each)
                claim(each.status == 1, f"process {i} ended with {each.status}: {each.last}")
                cause = "SIGKILL" if i == victim else f"process {victim}"
                claim(cause in each.err, f"process {i} does not name the cause: {each.err}")
        finite_everywhere(run)
        kept = max(saved.good(run), default=0)
        claim(kept >= step, f"the checkpoint of step {step} is lost, that of {kept} is left")
        ended = _all(ground, trainings.resume(training, ground.data(training), run))
        for each in ended:
            claim(each.status == 0, f"going on ended with status {each.status}: {each.last}")
        found = saved.result(run)
        claim(found is not None and not found.broken(), "there is no whole, finite result")
        assert found is not None
        different = found.differs(wanted)
        claim(not different, f"the end is another than without the fault: {different}")
        return Verdict(RECOVERED, ended[0].last)


def _unfaulted(ground: Ground, training: Training) -> saved.Saved:
    """The result of as many processes without a fault."""
    name = f"{training.name}, {NUM} processes"
    if name not in ground.kept:
        with ground.fresh() as folder:
            fit = trainings.fit(training, ground.data(training), folder / "run")
            ended = _all(ground, fit)
            found = saved.result(folder / "run")
        if any(each.status for each in ended) or found is None or found.broken():
            raise RuntimeError(f"{name} fail without a fault: {ended}")
        ground.kept[name] = found
    return ground.kept[name]


def _all(
    ground: Ground, command: list[str], victim: int = 0, act: Moment | None = None
) -> list[Ended]:
    """How the processes of one training ended; `act` is on the `victim`."""
    with contextlib.closing(socket.socket()) as door:
        door.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{door.getsockname()[1]}"
    told = ["--coordinator", where, "--num-processes", str(NUM), "--process-id"]

    def one(i: int) -> Ended:
        return ground.run([*command, *told, str(i)], act if i == victim else None)

    with concurrent.futures.ThreadPoolExecutor(NUM) as pool:
        return list(pool.map(one, range(NUM)))


def _child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
