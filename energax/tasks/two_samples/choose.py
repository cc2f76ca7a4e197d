"""Are two sets of rows from one distribution? A p-value that is exact, and how far they are apart.

Both are asked of an energy with parameters, f(x) = θ·φ(x), of which all rows share θ, or each set
has its own. Where they share it, the gradient of the log-likelihood in their difference is that of
mean φ, as in a score test (Rao 1948): Z cancels, nothing is fitted again, and labels that are
shuffled tell how large it gets by chance.
"""

import math

import jax
import numpy as np

from energax.random import as_key
from energax.results import Verdict
from energax.spaces import AbstractSpace, Point, Record
from energax.tasks.two_samples._base import TwoSamples
from energax.tasks.two_samples.divergence import divergence
from energax.tasks.two_samples.features import common_space, features_of, table_of, with_gaps
from energax.tasks.two_samples.shuffled import log_tails, p_value, permuted

_LEAST_ROWS = 4  # of a set: 4 and 4 give p-values down to 2/70
_WEIGHTS = {"columns": 0.5, "pairs": 0.25, "shapes": 0.125, "clusters": 0.125}
_ENOUGH = 20  # rows of both, whose arrangements need not be counted


def same_distribution(
    X: Point,
    Y: Point,
    *,
    key,
    space: AbstractSpace | None = None,
    num_permutations: int = 999,
) -> TwoSamples:
    """Whether the rows of `X` and of `Y` are from one distribution: p, how far apart, and where.

    p = (1 + #{T_b ≥ T}) / (1 + B) over B random reassignments of the rows to the two sets, ties
    counted (Phipson & Smyth 2010): exact for any data, if rows are independent, whatever the energy
    is worth. Rows that follow one another in time are not independent.

    Every column is replaced by the normal scores u of its ranks among all rows (van der Waerden
    1952), so that units and far values do not matter; categories by an indicator of each value,
    gaps by 0 and an indicator. φ(x) are the u_j; all u_i u_j; third and fourth Hermite polynomials
    of every u_j; and the shares of the clusters of a mixture of normals. All are the same however
    rows are labelled. For each part, δ being the differences of mean φ in standard errors, there
    are δᵀ(R + 0.1 I)⁻¹δ with R the correlations of φ, δᵀδ and max δ². Each becomes a p-value
    by its cube root's mean and sd over reassignments (Wilson & Hilferty 1931), and T is −log of
    their weighted harmonic mean (Wilson 2019, eq. 1), for which no distribution is assumed. A
    column's p-value compares the largest of its δ² with the largest of all (Westfall & Young 1993).
    Of more than 70 columns pairs are those of the first 70 principal components, fewer where rows
    are many, and columns are told apart by what each does alone.

    The log ratio log p_X − log p_Y = θ·φ(x) + c is fitted by its own conditional likelihood, as in
    noise-contrastive estimation (Gutmann & Hyvärinen 2012, eq. 8), five times to four fifths of the
    rows; how many φ it has, those of largest δ, and its penalty are chosen on rows kept aside.

    **Arguments:** `X`, `Y`: (rows, *event), NaN where a real number is missing; data frames of
    numbers; on a `Record` dicts. `space`: None takes columns as numbers, which suits bits, levels
    and counts too; categories have to be declared. `num_permutations`: B.

    **Raises:** ValueError for other columns in X than in Y, rows outside the space, or fewer than
    4 rows in either.
    """
    rng = np.random.default_rng(np.asarray(jax.random.bits(as_key(key), (4,))))
    if isinstance(num_permutations, bool) or not isinstance(num_permutations, (int, np.integer)):
        raise ValueError(f"num_permutations: expected a whole number, got {num_permutations!r}")
    if num_permutations < 19:
        raise ValueError(
            f"num_permutations: {num_permutations} cannot give a p-value below "
            f"{1 / (1 + max(0, num_permutations)):.3g}; expected at least 19"
        )
    space, names = common_space(X, Y, space)
    (x_table, owner, places), (y_table, _, _) = (
        table_of(space, rows, name) for rows, name in ((X, "X"), (Y, "Y"))
    )
    num_x, num_y = num_rows = len(x_table), len(y_table)
    arrangements = math.comb(num_x + num_y, min(num_x, num_y, _ENOUGH))
    smallest = (2 if num_x == num_y else 1) / arrangements  # X and Y may change places
    if min(num_rows) < _LEAST_ROWS:
        raise ValueError(
            f"{num_x} row(s) of X and {num_y} of Y cannot give a p-value below {smallest:.3g}, and "
            f"tell little: expected at least {_LEAST_ROWS} of each"
        )
    # Shuffled, so that nothing below knows a row's set by its place.
    order = rng.permutation(num_x + num_y)
    is_x = order < num_x
    rows, owner = with_gaps(np.concatenate([x_table, y_table])[order], owner)
    features = features_of(rows, owner, rng)
    parts, statistics, evidence, highest = permuted(features, is_x, num_permutations, rng, places)
    log_p = log_tails(statistics)
    weights = np.array([_WEIGHTS[name] for name in parts])
    combined = np.zeros(1 + num_permutations)
    if len(parts):
        share = np.log(weights / weights.sum() / statistics.shape[1])
        combined = np.logaddexp.reduce((share[:, None, None] - log_p).reshape(-1, len(combined)))
    found, std_err, half = divergence(features, is_x, rng)
    p_columns = np.array([p_value(e, highest) for e in evidence])
    ranked = np.argsort(-evidence, kind="stable")
    verdict = Verdict.of(_checks(rows, is_x, space))
    verdict.warn("the p-value")
    return TwoSamples(
        p_value=p_value(combined[0], combined),
        smallest_p=max(smallest, 1 / (1 + num_permutations)),
        statistic=float(combined[0]),
        parts={
            name: p_value(each[0], each)
            for name, each in zip(parts, np.max(-log_p, axis=1), strict=True)
        },
        divergence=min(max(0.0, found), math.log(2)),
        std_err=std_err,
        lower=min(max(0.0, found - half), math.log(2)),
        upper=min(max(0.0, found + half), math.log(2)),
        columns=tuple((names[places[i][0]],) if names else places[i] for i in ranked),
        column_p_values=p_columns[ranked],
        num_rows=num_rows,
        num_permutations=int(num_permutations),
        reliable=verdict.reliable,
        reasons=verdict.reasons,
    )


def _checks(rows: np.ndarray, is_x: np.ndarray, space: AbstractSpace) -> list[tuple[bool, str]]:
    """Rows of real numbers that are in both sets, but never twice in one, were not drawn twice."""
    parts = space.parts.values() if isinstance(space, Record) else [space]
    varied = any(len(np.unique(column)) > is_x.sum() / 2 for column in rows[is_x].T)
    if not varied or not any(part.is_continuous for part in parts):
        return []
    filled = np.ascontiguousarray(np.nan_to_num(rows, nan=0.0)) + 0.0  # no −0
    whole = filled.view(np.dtype((np.void, filled.itemsize * filled.shape[1]))).ravel()
    x, y = np.unique(whole[is_x]), np.unique(whole[~is_x])
    common = len(np.intersect1d(x, y))
    repeated = len(x) < is_x.sum() or len(y) < (~is_x).sum()
    return [
        (
            bool(repeated or common == 0),
            f"{common} row(s) are in both X and Y, and none is twice in either: the two were not "
            "drawn independently, and p is too large",
        )
    ]
