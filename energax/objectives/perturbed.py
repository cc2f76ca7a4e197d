"""Objectives that compare each row with moved copies of itself: Z cancels, on every space.

A move is the space's own symmetric one, q(y|x) = q(x|y) (`AbstractSpace.propose`): normal steps
on reals, reflected at the ends of a box, other values of some sites on few-valued spaces.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from energax.energies._base import batched, softplus
from energax.objectives._base import (
    AbstractObjective,
    as_numbers,
    check_positive,
    check_whole,
    energies_of_data,
    like_a_point,
    spreads,
)
from energax.spaces import AbstractSpace, Binary, Categorical, Point, Record, Spin

_CHANGES = 2.0
"""Where no scale is given: sites of few unordered values that a move changes in the mean, and
coordinates that could move by a standard deviation for as much."""


class _AbstractMoves(AbstractObjective):
    """Rows against `num_moves` moved copies of each."""

    scale: Any = eqx.field(default=None, converter=as_numbers)
    num_moves: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        check_whole("num_moves", self.num_moves)
        check_positive("scale", self.scale)

    def init(self, energy, data, *, key):
        """(None, the scale)."""
        return None, _scale(energy.space, data, self.scale)

    def _gains(self, energy, f, start, scale, key) -> Float[Array, "num_moves rows"]:
        """f of the copies, moved away from `start`, less that of the rows."""
        many = jax.tree.map(lambda a: jnp.tile(a, (self.num_moves, *[1] * (a.ndim - 1))), start)
        moved = energy.space.propose(many, scale, key=key)
        return batched(energy, moved).reshape(self.num_moves, -1) - f

    def evaluations_per_step(self, energy, batch_size):
        return float(batch_size * (1 + self.num_moves))


class ConditionalNCE(_AbstractMoves):
    """The mean over rows and their moved copies y of 2 log(1 + exp(f(y) − f(x))).

    Ceylan & Gutmann 2018, "Conditional noise-contrastive estimation of unnormalised models",
    section 2, with symmetric noise: which of x and y is the row? Population target: the truth where
    the family holds it, for moves that lead from any point to any other in the end. Small moves see
    f near the data alone, as score matching does, to which it tends.

    Spaces: all. A row costs 1 + `num_moves` evaluations of f and no gradient in x.

    **Arguments:** `scale` of the move: a standard deviation in units of x where values are ordered,
    else the probability that a site changes; a number, of the shape of a point, or a dict of these
    on `Record`. None takes √(2/n) of the data's standard deviation, at most all of it, where n
    coordinates are ordered, and two changed sites in the mean of those that are not. `num_moves`:
    copies a row.

    **Raises:** ValueError for a scale that is not positive; from `init` for one of another shape,
    or a probability that is not below 1.
    """

    def __call__(self, energy, params, batch, carry, *, key):
        f = batched(energy, batch)
        gains = self._gains(energy, f, batch, carry, key)
        # Copies that are the row itself say nothing, and have no gradient.
        return 2 * jnp.mean(softplus(gains)), carry, energies_of_data(-f)


class EnergyDiscrepancy(_AbstractMoves):
    """The mean over rows of log(w/M + (1/M) Σ_j exp(f(x_j) − f(x))), x_j from x by two moves.

    Schröder, Ou, Lim, Li, Vollmer & Duncan 2023, "Energy discrepancies: a score-independent loss
    for energy-based models", section 3; on discrete spaces Schröder, Ou, Li & Duncan 2024. All x_j
    share the first move, x → y, and are moved back from y apart from one another; the sum estimates
    what f gives the neighbourhood of y. Population target: as M → ∞ the truth where the family
    holds it (2023, theorem 1), for any scale: small moves are score matching, large ones maximum
    likelihood. At finite M w > 0 takes most of the bias away (docs/choose.md has it measured).

    Spaces: all. A row costs 1 + M evaluations of f and no gradient in x.

    **Arguments:** `scale` of a move, as of `ConditionalNCE`. `num_moves` M: copies a row. `w`: from
    0.

    **Raises:** ValueError for a scale that is not positive or a negative w.
    """

    num_moves: int = eqx.field(static=True, default=16)
    w: Float[Array, ""] = eqx.field(default=1.0, converter=lambda v: jnp.asarray(v, float))

    def __check_init__(self):
        if not 0 <= float(self.w) < math.inf:
            raise ValueError(f"EnergyDiscrepancy: expected w from 0, got {float(self.w):g}")

    def __call__(self, energy, params, batch, carry, *, key):
        key_away, key_back = jax.random.split(key)
        f = batched(energy, batch)
        away = energy.space.propose(batch, carry, key=key_away)
        gains = self._gains(energy, f, away, carry, key_back)
        floor = jnp.broadcast_to(jnp.log(self.w), (1, gains.shape[1]))
        terms = jax.nn.logsumexp(jnp.concatenate([gains, floor]), axis=0)
        return jnp.mean(terms) - math.log(self.num_moves), carry, energies_of_data(-f)


def _scale(space: AbstractSpace, data: Point, scale: Any) -> Any:
    """The scale that was given, if it suits the space, else one by the data."""
    parts = space.parts if isinstance(space, Record) else {"": space}
    if scale is not None:
        scale = like_a_point("scale", scale, _site_shapes(space))
        for name, part in parts.items():
            own = scale[name] if isinstance(scale, dict) else scale
            if _is_unordered(part) and not bool(np.all(np.asarray(own) < 1)):
                raise ValueError(
                    f"scale: on {part} it is the probability that a site changes, below 1; got "
                    f"{own}"
                )
        return scale
    unordered = sum(part.num_sites for part in parts.values() if _is_unordered(part))
    ordered = space.num_sites - unordered
    shrink = min(1.0, math.sqrt(_CHANGES / ordered)) if ordered else 1.0
    sd = spreads({name: data[name] for name in parts} if isinstance(space, Record) else {"": data})
    found = {}
    for name, part in parts.items():
        if _is_unordered(part):
            found[name] = jnp.asarray(min(0.5, _CHANGES / unordered), float)
        else:  # whole numbers have to come to the next one
            least = 0.0 if part.is_continuous else 0.5
            found[name] = jnp.asarray(np.maximum(shrink * sd[name], least), float)
    return found if isinstance(space, Record) else found[""]


def _is_unordered(space: AbstractSpace) -> bool:
    return isinstance(space, (Binary, Spin, Categorical))


def _site_shapes(space: AbstractSpace) -> Any:
    """The shape of a point, of one-hot categories that of their sites."""
    if isinstance(space, Record):
        return {name: _site_shapes(part) for name, part in space.parts.items()}
    return space.sites if isinstance(space, Categorical) else space.shape
