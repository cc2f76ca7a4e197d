"""What Boltzmann machines are made of: layers of units."""

from energax.energies.boltzmann._base.layers import (
    RecordUnits,
    ReplicatedSoftmaxUnits,
    SoftmaxUnits,
)
from energax.energies.boltzmann._base.numbers import softplus_change
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
    "AbstractScalarUnits",
    "AbstractUnits",
    "BernoulliUnits",
    "CountUnits",
    "GaussianUnits",
    "RecordUnits",
    "RectifiedUnits",
    "ReplicatedSoftmaxUnits",
    "SoftmaxUnits",
    "SpinUnits",
    "softplus_change",
]
