"""How probable is a row of a table?"""

from numbers import Integral
from typing import ClassVar

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from energax import random, samplers, tasks, training
from energax.energies._base import AbstractNormalised
from energax.estimators._base import (
    OF_TRAINING,
    ReadsColumns,
    as_table,
    read_columns,
    read_table,
    seed_of,
    standardised,
)


class EnergyDensity(ReadsColumns, DensityMixin, BaseEstimator):
    """The density of rows, normalised, of an energy of your own or a mixture of normals.

    By default a mixture of normals whose number of components is chosen on held-out rows
    (`energax.training.fit_mixture`): log Z is exact, and rows may have missing values, which are
    summed out. Columns of a data frame that hold words, categories or booleans are categories, of
    which each component has shares of its own: p is then a density in the numbers and a probability
    in the categories. With `energy=` that energy is trained on the standardised columns by
    `energax.fit`, and log Z is estimated, with its error and verdict, when it is first asked for.

    **Arguments:** `energy`: an energax energy on `Real((columns,))`, or None. `objective`: of its
    training; None takes the default of `energax.fit`. `num_steps`, `batch_size`, `learning_rate`:
    of that training. `max_components`: of the mixture. `random_state`: seed; equal seeds give equal
    results.

    Fitted: `energy_`; `reliable_` and `reasons_` of the training, or of the last answer; `log_z_`
    after `score_samples`.
    """

    _parameter_constraints: ClassVar[dict] = {
        **OF_TRAINING,
        "max_components": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        energy=None,
        *,
        objective=None,
        num_steps=2000,
        batch_size=128,
        learning_rate=1e-3,
        max_components=16,
        random_state=None,
    ):
        self.energy = energy
        self.objective = objective
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_components = max_components
        self.random_state = random_state

    def fit(self, X, y=None):
        """Fits the density to the rows of X, (rows, columns); `y` is ignored."""
        self._validate_params()
        self._seed = seed_of(self.random_state)
        self.log_z_ = None
        if self.energy is None:
            columns = read_columns(self, X, reset=True)
            self._mixture = training.fit_mixed_mixture(
                columns, max_components=self.max_components, seed=self._seed
            )
            self.energy_ = self._mixture.energy(columns.space)
            self.reliable_, self.reasons_ = True, ()
            return self
        self.layout_ = None
        rows = read_table(self, X, reset=True, gaps=False)
        if self.energy.space.shape != rows.shape[1:]:
            raise ValueError(
                f"energy: expected one on Real(({rows.shape[1]},)), a number a column, got "
                f"{self.energy.space}"
            )
        result = training.fit(
            standardised(self.energy, rows),
            rows,
            self.objective,
            key=random.key(self._seed),
            num_steps=self.num_steps,
            batch_size=min(self.batch_size, len(rows)),
            learning_rate=self.learning_rate,
        )
        self.energy_ = result.energy
        self.reliable_, self.reasons_ = result.reliable, result.reasons
        return self

    def score_samples(self, X):
        """log p(x) of every row, (rows,); of a row with gaps log p of what is there."""
        check_is_fitted(self)
        if self.energy is None:
            return self._mixture.log_prob(read_columns(self, X, reset=False))
        rows = read_table(self, X, reset=False, gaps=False)
        scores = tasks.score_samples(
            self.energy_, rows, key=random.key(self._seed + 1), log_z=self.log_z_
        )
        self.log_z_ = scores.log_z
        self.reliable_, self.reasons_ = scores.reliable, scores.reasons
        return scores.log_prob

    def score(self, X, y=None):
        """Mean log-likelihood of the rows, in nats."""
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples=1):
        """Rows drawn from the energy, (n_samples, columns); a data frame where one with categories
        was fitted."""
        check_is_fitted(self)
        key = random.key(self._seed + 2)
        if isinstance(self.energy_, AbstractNormalised):
            return as_table(self.layout_, self.energy_.draw(n_samples, key=key))
        draws = samplers.sample(self.energy_, n_samples, key=key)
        self.reliable_, self.reasons_ = draws.reliable, draws.reasons
        return np.asarray(draws.flat(), np.float64)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.energy is None
        return tags
