"""What θ should minimise."""

from energax.objectives._base import AbstractObjective
from energax.objectives.chains import (
    ContrastiveDivergence,
    ImprovedCD,
    LatentPCD,
    MeanFieldPCD,
    PersistentCD,
    RecoveryLikelihood,
    ReplayCD,
    TemperedPCD,
)
from energax.objectives.choose import default_objective
from energax.objectives.conditional import ConditionalLikelihood, JointClassifier
from energax.objectives.discrete import (
    ConcreteScoreMatching,
    MinimumProbabilityFlow,
    PseudoLikelihood,
    RatioMatching,
)
from energax.objectives.likelihood import MaximumLikelihood
from energax.objectives.matching import EnergyMatching, EquilibriumMatching
from energax.objectives.noise_contrastive import NoiseContrastive
from energax.objectives.penalised import EnergyPenalty, Penalised
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
    "ConcreteScoreMatching",
    "ConditionalLikelihood",
    "ConditionalNCE",
    "ContrastiveDivergence",
    "DenoisingScoreMatching",
    "EnergyDiscrepancy",
    "EnergyMatching",
    "EnergyPenalty",
    "EquilibriumMatching",
    "ImprovedCD",
    "JointClassifier",
    "LatentPCD",
    "MaximumLikelihood",
    "MeanFieldPCD",
    "MinimumProbabilityFlow",
    "MultiscaleDenoising",
    "NoiseContrastive",
    "Penalised",
    "PersistentCD",
    "PseudoLikelihood",
    "RatioMatching",
    "RecoveryLikelihood",
    "ReplayCD",
    "ScoreMatching",
    "SlicedScoreMatching",
    "SparseHidden",
    "TemperedPCD",
    "default_objective",
]
