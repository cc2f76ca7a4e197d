"""What has the model learned to see? The means of its hidden units."""

import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractBipartiteEnergy, AbstractEnergy
from energax.spaces import Point
from energax.tasks._base import is_single


def features(energy: AbstractEnergy, X: Point) -> np.ndarray:
    """E[h | x], the hidden-unit means of every row.

    **Arguments:** `X`: (rows, *event) or one point. **Returns:** (rows, hidden) or (hidden,).

    **Raises:** TypeError if the energy has no hidden units.
    """
    if not isinstance(energy, AbstractBipartiteEnergy):
        raise TypeError(
            f"features need an energy with hidden units such as energies.BernoulliRBM, got "
            f"{type(energy).__name__}"
        )
    points = energy.space.validate(X, name="X")
    if is_single(energy.space, points):
        return np.asarray(energy.hidden_mean(jnp.asarray(points)))
    blocks = np.array_split(np.asarray(points), max(1, len(points) // 4096))
    return np.concatenate([np.asarray(energy.hidden_mean(jnp.asarray(b))) for b in blocks])
