"""Energies that are fitted in closed steps, without an optimiser."""

from energax.training.experts._base import (
    Columns,
    MixedMixture,
    NormalMixture,
    fit_components,
)
from energax.training.experts.choose import (
    Experts,
    fit_experts,
    fit_mixed_mixture,
    fit_mixture,
)
from energax.training.experts.classes import ClassMixtures, fit_class_mixtures

__all__ = [
    "ClassMixtures",
    "Columns",
    "Experts",
    "MixedMixture",
    "NormalMixture",
    "fit_class_mixtures",
    "fit_components",
    "fit_experts",
    "fit_mixed_mixture",
    "fit_mixture",
]
