"""What the steps of samplers are made of."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree

from energax import random
from energax.energies._base import AbstractEnergy
from energax.samplers._base.sampler import AbstractSampler, State
from energax.spaces import AbstractSpace, Point, Real, Record


def all_finite(x: PyTree) -> Bool[Array, " chains"]:
    """Which chains of the ensemble `x` are finite everywhere."""
    # 0·x is NaN where x is not finite, and XLA sums floats much faster than it joins booleans
    nothing = [jnp.sum(0 * leaf.reshape(leaf.shape[0], -1), -1) for leaf in jax.tree.leaves(x)]
    out = nothing[0] == 0
    for other in nothing[1:]:
        out = out & (other == 0)
    return out


def choose(accept: Bool[Array, " chains"], new: PyTree, old: PyTree) -> PyTree:
    """`new` for the chains where `accept`, else `old`."""

    def pick(a, b):
        return jnp.where(accept.reshape(accept.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, new, old)


def metropolis_probability(
    log_ratio: Float[Array, "*chains"], old: Float[Array, "*chains"], usable: Bool[Array, "*chains"]
) -> Float[Array, "*chains"]:
    """min(1, exp(log_ratio)); 1 away from a state of no finite density, 0 where not `usable`."""
    lost = ~jnp.isfinite(old)
    ratio = jnp.where(lost | ~usable, 0.0, jnp.minimum(log_ratio, 0.0))
    return jnp.where(usable, jnp.exp(ratio), 0.0)


def accepted(key: Key[Array, ""], probability: Float[Array, "*chains"]) -> Bool[Array, "*chains"]:
    """True with the given probability; never where it is below 2⁻²³.

    A uniform draw can be exactly 0, once in 2²³, and must not let a chain jump to anywhere then:
    1 − u lies in (0, 1].
    """
    uniform = jax.random.uniform(key, probability.shape, probability.dtype)
    return 1 - uniform <= probability


def is_real(space: AbstractSpace) -> bool:
    """True where a Gaussian step from any point leads to another point of the space."""
    if isinstance(space, Record):
        return all(isinstance(part, Real) for part in space.parts.values())
    return isinstance(space, Real)


def start_on_real(sampler: AbstractSampler, energy: AbstractEnergy, x: Point) -> State:
    """`evaluate`, or a TypeError that says which sampler moves x on such a space."""
    if not is_real(energy.space):
        raise TypeError(
            f"{type(sampler).__name__} moves x on Real spaces, got {energy.space}; use "
            "Metropolis(), which works on every space (BlockGibbs() for an RBM, ColouredGibbs() "
            "for an Ising graph)"
        )
    return evaluate(energy, x)


def evaluate(energy: AbstractEnergy, x: Point) -> State:
    """f and ∇f at once; where ∇f is not finite it becomes 0, a drift as good as any other."""
    log_density, gradient = jax.vmap(jax.value_and_grad(energy.log_density))(x)
    zero = jax.tree.map(jnp.zeros_like, gradient)
    return State(x, log_density, choose(all_finite(gradient), gradient, zero))


def standard_normal(key: Key[Array, ""], x: Point) -> PyTree:
    """Noise of the shape and dtype of `x`."""
    leaves, structure = jax.tree.flatten(x)
    keys = jax.random.split(key, len(leaves)) if len(leaves) > 1 else [key]
    noise = [random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, noise)


def column(value: Float[Array, " chains"], like: Array) -> Array:
    """One number a chain, shaped to multiply `like`."""
    return value.reshape(value.shape + (1,) * (like.ndim - 1))


def as_rows(x: PyTree) -> Float[Array, "chains sites"]:
    """An ensemble of points as one flat row a chain."""
    rows = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(x)]
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows, axis=1)


def from_rows(rows: Float[Array, "chains sites"], like: PyTree) -> PyTree:
    """The points, shaped as the ensemble `like`, whose flat rows these are."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf[0].size for leaf in leaves])[:-1].tolist()
    parts = jnp.split(rows, ends, axis=1) if ends else [rows]
    shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)
