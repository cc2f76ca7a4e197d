"""Rows that a run reads bit by bit: which of them are held out, and in what encoding they come."""

import dataclasses
from collections.abc import Callable

import numpy as np

from energax import io, spaces, training

SHOWN = 10_000  # rows that a report or a score looks at, and that a model is started from
WATCHED = 2_000  # that early stopping looks at


@dataclasses.dataclass(frozen=True)
class Parts:
    """The rows of a file by their use; no row has two.

    `train`: read while training. `test`: never seen by it, None without. `watched`: of these early
    stopping has some, None without.
    """

    train: io.AbstractRows
    test: io.AbstractRows | None
    watched: io.AbstractRows | None = None


def divided(rows: io.AbstractRows, test_fraction: float, seed: int) -> Parts:
    """Rows to train on and rows that are held out.

    **Raises:** ValueError if fewer than 2 are left to train on.
    """
    test = None
    if test_fraction > 0:
        rows, test = _held_out(rows, "--test-fraction", test_fraction, seed)
    if rows.num_rows < 2:
        raise ValueError(
            f"{rows.name}: {rows.num_rows} row(s) are left to train on: at least 2 are needed"
        )
    return Parts(rows, test)


def with_watched(parts: Parts, share: float, seed: int) -> Parts:
    """A share of the rows to train on goes to early stopping."""
    another = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    train, watched = _held_out(parts.train, "--early-stopping", share, another)
    return Parts(train, parts.test, watched)


def _held_out(
    rows: io.AbstractRows, option: str, share: float, seed: int
) -> tuple[io.AbstractRows, io.AbstractRows]:
    try:
        return io.hold_out(rows, share, seed=seed)
    except ValueError as error:
        raise ValueError(f"{option} {share}: {error}") from error


class Encoded(io.AbstractRows):
    """Rows as points of a space, by `encode(rows, where in the file)`."""

    def __init__(
        self,
        rows: io.AbstractRows,
        space: spaces.AbstractArraySpace,
        encode: Callable[[np.ndarray, str], np.ndarray],
    ):
        self._rows, self._encode, self.name = rows, encode, rows.name
        self.num_rows, self.shape, self.dtype = rows.num_rows, space.shape, np.dtype(space.dtype)

    def read(self, first, count):
        read = self._rows.read(first, count)
        return self._encode(read, self.where(first)) if count else read.reshape(0, *self.shape)

    def where(self, first):
        return self._rows.where(first)

    def fingerprint(self):
        return self._rows.fingerprint()


def check_window(rows: io.AbstractRows, window: int | None, batch_size: int) -> None:
    """Raises ValueError for a window that holds no minibatch."""
    batch_size = min(batch_size, rows.num_rows)
    if window is not None and window < batch_size:
        raise ValueError(
            f"--window {window}: expected a minibatch of {batch_size} rows (--batch-size) or more"
        )


def memory(parts: Parts, window: int | None) -> str:
    """What is read at a time and held out, in words."""
    train = parts.train
    rows = training.rows_a_window(train, window)
    size = 4 * rows * max(1, int(np.prod(train.shape)))
    held = "none" if parts.test is None else f"{parts.test.num_rows:,}"
    return (
        f"reads {rows:,} of {train.num_rows:,} rows at a time, {size / 1e6:,.1f} MB in float32; "
        f"training takes some six times that, beside the model; {held} held out"
    )
