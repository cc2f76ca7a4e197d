"""An energy of numbers of mean 0 and sd 1, read in the units that the data came in."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from energax.energies._base import AbstractEnergy, Frozen, frozen
from energax.spaces import Real


class Standardised(AbstractEnergy):
    """E(x) = E_inner((x − centre) / scale) on Real((n,)); log Z = log Z_inner + Σ log scale.

    The change of variables, as Bishop 2006, eq. 1.27. What `fit` trains is `inner`.

    **Arguments:** `inner`: an energy on Real((n,)). `centre`, `scale` > 0: (n,).

    **Raises:** TypeError for an inner energy on another space; ValueError for wrong shapes or a
    scale that is not positive.
    """

    inner: AbstractEnergy
    units: Frozen

    def __init__(self, inner: AbstractEnergy, centre: Any, scale: Any):
        if not isinstance(inner.space, Real) or len(inner.space.shape) != 1:
            raise TypeError(f"Standardised: expected an energy on Real((n,)), got {inner.space}")
        for name, value in (("centre", centre), ("scale", scale)):
            if np.shape(value) != inner.space.shape:
                raise ValueError(
                    f"{name}: expected shape {inner.space.shape}, got {np.shape(value)}"
                )
        if not (np.asarray(scale) > 0).all():
            raise ValueError("scale: expected positive numbers")
        self.inner = inner
        self.units = frozen((jnp.asarray(centre, float), jnp.asarray(scale, float)))

    @property
    def centre(self) -> Float[Array, " n"]:
        return self.units.module[0]

    @property
    def scale(self) -> Float[Array, " n"]:
        return self.units.module[1]

    @property
    def space(self):  # type: ignore[override]
        return self.inner.space

    def __call__(self, x):
        return self.inner((x - self.centre) / self.scale)
