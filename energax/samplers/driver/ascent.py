"""Where f peaks: uphill from many far-flung points, so that chains stand in every mode there is."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractEnergy
from energax.spaces import Point

NUM_STEPS = 150
_GROW, _SHRINK = 1.3, 0.5


def ascend(energy: AbstractEnergy, x: Point) -> tuple[Point, np.ndarray]:
    """(points, f): the ensemble `x` (num, *event), on a Real space, after 150 steps uphill.

    Each coordinate steps by the sign of its gradient, farther while the sign stays and half as far
    when it turns (Riedmiller & Braun 1993, "RPROP"), so that scales do not matter; a step downhill
    is taken back. Points where f or its gradient is not finite stay where they are.
    """
    out, f = _climb(energy, jax.tree.map(jnp.asarray, x))
    return jax.tree.map(np.asarray, out), np.asarray(f, np.float64)


@eqx.filter_jit
def _climb(energy: AbstractEnergy, x: Point):
    evaluate = jax.vmap(jax.value_and_grad(energy.log_density))

    def wide(condition, like):
        return condition.reshape(condition.shape + (1,) * (like.ndim - 1))

    def step(carry, _):
        x, f, gradient, size = carry
        proposed = jax.tree.map(lambda a, g, h: a + jnp.sign(g) * h, x, gradient, size)
        new_f, new_gradient = evaluate(proposed)
        better = jnp.isfinite(new_f) & (new_f >= f)

        def resized(h, g, new_g):
            turned = g * new_g < 0
            after = h * jnp.where(turned, _SHRINK, _GROW)
            return jnp.where(wide(better, h), after, _SHRINK * h)

        def pick(new, old):
            return jnp.where(wide(better, old), new, old)

        size = jax.tree.map(resized, size, gradient, new_gradient)
        x = jax.tree.map(pick, proposed, x)
        gradient = jax.tree.map(pick, new_gradient, gradient)
        return (x, jnp.where(better, new_f, f), gradient, size), None

    f, gradient = evaluate(x)
    clean = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), gradient)
    size = jax.tree.map(lambda a: jnp.broadcast_to(0.1 * (jnp.std(a, 0) + 1e-3), a.shape), x)
    (x, f, _, _), _ = jax.lax.scan(step, (x, f, clean, size), None, length=NUM_STEPS)
    return x, f
