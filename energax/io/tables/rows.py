"""Rows of files that are larger than memory, read a stretch at a time.

No file is mapped: what was read and dropped is not resident any more.
"""

import bisect
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from energax.io.tables._base import (
    AbstractRows,
    as_matrix,
    csv_layout,
    numbers_only,
    pyarrow_module,
)

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_STRIDE = 1_024  # lines of a CSV file between those whose place is remembered
_CHUNK = 2**22  # bytes that are looked at, at once
_SAMPLED = 64  # pieces of a file that its fingerprint is from


def open_rows(path: str | Path) -> AbstractRows:
    """The rows of an .npy, .csv or .parquet file, or of the images of a folder, to be read bit by
    bit: for `fit` on data that do not fit into memory.

    Of a table the columns are the coordinates. Images must all have one size; they come as (height,
    width), or (height, width, 3) if the first one has colours, of floats from 0 to 1, in the order
    of their names. Memory: what is read at once; of a Parquet file its largest row group too.

    **Raises:** FileNotFoundError; ValueError for another kind of file, or one that holds no rows of
    numbers; ImportError without pyarrow (.csv, .parquet) or Pillow (images).
    """
    path = Path(path)
    if path.is_dir():
        return _Images(path)
    if not path.is_file():
        raise FileNotFoundError(2, "there is no such data file", str(path))
    kinds = {".npy": _Numpy, ".csv": _Csv, ".parquet": _Parquet}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ValueError(
            f"{path}: expected a file ending in {', '.join(kinds)} or a folder of images"
        )
    return kind(path)


class _File(AbstractRows):
    def __init__(self, path: Path):
        self.path, self.name = path, str(path)
        self.size = os.path.getsize(path)

    def fingerprint(self):
        found = hashlib.sha256(str(self.size).encode())
        with open(self.path, "rb") as file:
            for place in np.linspace(0, max(0, self.size - 4_096), _SAMPLED).astype(int):
                file.seek(int(place))
                found.update(file.read(4_096))
        return found.hexdigest()

    def _no_rows(self) -> ValueError:
        return ValueError(f"{self.path} has no rows: expected at least one")


class _Numpy(_File):
    def __init__(self, path: Path):
        super().__init__(path)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        try:
            with open(path, "rb") as file:
                version = np.lib.format.read_magic(file)
                shape, by_columns, self.dtype = read_header[version](file)
                self._start = file.tell()
        except (ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{path} is no complete NumPy file of numbers ({error})") from error
        if self.dtype.kind not in "biuf":
            raise ValueError(f"{path}: expected numbers, got dtype {self.dtype}")
        if len(shape) == 0 or shape[0] == 0:
            raise self._no_rows()
        if by_columns and len(shape) > 1:
            raise ValueError(
                f"{path} is stored by columns (Fortran order), where a row is all over the file: "
                "save np.ascontiguousarray(...)"
            )
        self.num_rows, self.shape = int(shape[0]), tuple(shape[1:])
        missing = self._start + self.num_rows * self.row_bytes - self.size
        if missing > 0:
            raise ValueError(f"{path} is cut short: {missing:,} bytes are missing")

    def read(self, first, count):
        self._check(first, count)
        with open(self.path, "rb") as file:
            file.seek(self._start + first * self.row_bytes)
            flat = np.fromfile(file, self.dtype, count * int(np.prod(self.shape)))
        if len(flat) < count * int(np.prod(self.shape)):
            raise ValueError(f"{self.path} has become shorter since it was opened")
        return flat.reshape(count, *self.shape)


class _Parquet(_File):
    def __init__(self, path: Path):
        super().__init__(path)
        pyarrow = pyarrow_module()
        try:
            self._file = pyarrow_module("parquet").ParquetFile(path)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"{path} is no complete Parquet file ({str(error).splitlines()[0]})"
            ) from error
        meta = self._file.metadata
        sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        self._ends = list(np.cumsum(sizes, dtype=int))
        if meta.num_rows == 0:
            raise self._no_rows()
        self._held: tuple[int, np.ndarray] | None = None
        self.num_rows, self.dtype = meta.num_rows, np.dtype(np.float64)
        self.shape = self._group(0).shape[1:]

    def _group(self, i: int) -> np.ndarray:
        if self._held is None or self._held[0] != i:
            self._held = None  # not two at once
            table = self._file.read_row_group(i)
            self._held = i, np.asarray(as_matrix(table, self.path), self.dtype)
        return self._held[1]

    def read(self, first, count):
        self._check(first, count)
        pieces, at = [np.empty((0, *self.shape))], first
        while at < first + count:
            i = bisect.bisect_right(self._ends, at)
            start = self._ends[i - 1] if i else 0
            pieces.append(self._group(i)[at - start : first + count - start].copy())
            at += len(pieces[-1])
        return np.concatenate(pieces)


