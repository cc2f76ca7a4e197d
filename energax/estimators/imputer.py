"""Fill what is missing in a table."""

from numbers import Integral
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from energax.estimators._base import ReadsColumns, read_columns, seed_of
from energax.training import fit_mixed_mixture

_DRAWS = 1000


class EnergyImputer(ReadsColumns, OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fills missing values (NaN) from p(missing | observed) of a mixture of normals.

    The mixture is fitted by EM to rows with gaps as they are, its number of components chosen on
    held-out rows (`energax.training.fit_mixture`). That values are missing must not depend on what
    they would have been, given what is there (Rubin 1976). Columns of a data frame that hold words,
    categories or booleans are categories: a gap gets the most probable of the values seen. Then
    data frames are given back.

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
        rows = read_columns(self, X, reset=True)
        seed = seed_of(self.random_state)
        self._generator = np.random.default_rng(seed)
        found = fit_mixed_mixture(rows, max_components=self.max_components, seed=seed)
        self.energy_ = found.energy(rows.space)
        self._mixture = found if self.layout_ is None else found.given_values(self.layout_.seen)
        return self

    def transform(self, X):
        """X with its gaps filled, (rows, columns)."""
        rows = self._checked(X)
        if self.sample_posterior:
            return self._table(self._drawn(rows, 1)[0], X)
        return self._table(self._mixture.filled(rows), X)

    def draws(self, X, num=10):
        """`num` tables with every gap filled by a draw, (num, rows, columns); a list of data frames
        where one with categories was fitted."""
        tables = [self._table(rows, X) for rows in self._drawn(self._checked(X), num)]
        return np.stack(tables) if self.layout_ is None else tables

    def intervals(self, X, level=0.95):
        """(low, high), each (rows, columns): between them the missing value lies with probability
        `level`; at values that are there both are the value. Of a table with categories the columns
        of numbers, in their order."""
        if not 0 < level < 1:
            raise ValueError(f"level: expected between 0 and 1, got {level}")
        draws = np.stack([rows.numbers for rows in self._drawn(self._checked(X), _DRAWS)])
        return tuple(np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0))

    def probabilities(self, X):
        """What each category may be, {column: (rows, values)}, with the values in
        `categories_[column]`; at one that is there it is 1. Of a table with categories.

        p(value | what is there) of the mixture.
        """
        rows = self._checked(X)
        if self.layout_ is None:
            raise ValueError("probabilities: the table that was fitted has no column of categories")
        shares = self._mixture.value_shares(rows)
        return {
            name: shares[:, j, : len(values)]
            for j, (name, values) in enumerate(self.layout_.values.items())
        }

    @property
    def categories_(self):
        """{column: its values}, of columns of categories."""
        check_is_fitted(self)
        return {} if self.layout_ is None else dict(self.layout_.values)

    def _checked(self, X):
        check_is_fitted(self)
        return read_columns(self, X, reset=False)

    def _drawn(self, rows, num):
        return self._mixture.drawn(rows, num, self._generator)

    def _table(self, rows, X):
        return rows.numbers if self.layout_ is None else self.layout_.filled(X, rows)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
