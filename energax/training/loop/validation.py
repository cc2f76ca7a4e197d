"""Mean energies of held-out rows beside the training's own."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from energax.energies._base import AbstractEnergy, batched
from energax.spaces import Point, num_rows
from energax.training._base import History

_ROWS = 2000


class Watch:
    """Mean energies of held-out rows and of as many training rows, fifty times a run."""

    def __init__(self, energy: AbstractEnergy, rows: Point, validation: Any, num_steps: int):
        held = energy.space.validate(validation, batch=True, name="validation")
        num = min(num_rows(held), num_rows(rows), _ROWS)
        self.held, self.seen = (
            jax.tree.map(lambda a: jnp.asarray(a[:num]), part) for part in (held, rows)
        )
        self.every = max(1, num_steps // 50)

    def is_due(self, step: int, last: int) -> bool:
        """**Arguments:** `last`: the step of the last look."""
        return step % self.every == 0 and 0 < step != last

    def look(self, energy: AbstractEnergy, step: int) -> History:
        held, seen = float(_mean_energy(energy, self.held)), float(_mean_energy(energy, self.seen))
        values = {"step": step, "energy": held, "gap": held - seen}
        return {f"validation_{name}": np.asarray([float(v)]) for name, v in values.items()}


@eqx.filter_jit
def _mean_energy(energy: AbstractEnergy, x: Point) -> Float[Array, ""]:
    return -jnp.mean(batched(energy, x))
