"""What has the model learned to see? The means of its hidden units, layer upon layer."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractBipartiteEnergy, AbstractDeepEnergy, AbstractEnergy
from energax.spaces import AbstractSpace, Point
from energax.tasks._base import in_blocks, is_single

_AT_ONCE = 4096  # rows
_NUM_UPDATES = 100  # of the mean field


def features(
    energy: AbstractEnergy | Sequence[AbstractEnergy], X: Point, *, layer: int | None = None
) -> np.ndarray:
    """E[h | x], the hidden-unit means of every row.

    Of a deep Boltzmann machine those of the mean field, and the rows are of the visible layer
    (Salakhutdinov & Hinton 2009, eq. 11). A stack of RBMs, each trained on the features of the one
    below it, is read bottom up: the means of one are what the next one sees (Hinton, Osindero & Teh
    2006, section 5).

    **Arguments:** `energy`: one with hidden units, or a sequence of such, the lowest first. `X`:
    (rows, *event) or one point. `layer`: of several hidden layers the one wanted, from 1, or −1 for
    the last; None gives all side by side.

    **Returns:** (rows, hidden) or (hidden,).

    **Raises:** TypeError if an energy has no hidden units; ValueError for rows outside the space, a
    stack that does not fit together, or no such layer.
    """
    stack = tuple(_with_hidden(e) for e in (energy if isinstance(energy, Sequence) else [energy]))
    if not stack:
        raise ValueError("features: expected an energy or a stack of them, got an empty sequence")
    space = _seen_space(stack[0])
    points: Any = space.validate(X, name="X")
    single = is_single(space, points)
    if single:
        points = jax.tree.map(lambda a: a[None], points)
    for below, above in pairwise(stack):
        _check_fit(below, above)
    blocks = in_blocks(lambda x: _means_of_stack(stack, x), points, _AT_ONCE)
    found = [np.concatenate(layer) for layer in zip(*blocks, strict=True)]
    if layer is not None:
        if layer == 0 or not -len(found) <= layer <= len(found):
            raise ValueError(f"layer: expected 1 to {len(found)}, or −1 for the last, got {layer}")
        found = [found[layer - 1 if layer > 0 else layer]]
    both = np.concatenate(found, axis=-1)
    return both[0] if single else both


def _with_hidden(energy: Any) -> AbstractBipartiteEnergy:
    if isinstance(energy, AbstractBipartiteEnergy):
        return energy
    raise TypeError(
        "features need an energy with hidden units such as energies.BernoulliRBM, got "
        f"{type(energy).__name__}"
    )


def _seen_space(energy: AbstractEnergy) -> AbstractSpace:
    return energy.data_space if isinstance(energy, AbstractDeepEnergy) else energy.space


def _check_fit(below: AbstractBipartiteEnergy, above: AbstractBipartiteEnergy) -> None:
    """Raises ValueError unless the last hidden units of one are what the other sees."""
    example = jax.tree.map(lambda a: jnp.asarray(a)[None], _seen_space(below).example())
    num = jax.eval_shape(lambda x: _means(below, x)[-1], example).shape[-1]
    if _seen_space(above).shape != (num,):
        raise ValueError(
            f"features: {type(below).__name__} has {num} hidden units in its last layer, but "
            f"{type(above).__name__} on top of it sees {_seen_space(above)}"
        )


@eqx.filter_jit
def _means_of_stack(stack, x):
    """The means of all hidden layers, (rows, hidden) each."""
    found = []
    for energy in stack:
        layers = _means(energy, x)
        found += layers
        x = layers[-1]
    return found


def _means(energy: AbstractBipartiteEnergy, x: Point) -> list[Any]:
    if isinstance(energy, AbstractDeepEnergy):
        return list(energy.mean_field(x, _NUM_UPDATES)[1:])
    return [energy.hidden_mean(x)]
