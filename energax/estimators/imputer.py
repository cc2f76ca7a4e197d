"""Fill what is missing in a table."""

import math
import warnings
from numbers import Integral
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from energax.estimators._base import ReadsColumns, read_columns, seed_of
from energax.training import fit_mixed_mixture

_DRAWS = 1000
_MOST_NUMBERS = 4_000_000  # of the draws of some rows at once, 32 MB
_CALIBRATION = 0.25  # of the rows, that say how far intervals miss
_CHECKED = 4_000  # values, that are hidden for it where there are as many


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
        self._rows = read_columns(self, X, reset=True)
        self._seed = seed_of(self.random_state)
        self._generator = np.random.default_rng(self._seed)
        found = self._fitted(self._rows)
        self.energy_ = found.energy(self._rows.space)
        self._mixture = found if self.layout_ is None else found.given_values(self.layout_.seen)
        self._held_out, self._moves = None, {}
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
        of numbers, in their order.

        Quantiles of p(missing | observed) of a mixture fitted without a quarter of the rows (so
        that a mean of `transform` may lie outside), moved outwards or inwards by as many sds of it
        as make them hold a share `level` of numbers of that quarter, hidden one at a time, in each
        column as often as it has gaps (after Romano, Patterson & Candès 2019, theorem 1). Where
        gaps fall at random, the share then holds over all of them, whatever the distribution is; of
        one column or one row it need not. The fit is made when intervals are first asked for; where
        too few rows could be held out for `level`, it warns.
        """
        if not 0 < level < 1:
            raise ValueError(f"level: expected between 0 and 1, got {level}")
        rows = self._checked(X)
        if not np.isnan(rows.numbers).any():
            return rows.numbers, rows.numbers.copy()
        mixture, moved = self._checked_by_hidden(level)
        low, high, sd = _between(mixture, rows, level, self._seed)
        low, high = low - moved * sd, high + moved * sd
        middle = (low + high) / 2
        return np.minimum(low, middle), np.maximum(high, middle)

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

    def _fitted(self, rows):
        return fit_mixed_mixture(rows, max_components=self.max_components, seed=self._seed)

    def _checked_by_hidden(self, level):
        """(a mixture fitted without the rows held out, by how many sds its quantiles are moved
        outwards so that they hold)."""
        if self._held_out is None:
            out = _to_hold_out(self._rows, self._seed)
            kept = np.setdiff1d(np.arange(len(self._rows)), out)
            mixture = self._fitted(self._rows[kept]) if len(out) else self._mixture
            gaps = np.isnan(self._rows.numbers).mean(0)
            self._held_out = mixture, out, _one_hidden(self._rows[out], gaps, self._seed)
        mixture, out, (asked, column, true, weight) = self._held_out
        if level not in self._moves:
            each = np.arange(len(asked)), column
            low, high, sd = (a[each] for a in _between(mixture, asked, level, self._seed))
            known = sd > 0
            beyond = (np.maximum(low - true, true - high)[known] / sd[known], weight[known])
            self._moves[level] = _quantile(*beyond, level)
        needed = math.ceil(round(level / (1 - level), 9))
        if len(out) < needed:
            warnings.warn(
                f"intervals: {len(out)} rows could be held out to check them, too few for "
                f"level={level:g}: it wants {needed}; they may be too narrow, fit more rows or ask "
                "for a lower level",
                stacklevel=3,
            )
        return mixture, self._moves[level]

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


def _to_hold_out(rows, seed):
    """A quarter of the rows, at random, less those that hold the last values of a column that are
    left; (_,), none where the others would be fewer than two."""
    order = np.random.default_rng(seed).permutation(len(rows))
    there = np.concatenate([~np.isnan(rows.numbers), rows.categories >= 0], axis=1)[order]
    last = len(rows) - 1 - there[::-1].argmax(0)  # of each column, in that order
    out = np.setdiff1d(np.arange(int(_CALIBRATION * len(rows))), last)
    return order[out] if len(rows) - len(out) > 1 else order[:0]


def _one_hidden(rows, gaps, seed):
    """(rows with one number more missing, which column (rows,), what stood there (rows,), weights).

    Numbers that are there, at random, a row once for each; their weights (rows,) make columns count
    as often as they have gaps, a share `gaps` (n,) of the rows, all alike where there are none.
    """
    there = ~np.isnan(rows.numbers)
    often = gaps / np.maximum(there.sum(0), 1)
    row, column = np.nonzero(there & (often > 0) if (there & (often > 0)).any() else there)
    chosen = np.random.default_rng(seed).permutation(len(row))[:_CHECKED]
    row, column = row[chosen], column[chosen]
    weight = often[column] if often[column].any() else np.ones(len(row))
    asked, true = rows[row], rows.numbers[row, column]
    asked.numbers[np.arange(len(row)), column] = np.nan
    return asked, column, true, weight


def _quantile(values, weights, level):
    """The least of the values below which a share `level` of the weights lies, one more value of
    mean weight counted above all; the largest where that is too much, 0 of none."""
    if not len(values):
        return 0.0
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / (weights.sum() + weights.mean())
    place = np.searchsorted(share, level - 1e-9)
    return float(values[order[min(place, len(values) - 1)]])


def _between(mixture, rows, level, seed):
    """(low, high) quantiles of p(missing | what is there) and its sd, each (rows, n); at numbers
    that are there they are these, and 0."""
    low, high, sd = rows.numbers.copy(), rows.numbers.copy(), np.zeros_like(rows.numbers)
    gaps = np.flatnonzero(np.isnan(rows.numbers).any(1))
    rng = np.random.default_rng(seed)
    ends = [(1 - level) / 2, (1 + level) / 2]
    num_parts = 1 + len(gaps) * rows.width * _DRAWS // _MOST_NUMBERS
    for part in np.array_split(gaps, num_parts) if len(gaps) else ():
        draws = np.stack([each.numbers for each in mixture.drawn(rows[part], _DRAWS, rng)])
        low[part], high[part] = np.quantile(draws, ends, axis=0)
        sd[part] = np.where(np.isnan(rows.numbers[part]), draws.std(0), 0.0)
    return low, high, sd
