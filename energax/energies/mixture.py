"""Mixtures of normalised energies."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from energax import random
from energax.energies._base import AbstractNormalised
from energax.spaces import AbstractSpace


class Mixture(AbstractNormalised):
    """p(x) = Σ_k w_k p_k(x) of normalised p_k on one space: E(x) = −log Σ_k w_k p_k(x), log Z = 0.

    Bishop 2006, eq. 9.7 (there of normals). Components of one kind are kept stacked, so that many
    cost one batched evaluation.

    **Arguments:** `components`: energies of known normaliser. `weights`: positive numbers, one a
    component, brought to a sum of 1; None gives equal ones.

    **Raises:** TypeError for a component without a known normaliser; ValueError where spaces or the
    number of weights do not fit, or a weight is not positive.
    """

    space: AbstractSpace
    groups: tuple[AbstractNormalised, ...]
    log_weights: Float[Array, " components"]

    def __init__(self, components: Sequence[Any], weights: Any = None):
        if not components:
            raise ValueError("Mixture: expected at least one component, got none")
        for component in components:
            if not isinstance(component, AbstractNormalised):
                raise TypeError(
                    "Mixture mixes energies whose log Z is known, got "
                    f"{type(component).__name__}; give its normaliser, or use a product (+)"
                )
        space = components[0].space
        for component in components:
            if type(component.space) is not type(space) or component.space.shape != space.shape:
                raise ValueError(
                    f"Mixture: components must share one space, got {space} and {component.space}"
                )
        weights = np.ones(len(components)) if weights is None else np.asarray(weights, float)
        if weights.shape != (len(components),) or not (weights > 0).all():
            raise ValueError(f"Mixture: expected {len(components)} positive weights, got {weights}")
        kinds: dict[Any, list[int]] = {}
        for i, component in enumerate(components):
            leaves, structure = jax.tree.flatten(component)
            shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
            kinds.setdefault((structure, shapes), []).append(i)
        order = [i for members in kinds.values() for i in members]
        self.space = space
        self.groups = tuple(
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *(components[i] for i in members))
            for members in kinds.values()
        )
        self.log_weights = jnp.asarray(np.log(weights[order] / weights.sum()), float)

    def component_log_probs(self, x) -> Float[Array, " components"]:
        """log w_k + log p_k(x), in the order in which the components are kept (by kind)."""
        each = [eqx.filter_vmap(lambda c: c.log_prob(x))(group) for group in self.groups]
        return self.log_weights + jnp.concatenate(each)

    def __call__(self, x):
        return -jax.nn.logsumexp(self.component_log_probs(x))

    @property
    def log_z(self):
        return jnp.zeros((), self.log_weights.dtype)

    def draw(self, num: int, *, key: Key[Array, ""]):
        key_which, key_draw = jax.random.split(key)
        which = random.categorical(key_which, self.log_weights, (num,))
        keys = jax.random.split(key_draw, len(self.log_weights))
        drawn, first = [], 0
        for group in self.groups:
            size = jax.tree.leaves(group)[0].shape[0]
            drawn.append(
                eqx.filter_vmap(lambda c, k: c.draw(num, key=k))(group, keys[first : first + size])
            )
            first += size
        each = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)
        return jax.tree.map(lambda a: a[which, jnp.arange(num)], each)
