"""Which rows are odd? Energies as scores, with p-values calibrated on held-out rows.

Conformal p-values (Vovk et al. 2005; Bates et al. 2023, arXiv:2104.08279): under exchangeability
P(p ≤ α) ≤ α for any energy whatever, good or bad.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from energax.energies._base import AbstractEnergy
from energax.results import Verdict
from energax.spaces import Point
from energax.tasks._base import log_density_rows


@dataclasses.dataclass(frozen=True)
class AnomalyScores:
    """How odd each row is.

    - `scores`: E(x), (rows,), higher is odder; `p_values`: (rows,).
    - `threshold`: the score above which a row is called an anomaly at `false_alarm_rate`;
      `is_anomaly`: (rows,).
    - `smallest_p`: the smallest p-value that so many held-out rows can give.
    """

    scores: np.ndarray
    p_values: np.ndarray
    threshold: float
    is_anomaly: np.ndarray
    false_alarm_rate: float
    smallest_p: float
    reliable: bool
    reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What p-values are read from: the scores E(x) of n held-out rows, in order, (n,)."""

    scores: np.ndarray

    @staticmethod
    def of(scores: np.ndarray) -> "Calibration":
        return Calibration(np.sort(scores))

    @property
    def smallest_p(self) -> float:
        return 1 / (len(self.scores) + 1)

    def p_values(self, scores: np.ndarray, uniform: np.ndarray | None = None) -> np.ndarray:
        """(1 + #{held-out scores ≥ score}) / (n + 1) of each of `scores`.

        With `uniform`, numbers from 0 to 1 drawn for each row, its rank among held-out rows of the
        very same score is drawn (Vovk et al. 2005, section 2.2.4): every multiple of 1/(n + 1) is
        then as likely as another.
        """
        n = len(self.scores)
        at_least = n - np.searchsorted(self.scores, scores, side="left")
        if uniform is None:
            return (1 + at_least) / (n + 1)
        above = n - np.searchsorted(self.scores, scores, side="right")
        ties = np.floor(uniform * (1 + at_least - above))
        return (1 + above + ties) / (n + 1)

    def drift(self, scores: np.ndarray) -> float:
        """p-value of a batch: whether its scores come from where the held-out ones do.

        The two-sample test of Kolmogorov and Smirnov (Hodges 1958). Rows may have changed in ways
        that leave their energies as they were, which it does not see.
        """
        from scipy.stats import ks_2samp

        found: Any = ks_2samp(self.scores, scores)
        return float(found.pvalue)

    def verdict(self, false_alarm_rate: float) -> Verdict:
        """Whether p-values can be so small that rows are told apart at this rate."""
        n, smallest = len(self.scores), self.smallest_p
        return Verdict.of(
            [
                (
                    smallest <= false_alarm_rate,
                    f"{n} held-out rows cannot give a p-value below {smallest:.3g}: a false-alarm "
                    f"rate of {false_alarm_rate:g} needs at least "
                    f"{math.ceil(1 / false_alarm_rate) - 1}",
                )
            ]
        )


def discoveries(p_values: np.ndarray, false_discovery_rate: float = 0.1) -> np.ndarray:
    """Which of many rows to name, (rows,) of bool: of those named a share of at most
    `false_discovery_rate` is normal, on average.

    All p ≤ p_(k), k the largest with p_(k) ≤ k α / n (Benjamini & Hochberg 1995, eq. 1), which
    holds for conformal p-values from common held-out rows (Bates et al. 2023, theorem 2).

    **Raises:** ValueError for a rate that is not between 0 and 1, or p-values that are none.
    """
    p = np.asarray(p_values, np.float64)
    if not 0 < false_discovery_rate < 1:
        raise ValueError(
            f"false_discovery_rate: expected between 0 and 1, got {false_discovery_rate}"
        )
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values: expected (rows,) numbers from 0 to 1, got shape {p.shape}")
    ordered = np.sort(p)
    below = np.flatnonzero(ordered <= false_discovery_rate * np.arange(1, len(p) + 1) / len(p))
    return p <= ordered[below[-1]] if len(below) else np.zeros(len(p), bool)


def anomaly_scores(
    energy: AbstractEnergy, X: Point, *, held_out: Point, false_alarm_rate: float = 0.05
) -> AnomalyScores:
    """Scores E(x) and conformal p-values p = (1 + #{held-out scores ≥ score}) / (n + 1).

    **Arguments:** `X`: rows to judge. `held_out`: n normal rows that training never saw.
    `false_alarm_rate`: share α of normal rows that may be called anomalies; the threshold is the
    ⌈(n + 1)(1 − α)⌉-th smallest held-out score, and a row is an anomaly if it lies above.

    **Raises:** ValueError if α is not between 0 and 1, or rows lie outside the space.
    """
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate: expected between 0 and 1, got {false_alarm_rate}")
    scores = -log_density_rows(energy, X, "X")[0]
    calibration = Calibration.of(-log_density_rows(energy, held_out, "held_out")[0])
    n = len(calibration.scores)
    rank = math.ceil((n + 1) * (1 - false_alarm_rate))
    threshold = float(calibration.scores[rank - 1]) if rank <= n else math.inf
    verdict = calibration.verdict(false_alarm_rate)
    verdict.warn("the anomaly threshold")
    return AnomalyScores(
        scores=scores,
        p_values=calibration.p_values(scores),
        threshold=threshold,
        is_anomaly=scores > threshold,
        false_alarm_rate=false_alarm_rate,
        smallest_p=calibration.smallest_p,
        reliable=verdict.reliable,
        reasons=verdict.reasons,
    )
