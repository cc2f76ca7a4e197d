"""What θ should minimise."""

from energax.objectives._base import AbstractObjective
from energax.objectives.choose import default_objective
from energax.objectives.conditional import ConditionalLikelihood
from energax.objectives.contrastive_divergence import (
    ContrastiveDivergence,
    MeanFieldPCD,
    PersistentCD,
)
from energax.objectives.likelihood import MaximumLikelihood

__all__ = [
    "AbstractObjective",
    "ConditionalLikelihood",
    "ContrastiveDivergence",
    "MaximumLikelihood",
    "MeanFieldPCD",
    "PersistentCD",
    "default_objective",
]
