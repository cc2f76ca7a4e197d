"""Energies that are fitted in closed steps, without an optimiser."""

from energax.training.experts._base import Columns, MixedMixture, NormalMixture
from energax.training.experts.choose import (
    Experts,
    fit_components,
    fit_experts,
    fit_mixed_mixture,
    fit_mixture,
)

__all__ = [
    "Columns",
    "Experts",
    "MixedMixture",
    "NormalMixture",
    "fit_components",
    "fit_experts",
    "fit_mixed_mixture",
    "fit_mixture",
]
