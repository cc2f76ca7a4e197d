"""The scikit-learn face: estimators that hold seeds and speak NumPy."""

from energax.estimators.boltzmann import BernoulliRBM as BernoulliRBM
