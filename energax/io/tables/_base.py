"""What readers of tables share: how a CSV file is laid out, and columns as a matrix."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

MISSING = ["", "NA", "N/A", "na", "n/a", "NaN", "nan", "NAN", "null", "NULL", "None", "?"]
"""Cells that hold no value."""


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
    return delimiter, any(not is_number(cell) for cell in cells), cells


def numbers_only(text: Any, path: Path, delimiter: str, num_columns: int, before: int) -> Any:
    """The table of lines of a CSV file without names, `before` of which stood above them."""
    pyarrow, pyarrow_csv = pyarrow_module(), pyarrow_module("csv")
    names = [f"column {i}" for i in range(num_columns)]
    try:
        return pyarrow_csv.read_csv(
            text,
            read_options=pyarrow_csv.ReadOptions(column_names=names),
            parse_options=pyarrow_csv.ParseOptions(delimiter=delimiter, ignore_empty_lines=True),
            convert_options=pyarrow_csv.ConvertOptions(
                null_values=MISSING,
                strings_can_be_null=True,
                column_types=dict.fromkeys(names, pyarrow.float64()),
            ),
        )
    except (pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: after row {before}: {error}") from error


def is_number(cell: str) -> bool:
    if cell.strip() in MISSING:
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
