"""Mixtures: of energies of known normaliser, and of models whose log Z was estimated."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from energax import random
from energax.energies._base import AbstractEnergy, AbstractNormalised, Frozen, frozen
from energax.spaces import AbstractSpace, Categorical, Record


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
                    f"{type(component).__name__}; estimate it and take ModelMixture, or use a "
                    "product (+)"
                )
        space, weights = _checked("Mixture", components, weights)
        kinds = _kinds(components)
        order = [i for members in kinds for i in members]
        self.space = space
        self.groups = tuple(
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *(components[i] for i in members))
            for members in kinds
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
        return self.draw_labelled(num, key=key)[1]

    def draw_labelled(self, num: int, *, key: Key[Array, ""]):
        """(which component, in the order of `component_log_probs`, (num,); the draws)."""
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
        return which, jax.tree.map(lambda a: a[which, jnp.arange(num)], each)


class LabelledMixture(AbstractNormalised):
    """p(x, y) = w_y p_y(x) of normalised p_y: a mixture of which the component y is seen, too.

    E(x, y) = −log w_y − log p_y(x) on Record(x=…, y=Categorical((), components)), log Z = 0 (Bishop
    2006, eq. 9.10 and 9.11): a generative classifier, whose p(y | x) `classify` gives. `mixture` is
    p(x) = Σ_y p(x, y). Where components live on a record its parts stand beside y.

    **Arguments:** `components`, at least two, and `weights`: as of `Mixture`; y = 0 is the first.

    **Raises:** as `Mixture`; ValueError for one component alone, or a record with a part "y".
    """

    mixture: Mixture
    places: tuple[int, ...] = eqx.field(static=True)  # of y among the components of `mixture`

    def __init__(self, components: Sequence[Any], weights: Any = None):
        self.mixture = Mixture(components, weights)
        if len(components) < 2:
            raise ValueError("LabelledMixture: expected at least two components, got one")
        if "y" in self._parts:
            raise ValueError('LabelledMixture: "y" is the component, and a part of the record too')
        self.places = tuple(int(i) for i in np.argsort(np.concatenate(_kinds(components))))

    @property
    def _parts(self) -> dict[str, AbstractSpace]:
        """Of x."""
        space = self.mixture.space
        return dict(space.parts) if isinstance(space, Record) else {"x": space}

    @property
    def space(self):  # type: ignore[override]
        return Record(**self._parts, y=Categorical((), len(self.places)))

    def __call__(self, point):
        is_record = isinstance(self.mixture.space, Record)
        x = {name: point[name] for name in self._parts} if is_record else point["x"]
        each = self.mixture.component_log_probs(x)
        return -each[jnp.asarray(self.places)[point["y"]]]

    @property
    def log_z(self):
        return self.mixture.log_z

    def draw(self, num: int, *, key: Key[Array, ""]):
        which, x = self.mixture.draw_labelled(num, key=key)
        labels = jnp.argsort(jnp.asarray(self.places)).astype(jnp.int32)
        parts = x if isinstance(self.mixture.space, Record) else {"x": x}
        return {**parts, "y": labels[which]}


class ModelMixture(AbstractEnergy):
    """p(x) = Σ_k w_k p_k(x) of models whose log Z_k was found by `log_z`.

    E(x) = −log Σ_k w_k exp(−E_k(x)) / Ẑ_k (Bishop 2006, eq. 9.7). Its own log Z is 0 up to the
    errors of the Ẑ_k: `log_z` of it asks each component anew, by what suits that one, and `sample`
    draws from each by its own sampler, w_k of the draws from component k. Nothing has to cross from
    one component to another. What is trained is the components; the Ẑ_k then no longer hold.

    **Arguments:** `components`: energies on one space. `log_z`: for each an answer of
    `energax.log_z`, or a number that is taken as exact. `weights`: positive numbers, one a
    component, brought to a sum of 1; None gives equal ones.

    **Raises:** TypeError for a component that is no energy; ValueError where spaces or numbers of
    weights do not fit, a weight is not positive, or a log Z is not finite.
    """

    components: tuple[AbstractEnergy, ...]
    shares: Frozen

    def __init__(self, components: Sequence[Any], log_z: Sequence[Any], weights: Any = None):
        for component in components:
            if not isinstance(component, AbstractEnergy):
                raise TypeError(f"ModelMixture mixes energies, got {type(component).__name__}")
        _, weights = _checked("ModelMixture", components, weights)
        values = np.array([float(getattr(z, "value", z)) for z in log_z])
        errors = np.array([float(getattr(z, "std_err", 0.0)) for z in log_z])
        if values.shape != weights.shape or not np.isfinite(values).all():
            raise ValueError(
                f"ModelMixture: expected a finite log Z for each of {len(components)} components, "
                f"got {values}"
            )
        self.components = tuple(components)
        each = (np.log(weights / weights.sum()), values, errors)
        self.shares = frozen(Shares(*(jnp.asarray(a, float) for a in each)))

    @property
    def space(self):  # type: ignore[override]
        return self.components[0].space

    @property
    def log_offsets(self) -> Float[Array, " components"]:
        """log w_k − log Ẑ_k."""
        return self.shares.module.log_weights - self.shares.module.log_z

    @property
    def weights(self) -> Float[np.ndarray, " components"]:
        """w_k in float64, of sum 1."""
        weights = np.exp(np.asarray(self.shares.module.log_weights, np.float64))
        return weights / weights.sum()

    def doubts(self, answers: Sequence[Any]) -> list[str]:
        """The reasons of an answer for each component, each with the component's name."""
        return [
            f"component {i} ({type(component).__name__}): {reason}"
            for i, (component, answer) in enumerate(zip(self.components, answers, strict=True))
            for reason in answer.reasons
        ]

    def component_log_densities(self, x) -> Float[Array, " components"]:
        """log w_k − log Ẑ_k − E_k(x)."""
        return self.log_offsets - jnp.stack([component(x) for component in self.components])

    def __call__(self, x):
        return -jax.nn.logsumexp(self.component_log_densities(x))


class Shares(eqx.Module):
    """log w_k, and log Ẑ_k with its standard error, of each component."""

    log_weights: Float[Array, " components"]
    log_z: Float[Array, " components"]
    log_z_std_err: Float[Array, " components"]


def _checked(name: str, components: Sequence[Any], weights: Any) -> tuple[AbstractSpace, Any]:
    """(the space that all share, their weights)."""
    if not components:
        raise ValueError(f"{name}: expected at least one component, got none")
    space = components[0].space
    for component in components:
        if type(component.space) is not type(space) or component.space.shape != space.shape:
            raise ValueError(
                f"{name}: components must share one space, got {space} and {component.space}"
            )
    weights = np.ones(len(components)) if weights is None else np.asarray(weights, float)
    if weights.shape != (len(components),) or not (weights > 0).all():
        raise ValueError(f"{name}: expected {len(components)} positive weights, got {weights}")
    return space, weights


def _kinds(components: Sequence[Any]) -> list[list[int]]:
    """Which components can be stacked, as they are of one structure and one shape."""
    kinds: dict[Any, list[int]] = {}
    for i, component in enumerate(components):
        leaves, structure = jax.tree.flatten(component)
        shapes = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        kinds.setdefault((structure, shapes), []).append(i)
    return list(kinds.values())
