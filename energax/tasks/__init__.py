"""Answer a user's question: ratios, likelihoods, anomalies, cleaning, filling in, features."""

from energax.tasks._base import Restored as Restored
from energax.tasks.anomaly import AnomalyScores as AnomalyScores
from energax.tasks.anomaly import Calibration as Calibration
from energax.tasks.anomaly import anomaly_scores as anomaly_scores
from energax.tasks.anomaly import discoveries as discoveries
from energax.tasks.classify import classify as classify
from energax.tasks.contacts import contact_scores as contact_scores
from energax.tasks.contacts import sequence_weights as sequence_weights
from energax.tasks.denoise import BitFlip as BitFlip
from energax.tasks.denoise import Denoised as Denoised
from energax.tasks.denoise import GaussianNoise as GaussianNoise
from energax.tasks.denoise import denoise as denoise
from energax.tasks.documents import perplexity as perplexity
from energax.tasks.explain import Explanation as Explanation
from energax.tasks.explain import explain as explain
from energax.tasks.features import features as features
from energax.tasks.impute import impute as impute
from energax.tasks.likelihood import compare as compare
from energax.tasks.likelihood import score_samples as score_samples
from energax.tasks.likelihood import variational_bound as variational_bound
from energax.tasks.mode import Mode as Mode
from energax.tasks.mode import mode as mode
from energax.tasks.ratio import log_ratio as log_ratio
from energax.tasks.two_samples import TwoSamples as TwoSamples
from energax.tasks.two_samples import same_distribution as same_distribution