class _Csv(_File):
    """Lines, one row each: a line break within quotes would be taken for the end of a row."""

    def __init__(self, path: Path):
        super().__init__(path)
        if self.size == 0:
            raise self._no_rows()
        with open(path, "rb") as file:
            start = file.read(_CHUNK)
        if b"\r" in start and b"\n" not in start:
            raise ValueError(f"{path}: lines end in \\r alone; save them ending in \\n")
        self._delimiter, has_names, cells = csv_layout(path)
        self.num_rows, self._places = self._index(int(has_names))
        if self.num_rows == 0:
            raise self._no_rows()
        self.shape, self.dtype = (len(cells),), np.dtype(np.float64)
        self.read(0, 1)

    def _index(self, skip: int) -> tuple[int, list[int]]:
        """(rows, where in the file every 1024th of them starts)."""
        places, num, place = [], -skip, 0
        with open(self.path, "rb") as file:
            for line in file:
                if line.strip(b"\r\n"):
                    if num >= 0 and num % _STRIDE == 0:
                        places.append(place)
                    num += 1
                place += len(line)
        return num, places

    def read(self, first, count):
        self._check(first, count)
        if count == 0:
            return np.empty((0, *self.shape))
        start, end = first // _STRIDE, -(-(first + count) // _STRIDE)
        with open(self.path, "rb") as file:
            file.seek(self._places[start])
            until = self._places[end] if end < len(self._places) else self.size
            text = file.read(until - self._places[start])
        skip = first - start * _STRIDE
        table = numbers_only(text, self.path, self._delimiter, self.shape[0], start * _STRIDE)
        got = np.asarray(as_matrix(table, self.path), self.dtype)[skip : skip + count]
        if len(got) < count:
            raise ValueError(f"{self.path} has become shorter since it was opened")
        return got


class _Images(AbstractRows):
    def __init__(self, folder: Path):
        self.name = str(folder)
        self._paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in _IMAGES)
        if not self._paths:
            raise ValueError(f"{folder} holds no images: expected files in {', '.join(_IMAGES)}")
        self.num_rows, self.dtype = len(self._paths), np.dtype(np.float32)
        with self._open(self._paths[0]) as image:
            coloured = len(image.getbands()) >= 3 or image.mode == "P"
            self._mode, self._size = ("RGB" if coloured else "L"), image.size
        width, height = self._size
        self.shape = (height, width, 3) if coloured else (height, width)

    def _numbers(self, image: Any, path: Path) -> np.ndarray:
        """Its values from 0 to 1."""
        if image.mode.startswith("I;16"):  # Pillow would cut them off at 255
            return np.asarray(image, self.dtype) / 65_535
        if image.mode in ("I", "F"):
            raise ValueError(
                f"{path} has pixels of 32 bits, which have no largest value: save 8 or 16 bits"
            )
        return np.asarray(image.convert(self._mode), self.dtype) / 255

    @staticmethod
    def _open(path: Path) -> Any:
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError("images need Pillow: pip install energax[images]") from error
        try:
            return Image.open(path)
        except OSError as error:
            raise ValueError(f"{path} is no readable image ({error})") from error

    def read(self, first, count):
        self._check(first, count)
        out = np.empty((count, *self.shape), self.dtype)
        for row, path in zip(out, self._paths[first : first + count], strict=True):
            with self._open(path) as image:
                if image.size != self._size:
                    raise ValueError(
                        f"{path} has {image.size[0]} × {image.size[1]} pixels, the first image of "
                        f"the folder {self._size[0]} × {self._size[1]}: expected one size"
                    )
                try:
                    row[...] = self._numbers(image, path)
                except OSError as error:  # cut short
                    raise ValueError(f"{path} is no readable image ({error})") from error
        return out

    def fingerprint(self):
        found = hashlib.sha256()
        for path in self._paths:
            found.update(f"{path.name} {path.stat().st_size}\n".encode())
        for i in np.unique(np.linspace(0, self.num_rows - 1, _SAMPLED).astype(int)):
            found.update(self._paths[i].read_bytes())
        return found.hexdigest()
