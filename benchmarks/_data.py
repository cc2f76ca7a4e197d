"""Arrays of the folder that `--data` names."""

from pathlib import Path

import numpy as np

BINARISED_MNIST = "binarized_mnist_larochelle_packed.npz"
NO_TABLES = "Without `--data DIR` that holds adbench/, no table was asked."


def binarised_mnist(folder: str, parts: tuple[str, ...]) -> np.ndarray:
    """Rows of 784 bits of these parts, "train", "valid" and "test", of Larochelle's split."""
    with np.load(Path(folder) / BINARISED_MNIST) as file:
        rows = [np.unpackbits(file[name], axis=1)[:, :784] for name in parts]
    return np.concatenate(rows).astype(np.float32)


def debd(file: str | Path, part: str) -> np.ndarray:
    """Rows of bits, `part` "train", "valid" or "test"."""
    with np.load(file, allow_pickle=False) as saved:
        return saved[part].astype(np.float32)


def adbench(data: Path | None) -> Path | None:
    """ADBench's folder in that of `--data`, None where it is not there."""
    folder = None if data is None else data / "adbench"
    return folder if folder is not None and folder.is_dir() else None


def table_of(file: str) -> tuple[np.ndarray, np.ndarray]:
    """(rows without constant columns, which are odd) of a table of ADBench."""
    with np.load(file) as saved:
        rows, odd = saved["X"].astype(np.float64), saved["y"].astype(bool)
    return rows[:, rows.std(0) > 0], odd
