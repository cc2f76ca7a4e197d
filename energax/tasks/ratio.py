"""Which of two points is more probable? The one question that needs no Z."""

import numpy as np

from energax.energies._base import AbstractEnergy, AbstractOfLengths
from energax.results import Verdict
from energax.spaces import Point
from energax.tasks._base import log_density_rows


def log_ratio(energy: AbstractEnergy, x: Point, y: Point) -> np.ndarray | np.float64:
    """log p(x) − log p(y) = f(x) − f(y): Z cancels.

    **Arguments:** `x`, `y`: one point or a batch of rows each; one point is held against every row.

    **Returns:** float64, shape () or (rows,). ±inf where one of the two has density 0; where both
    have, the ratio is undefined: NaN, with an `UnreliableResult` warning.

    **Raises:** ValueError for points outside the space, batches of different length, or points
    whose lengths differ where each length is a distribution of its own.
    """
    f_x, x_single = log_density_rows(energy, x, "x")
    f_y, y_single = log_density_rows(energy, y, "y")
    if not x_single and not y_single and len(f_x) != len(f_y):
        raise ValueError(
            f"expected as many rows in x as in y, or one point, got {len(f_x)} and {len(f_y)}"
        )
    if isinstance(energy, AbstractOfLengths):
        lengths = (np.asarray(energy.lengths(np.asarray(points))) for points in (x, y))
        if np.any(np.not_equal(*lengths)):
            raise ValueError(
                f"points of different lengths have different Z under {type(energy).__name__}: "
                "compare such of one length, or take score_samples"
            )
    undefined = np.isneginf(f_x) & np.isneginf(f_y)
    with np.errstate(invalid="ignore"):
        ratio = f_x - f_y
    Verdict.of(
        [(not undefined.any(), "both points have density 0: their ratio is undefined")]
    ).warn("the ratio")
    return ratio[0] if x_single and y_single else ratio
