"""Rows that do not fit into memory: a window of them at a time, shuffled by a seed."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array

from energax.io import AbstractRows
from energax.spaces import AbstractSpace, Point
from energax.training._base import whole
from energax.training.loop._base import Plan

_BYTES = 2**26  # of a window in float32, where its rows are not given
_BLOCKS = 64  # stretches of the file that a window is from


def rows_a_window(rows: AbstractRows, window_rows: int | None = None) -> int:
    """How many of `rows` `fit` has in memory at once, or a few less; None: as many as take 64 MB in
    float32."""
    return min(rows.num_rows, _usual(rows) if window_rows is None else window_rows)


def fits(rows: AbstractRows, window_rows: int | None) -> bool:
    """Whether one window has them all."""
    return rows_a_window(rows, window_rows) == rows.num_rows


def _usual(rows: AbstractRows) -> int:
    return max(1_000, _BYTES // (4 * max(1, int(np.prod(rows.shape)))))


class Windows:
    """Window n of the rows, the same for every run with this key however it got there.

    The file is cut into stretches. Each pass through it puts them in a new random order, and a
    window is the next 64 of them; rows at the file's end that fill no stretch, and stretches that
    fill no window, wait for another pass, where the cuts lie elsewhere. Within a window training
    takes rows in a new random order. In memory are at once: one window as read from the file, and
    as numbers of the space on the host and on the device.

    **Raises:** ValueError for `window_rows` below `batch_size`, from 1.
    """

    def __init__(
        self,
        rows: AbstractRows,
        space: AbstractSpace,
        *,
        batch_size: int,
        window_rows: int | None,
        key: Array,
    ):
        window_rows = _usual(rows) if window_rows is None else window_rows
        if whole("window_rows", window_rows) < batch_size:
            raise ValueError(
                f"window_rows: expected a minibatch of {batch_size} rows or more, got {window_rows}"
            )
        self.rows, self.space = rows, space
        window_rows = min(window_rows, rows.num_rows)
        self._stretch = max(1, window_rows // _BLOCKS)
        self._num = window_rows // self._stretch  # stretches a window
        self.size = self._num * self._stretch
        self.steps = max(1, self.size // batch_size)
        self._of_file = rows.num_rows // self._stretch
        self._a_pass = self._of_file // self._num
        self._seed = [int(word) for word in np.ravel(jax.random.key_data(key))]

    def load(self, number: int) -> Point:
        """Its rows, (size, *event), checked.

        **Raises:** ValueError for rows outside the space, which says where in the file.
        """
        turn, window = divmod(number, self._a_pass)
        rng = np.random.default_rng([*self._seed, turn])
        order = rng.permutation(self._of_file)
        start = int(rng.integers(self.rows.num_rows - self._of_file * self._stretch + 1))
        chosen = np.sort(order[window * self._num : (window + 1) * self._num])
        pieces = []
        for stretch in chosen:
            first = start + int(stretch) * self._stretch
            read = self.rows.read(first, self._stretch)
            pieces.append(self.space.validate(read, batch=True, name=self.rows.where(first)))
        return np.concatenate(pieces)

    def into(self, plan: Plan, step: int, held: int) -> tuple[Plan, int]:
        """(the plan with the window of `step` as its data, the number of that window).

        **Arguments:** `held`: the number of the window that the plan has.
        """
        number = step // self.steps
        if number == held:
            return plan, number
        return dataclasses.replace(plan, data=jax.device_put(self.load(number))), number
