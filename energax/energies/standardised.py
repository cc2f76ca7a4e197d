"""An energy of numbers of mean 0 and sd 1, read in the units that the data came in."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from energax.energies._base import AbstractEnergy, Frozen, frozen
from energax.spaces import Real, Record


class Standardised(AbstractEnergy):
    """E(x) = E_inner((x − centre) / scale) on Real((n,)); log Z = log Z_inner + Σ log scale.

    The change of variables, as Bishop 2006, eq. 1.27. What `fit` trains is `inner`. On a `Record`
    one part is meant, the others stay as they are.

    **Arguments:** `inner`: an energy on Real((n,)), or on a record. `centre`, `scale` > 0: (n,).
    `part`: the record's part of numbers, which lives on Real((n,)).

    **Raises:** TypeError for an inner energy on another space; ValueError for a part that there is
    not, wrong shapes or a scale that is not positive.
    """

    inner: AbstractEnergy
    units: Frozen
    part: str | None = eqx.field(static=True)

    def __init__(self, inner: AbstractEnergy, centre: Any, scale: Any, part: str | None = None):
        space = inner.space
        if part is not None:
            if not isinstance(space, Record) or part not in space.parts:
                raise ValueError(f"part: {space} has no part {part!r}")
            space = space.parts[part]
        if not isinstance(space, Real) or len(space.shape) != 1:
            raise TypeError(f"Standardised: expected an energy on Real((n,)), got {space}")
        for name, value in (("centre", centre), ("scale", scale)):
            if np.shape(value) != space.shape:
                raise ValueError(f"{name}: expected shape {space.shape}, got {np.shape(value)}")
        if not (np.asarray(scale) > 0).all():
            raise ValueError("scale: expected positive numbers")
        self.part = part
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
        if self.part is None:
            return self.inner((x - self.centre) / self.scale)
        return self.inner(x | {self.part: (x[self.part] - self.centre) / self.scale})
