"""L-BFGS for losses without chance, in Optax's interface: one evaluation a step, the search too.

The step that a line search tries is one of the training's steps: the next one sees loss and
gradient there, and goes on from it or goes back and tries a shorter one. So no point is evaluated
twice, and the loop's record, checkpoints and limits hold for it as they do for Adam.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from energax.objectives._base import steepest_slope, within_orthant

_DECREASE = 1e-4  # Armijo's share of the decrease that the slope promises
_SHORTENED = 10  # tries on a line before the curvature learned is given up
_NO_LOWER = 5  # steps in a row that lower the loss by less than it is rounded
_DOUBTFUL = 1e-3  # of the largest slope at the start, or of 1


class Memory(eqx.Module):
    """The lowest point so far with loss and slopes there, the line that is searched from it, and
    the last moves with the changes of the gradient along them, newest last."""

    point: Float[Array, " p"]
    value: Float[Array, ""]
    gradient: Float[Array, " p"]  # of the loss without λ|θ|
    steepest: Float[Array, " p"]  # with λ|θ|: the slope on the side to which the loss falls
    direction: Float[Array, " p"]
    plain: Float[Array, " p"]  # the first one, and where the curvature learned is of no use
    length: Float[Array, ""]
    moves: Float[Array, "m p"]
    turns: Float[Array, "m p"]
    kept: Int[Array, ""]
    shortened: Int[Array, ""]
    no_lower: Int[Array, ""]
    scale: Float[Array, ""]  # what slopes are measured by
    begun: Bool[Array, ""]
    settled: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class LBFGS:
    """d = −H∇L with H from the last `memory` moves (Nocedal & Wright 2006, algorithm 7.4).

    A penalty λ|θ_i| is taken as Andrew & Gao 2007 do (OWL-QN, algorithm 1): slopes at 0 are those
    of the side to which the loss falls, and no step changes a sign, so that zeros are exact. Steps
    are accepted by Armijo's rule but for rounding.

    It settles, which is an update of 0, where the largest slope is below 0.03 √ε times what it was
    at the start (or 1), or where rounding hides any lower point; ε is that of the dtype.
    """

    memory: int = 10

    def init(self, parameters: PyTree) -> Memory:
        flat = ravel_pytree(parameters)[0]
        zero, number = jnp.zeros_like(flat), jnp.zeros((), flat.dtype)
        count, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        rows = jnp.zeros((self.memory, len(flat)), flat.dtype)
        return Memory(
            point=flat,
            value=number,
            gradient=zero,
            steepest=zero,
            direction=zero,
            plain=zero,
            length=number,
            moves=rows,
            turns=rows,
            kept=count,
            shortened=count,
            no_lower=count,
            scale=number,
            begun=no,
            settled=no,
        )

    def update(
        self,
        gradient: PyTree,
        state: Memory,
        parameters: PyTree,
        *,
        value: Array,
        l1: PyTree,
        inverse: Callable[[PyTree], PyTree] | None = None,
    ) -> tuple[PyTree, Memory]:
        """(what to add to `parameters`, state), given the loss there and its gradient.

        **Arguments:** `l1`: λ of each parameter, a tree like `parameters`, or None; `gradient` has
        λ sign(θ) in it. `inverse`: a rough inverse of the Hessian in θ, which H starts from; of
        (θ, the objective's own) `parameters`. None starts from a multiple of 1.
        """
        here, unravel = ravel_pytree(parameters)
        slope = ravel_pytree(gradient)[0]
        strength = jnp.zeros_like(here) if l1 is None else ravel_pytree(l1)[0]
        value = value.astype(here.dtype)
        rounding = jnp.finfo(here.dtype).eps * jnp.abs(state.value)
        promised = state.steepest @ (here - state.point)
        lower = value <= state.value + _DECREASE * promised + 4 * rounding
        accept = (lower | ~state.begun) & ~state.settled
        smooth = slope - strength * jnp.sign(here)

        def start(vector):
            if inverse is None:
                return vector
            theta, own = unravel(vector)
            return ravel_pytree((inverse(theta), own))[0]

        accepted = self._accept(state, here, value, smooth, strength, rounding, start)
        if inverse is None:  # a first step of length 1 at most
            plain = accepted.plain / jnp.maximum(1.0, jnp.linalg.norm(accepted.plain))
            accepted = dataclasses.replace(accepted, plain=plain)
        first = jnp.where(accepted.kept > 0, accepted.direction, accepted.plain)
        accepted = dataclasses.replace(accepted, direction=first)
        shorter = _shorten(state, value, promised)
        new = jax.tree.map(lambda a, b: jnp.where(accept, a, b), accepted, shorter)
        goal = jnp.where(new.settled, new.point, _along(new, strength))
        update = jnp.where(state.settled, 0.0, goal - here)
        new = jax.tree.map(lambda a, b: jnp.where(state.settled, a, b), state, new)
        return unravel(update), new

    def _accept(self, state: Memory, here, value, smooth, strength, rounding, start) -> Memory:
        """`here` as the point, and a new line from it."""
        move, turn = here - state.point, smooth - state.gradient
        bends = move @ turn > 1e-6 * jnp.linalg.norm(move) * jnp.linalg.norm(turn)
        learn = state.begun & bends
        moves, turns = (
            jnp.where(learn, jnp.roll(old, -1, axis=0).at[-1].set(new), old)
            for old, new in ((state.moves, move), (state.turns, turn))
        )
        kept = jnp.minimum(state.kept + learn, self.memory)
        steepest = steepest_slope(here, smooth + strength * jnp.sign(here), strength)
        downhill = -_times_inverse_hessian(steepest, moves, turns, kept, start)
        downhill = jnp.where((strength > 0) & (downhill * steepest >= 0), 0.0, downhill)
        falls = (downhill @ steepest < 0) & (kept > 0)
        largest = jnp.max(jnp.abs(steepest))
        scale = jnp.where(state.begun, state.scale, jnp.maximum(1.0, largest))
        no_lower = jnp.where(state.begun & (value >= state.value - rounding), state.no_lower + 1, 0)
        tolerance = 0.03 * jnp.sqrt(jnp.finfo(here.dtype).eps)
        return Memory(
            point=here,
            value=value,
            gradient=smooth,
            steepest=steepest,
            direction=downhill,
            plain=-start(steepest),
            length=jnp.ones_like(state.length),
            moves=moves,
            turns=turns,
            kept=jnp.where(falls, kept, 0),
            shortened=jnp.zeros_like(state.shortened),
            no_lower=no_lower,
            scale=scale,
            begun=jnp.ones_like(state.begun),
            settled=(largest <= tolerance * scale) | (no_lower >= _NO_LOWER),
        )

    def lowest(self, state: Memory, parameters: PyTree) -> PyTree:
        """The parameters of the lowest loss so far, a tree like `parameters`."""
        return ravel_pytree(parameters)[1](state.point)

    def doubts(self, state: Memory, num_steps: int) -> tuple[str, ...]:
        """Reasons not to take the end of the training for a minimum."""
        largest = float(jnp.max(jnp.abs(state.steepest)))
        if not bool(state.settled):
            return (
                f"L-BFGS had not settled after num_steps={num_steps} evaluations (largest slope "
                f"{largest:.2g}): give it more num_steps; if parameters grow without end, as where "
                "the rows never show some pair of values, penalise them by Penalised(..., l2=)",
            )
        if largest > _DOUBTFUL * float(state.scale):
            return (
                f"L-BFGS found no lower loss though the largest slope is {largest:.2g}: the loss "
                "is rough or badly scaled; train with Adam (leave optimizer= out) or in float64",
            )
        return ()


def _along(state: Memory, strength) -> Float[Array, " p"]:
    new = state.point + state.length * state.direction
    return within_orthant(new, state.point, state.steepest, strength)


def _shorten(state: Memory, value, promised) -> Memory:
    """A shorter step on the same line, by the parabola through both losses and the slope; after
    many, the steepest line, and after many on that, the end."""
    share = -promised / (2 * (value - state.value - promised))
    share = jnp.clip(jnp.where(jnp.isfinite(share), share, 0.1), 0.1, 0.5)
    give_up = state.shortened + 1 >= _SHORTENED
    return dataclasses.replace(
        state,
        direction=jnp.where(give_up, state.plain, state.direction),
        length=jnp.where(give_up, 1.0, share * state.length).astype(state.length.dtype),
        kept=jnp.where(give_up, 0, state.kept),
        shortened=jnp.where(give_up, 0, state.shortened + 1),
        settled=give_up & (state.kept == 0),
    )


def _times_inverse_hessian(vector, moves, turns, kept, start) -> Float[Array, " p"]:
    """H · vector by the two loops of Nocedal & Wright 2006, algorithm 7.4; H₀ ∝ `start`."""
    used = jnp.arange(len(moves)) >= len(moves) - kept
    bend = jnp.sum(moves * turns, axis=1)
    inverse = jnp.where(used, 1 / jnp.where(used, bend, 1.0), 0.0)

    def back(vector, pair):  # from the newest
        move, turn, inverse = pair
        weight = inverse * (move @ vector)
        return vector - weight * turn, weight

    def forth(vector, pair):  # from the oldest
        move, turn, inverse, weight = pair
        return vector + (weight - inverse * (turn @ vector)) * move, None

    pairs = moves, turns, inverse
    vector, weights = jax.lax.scan(back, vector, pairs, reverse=True)
    size = turns[-1] @ start(turns[-1])
    vector = start(vector) * jnp.where(kept > 0, bend[-1] / jnp.where(kept > 0, size, 1.0), 1.0)
    return jax.lax.scan(forth, vector, (*pairs, weights))[0]
