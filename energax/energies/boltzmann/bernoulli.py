"""The RBM of binary units."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from energax.energies._base import AbstractLocalEnergy
from energax.energies.boltzmann._base import AbstractRBM, BernoulliUnits, fitted_units
from energax.energies.boltzmann._base.numbers import softplus_change
from energax.spaces import Binary

_AT_ONCE = 2**21  # numbers


class BernoulliRBM(AbstractRBM, AbstractLocalEnergy):
    """RBM of binary units, E(v) = −b·v − Σ_j softplus(c_j + (vW)_j) on `Binary((visible,))`.

    Hinton 2012, "A practical guide to training restricted Boltzmann machines", section 16.1. v is a
    flat vector: reshape images to rows first.

    **Arguments:** `weight`: W, (visible, hidden). `visible_bias`: b, (visible,) or a number.
    `hidden_bias`: c, (hidden,) or a number.

    **Raises:** ValueError if the shapes do not fit each other.
    """

    weight: Float[Array, "visible hidden"]
    visible_bias: Float[Array, " visible"]
    hidden_bias: Float[Array, " hidden"]
    space: Binary

    def __init__(self, weight: Any, visible_bias: Any = 0.0, hidden_bias: Any = 0.0):
        weight = jnp.asarray(weight, float)
        if weight.ndim != 2 or 0 in weight.shape:
            raise ValueError(
                f"BernoulliRBM: expected weight of shape (visible, hidden), got {weight.shape}"
            )
        self.weight = weight
        self.visible_bias = _as_bias(visible_bias, weight.shape[0], "visible_bias")
        self.hidden_bias = _as_bias(hidden_bias, weight.shape[1], "hidden_bias")
        self.space = Binary((weight.shape[0],))

    @staticmethod
    def random(
        num_visible: int,
        num_hidden: int,
        *,
        key: Key[Array, ""],
        data=None,
        scale: float = 0.01,
        hidden_rate: float = 0.5,
    ) -> "BernoulliRBM":
        """An RBM to start training from: W ~ N(0, scale²), b from the base rates of `data`.

        Hinton 2012, section 8.1: b_i = log(p_i/(1 − p_i)) with p_i the share of rows where v_i = 1,
        half a row of each value added so that b is finite; c_j the same of `hidden_rate`.

        **Arguments:** `data`: (rows, visible) of 0 and 1; None leaves b = 0. `hidden_rate`: about
        the share of rows in which a hidden unit is on; that of `SparseHidden`, if one trains.

        **Raises:** ValueError if `data` does not suit the space, or for a rate out of (0, 1).
        """
        if not 0 < hidden_rate < 1:
            raise ValueError(f"hidden_rate: expected a number between 0 and 1, got {hidden_rate:g}")
        visible = fitted_units(Binary((num_visible,)), data)
        weight = scale * jax.random.normal(key, (num_visible, num_hidden))
        return BernoulliRBM(weight, visible.bias, math.log(hidden_rate / (1 - hidden_rate)))

    @property
    def visible(self):
        return BernoulliUnits(self.visible_bias)

    @property
    def hidden(self):
        return BernoulliUnits(self.hidden_bias)

    def replaced(self, weight, visible, hidden):
        return BernoulliRBM(weight, visible.bias, hidden.bias)

    def site_differences(self, x):
        flip = 1 - 2 * x
        change = flip[:, None] * self.weight
        units = softplus_change(self.hidden_input(x), change)
        return -flip * self.visible_bias - jnp.sum(units, axis=-1)

    def ensemble_site_differences(self, x):
        # A row takes visible × hidden numbers, and the gradient would keep those of all rows.
        rows = max(1, min(len(x), _AT_ONCE // self.weight.size))
        one = jax.checkpoint(lambda row: self.site_differences(row))
        return jax.lax.map(one, x, batch_size=rows)


def _as_bias(value, size: int, name: str) -> Float[Array, " units"]:
    value = jnp.asarray(value, float)
    if value.shape not in ((), (size,)):
        raise ValueError(
            f"BernoulliRBM: expected {name} of shape ({size},) beside a weight (visible, hidden), "
            f"got {value.shape}"
        )
    return jnp.broadcast_to(value, (size,))
