"""Parts of rows that are read bit by bit: those that are held out, the others, and a few of all."""

import hashlib
from collections.abc import Callable

import numpy as np

from energax.io.tables._base import AbstractRows

_BLOCK = 1_000  # rows in a row, of each of which the same share is held out
_PLACES = 64  # of the file that a few rows are from


def hold_out(rows: AbstractRows, share: float, *, seed: int) -> tuple[AbstractRows, AbstractRows]:
    """(the rows to train on, those held out), a `share` of each 1,000 in a row, drawn by `seed`.

    No row is in both. Nothing is read or kept in memory: which rows of a stretch are held out is
    drawn again when it is read, the same ones every time. Reading one part goes over the other.

    **Raises:** ValueError if either part would be without rows.
    """
    held = _Part(rows, share, seed, held=True)
    kept = _Part(rows, share, seed, held=False)
    if not 0 < share < 1 or held.num_rows < 1 or kept.num_rows < 1 or held.each < 1:
        raise ValueError(
            f"{rows.name}: a share of {share} of {rows.num_rows:,} row(s), taken from every "
            f"{_BLOCK:,} of them, leaves {held.num_rows:,} to hold out and {kept.num_rows:,} to "
            "train on: at least one of each is needed"
        )
    return kept, held


def a_few(
    rows: AbstractRows, num: int, each: Callable[[np.ndarray, str], np.ndarray] | None = None
) -> np.ndarray:
    """Up to `num` rows from 64 places at even distances; all of them where there are no more.

    **Arguments:** `each`: what is made of those of one place, given where in the files that is.
    """
    stretch = max(1, num // _PLACES)
    places = min(num, _PLACES)
    if rows.num_rows <= num:
        places, stretch = 1, rows.num_rows
    firsts = np.linspace(0, rows.num_rows - stretch, places).astype(int)
    read = ((rows.read(int(first), stretch), int(first)) for first in firsts)
    return np.concatenate([x if each is None else each(x, rows.where(first)) for x, first in read])


class _Part(AbstractRows):
    """The rows that are held out, or the others, in their order."""

    def __init__(self, rows: AbstractRows, share: float, seed: int, *, held: bool):
        self._rows, self._share, self._seed, self._held = rows, share, seed, held
        self.shape, self.dtype, self.name = rows.shape, rows.dtype, rows.name
        blocks, rest = divmod(rows.num_rows, _BLOCK)
        self.each = self._count(_BLOCK)  # of a whole block
        self.num_rows = blocks * self.each + self._count(rest)

    def _count(self, size: int) -> int:
        held = round(self._share * size)
        return held if self._held else size - held

    def _places(self, block: int) -> np.ndarray:
        """Which rows of a block, in order, counted from its start."""
        size = min(_BLOCK, self._rows.num_rows - block * _BLOCK)
        order = np.random.default_rng([self._seed, block]).permutation(size)
        num = round(self._share * size)
        return np.sort(order[:num] if self._held else order[num:])

    def read(self, first, count):
        self._check(first, count)
        pieces = [np.empty((0, *self.shape), self.dtype)]
        while count > 0:
            block, at = divmod(first, self.each)
            places = self._places(block)[at : at + count]
            start = int(places[0])
            stretch = self._rows.read(block * _BLOCK + start, int(places[-1]) + 1 - start)
            pieces.append(stretch[places - start])
            first, count = first + len(places), count - len(places)
        return np.concatenate(pieces)

    def where(self, first):
        block, at = divmod(first, self.each)
        return self._rows.where(block * _BLOCK + int(self._places(block)[at]))

    def fingerprint(self):
        told = f"{self._rows.fingerprint()} {self._share!r} {self._seed} {self._held}"
        return hashlib.sha256(told.encode()).hexdigest()
