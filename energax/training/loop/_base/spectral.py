"""Matrices whose largest singular value is held, by power iterations that go along with training.

Gouk, Frank, Pfahringer & Cree 2021, "Regularisation of neural networks by enforcing Lipschitz
continuity", algorithm 2: after every update W ← W / max(1, σ(W)/c). A step changes W little, so
that the direction found at the last one is nearly right and an iteration or two make up for it
(Miyato, Kataoka, Koyama & Yoshida 2018, "Spectral normalization for generative adversarial
networks", algorithm 1, who take kernels of convolutions as matrices too).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from energax.energies._base import AbstractEnergy, partition_trainable

_A_STEP, _AT_START = 2, 200  # power iterations
_TRACE = 1e-3  # of a fixed direction in every iteration, so that none is out of reach for good
_NONE = 1  # in the place of an axis


def first_directions(theta: PyTree) -> tuple[Float[Array, " columns"], ...]:
    """One for every matrix of θ, in its order.

    **Raises:** ValueError if there is no matrix.
    """
    found = tuple(_somewhere(matrix) for matrix in _matrices(theta).values())
    if not found:
        raise ValueError("spectral_norm bounds matrices, and this energy trains none: leave it out")
    return found


def check_matrices(energy: AbstractEnergy) -> None:
    """**Raises:** ValueError if `energy` trains no matrix that could be bounded."""
    first_directions(partition_trainable(energy)[0])


def within(energy: AbstractEnergy, limit: float) -> tuple[AbstractEnergy, tuple[Array, ...]]:
    """(`energy` with its matrices bounded, the directions that `bounded` goes on from)."""
    theta, fixed = partition_trainable(energy)
    theta, directions = _starting(theta, jnp.asarray(limit, float))
    return eqx.combine(theta, fixed), directions


@eqx.filter_jit
def _starting(theta: PyTree, limit: Array) -> tuple[PyTree, tuple[Array, ...]]:
    return _bounded(theta, first_directions(theta), limit, _AT_START)


def bounded(
    theta: PyTree, directions: tuple[Array, ...], limit: Array
) -> tuple[PyTree, tuple[Array, ...]]:
    """(θ with every matrix divided by max(1, σ/limit), the directions that it stretches most)."""
    return _bounded(theta, directions, limit, _A_STEP)


def _bounded(theta, directions, limit, num: int) -> tuple[PyTree, tuple[Array, ...]]:
    leaves, structure = jax.tree.flatten(theta)
    moved = []
    for (place, matrix), direction in zip(_matrices(theta).items(), directions, strict=True):
        largest, direction = _stretch(matrix, direction, num)
        shrink = 1 / jnp.maximum(1.0, largest / limit)
        leaves[place] = shrink.astype(leaves[place].dtype) * leaves[place]
        moved.append(direction)
    return jax.tree.unflatten(structure, leaves), tuple(moved)


def _stretch(matrix: Array, direction: Array, num: int) -> tuple[Array, Array]:
    """(|W v|, v) after `num` steps v ← WᵀWv / |WᵀWv|; |W v| is never above σ(W)."""
    trace = _TRACE * _somewhere(matrix)

    def iterate(_, v):
        image = jnp.matmul(matrix, v, precision="highest")
        back = jnp.matmul(matrix.T, image / _size(image), precision="highest")
        v = back / _size(back) + trace
        return v / _size(v)

    direction = jax.lax.fori_loop(0, num, iterate, direction)
    return jnp.linalg.norm(jnp.matmul(matrix, direction, precision="highest")), direction


def _size(vector: Array) -> Array:
    """Its length, 1 of a vector of zeros."""
    square = jnp.vdot(vector, vector, precision="highest")
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 1.0)


def _somewhere(matrix: Array) -> Float[Array, " columns"]:
    """A direction of length 1, the same whenever it is asked for."""
    wave = jnp.cos(1.0 + jnp.arange(matrix.shape[1], dtype=matrix.dtype) ** 2)
    return wave / jnp.linalg.norm(wave)


def _matrices(theta: PyTree) -> dict[int, Array]:
    """θ's arrays of two axes and more as matrices, by their place among its leaves.

    More than two axes are one of outputs against all others: the last, as in `ConvNet` and Flax,
    but of Equinox's convolutions the first, whose biases have as many axes and are no matrices.
    """

    def is_convolution(node: Any) -> bool:
        return isinstance(node, eqx.nn.Conv | eqx.nn.ConvTranspose)

    def axis_of_outputs(node: Any) -> PyTree:
        if is_convolution(node):
            return jax.tree.map(lambda a: 0 if a is node.weight else _NONE, node)
        return -1 if jnp.ndim(node) >= 2 else _NONE

    axes = jax.tree.leaves(jax.tree.map(axis_of_outputs, theta, is_leaf=is_convolution))
    found = {}
    for place, (leaf, axis) in enumerate(zip(jax.tree.leaves(theta), axes, strict=True)):
        if axis != _NONE:
            matrix = jnp.moveaxis(leaf, axis, -1).reshape(-1, leaf.shape[axis])
            found[place] = matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32))
    return found
