"""Arrays of the folder that `--data` names."""

from pathlib import Path

import numpy as np

BINARISED_MNIST = "binarized_mnist_larochelle_packed.npz"


def binarised_mnist(folder: str) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) rows of 784 bits, Larochelle's split."""
    with np.load(Path(folder) / BINARISED_MNIST) as file:
        train, test = (
            np.unpackbits(file[name], axis=1)[:, :784].astype(np.float32)
            for name in ("train", "test")
        )
    return train, test


def debd(file: str | Path, part: str) -> np.ndarray:
    """Rows of bits, `part` "train", "valid" or "test"."""
    with np.load(file, allow_pickle=False) as saved:
        return saved[part].astype(np.float32)
