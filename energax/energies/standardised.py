"""An energy of numbers of mean 0 and sd 1, read in the units that the data came in."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from energax.energies._base import AbstractEnergy, Frozen, frozen
from energax.spaces import AbstractSpace, Real, Record


class Standardised(AbstractEnergy):
    """E(x) = E_inner((x − centre) / scale) on Real((n,)); log Z = log Z_inner + Σ log scale.

    The change of variables, as Bishop 2006, eq. 1.27. What `fit` trains is `inner`. On a `Record`
    it is x, the one part that is Real((n,)), that changes; the others stay as they are.

    **Arguments:** `inner`: an energy on Real((n,)), or on a record with one such part. `centre`,
    `scale` > 0: (n,).

    **Raises:** TypeError for an inner energy on another space; ValueError for wrong shapes or a
    scale that is not positive.
    """

    inner: AbstractEnergy
    units: Frozen

    def __init__(self, inner: AbstractEnergy, centre: Any, scale: Any):
        shapes = [part.shape for part in _parts(inner.space).values() if _is_row(part)]
        if len(shapes) != 1:
            raise TypeError(
                "Standardised: expected an energy on Real((n,)), or on a record with one such "
                f"part, got {inner.space}"
            )
        for name, value in (("centre", centre), ("scale", scale)):
            if np.shape(value) != shapes[0]:
                raise ValueError(f"{name}: expected shape {shapes[0]}, got {np.shape(value)}")
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
        if not isinstance(self.space, Record):
            return self.inner((x - self.centre) / self.scale)
        parts = self.space.parts
        return self.inner(
            {k: (v - self.centre) / self.scale if _is_row(parts[k]) else v for k, v in x.items()}
        )


def _parts(space: AbstractSpace) -> dict[str, Any]:
    return space.parts if isinstance(space, Record) else {"x": space}


def _is_row(part: AbstractSpace) -> bool:
    return isinstance(part, Real) and len(part.shape) == 1
