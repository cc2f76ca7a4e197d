"""The scikit-learn face: estimators that hold seeds and speak NumPy."""

from energax.estimators.boltzmann import BernoulliRBM as BernoulliRBM
from energax.estimators.classifier import EnergyClassifier as EnergyClassifier
from energax.estimators.denoiser import EnergyDenoiser as EnergyDenoiser
from energax.estimators.density import EnergyDensity as EnergyDensity
from energax.estimators.detector import EnergyDetector as EnergyDetector
from energax.estimators.imputer import EnergyImputer as EnergyImputer
