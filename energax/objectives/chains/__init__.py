"""Objectives whose half of the gradient from the model comes from chains."""

from energax.objectives.chains.contrastive_divergence import (
    ContrastiveDivergence as ContrastiveDivergence,
)
from energax.objectives.chains.contrastive_divergence import MeanFieldPCD as MeanFieldPCD
from energax.objectives.chains.contrastive_divergence import PersistentCD as PersistentCD
from energax.objectives.chains.contrastive_divergence import TemperedPCD as TemperedPCD
from energax.objectives.chains.latent import LatentPCD as LatentPCD
from energax.objectives.chains.recovery import RecoveryLikelihood as RecoveryLikelihood
from energax.objectives.chains.replay import ImprovedCD as ImprovedCD
from energax.objectives.chains.replay import ReplayCD as ReplayCD
