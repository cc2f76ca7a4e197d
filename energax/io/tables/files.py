"""Data files: .npy, .npz, .csv and .parquet to NumPy arrays and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from energax.io._base import atomic_write
from energax.io.tables._base import MISSING, as_matrix, csv_layout, pyarrow_module

WRITABLE = (".npy", ".npz", ".csv", ".parquet")
"""The endings that `read_data` and `write_data` know."""


def read_data(
    path: str | Path, *, array: str | None = None, allow_missing: bool = False
) -> np.ndarray:
    """The rows of a data file: an array as stored (.npy, .npz), a (rows, columns) table else.

    A CSV file may start with a line of column names; commas, semicolons or tabs part its cells.

    **Arguments:** `array`: which array of an .npz file. `allow_missing`: missing values (NaN, empty
    cells, NA) come back as NaN instead of being refused.

    **Raises:** FileNotFoundError; ValueError that says where the file is wrong (no rows, lines of
    different length, columns of text, missing values); ImportError without pyarrow.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in WRITABLE:
        raise ValueError(f"{path}: expected a file ending in {', '.join(WRITABLE)}")
    if not path.is_file():
        raise FileNotFoundError(2, "there is no such data file", str(path))
    if array is not None and ending != ".npz":
        raise ValueError(f"{path}: only .npz files hold several arrays, {array!r} was asked for")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: expected at least one row")
    if ending == ".npy":
        rows = _load_numpy(path)
    elif ending == ".npz":
        rows = _read_npz(path, array)
    else:
        table, first_line = _read_csv(path) if ending == ".csv" else (_read_parquet(path), None)
        rows = as_matrix(table, path)
        if not allow_missing:
            _refuse_missing(rows, table.column_names, path, first_line)
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"{path}: expected numbers, got dtype {rows.dtype}")
    if rows.ndim == 0 or len(rows) == 0:
        raise ValueError(f"{path} has no rows: expected at least one")
    if ending in (".npy", ".npz") and not allow_missing and np.isnan(rows).any():
        where = tuple(int(i) for i in np.argwhere(np.isnan(rows))[0])
        raise ValueError(f"{path}: the value at index {where} is NaN; impute it or drop its row")
    return rows


def column_names(path: str | Path) -> list[str] | None:
    """The names that a CSV or Parquet file gives its columns; None where it gives none.

    **Raises:** FileNotFoundError; ValueError for a file that cannot be read; ImportError without
    pyarrow.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (".csv", ".parquet"):
        return None
    if not path.is_file():
        raise FileNotFoundError(2, "there is no such data file", str(path))
    if ending == ".csv":
        _, has_names, cells = csv_layout(path)
        return cells if has_names else None
    pyarrow = pyarrow_module()
    try:
        return list(pyarrow_module("parquet").read_schema(path).names)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path} is no complete Parquet file ({str(error).splitlines()[0]})"
        ) from error


def write_data(path: str | Path, data: np.ndarray | Mapping[str, Any]) -> None:
    """Writes an array, or named columns, to .npy, .npz, .csv or .parquet, whole or not at all.

    **Arguments:** `data`: an array; or a dict of arrays, which become the columns of a table (those
    of (rows, k) become k columns) or the arrays of an .npz file. Tables hold (rows,) or (rows, k).

    **Raises:** ValueError if the file's kind cannot hold `data`; OSError if it cannot be written.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in WRITABLE:
        raise ValueError(f"{path}: expected a file ending in {', '.join(WRITABLE)}")
    if isinstance(data, Mapping):
        arrays = {str(name): np.asarray(value) for name, value in data.items()}
    else:
        arrays = {"x": np.asarray(data)}
    if ending == ".npy":
        whole = _side_by_side(arrays, path)
        with atomic_write(path) as file:
            np.save(file, whole, allow_pickle=False)
    elif ending == ".npz":
        with atomic_write(path) as file:
            np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    else:
        table = _as_table(arrays, path)
        with atomic_write(path) as file:
            if ending == ".csv":
                pyarrow_module("csv").write_csv(table, file)
            else:
                pyarrow_module("parquet").write_table(table, file)


# ---- NumPy's own files -----------------------------------------------------------------------


def _load_numpy(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} is no complete NumPy file of numbers ({str(error).splitlines()[0]})"
        ) from error


