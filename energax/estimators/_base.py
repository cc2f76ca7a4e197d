"""What the estimators share: tables of numbers in, seeds, and energies of many rows."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from energax.energies._base import AbstractEnergy, batched
from energax.spaces import num_rows
from energax.tasks._base import padded_blocks

_BLOCK = 1024


def read_table(estimator: Any, X: Any, *, reset: bool, gaps: bool = True) -> np.ndarray:
    """Rows of numbers in float64, (rows, columns), by scikit-learn's own checks.

    **Arguments:** `X`: an array, or a data frame (pandas, Polars) of numbers. `reset`: learn the
    columns, else they must be those fitted. `gaps`: whether values may be missing (NaN).

    **Raises:** ValueError for other columns than the fitted ones, infinite numbers, fewer than two
    rows to fit, or a column to fit without any value; also for columns that hold no numbers.
    """
    rows = validate_data(
        estimator,
        X,
        reset=reset,
        dtype=np.float64,
        ensure_all_finite="allow-nan" if gaps else True,
        ensure_min_samples=2 if reset else 1,
    )
    rows = np.ascontiguousarray(rows)  # a frame comes by columns: sums would differ in last bits
    empty = np.isnan(rows).all(0)
    if reset and empty.any():
        raise ValueError(f"X: column {int(np.argmax(empty))} holds no value at all: leave it out")
    return rows


def seed_of(random_state: Any) -> int:
    """A seed for keys and NumPy's generators, from scikit-learn's `random_state`."""
    return int(check_random_state(random_state).randint(2**31 - 1))


def energies_of(energy: AbstractEnergy, rows: Any) -> np.ndarray:
    """E of rows, points of its space, in float64; in blocks of one size, so that it compiles once
    a width."""
    num = num_rows(rows)
    out = np.empty(num)
    for block, own in padded_blocks(np.arange(num), (_BLOCK,)):
        some = jax.tree.map(lambda a, block=block: jnp.asarray(a[block]), rows)
        values = np.asarray(_energies(energy, some))
        out[own] = values[: own.stop - own.start]
    return out


@eqx.filter_jit
def _energies(energy: AbstractEnergy, rows):
    return -batched(energy, rows)
