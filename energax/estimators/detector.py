"""Which rows of a table are odd?"""

import dataclasses
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from energax import random, samplers, tasks
from energax.energies import Standardised
from energax.estimators._base import (
    ReadsColumns,
    as_table,
    energies_of,
    held_out,
    read_columns,
    seed_of,
)
from energax.training import fit_experts

_FAR = 1e30


class EnergyDetector(ReadsColumns, OutlierMixin, BaseEstimator):
    """Finds odd rows by the energy of a product of experts that odd rows do not bend.

    The energy, E(x) = Σ_i E_i(x)/s_i, is the product of kernel densities of the columns, one normal
    and a mixture of normals, fitted to the bulk of the rows (`energax.training.fit_experts`). It is
    `energy_`, can be sampled, and scores new rows. Rows may have missing values, which the mixture
    fills by their conditional means. Columns of a data frame that hold words, categories or
    booleans are categories: of the columns by themselves and of the mixture. A value that was not
    there in `fit` counts as one that half a row had.

    With `novelty` the rows to fit are taken for normal, all of them: none is left out, the experts
    are the mixture and a kernel density of the rows, and odd is what is unlike them. An odd
    row among them is normal from then on.

    **Arguments:** `contamination`: "auto" calls rows odd whose energy is as far above the median as
    that of one row in a thousand would be in a normal of as many columns, with `novelty` above that
    of every training row by the others; a number from 0 to 0.5 is the share of the training rows
    that is called odd. `novelty`: whether no training row is odd. `max_components`: of the mixture.
    `calibration`: share of the rows that are held out for p-values. `random_state`: seed; equal
    seeds give equal results.

    Fitted: `energy_`, `offset_` (the score below which a row is odd), `decision_scores_` (E of the
    training rows, higher is odder; with `novelty` by the others) and `labels_` (1 if odd) as in
    PyOD.
    """

    _parameter_constraints: ClassVar[dict] = {
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "novelty": ["boolean"],
        "max_components": [Interval(Integral, 1, None, closed="left")],
        "calibration": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        contamination="auto",
        *,
        novelty=False,
        max_components=8,
        calibration=0.25,
        random_state=None,
    ):
        self.contamination = contamination
        self.novelty = novelty
        self.max_components = max_components
        self.calibration = calibration
        self.random_state = random_state

    def fit(self, X, y=None):
        """Fits the energy to the rows of X, (rows, columns); `y` is ignored."""
        self._validate_params()
        self._rows = read_columns(self, X, reset=True)
        self._seed = seed_of(self.random_state)
        fitted = self._fitted = self._experts(self._rows)
        self.energy_ = fitted.energy
        if len(fitted.centre):
            self.energy_ = Standardised(fitted.energy, fitted.centre, fitted.scale)
        self.decision_scores_ = self._scores(fitted)
        if self.contamination == "auto":
            highest = float(self.decision_scores_.max())
            self.offset_ = -(highest if self.novelty else fitted.threshold)
        else:
            self.offset_ = float(np.quantile(-self.decision_scores_, float(self.contamination)))
        self.labels_ = (-self.decision_scores_ < self.offset_).astype(int)
        self._calibrated = None
        return self

    def score_samples(self, X):
        """f(x) = −E(x) of every row, (rows,): the lower, the odder. It is not normalised."""
        rows = self._checked(X)
        return -self._energies(self._fitted, rows)

    def decision_function(self, X):
        """f(x) less `offset_`, (rows,): negative for odd rows."""
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """−1 for odd rows, 1 for the others."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X):
        """Conformal p-values, (rows,): of rows like the ones fitted, a share α has p ≤ α.

        p = (1 + number of held-out rows as odd) / (n + 1), ties broken at random, of an energy
        fitted without the held-out rows (made when first asked for). `smallest_p_` is the smallest
        that so many rows can give. Where the table that was fitted held odd rows, p is too large
        rather than too small.
        """
        calibration, scores = self._held_against(X)
        self.smallest_p_ = calibration.smallest_p
        uniform = np.random.default_rng(self._seed + 1).random(len(scores))
        return calibration.p_values(scores, uniform)

    def discoveries(self, X, false_discovery_rate=0.1):
        """Which rows are odd, (rows,) of bool: of those named at most this share is normal, on
        average (`energax.tasks.discoveries`)."""
        return tasks.discoveries(self.p_values(X), false_discovery_rate)

    def drift(self, X):
        """p-value of the batch X as a whole: small where its energies are not spread like those of
        held-out rows (`energax.tasks.Calibration.drift`)."""
        calibration, scores = self._held_against(X)
        return calibration.drift(scores)

    def explain(self, X):
        """Which columns make a row odd: by how much E would fall if one value alone were mended.

        (rows, columns), in nats of E (`energax.tasks.explain`); gaps are filled first.
        """
        rows = self._checked(X)
        filled, reference = (self._fitted.mixture.filled(r).point for r in (rows, self._rows))
        found = tasks.explain(self.energy_, filled, reference=reference).contributions
        return found if self.layout_ is None else self.layout_.by_column(found)

    def sample(self, n_samples=1):
        """Rows drawn from the energy, (n_samples, columns), a data frame where one with categories
        was fitted; their verdict is in `reliable_` and `reasons_`."""
        check_is_fitted(self)
        draws = samplers.sample(self.energy_, n_samples, key=random.key(self._seed))
        self.reliable_, self.reasons_ = draws.reliable, draws.reasons
        return as_table(self.layout_, draws.flat())

    def _experts(self, rows):
        most, seed = self.max_components, self._seed
        return fit_experts(rows, max_components=most, seed=seed, clean=self.novelty)

    def _scores(self, fitted):
        """E of the rows fitted; with `novelty` by the others, as a row would vouch for itself."""
        if not self.novelty:
            return self._energies(fitted, self._rows)
        scores = fitted.energies.copy()
        unknown = ~np.isfinite(scores)
        if unknown.any():
            scores[unknown] = self._energies(fitted, self._rows[unknown])
        return scores

    def _checked(self, X):
        check_is_fitted(self)
        return read_columns(self, X, reset=False)

    def _held_against(self, X):
        """(the calibration, E of the rows of X by the energy that did not see its rows)."""
        rows = self._checked(X)
        if self._calibrated is None:
            out, kept = held_out(len(self._rows), self.calibration, self._seed)
            fitted = self._experts(self._rows[kept])
            energies = self._energies(fitted, self._rows[out])
            self._calibrated = fitted, tasks.Calibration.of(energies)
        fitted, calibration = self._calibrated
        return calibration, self._energies(fitted, rows)

    def _energies(self, fitted, rows):
        rows = fitted.mixture.filled(rows)
        z = (rows.numbers - fitted.centre) / fitted.scale
        # E rises without end: a number that float32 does not hold must not become NaN
        rows = dataclasses.replace(rows, numbers=np.clip(z, -_FAR, _FAR))
        return energies_of(fitted.energy, rows.point)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
