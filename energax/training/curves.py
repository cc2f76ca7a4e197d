"""What a training tells while it runs: its metrics by step, in memory and in a small file."""

import dataclasses
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from energax.io import DamagedFile, atomic_write, is_alive
from energax.results import plain
from energax.training._base import History

_MOST_POINTS = 2_000
_SHARE_OF_TIME = 0.02


class Curves:
    """A `callback=` of `fit` that keeps the metrics: at most some 2,000 steps, evenly spaced.

    Steps that training gave up (after a recovery, or before a `resume`) are dropped.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[int, dict[str, float]]] = []
        self._every, self._calls = 1, 0

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        while self._rows and self._rows[-1][0] >= step:
            self._rows.pop()
        if self._calls % self._every == 0:
            told = {name: float(value) for name, value in metrics.items() if name != "step"}
            self._rows.append((int(step), told))
        self._calls += 1
        if len(self._rows) > _MOST_POINTS:
            self._rows, self._every = self._rows[::2], 2 * self._every

    @property
    def history(self) -> History:
        """`step` and each metric by name, NaN where a step did not tell it."""
        names = dict.fromkeys(name for _, metrics in self._rows for name in metrics)
        columns = {
            name: np.array([metrics.get(name, np.nan) for _, metrics in self._rows])
            for name in names
        }
        return {"step": np.array([float(step) for step, _ in self._rows]), **columns}

    def take(self, history: History) -> None:
        """Goes on from the curves of an earlier part of the same training."""
        names = [name for name in history if name != "step"]
        for i, step in enumerate(history["step"]):
            self(int(step), {name: float(history[name][i]) for name in names})


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a `ProgressFile` tells.

    - `state`: "training", "ended", "interrupted" or "failed".
    - `history`: as in `Fit`, thinned. `step`: the newest. `num_steps`: the last, None if not told.
    - `seconds`: since this process began to train; `written`: when, in seconds since 1970.
    - `process`, `host`: which process trains, and on which machine.
    """

    state: str
    history: History
    step: int
    num_steps: int | None
    seconds: float
    written: float
    process: int
    host: str

    @property
    def is_lost(self) -> bool:
        """Whether it says that it trains, and its process is gone. Told on its own machine only."""
        if self.state != "training" or self.host != platform.node() or os.name != "posix":
            return False
        return not is_alive(self.process)


class ProgressFile:
    """A `callback=` of `fit` that keeps the metrics so far in a JSON file, for others to read.

    `with ProgressFile("run/progress.json") as told: fit(..., callback=told)`. The end of the block
    says how the training ended. `energax fit` writes one for `energax report --watch`. A file that
    is there is gone on with, without the steps that come again.

    **Arguments:** `num_steps`: of the training, for the record. `every_seconds`: between two
    writings, which wait longer where they would take over a fiftieth of the time.

    **Raises:** OSError if it cannot be written.
    """

    def __init__(
        self, path: str | Path, *, num_steps: int | None = None, every_seconds: float = 2.0
    ):
        self.path, self.num_steps, self.every_seconds = Path(path), num_steps, every_seconds
        self._curves, self._step = Curves(), 0
        self._began, self._next = time.monotonic(), -np.inf
        if self.path.is_file():
            try:
                self._curves.take(read_progress(self.path).history)
            except DamagedFile:  # what it told was for looking at: nothing depends on it
                self._curves = Curves()

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self._curves(step, metrics)
        self._step = int(step)
        if time.monotonic() >= self._next:
            self._write("training")

    def __enter__(self) -> "ProgressFile":
        self._write("training")
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._write("ended")
        else:
            self._write("interrupted" if issubclass(kind, KeyboardInterrupt) else "failed")

    def _write(self, state: str) -> None:
        began = time.monotonic()
        told = {
            "state": state,
            "history": self._curves.history,
            "step": self._step,
            "num_steps": self.num_steps,
            "seconds": began - self._began,
            "written": time.time(),
            "process": os.getpid(),
            "host": platform.node(),
        }
        with atomic_write(self.path) as file:
            file.write((json.dumps(plain(told)) + "\n").encode())
        now = time.monotonic()
        self._next = now + max(self.every_seconds, (now - began) / _SHARE_OF_TIME)


def read_progress(path: str | Path) -> Progress:
    """What a `ProgressFile` wrote to `path`.

    **Raises:** FileNotFoundError if there is none; io.DamagedFile if it is not of that kind.
    """
    try:
        told: dict[str, Any] = json.loads(Path(path).read_bytes())
        history = {
            name: np.array([np.nan if v is None else float(v) for v in values])
            for name, values in told.pop("history").items()
        }
        return Progress(history=history, **told)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise DamagedFile(f"{path} is damaged: it is no record of a training") from error
