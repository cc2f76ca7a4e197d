"""What Boltzmann machines are made of: layers of units, and two of them joined."""

from energax.energies.boltzmann._base.centred import AbstractCentredRBM, Offsets
from energax.energies.boltzmann._base.fitted import fitted_units
from energax.energies.boltzmann._base.layers import (
    RecordUnits,
    ReplicatedSoftmaxUnits,
    SoftmaxUnits,
)
from energax.energies.boltzmann._base.rbm import RBM, AbstractRBM, AnnealedRBM, RBMPath
from energax.energies.boltzmann._base.units import (
    AbstractScalarUnits,
    AbstractUnits,
    BernoulliUnits,
    CountUnits,
    GaussianUnits,
    RectifiedUnits,
    SpinUnits,
)

__all__ = [
    "RBM",
    "AbstractCentredRBM",
    "AbstractRBM",
    "AbstractScalarUnits",
    "AbstractUnits",
    "AnnealedRBM",
    "BernoulliUnits",
    "CountUnits",
    "GaussianUnits",
    "Offsets",
    "RBMPath",
    "RecordUnits",
    "RectifiedUnits",
    "ReplicatedSoftmaxUnits",
    "SoftmaxUnits",
    "SpinUnits",
    "fitted_units",
]
