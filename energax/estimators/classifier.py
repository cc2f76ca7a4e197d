"""Which class is a row of a table of, and is it a row like those of any?"""

import dataclasses
from numbers import Integral, Real
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from energax import random, spaces, tasks, training
from energax.energies._base import AbstractEnergy
from energax.estimators._base import (
    OF_TRAINING,
    ReadsColumns,
    held_out,
    read_columns,
    read_labelled,
    read_table,
    seed_of,
    standardised,
)
from energax.objectives import JointClassifier, PersistentCD
from energax.objectives.conditional import Marginal
from energax.tasks._base import log_density_rows
from energax.training import Columns


class EnergyClassifier(ReadsColumns, ClassifierMixin, BaseEstimator):
    """Classes of rows by a joint energy of columns and class, which also tells unusual rows.

    By default p(x, y) = p(y) p(x | y), each p(x | y) a mixture of normals whose covariances are
    drawn towards what the classes share (`energax.training.fit_class_mixtures`). log Z is exact;
    rows may have missing values, which are summed out. Columns of a data frame that hold words,
    categories or booleans are categories, of which each component has shares of its own. p(y | x)
    is calibrated on rows held out: (1 − noise) p(x, y)^beta / Σ_y' p(x, y')^beta + noise · p(y).

    With `energy=` that energy is trained on the standardised columns by `energax.fit`, by JEM
    (Grathwohl et al. 2020) unless `objective=` is another; p(y | x) is its own, and log Z is
    estimated when `score_samples` is first asked for, with its error and verdict.

    **Arguments:** `energy`: an energax energy on a record of `Real((columns,))` and one part of as
    many values as there are classes, such as `Record(x=Real((4,)), y=Categorical((), 3))`, or None.
    `objective`: of its training. `num_steps`, `batch_size`, `learning_rate`: of that training.
    `max_components`: of the mixture of a class. `calibration`: share of the rows that are held out
    for p-values. `random_state`: seed; equal seeds give equal results.

    Fitted: `classes_`; `energy_`, on a record, where y = i is `classes_[i]`; `reliable_` and
    `reasons_` of the training, or of the last answer. By default also `mixtures_`, in float64, with
    their beta and noise; of an energy of your own `log_z_` after `score_samples`.
    """

    _parameter_constraints: ClassVar[dict] = {
        **OF_TRAINING,
        "max_components": [Interval(Integral, 1, None, closed="left")],
        "calibration": [Interval(Real, 0, 1, closed="neither")],
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
        max_components=8,
        calibration=0.25,
        random_state=None,
    ):
        self.energy = energy
        self.objective = objective
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_components = max_components
        self.calibration = calibration
        self.random_state = random_state

    def fit(self, X, y):
        """Fits the energy to the rows of X, (rows, columns), and their classes y, (rows,), at least
        two of any kind."""
        self._validate_params()
        self._rows, y = read_labelled(self, X, y, gaps=self.energy is None)
        self.classes_, self._labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y: expected at least two classes, got one class, {self.classes_[0]!r}: "
                "EnergyDensity and EnergyDetector are for rows of one kind"
            )
        self._seed = seed_of(self.random_state)
        self._fitted = self._model(self._rows, self._labels)
        self.energy_ = self._fitted.energy
        self.reliable_, self.reasons_ = self._fitted.verdict
        if self.energy is None:
            self.mixtures_ = self._fitted.mixtures  # type: ignore[union-attr]
        self.log_z_ = self._calibrated = None
        return self

    def predict(self, X):
        """The class of greatest p(y | x) of every row, (rows,)."""
        best = np.argmax(self.predict_log_proba(X), axis=1)
        return self.classes_[best]

    def predict_proba(self, X):
        """p(y | what is there of x) of every row, (rows, classes), in the order of `classes_`."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X):
        """log p(y | what is there of x) of every row, (rows, classes)."""
        rows = self._checked(X)
        return self._fitted.log_posterior(rows)

    def score_samples(self, X):
        """log p(x) = log Σ_y p(x, y) of every row, (rows,), in nats; of a row with gaps log p of
        what is there."""
        rows, key = self._checked(X), random.key(self._seed + 1)
        log_prob, scores = self._fitted.log_prob(rows, key, self.log_z_)
        if scores is not None:
            self.log_z_ = scores.log_z
            self.reliable_, self.reasons_ = scores.reliable, scores.reasons
        return log_prob

    def p_values(self, X):
        """Conformal p-values, (rows,): of rows like the ones fitted, of whatever class, a share α
        has p ≤ α.

        p = (1 + number of held-out rows as unusual) / (n + 1), ties broken at random, of an energy
        fitted without the held-out rows (made when first asked for). `smallest_p_` is the smallest
        that so many rows can give. Unusual is a low p(x), of a row with gaps a high mean energy of
        what the gaps may hold (`MixedMixture.expected_energy`).
        """
        rows = self._checked(X)
        if self._calibrated is None:
            out, kept = held_out(len(self._rows), self.calibration, self._seed)
            fitted = self._model(self._rows[kept], self._labels[kept])
            self._calibrated = fitted, tasks.Calibration.of(fitted.energies(self._rows[out]))
        fitted, calibration = self._calibrated
        self.smallest_p_ = calibration.smallest_p
        uniform = np.random.default_rng(self._seed + 1).random(len(rows))
        return calibration.p_values(fitted.energies(rows), uniform)

    def _model(self, rows, labels):
        if self.energy is None:
            _, labels = np.unique(labels, return_inverse=True)  # a class may be held out whole
            mixtures = training.fit_class_mixtures(
                rows, labels, max_components=self.max_components, seed=self._seed
            )
            return _Mixtures(mixtures, rows.space)
        return self._trained(rows.numbers, labels)

    def _trained(self, rows, labels):
        assert self.energy is not None
        x, y = _names(self.energy, rows.shape[1], len(self.classes_))
        values = self.energy.space.parts[y].states(jnp.asarray(labels))
        objective = self.objective
        if objective is None:
            objective = JointClassifier(PersistentCD(num_steps=10), target=y)
        result = training.fit(
            standardised(self.energy, rows),
            {x: rows, y: np.asarray(values)},
            objective,
            key=random.key(self._seed),
            num_steps=self.num_steps,
            batch_size=min(self.batch_size, len(rows)),
            learning_rate=self.learning_rate,
        )
        return _Trained(result.energy, x, y, (result.reliable, result.reasons))

    def _checked(self, X):
        check_is_fitted(self)
        if self.energy is None:
            return read_columns(self, X, reset=False)
        return Columns.of_numbers(read_table(self, X, reset=False, gaps=False))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.energy is None
        return tags


class _Mixtures:
    """Mixtures, one a class, of rows on `space`."""

    verdict = True, ()

    def __init__(self, mixtures: training.ClassMixtures, space: Any):
        self.mixtures, self.marginal = mixtures, mixtures.marginal()
        self.space = space

    @property
    def energy(self) -> AbstractEnergy:
        return self.mixtures.energy(self.space)

    def log_posterior(self, rows: Columns) -> np.ndarray:
        return self.mixtures.log_posterior(rows)

    def energies(self, rows: Columns) -> np.ndarray:
        return self.marginal.expected_energy(rows)

    def log_prob(self, rows: Columns, key: Any, log_z: Any) -> tuple[np.ndarray, None]:
        return self.marginal.log_prob(rows), None


@dataclasses.dataclass
class _Trained:
    """An energy of the user's, trained: `x` and `y` name the columns and the class."""

    energy: AbstractEnergy
    x: str
    y: str
    verdict: tuple[bool, tuple[str, ...]]

    @property
    def _marginal(self) -> AbstractEnergy:
        return Marginal(self.energy, self.y)

    def log_posterior(self, rows: Columns) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(tasks.classify(self.energy, {self.x: rows.numbers}, target=self.y))

    def energies(self, rows: Columns) -> np.ndarray:
        return -log_density_rows(self._marginal, {self.x: rows.numbers}, "X")[0]

    def log_prob(self, rows: Columns, key: Any, log_z: Any) -> tuple[np.ndarray, Any]:
        scores = tasks.score_samples(self._marginal, {self.x: rows.numbers}, key=key, log_z=log_z)
        return scores.log_prob, scores


def _names(energy: AbstractEnergy, num_columns: int, num_classes: int) -> tuple[str, str]:
    """What the parts of the record are called: (the columns, the class)."""
    parts = energy.space.parts if isinstance(energy.space, spaces.Record) else {}
    rows = [k for k, part in parts.items() if part.is_continuous and part.shape == (num_columns,)]
    classes = [k for k, part in parts.items() if part.num_states == num_classes]
    if len(parts) != 2 or len(rows) != 1 or len(classes) != 1:
        raise ValueError(
            f"energy: expected one on a record of Real(({num_columns},)), a number a column, and "
            f"one part of {num_classes} values, as Record(x=Real(({num_columns},)), "
            f"y=Categorical((), {num_classes})), got {energy.space}"
        )
    return rows[0], classes[0]
