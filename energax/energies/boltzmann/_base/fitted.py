"""The visible units that suit a space and the columns of its data."""

import jax.numpy as jnp
import numpy as np

from energax.energies._base import base_rates
from energax.energies.boltzmann._base.layers import RecordUnits, SoftmaxUnits
from energax.energies.boltzmann._base.units import (
    AbstractUnits,
    BernoulliUnits,
    CountUnits,
    GaussianUnits,
    SpinUnits,
)
from energax.spaces import AbstractSpace, Binary, Categorical, Count, Point, Real, Record, Spin


def fitted_units(space: AbstractSpace, data: Point | None = None) -> AbstractUnits:
    """The visible units that suit a space, matched to the columns of `data` (rows, *event).

    **Raises:** TypeError for a space without units of its kind; ValueError for rows outside it.
    """
    if isinstance(space, Record):
        rows = None if data is None else space.validate(data, batch=True, name="data")
        return RecordUnits(
            {n: fitted_units(p, None if rows is None else rows[n]) for n, p in space.parts.items()}
        )
    kinds = Binary, Spin, Real, Categorical, Count
    flat = space.sites if isinstance(space, Categorical) else space.shape
    if not isinstance(space, kinds) or len(flat) != 1:
        raise TypeError(
            "an RBM's visible units live on a flat Binary, Spin, Real, Categorical or Count space, "
            f"or a Record of such, got {space}; reshape images to rows"
        )
    (num,) = flat
    rows = None if data is None else np.asarray(space.validate(data, batch=True, name="data"))
    if isinstance(space, Binary | Spin):
        logits = np.zeros(num) if rows is None else np.diff(base_rates(rows > 0, 2))[:, 0]
        return BernoulliUnits(logits) if isinstance(space, Binary) else SpinUnits(logits / 2)
    if isinstance(space, Real):
        if rows is None:
            return GaussianUnits(jnp.zeros(num))
        sd = rows.std(axis=0, dtype=np.float64)
        sd = np.maximum(sd, 1e-3 * max(float(sd.max()), 1e-12))  # a constant column
        return GaussianUnits(rows.mean(axis=0, dtype=np.float64), np.log(sd))
    if isinstance(space, Count):
        mean = 1.0 if rows is None else (rows.sum(axis=0, dtype=np.float64) + 0.5) / (len(rows) + 1)
        return CountUnits(np.broadcast_to(np.log(mean), (num,)))
    assert isinstance(space, Categorical)
    if rows is None:
        return SoftmaxUnits(np.zeros((num, space.num_values)), space.encoding)
    rates = base_rates(np.asarray(space.decode(rows)), space.num_values)
    return SoftmaxUnits(rates, space.encoding)
