"""What θ should minimise."""

from energax.objectives._base import AbstractObjective
from energax.objectives.choose import default_objective
from energax.objectives.conditional import ConditionalLikelihood
from energax.objectives.contrastive_divergence import (
    ContrastiveDivergence,
    MeanFieldPCD,
    PersistentCD,
    TemperedPCD,
)
from energax.objectives.discrete import MinimumProbabilityFlow, PseudoLikelihood, RatioMatching
from energax.objectives.likelihood import MaximumLikelihood
from energax.objectives.noise_contrastive import NoiseContrastive
from energax.objectives.penalised import Penalised
from energax.objectives.perturbed import ConditionalNCE, EnergyDiscrepancy
from energax.objectives.score_matching import (
    DenoisingScoreMatching,
    MultiscaleDenoising,
    ScoreMatching,
    SlicedScoreMatching,
)
from energax.objectives.sparse import SparseHidden

__all__ = [
    "AbstractObjective",
    "ConditionalLikelihood",
    "ConditionalNCE",
    "ContrastiveDivergence",
    "DenoisingScoreMatching",
    "EnergyDiscrepancy",
    "MaximumLikelihood",
    "MeanFieldPCD",
    "MinimumProbabilityFlow",
    "MultiscaleDenoising",
    "NoiseContrastive",
    "Penalised",
    "PersistentCD",
    "PseudoLikelihood",
    "RatioMatching",
    "ScoreMatching",
    "SlicedScoreMatching",
    "SparseHidden",
    "TemperedPCD",
    "default_objective",
]
