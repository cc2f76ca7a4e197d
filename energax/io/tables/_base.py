"""What readers share: rows in files, how a CSV file is laid out, and columns as a matrix."""

import contextlib
import csv
import io
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

MISSING = ["", "NA", "N/A", "na", "n/a", "NaN", "nan", "NAN", "null", "NULL", "None", "?"]
"""Cells that hold no value."""


class AbstractRows(ABC):
    """`num_rows` rows of one `shape`, in an order of their own, that may be on a disk."""

    num_rows: int
    shape: tuple[int, ...]
    dtype: np.dtype
    name: str

    @abstractmethod
    def read(self, first: int, count: int) -> np.ndarray:
        """Rows `first` to `first + count`, (count, *shape).

        **Raises:** ValueError for a file that is damaged or was changed, or holds something else
        than numbers there.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256, hexadecimal, of the size and of pieces at even distances: what a run that goes
        on must see again. A change between the pieces is not seen."""

    @property
    def row_bytes(self) -> int:
        return max(1, int(np.prod(self.shape))) * self.dtype.itemsize

    def where(self, first: int) -> str:
        """Where in the files row `first` is, and those after it, in words."""
        return f"{self.name}, rows from {first:,}"

    def _check(self, first: int, count: int) -> None:
        if first < 0 or count < 0 or first + count > self.num_rows:
            raise ValueError(
                f"{self.name}: rows {first} to {first + count} of {self.num_rows} were asked for"
            )


def pyarrow_module(module: str = "") -> Any:
    import importlib

    try:
        return importlib.import_module("pyarrow" + (f".{module}" if module else ""))
    except ImportError as error:
        raise ImportError("CSV and Parquet files need pyarrow: pip install energax[io]") from error


def csv_layout(path: Path) -> tuple[str, bool, list[str]]:
    """(what parts cells, whether the first line is of names, its cells)."""
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    if not first:
        raise ValueError(f"{path} is empty: expected at least one row")
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    cells = next(csv.reader([first], delimiter=delimiter))
    return delimiter, any(not is_value(cell) for cell in cells), cells


def numbers_only(text: bytes, path: Path, delimiter: str, num_columns: int, before: int) -> Any:
    """The table of lines of a CSV file without names, `before` of which stood above them.

    A column may be of true and false as well, in whatever lines there are.
    """
    pyarrow, pyarrow_csv = pyarrow_module(), pyarrow_module("csv")
    names = [f"column {i}" for i in range(num_columns)]

    def read(kinds: dict[str, Any]) -> Any:
        return pyarrow_csv.read_csv(
            io.BytesIO(text),
            read_options=pyarrow_csv.ReadOptions(column_names=names),
            parse_options=pyarrow_csv.ParseOptions(delimiter=delimiter, ignore_empty_lines=True),
            convert_options=pyarrow_csv.ConvertOptions(
                null_values=MISSING, strings_can_be_null=True, column_types=kinds
            ),
        )

    numbers = dict.fromkeys(names, pyarrow.float64())
    try:
        return read(numbers)
    except (pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
        with contextlib.suppress(pyarrow.ArrowInvalid, UnicodeDecodeError):
            are_bool = pyarrow_module("types").is_boolean
            words = [field.name for field in read({}).schema if are_bool(field.type)]
            if words:
                return read(numbers | dict.fromkeys(words, pyarrow.bool_()))
        raise ValueError(f"{path}: after row {before}: {error}") from error


def is_value(cell: str) -> bool:
    """Whether it stands for a number, or for none; else it may be a name."""
    if cell.strip() in MISSING or cell.strip().lower() in ("true", "false"):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True


def as_matrix(table: Any, path: Path) -> np.ndarray:
    """(rows, columns) with NaN for what is missing; integers stay integers where nothing is."""
    types = pyarrow_module("types")
    text, columns = [], []
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if types.is_null(kind):  # not one value: a column of missing numbers
            columns.append(np.full(table.num_rows, np.nan))
        elif types.is_boolean(kind) and column.null_count:
            columns.append(column.cast(pyarrow_module().float64()).to_numpy())
        elif types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
            columns.append(column.to_numpy())
        else:
            text.append(f"{name!r} ({kind})")
    if text:
        shown = ", ".join(text[:5]) + (f" and {len(text) - 5} more" if len(text) > 5 else "")
        raise ValueError(
            f"{path}: expected numbers in every column, got {shown}; drop these columns or code "
            "them as numbers"
        )
    if not columns:
        raise ValueError(f"{path} has no columns")
    return np.stack(columns, axis=1)
