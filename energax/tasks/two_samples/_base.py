"""What is told of two sets of rows, and what its parts share."""

import dataclasses
from typing import Any

import numpy as np

Part = tuple[np.ndarray, list[np.ndarray]]
"""Features (rows, p) of mean 0 and sd 1, and the places that each belongs to, (p,) or none."""


@dataclasses.dataclass(frozen=True)
class TwoSamples:
    """Whether two sets of rows are from one distribution.

    - `p_value`: of rows from one distribution a share of at most α has p ≤ α, for every α.
      `smallest_p`: the smallest that these rows and permutations can give.
    - `statistic`: −log of the weighted harmonic mean of `parts`' approximate p-values, in nats.
    - `parts`: by kind of difference ("columns": where values lie, "pairs": spreads and pairs of
      columns, "shapes": of single columns, "clusters") the p-value of the strongest sign of it,
      not corrected for there being others.
    - `divergence`: at least how far apart the distributions are, in nats, by a log ratio asked
      about rows that it was not fitted to: a lower bound on the Jensen-Shannon divergence, which is
      what a row tells of the set it is from, from 0 to log 2. `std_err`; `lower`, `upper`: 95 %
      interval of the bound.
    - `columns`: their places, most different first, alone or together with another: (3,), or (2, 5)
      in an image, a name in a data frame, on a `Record` ("age",) or ("age", 3).
      `column_p_values`: in that order, corrected for all that was looked at.
    """

    p_value: float
    smallest_p: float
    statistic: float
    parts: dict[str, float]
    divergence: float
    std_err: float
    lower: float
    upper: float
    columns: tuple[tuple[Any, ...], ...]
    column_p_values: np.ndarray
    num_rows: tuple[int, int]
    num_permutations: int
    reliable: bool
    reasons: tuple[str, ...]