def _read_npz(path: Path, array: str | None) -> np.ndarray:
    import zipfile

    try:
        held = _load_numpy(path)
        if isinstance(held, np.ndarray):  # an .npy file under another name
            return held
        with held:
            names = list(held.files)
            if array is None and len(names) != 1:
                raise ValueError(
                    f"{path} holds {len(names)} arrays ({', '.join(names)}): say which one has the "
                    "rows (array=, --array)"
                )
            if array is not None and array not in names:
                raise ValueError(f"{path} has no array {array!r}: it holds {', '.join(names)}")
            return held[array or names[0]]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no complete .npz file ({error})") from error


# ---- tables ----------------------------------------------------------------------------------


def _read_csv(path: Path) -> tuple[Any, int]:
    """(table, line number of its first row)."""
    pyarrow_csv = pyarrow_module("csv")
    pyarrow = pyarrow_module()
    delimiter, has_names, _ = csv_layout(path)
    ragged: list[Any] = []

    def remember(row: Any) -> str:
        ragged.append(row)
        return "skip"

    try:
        table = pyarrow_csv.read_csv(
            path,
            # One thread: only then does the reader know the number of a line.
            read_options=pyarrow_csv.ReadOptions(
                use_threads=False, autogenerate_column_names=not has_names
            ),
            parse_options=pyarrow_csv.ParseOptions(
                delimiter=delimiter, invalid_row_handler=remember, ignore_empty_lines=True
            ),
            convert_options=pyarrow_csv.ConvertOptions(
                null_values=MISSING, strings_can_be_null=True
            ),
        )
    except (pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable CSV file ({error})") from error
    if ragged:
        bad = ragged[0]
        raise ValueError(
            f"{path}: line {_line_number(path, bad.number)} has {bad.actual_columns} cell(s), "
            f"expected {bad.expected_columns} as in the first line"
            + (f" ({len(ragged)} such lines)" if len(ragged) > 1 else "")
        )
    if table.num_rows == 0:
        raise ValueError(f"{path} has no rows: expected at least one below the column names")
    return table, 2 if has_names else 1


def _line_number(path: Path, number: int) -> int:
    """The line where the `number`-th line that is not empty stands, both from 1."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        filled = (i for i, line in enumerate(file, 1) if line.strip("\r\n"))
        return next((i for n, i in enumerate(filled, 1) if n == number), number)


def _read_parquet(path: Path) -> Any:
    pyarrow = pyarrow_module()
    try:
        return pyarrow_module("parquet").read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path} is no complete Parquet file ({str(error).splitlines()[0]})"
        ) from error


def _refuse_missing(rows: np.ndarray, names: list[str], path: Path, first_line: int | None) -> None:
    if rows.dtype.kind == "f" and np.isnan(rows).any():
        row, column = (int(i) for i in np.argwhere(np.isnan(rows))[0])
        where = f"row {row}"
        if first_line is not None:
            where = f"line {_line_number(path, row + first_line)}"
        raise ValueError(
            f"{path}: {where}, column {names[column]!r} is missing ({int(np.isnan(rows).sum())} "
            "missing value(s) in all); impute them or drop their rows"
        )


def _as_table(arrays: Mapping[str, np.ndarray], path: Path) -> Any:
    columns: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        if value.ndim == 1 and len(arrays) > 1:
            columns[name] = value
        elif value.ndim in (1, 2):
            flat = value.reshape(len(value), -1)
            columns.update({f"{name}{i}": flat[:, i] for i in range(flat.shape[1])})
        else:
            raise ValueError(
                f"{path}: a table holds (rows,) or (rows, columns), got shape {value.shape}; "
                "write an .npy file or reshape the rows"
            )
    if len({len(column) for column in columns.values()}) > 1:
        lengths = {name: len(column) for name, column in columns.items()}
        raise ValueError(f"{path}: the columns of a table have one length, got {lengths}")
    return pyarrow_module().table(columns)


def _side_by_side(arrays: Mapping[str, np.ndarray], path: Path) -> np.ndarray:
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    try:
        return np.stack(list(arrays.values()), axis=-1)
    except ValueError as error:
        raise ValueError(
            f"{path}: an .npy file holds one array; write {', '.join(arrays)} to an .npz file"
        ) from error
