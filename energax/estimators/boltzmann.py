"""scikit-learn's face of the Bernoulli RBM: seeds, NumPy in and out, `transform` to features."""

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from energax import energies, objectives, random, tasks, training
from energax.estimators._base import seed_of


class BernoulliRBM(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Bernoulli RBM with scikit-learn's parameters, a real likelihood and a verdict.

    Trained by persistent contrastive divergence (Tieleman 2008) in centred parameters (Montavon &
    Müller 2012). A drop-in for scikit-learn's estimator of the same name, except that
    `score_samples` is log p(x) with log Z estimated, where scikit-learn's is a pseudo-likelihood.

    **Arguments:** `n_components`: hidden units. `learning_rate`: of Adam. `batch_size`: rows a
    minibatch. `n_iter`: epochs. `n_gibbs_steps`: Gibbs steps of the chains an update. `sparsity`:
    about the share of rows in which a hidden unit is to be on, between 0 and 1; None leaves that
    to the likelihood. `random_state`: seed; equal seeds give equal results.

    For features rather than the likelihood try `sparsity=0.05`, by a grid search: each unit then
    stands for something rare. On MNIST that tells digits apart better, on scikit-learn's small
    digits worse. Training is by contrastive divergence then, with `SparseHidden` (Lee, Ekanadham &
    Ng 2008), and the likelihood is lower.

    Fitted: `energy_` (the energax energy), `components_` (hidden, visible), `intercept_hidden_`,
    `intercept_visible_`, `reliable_` and `reasons_` of the training, and after `score_samples`
    `log_z_`.

    Entries of X lie in [0, 1] and are read as probabilities that a unit is on: `fit` and
    `score_samples` draw one binary table from them; 0 and 1 stay as they are.
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "n_iter": [Interval(Integral, 1, None, closed="left")],
        "n_gibbs_steps": [Interval(Integral, 1, None, closed="left")],
        "sparsity": [Interval(Real, 0, 1, closed="neither"), None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_components=256,
        *,
        learning_rate=1e-3,
        batch_size=100,
        n_iter=10,
        n_gibbs_steps=1,
        sparsity=None,
        random_state=None,
    ):
        self.n_components = n_components
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.n_gibbs_steps = n_gibbs_steps
        self.sparsity = sparsity
        self.random_state = random_state

    def fit(self, X, y=None):
        """Fits the RBM to X (rows, visible) with entries in [0, 1]; `y` is ignored."""
        self._validate_params()
        X = self._checked(X, reset=True)
        self._seed = seed_of(self.random_state)
        rows = self._binary(X)
        energy, objective = self._start(rows)
        result = training.fit(
            energy,
            rows,
            objective,
            key=random.key(self._seed + 1),
            learning_rate=self.learning_rate,
            batch_size=min(self.batch_size, len(rows)),
            num_epochs=self.n_iter,
        )
        fitted: Any = result.energy
        self.energy_: Any = fitted if self.sparsity is not None else fitted.plain
        self.reliable_, self.reasons_ = result.reliable, result.reasons
        self.components_ = np.asarray(self.energy_.weight).T
        self.intercept_hidden_ = np.asarray(self.energy_.hidden_bias)
        self.intercept_visible_ = np.asarray(self.energy_.visible_bias)
        self.n_iter_ = self.n_iter
        return self

    def _start(self, rows: np.ndarray):
        """(Energy to start from, objective)."""
        rate = 0.5 if self.sparsity is None else float(self.sparsity)
        energy = energies.BernoulliRBM.random(
            rows.shape[1],
            self.n_components,
            key=random.key(self._seed),
            data=rows,
            hidden_rate=rate,
        )
        if self.sparsity is None:
            centred = energies.CentredRBM.of(energy, rows)
            return centred, objectives.PersistentCD(num_steps=self.n_gibbs_steps)
        likelihood = objectives.ContrastiveDivergence(num_steps=self.n_gibbs_steps)
        return energy, objectives.SparseHidden(likelihood, target=rate, strength=0.5)

    def transform(self, X):
        """Hidden-unit means E[h | x], (rows, hidden)."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        return np.asarray(self.energy_.hidden_mean(X.astype(np.float32)), X.dtype)

    def score_samples(self, X):
        """log p(x) of every row, (rows,), with `log_z_` (value, error, verdict) estimated once."""
        check_is_fitted(self)
        rows = self._binary(self._checked(X, reset=False))
        scores = tasks.score_samples(
            self.energy_,
            rows,
            key=random.key(self._seed + 2),
            log_z=getattr(self, "log_z_", None),
        )
        self.log_z_ = scores.log_z
        return scores.log_prob

    def score(self, X, y=None):
        """Mean log-likelihood of the rows, in nats."""
        return float(np.mean(self.score_samples(X)))

    def _checked(self, X, *, reset: bool) -> np.ndarray:
        X = np.asarray(validate_data(self, X, reset=reset, dtype=(np.float64, np.float32)))
        if np.any((X < -1e-6) | (X > 1 + 1e-6)):  # MinMaxScaler's rounding passes
            raise ValueError(
                f"{type(self).__name__} expects entries in [0, 1] (probabilities that a unit is "
                f"on), got {X.min():g} to {X.max():g}: put a MinMaxScaler or Binarizer before it"
            )
        return np.clip(X, 0, 1)

    def _binary(self, X: np.ndarray) -> np.ndarray:
        uniform = np.random.default_rng(self._seed).random(X.shape)
        return (uniform < X).astype(np.float32)

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
