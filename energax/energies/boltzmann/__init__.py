"""Boltzmann machines of layers."""

from energax.energies.boltzmann._base import (
    RBM,
    AbstractRBM,
    AnnealedRBM,
    BernoulliUnits,
    CountUnits,
    GaussianUnits,
    RBMPath,
    RecordUnits,
    RectifiedUnits,
    ReplicatedSoftmaxUnits,
    SoftmaxUnits,
    SpinUnits,
)
from energax.energies.boltzmann.bernoulli import BernoulliRBM
from energax.energies.boltzmann.centred import CentredRBM
from energax.energies.boltzmann.deep import CentredDBM, DeepBoltzmannMachine, TiedRBM
from energax.energies.boltzmann.replicated import ReplicatedSoftmax, TopicsOfLength

__all__ = [
    "RBM",
    "AbstractRBM",
    "AnnealedRBM",
    "BernoulliRBM",
    "BernoulliUnits",
    "CentredDBM",
    "CentredRBM",
    "CountUnits",
    "DeepBoltzmannMachine",
    "GaussianUnits",
    "RBMPath",
    "RecordUnits",
    "RectifiedUnits",
    "ReplicatedSoftmax",
    "ReplicatedSoftmaxUnits",
    "SoftmaxUnits",
    "SpinUnits",
    "TiedRBM",
    "TopicsOfLength",
]
