"""Metrics of a running training as TensorBoard event files."""

import math
import os
from pathlib import Path
from typing import Any


class TensorBoard:
    """A `callback=` of `fit` that writes each metric as a scalar to `folder`, by tensorboardX.

    `fit(..., callback=TensorBoard("runs/a"))`, then `tensorboard --logdir runs`. Metrics that are
    not finite are left out. A training that goes back from trouble makes what it wrote on the way
    there void. So does a run that goes on by `resume` and writes on in the same folder, from
    `first_step` on: give it `training.step_to_go_on_from(checkpoints) + 1`.

    **Raises:** ImportError without tensorboardX; OSError if the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, *, first_step: int | None = None):
        self._folder, self._files, self._last = str(folder), 0, -1
        self._writer = self._opened(first_step)

    def _opened(self, first_step: int | None) -> Any:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard files need tensorboardX: pip install energax[tensorboard]"
            ) from error
        self._files += 1
        # The name has the second only: another file of the same one would replace the first.
        suffix = "" if first_step is None else f".{self._files:04d}.{os.getpid()}"
        return SummaryWriter(self._folder, purge_step=first_step, filename_suffix=suffix)

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        if step <= self._last:
            self._writer.close()
            self._writer = self._opened(step)
        self._last = step
        for name, value in metrics.items():
            if name != "step" and math.isfinite(value):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Ends the file; more calls start another."""
        self._writer.close()

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()
