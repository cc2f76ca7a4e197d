"""Fill what is missing in a table of numbers."""

from numbers import Integral
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from energax.estimators._base import read_table, seed_of
from energax.training import fit_mixture

_DRAWS = 1000


class EnergyImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fills missing values (NaN) from p(missing | observed) of a mixture of normals.

    The mixture is fitted by EM to rows with gaps as they are, its number of components chosen on
    held-out rows (`energax.training.fit_mixture`). That values are missing must not depend on what
    they would have been, given what is there (Rubin 1976).

    **Arguments:** `sample_posterior`: fill by draws in place of conditional means, anew at every
    `transform`, as multiple imputation wants (Rubin 1987). `max_components`: of the mixture.
    `random_state`: seed; equal seeds give equal results.

    Fitted: `energy_`, the mixture as an energy.
    """

    _parameter_constraints: ClassVar[dict] = {
        "sample_posterior": ["boolean"],
        "max_components": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(self, *, sample_posterior=False, max_components=16, random_state=None):
        self.sample_posterior = sample_posterior
        self.max_components = max_components
        self.random_state = random_state

    def fit(self, X, y=None):
        """Fits the mixture to the rows of X, (rows, columns) with NaN at gaps; `y` is ignored."""
        self._validate_params()
        rows = read_table(self, X, reset=True)
        seed = seed_of(self.random_state)
        self._generator = np.random.default_rng(seed)
        self._mixture = fit_mixture(rows, max_components=self.max_components, seed=seed)
        self.energy_ = self._mixture.energy()
        return self

    def transform(self, X):
        """X with its gaps filled, (rows, columns)."""
        rows = self._checked(X)
        if self.sample_posterior:
            return self._mixture.drawn(rows, 1, self._generator)[0]
        return self._mixture.filled(rows)

    def draws(self, X, num=10):
        """`num` tables with every gap filled by a draw, (num, rows, columns)."""
        return self._mixture.drawn(self._checked(X), num, self._generator)

    def intervals(self, X, level=0.95):
        """(low, high), each (rows, columns): between them the missing value lies with probability
        `level`; at values that are there both are the value."""
        if not 0 < level < 1:
            raise ValueError(f"level: expected between 0 and 1, got {level}")
        draws = self._mixture.drawn(self._checked(X), _DRAWS, self._generator)
        return tuple(np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0))

    def _checked(self, X):
        check_is_fitted(self)
        return read_table(self, X, reset=False)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
