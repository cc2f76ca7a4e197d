"""The disk is full: no room on the filesystem, or a limit on the size of files."""

import contextlib
import os
import re
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks._faults import saved, trainings
from benchmarks._faults.ground import (
    NAMED,
    RECOVERED,
    Done,
    Ground,
    Verdict,
    claim,
    finite_everywhere,
    no_traceback,
    pick,
)
from benchmarks._faults.trainings import EVERY, STEPS, TRAININGS

FULL, LIMIT = "No space left on device", "File too large"
SIZE = 640 * 2**10  # bytes of the small filesystem, some eight checkpoints
VARIANTS = "from the start", "at a checkpoint", "at the end"


def disk(rng: np.random.Generator, ground: Ground, done: Done) -> Verdict:
    """It must say what failed and where, keep its checkpoints, and go on when there is room."""
    training, variant = pick(rng, TRAININGS), pick(rng, VARIANTS)
    words = pick(rng, (FULL, LIMIT) if _may_mount(ground.folder) else (LIMIT,))
    done.training, done.variant = training.name, f"{words}, {variant}"
    step = {
        "from the start": 0,
        "at a checkpoint": EVERY * int(rng.integers(1, STEPS // EVERY)),
        # Filling takes a moment, in which a tenth of the steps may go by.
        "at the end": STEPS - (5 if words == FULL else 1) * EVERY,
    }[variant]
    left = int(rng.integers(0, 20_000)) if step else 0
    done.moment = f"{left} bytes left after step {step}"
    data = ground.data(training)
    ground.unfaulted(training)
    with ground.fresh() as folder, _filesystem(folder / "small", words == FULL) as small:
        run = small / "run"
        ballast = small / "ballast"

        def fill(process: subprocess.Popen | None) -> bool:
            if step and max(saved.steps(run), default=0) < step:
                return False
            if words == FULL:
                _fill(ballast, left)
            elif process is not None:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (left, -1))
            return True

        if words == FULL and not step:
            fill(None)
        ended = ground.run(
            trainings.fit(training, data, run),
            fill if step else None,
            largest_file=0 if words == LIMIT and not step else None,
        )
        no_traceback(training, ended)
        finite_everywhere(run)
        if ended.status == 0:  # it was at its end before the disk was full
            ground.same_end(training, run)
            done.moment += " (it ended first)"
            return Verdict(RECOVERED, ended.last)
        claim(ended.status == 1, f"status {ended.status} where 1 is due: {ended.last}")
        named = re.search(rf"{words}\b.*{re.escape(str(small))}", ended.last)
        claim(named is not None, f"expected '{words}' and a path of the run, got: {ended.last}")
        claim(not (run / "fit.json").exists(), "there is a result, although it could not be saved")
        kept = saved.good(run)
        claim(kept == saved.steps(run), f"of checkpoints {saved.steps(run)} only {kept} are whole")
        claim(max(kept, default=0) >= step, f"step {step} was saved, {kept} are left")
        ballast.unlink(missing_ok=True)
        ground.goes_on(training, data, run)
        return Verdict(NAMED, ended.last)


def _fill(ballast: Path, left: int) -> None:
    """Takes all room but about `left` bytes."""
    room = os.statvfs(ballast.parent)
    free = room.f_bavail * room.f_frsize - left
    with open(ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while free > 0:  # in pieces: others write meanwhile
            free -= file.write(bytes(min(free, 2**16)))


@contextlib.contextmanager
def _filesystem(path: Path, small: bool) -> Iterator[Path]:
    """A folder, on a filesystem of its own of `SIZE` bytes where that is wanted."""
    path.mkdir()
    if not small:
        yield path
        return
    _mount(path)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def _mount(path: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]
    subprocess.run(command, check=True, capture_output=True)


_mountable: dict[Path, bool] = {}


def _may_mount(folder: Path) -> bool:
    """Whether this process may mount a small filesystem; else only sizes of files are limited."""
    if folder not in _mountable:
        place = folder / "may-mount"
        place.mkdir()
        try:
            _mount(place)
            subprocess.run(["umount", str(place)], check=True)
            _mountable[folder] = True
        except (OSError, subprocess.CalledProcessError):
            _mountable[folder] = False
        place.rmdir()
    return _mountable[folder]
