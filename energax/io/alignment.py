"""Alignments of protein sequences, from FASTA files."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PROTEIN = "-ACDEFGHIKLMNPQRSTVWY"
"""The gap, then the twenty amino acids by their letters."""


class Alignment(NamedTuple):
    """`names`: of the rows. `rows`: numbers of their letters in `alphabet`, (rows, columns)."""

    names: tuple[str, ...]
    rows: NDArray[np.int32]
    alphabet: str


def read_alignment(path: str | Path, *, alphabet: str = PROTEIN) -> Alignment:
    """The aligned sequences of a FASTA file (Pearson & Lipman 1988), also of A2M and A3M.

    Small letters and dots are insertions, which are no columns of the alignment: they are left out.
    Letters that the alphabet does not have (B, X, Z and so on) become gaps, its first letter.

    **Raises:** OSError where the file cannot be read; ValueError for a file without sequences, a
    sequence before the first name, or sequences of different length.
    """
    path = Path(path)
    names: list[str] = []
    parts: list[list[str]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.strip()
        if line.startswith(">"):
            names.append(line[1:].strip())
            parts.append([])
        elif line and not line.startswith(";"):
            if not names:
                raise ValueError(
                    f"{path}, line {number}: expected a name after '>', got {line[:20]!r}: is this "
                    "a FASTA file?"
                )
            parts[-1].append(line)
    if not names:
        raise ValueError(f"{path}: expected sequences in FASTA, found none")
    kept = [
        "".join(c for c in "".join(lines) if not c.islower() and c not in ".*") for lines in parts
    ]
    length = len(kept[0])
    for name, sequence in zip(names, kept, strict=True):
        if len(sequence) != length or length == 0:
            raise ValueError(
                f"{path}: expected aligned sequences, {names[0]!r} has {length} columns and "
                f"{name!r} has {len(sequence)}: align them first"
            )
    number_of = np.zeros(256, np.int32)
    for i, letter in enumerate(alphabet):
        number_of[ord(letter)] = i
    text = np.frombuffer("".join(kept).encode("latin-1", "replace"), np.uint8)
    return Alignment(tuple(names), number_of[text].reshape(len(kept), length), alphabet)
