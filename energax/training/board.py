"""Metrics of a running training as TensorBoard event files."""

import math
from pathlib import Path
from typing import Any


class TensorBoard:
    """A `callback=` of `fit` that writes each metric as a scalar to `folder`, by tensorboardX.

    `fit(..., callback=TensorBoard("runs/a"))`, then `tensorboard --logdir runs`. Metrics that are
    not finite are left out. A run that goes on by `resume` writes on in the same folder: give it
    `first_step`, from which earlier events are void.

    **Raises:** ImportError without tensorboardX; OSError if the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, *, first_step: int | None = None):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard files need tensorboardX: pip install energax[tensorboard]"
            ) from error
        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step)

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
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
