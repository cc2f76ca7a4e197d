"""What the estimators share: tables in and out, seeds, and energies of many rows."""

import dataclasses
from collections import Counter
from numbers import Integral, Real
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.utils import assert_all_finite, check_consistent_length, check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from energax.energies import Standardised
from energax.energies._base import AbstractEnergy, batched
from energax.objectives._base import AbstractObjective
from energax.spaces import num_rows
from energax.tasks._base import padded_blocks
from energax.training import Columns

_BLOCK = 1024
OF_TRAINING: dict[str, list[Any]] = {  # what may be asked where an energy of one's own is trained
    "energy": [AbstractEnergy, None],
    "objective": [AbstractObjective, None],
    "num_steps": [Interval(Integral, 1, None, closed="left")],
    "batch_size": [Interval(Integral, 1, None, closed="left")],
    "learning_rate": [Interval(Real, 0, None, closed="neither")],
}
_MOST_VALUES = 255  # of a column of categories; rarer ones count as one


def read_table(estimator: Any, X: Any, *, reset: bool, gaps: bool = True) -> np.ndarray:
    """Rows of numbers in float64, (rows, columns), by scikit-learn's own checks.

    **Arguments:** `X`: an array, or a data frame (pandas, Polars) of numbers. `reset`: learn the
    columns, else they must be those fitted. `gaps`: whether values may be missing (NaN).

    **Raises:** ValueError for other columns than the fitted ones, infinite numbers, fewer than two
    rows to fit, or a column to fit without any value; also for columns that hold no numbers.
    """
    return _whole(validate_data(estimator, X, reset=reset, **_asked(reset, gaps)), reset)


def read_labelled(estimator: Any, X: Any, y: Any, *, gaps: bool) -> tuple[Columns, np.ndarray]:
    """(`read_columns` of rows to fit, the class of each as it came, (rows,)); without `gaps`, which
    an energy of one's own does not take, numbers only.

    **Raises:** as `read_columns`, and ValueError for classes that are missing, continuous numbers,
    or not as many as the rows.
    """
    estimator.layout_ = layout = _layout(X) if gaps else None
    if layout is None:
        rows, y = validate_data(estimator, X, y, reset=True, **_asked(True, gaps))
        rows = Columns.of_numbers(_whole(rows, True))
    else:
        rows = _of_layout(estimator, X, reset=True)
        y = column_or_1d(y, warn=True)
        if any(_is_missing(value) for value in y):
            raise ValueError("y: a class is missing: leave such rows out")
        assert_all_finite(y, input_name="y")
        check_consistent_length(X, y)
    check_classification_targets(y)
    return rows, y


def _is_missing(value: Any) -> bool:
    """None, NaN, and pandas' NA, of which nothing can be asked."""
    return value is None or type(value).__name__ == "NAType" or bool(value != value)


def _asked(reset: bool, gaps: bool) -> dict[str, Any]:
    return {
        "dtype": np.float64,
        "ensure_all_finite": "allow-nan" if gaps else True,
        "ensure_min_samples": 2 if reset else 1,
    }


def _whole(rows: Any, reset: bool) -> np.ndarray:
    rows = np.ascontiguousarray(rows)  # a frame comes by columns: sums would differ in last bits
    empty = np.isnan(rows).all(0)
    if reset and empty.any():
        raise ValueError(f"X: column {int(np.argmax(empty))} holds no value at all: leave it out")
    return rows


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which columns of a data frame are what.

    - `frame`: the kind of data frame. `names`: its columns, in order.
    - `values`: for each column that holds categories, its values by their codes.
    """

    frame: type
    names: list[Any]
    values: dict[Any, list[Any]]

    @property
    def numbers(self) -> list[Any]:
        return [name for name in self.names if name not in self.values]

    @property
    def num_values(self) -> np.ndarray:
        """(c,): one more than was seen, for values that were not."""
        return np.array([len(values) + 1 for values in self.values.values()], int)

    @property
    def seen(self) -> np.ndarray:
        """(c, k): which codes stand for one value that was seen."""
        most = int(self.num_values.max(initial=2))
        return np.arange(most) < (self.num_values - 1)[:, None]

    def rows(self, frame: Any) -> Columns:
        """The frame as numbers and codes."""
        numbers = [_numbers(frame[name], name) for name in self.numbers]
        codes = []
        for name, values in self.values.items():
            code = {value: i for i, value in enumerate(values)}
            held = _held(frame[name])
            codes.append([-1 if v is None else code.get(v, len(values)) for v in held])
        num = len(frame)
        return Columns(
            np.array(numbers, np.float64).reshape(len(numbers), num).T.copy(),
            np.array(codes, int).reshape(len(codes), num).T.copy(),
            self.num_values,
        )

    def table(self, rows: Columns) -> Any:
        """Rows as a data frame; a value that was never seen is None."""
        out = dict(zip(self.numbers, rows.numbers.T, strict=True))
        for (name, values), codes in zip(self.values.items(), rows.categories.T, strict=True):
            known = [*values, None]
            out[name] = [known[code] for code in codes]
        return self.frame({name: out[name] for name in self.names})

    def filled(self, frame: Any, rows: Columns) -> Any:
        """The frame with the values of the rows, its index and its kinds of categories."""
        out = self.table(rows)
        for name in self.values:
            kind = frame[name].dtype
            if hasattr(out, "with_columns"):  # Polars
                out = out.with_columns(out[name].cast(kind))
            else:
                out[name] = out[name].astype(kind)
        if hasattr(frame, "index"):
            out.index = frame.index
        return out

    def by_column(self, parts: dict[str, np.ndarray]) -> np.ndarray:
        """(rows, columns) in the order of the table, of numbers a column on the record's parts."""
        order = [*self.numbers, *self.values]
        both = [parts[name] for name in ("numbers", "categories") if name in parts]
        return np.concatenate(both, axis=1)[:, [order.index(name) for name in self.names]]


