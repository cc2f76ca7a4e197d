"""Energies that are fitted in closed steps, without an optimiser."""

from energax.training.experts._base import NormalMixture
from energax.training.experts.choose import Experts, fit_experts, fit_mixture

__all__ = ["Experts", "NormalMixture", "fit_experts", "fit_mixture"]
