"""Boltzmann machines of layers."""

from energax.energies.boltzmann._base import (
    BernoulliUnits,
    CountUnits,
    GaussianUnits,
    RecordUnits,
    RectifiedUnits,
    ReplicatedSoftmaxUnits,
    SoftmaxUnits,
    SpinUnits,
)
from energax.energies.boltzmann.rbm import RBM, AnnealedRBM, BernoulliRBM, RBMPath

__all__ = [
    "RBM",
    "AnnealedRBM",
    "BernoulliRBM",
    "BernoulliUnits",
    "CountUnits",
    "GaussianUnits",
    "RBMPath",
    "RecordUnits",
    "RectifiedUnits",
    "ReplicatedSoftmaxUnits",
    "SoftmaxUnits",
    "SpinUnits",
]