class ReadsColumns:
    """An estimator of tables: `layout_` says what the columns of the fitted one are, None for an
    array or a data frame of numbers."""

    layout_: Layout | None


def read_columns(estimator: Any, X: Any, *, reset: bool) -> Columns:
    """Rows of a table, their gaps marked; `estimator.layout_` says what the columns are.

    Columns of a data frame (pandas, Polars) that hold words, categories or booleans are categories;
    all else is numbers, as arrays are, whose `layout_` is None.

    **Raises:** ValueError as `read_table`, for dates, and for an array where a data frame was
    fitted.
    """
    if reset:
        estimator.layout_ = _layout(X)
    layout = estimator.layout_
    if layout is None:
        return Columns.of_numbers(read_table(estimator, X, reset=reset))
    return _of_layout(estimator, X, reset=reset)


def _of_layout(estimator: Any, X: Any, *, reset: bool) -> Columns:
    """`read_columns` of a data frame, by `estimator.layout_`."""
    layout = estimator.layout_
    if not hasattr(X, "columns"):
        raise ValueError(
            f"X: expected a data frame with the columns {layout.names}, as the one that was "
            f"fitted, got {type(X).__name__}"
        )
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    rows = layout.rows(X)
    if reset and len(rows) < 2:
        raise ValueError(f"X: expected two rows or more, got {len(rows)}")
    if np.isinf(rows.numbers).any():
        raise ValueError("X: contains infinity; expected numbers, or NaN where one is missing")
    for names, empty in (
        (layout.numbers, np.isnan(rows.numbers).all(0)),
        (list(layout.values), (rows.categories < 0).all(0)),
    ):
        if reset and empty.any():
            name = names[int(np.argmax(empty))]
            raise ValueError(f"X: column {name!r} holds no value at all: leave it out")
    return rows


def as_table(layout: Layout | None, points: Any) -> Any:
    """Points of the space of the rows as what was fitted: an array, or a data frame."""
    if layout is None:
        return np.asarray(points, np.float64)
    num = len(next(iter(points.values())))
    numbers = np.asarray(points.get("numbers", np.zeros((num, 0))), np.float64)
    return layout.table(Columns(numbers, np.asarray(points["categories"]), layout.num_values))


def _layout(X: Any) -> Layout | None:
    """None for what is numbers throughout."""
    if not hasattr(X, "columns") or not hasattr(X, "dtypes"):
        return None
    names = list(X.columns)
    values = {name: _values(X[name]) for name in names if _is_of_categories(X[name], name)}
    return Layout(type(X), names, values) if values else None


def _is_of_categories(column: Any, name: Any) -> bool:
    numeric = getattr(column.dtype, "is_numeric", None)  # Polars
    if numeric is not None:
        kind = "f" if numeric() else "M" if column.dtype.is_temporal() else "O"
    else:
        kind = column.dtype.kind
    if kind in "mM":
        raise ValueError(
            f"X: column {name!r} holds dates or durations: turn them into numbers first, such as "
            "days since the first"
        )
    return kind not in "iufc"


def _values(column: Any) -> list[Any]:
    """The values of a column, most frequent first."""
    often = Counter(value for value in _held(column) if value is not None)
    order = sorted(often, key=lambda value: (-often[value], str(value)))
    return order[:_MOST_VALUES]


def _held(column: Any) -> list[Any]:
    """Its values, None where one is missing."""
    gone = column.is_null() if hasattr(column, "is_null") else column.isna()
    return [None if g else v for v, g in zip(column.to_list(), gone.to_list(), strict=True)]


def _numbers(column: Any, name: Any) -> np.ndarray:
    held = [np.nan if value is None else value for value in _held(column)]
    try:
        return np.array(held, np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"X: column {name!r} held numbers where it was fitted, and now others: "
            f"{next(v for v in held if not isinstance(v, int | float | np.number))!r}"
        ) from None


def held_out(num: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(which of `num` rows are held out for p-values, which are left to fit), at random.

    **Raises:** ValueError if fewer than two are left.
    """
    order = np.random.default_rng(seed).permutation(num)
    out = max(1, round(share * num))
    if num - out < 2:
        raise ValueError(f"{num} rows are too few to hold {out} out for p-values: fit more rows")
    return order[:out], order[out:]


def standardised(energy: AbstractEnergy, rows: np.ndarray) -> Standardised:
    """The energy in the units of rows of numbers, (num, n); a column of one value keeps its own."""
    sd = rows.std(0)
    return Standardised(energy, rows.mean(0), np.where(sd > 0, sd, 1.0))


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
