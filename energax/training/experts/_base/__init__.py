"""Mixtures of normals, and of columns of numbers and categories."""

from energax.training.experts._base.mixed import (
    PRIOR_ROWS,
    Columns,
    MixedMixture,
    MixedPrior,
    categorical,
    check,
    fit_components,
)
from energax.training.experts._base.normals import NormalMixture, log_sum, standard

__all__ = [
    "PRIOR_ROWS",
    "Columns",
    "MixedMixture",
    "MixedPrior",
    "NormalMixture",
    "categorical",
    "check",
    "fit_components",
    "log_sum",
    "standard",
]
