"""What is trained and what is not, and numbers that many energies need."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from energax.energies._base.energy import AbstractEnergy
from energax.spaces import AbstractSpace, Point

_FEW = 2048  # numbers that are added up as they are


class Frozen(eqx.Module):
    """A module that `fit` leaves as it is; called, it is the module itself without gradient."""

    module: Any

    def __call__(self, *args, **kwargs):
        return without_gradient(self.module)(*args, **kwargs)


class FrozenEnergy(AbstractEnergy):
    """An energy that `fit` leaves as it is."""

    energy: AbstractEnergy

    @property
    def space(self):  # type: ignore[override]
        return self.energy.space

    def __call__(self, x):
        return without_gradient(self.energy)(x)

    def with_space(self, space):
        return FrozenEnergy(self.energy.with_space(space))


def without_gradient(module: Any) -> Any:
    """`module`, through whose arrays no gradient goes."""
    arrays, rest = eqx.partition(module, eqx.is_inexact_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)


def frozen(module) -> Any:
    """`module` (an energy, or any callable Equinox module inside one) marked as not trained."""
    return FrozenEnergy(module) if isinstance(module, AbstractEnergy) else Frozen(module)


def partition_trainable(energy: AbstractEnergy) -> tuple[AbstractEnergy, AbstractEnergy]:
    """(parameters, rest): the float arrays of `energy` not in spaces or frozen parts, and all else.

    `equinox.combine` puts the two together again.
    """

    def is_shut(node):
        return isinstance(node, (AbstractSpace, Frozen, FrozenEnergy))

    def choose(node):
        if is_shut(node):
            return jax.tree.map(lambda _: False, node)
        return eqx.is_inexact_array(node)

    return eqx.partition(energy, jax.tree.map(choose, energy, is_leaf=is_shut))


def batched(energy: AbstractEnergy, x: Point) -> Float[Array, " batch"]:
    """f(x) = −E(x) of a batch of points, (batch,)."""
    return jax.vmap(energy.log_density)(x)


def base_rates(index: np.ndarray, num_values: int) -> np.ndarray:
    """log of the share of each value at each site, (sites, k), half a row of each value added.

    **Arguments:** `index`: numbers of values, 0 to k − 1, (rows, sites).
    """
    often = np.stack([(index == j).sum(axis=0) for j in range(num_values)], axis=1)
    return np.log(often + 0.5) - np.log(len(index) + 0.5 * num_values)


def broadcast(name: str, value, shape: tuple[int, ...], what: str) -> Float[Array, "..."]:
    """`value`, a number or of `shape`, as floats of `shape`."""
    value = jnp.asarray(value, float)
    if value.shape not in ((), shape):
        raise ValueError(f"{name}: expected {what} of shape {shape} or a number, got {value.shape}")
    return jnp.broadcast_to(value, shape)


@jax.custom_jvp
def total(a: Float[Array, "..."]) -> Float[Array, ""]:
    """Σ a of many numbers, by adding eighths of the array to one another.

    XLA makes one loop over memory of that, with what `a` is computed from; `jnp.sum` on a CPU adds
    in windows of 32 and takes two to four times as long. Rounding errors grow as log(size).
    """
    a, left = jnp.ravel(a), []
    while a.size > _FEW:
        part = a.size // 8
        left.append(a[8 * part :])
        a = functools.reduce(jnp.add, (a[i * part : (i + 1) * part] for i in range(8)))
    return sum((jnp.sum(each) for each in left if each.size), jnp.sum(a))


total.defjvps(lambda tangent, _, a: jnp.sum(tangent))


def log1p(t):
    """log(1 + t) for −½ ≤ t ≤ 1, in float32 at a third of the cost of `jnp.log1p` on a CPU.

    2 artanh s, s = t/(2 + t), by seven terms of its power series: |s| ≤ ⅓, and the eighth is at
    most 2·10⁻⁸ of the sum (Abramowitz & Stegun 1964, eq. 4.1.27).
    """
    t = jnp.asarray(t)
    if t.dtype != jnp.float32:
        return jnp.log1p(t)
    s = t / (2 + t)
    z, sum_ = s * s, jnp.float32(1 / 13)
    for odd in (11, 9, 7, 5, 3, 1):
        sum_ = sum_ * z + jnp.float32(1 / odd)
    return 2 * s * sum_


@jax.custom_jvp
def softplus(u):
    """log(1 + eᵘ), at half the cost of `jax.nn.softplus`, which asks about NaN and infinities."""
    return jnp.maximum(u, 0) + log1p(jnp.exp(-jnp.abs(u)))


softplus.defjvps(lambda tangent, _, u: tangent * jax.nn.sigmoid(u))
