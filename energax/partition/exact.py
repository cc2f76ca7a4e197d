"""log Z by a finite sum: the normaliser itself, the smaller side of an RBM, or every state.

Z = Σ_x exp(f(x)) by its definition (MacKay 2003, "Information theory, inference, and learning
algorithms", chapter 29); an RBM's other layer sums in closed form (Salakhutdinov & Murray 2008).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import (
    AbstractBipartiteEnergy,
    AbstractEnergy,
    AbstractNormalised,
    batched,
)
from energax.partition._base import (
    AbstractLogZMethod,
    Clock,
    answer,
    in_float64,
    log_sum_exp,
)
from energax.results import LogZ


class Known(AbstractLogZMethod):
    """The log Z that an `AbstractNormalised` energy knows of itself."""

    def cost(self, energy: AbstractEnergy) -> float:
        return 0.0 if isinstance(energy, AbstractNormalised) else np.inf

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        if not isinstance(energy, AbstractNormalised):
            raise TypeError(f"{type(energy).__name__} does not know its normaliser")
        clock = Clock()
        value = _float64_or_32(energy, lambda e: e.log_z)
        return answer(value, 0.0, clock, method="known", reasons=_not_finite(value, "its log_z"))


class SummedSide(AbstractLogZMethod):
    """log Z = log Σ over the smaller layer of a bipartite energy, the other in closed form."""

    max_states: int = eqx.field(static=True, default=2**24)

    def cost(self, energy: AbstractEnergy) -> float:
        fits = isinstance(energy, AbstractBipartiteEnergy)
        return float(energy.num_summed_states) if fits else np.inf

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        if not isinstance(energy, AbstractBipartiteEnergy):
            raise TypeError(f"{type(energy).__name__} has no second layer to sum out")
        _check_cost(energy.num_summed_states, self.max_states)
        clock = Clock()
        value = _float64_or_32(energy, lambda e: e.log_z_by_sum())
        clock.num_evaluations = energy.num_summed_states
        reasons = _not_finite(value, "the sum over the smaller layer")
        return answer(value, 0.0, clock, method="summed side", reasons=reasons)


class Enumeration(AbstractLogZMethod):
    """log Z = log Σ_x exp(f(x)) over every state, in chunks of one compiled loop.

    Memory is that of one chunk. Every chunk gives its maximum and its sum relative to it, which
    are put together in float64.

    **Arguments:** `max_states`: above it `run` refuses. `chunk_size`: states evaluated at once.
    """

    max_states: int = eqx.field(static=True, default=2**24)
    chunk_size: int = eqx.field(static=True, default=2**14)

    def __check_init__(self):
        if not 1 <= self.max_states <= 2**30:
            raise ValueError(f"max_states lies between 1 and 2^30, got {self.max_states}")
        if self.chunk_size < 1 or self.chunk_size & (self.chunk_size - 1):
            raise ValueError(f"chunk_size is a power of 2, got {self.chunk_size}")

    def cost(self, energy: AbstractEnergy) -> float:
        # Python's integers pass what a float can hold (2^2000 states).
        num_states = energy.space.num_states
        return np.inf if num_states is None or num_states > 2**1000 else float(num_states)

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        num_states = energy.space.num_states
        if num_states is None:
            raise TypeError(f"{energy.space} has infinitely many points: none can be listed")
        _check_cost(num_states, self.max_states)
        clock = Clock(max_seconds)
        chunk = min(self.chunk_size, 1 << (num_states - 1).bit_length())
        # The clock is read between blocks of chunks.
        num_chunks = min(-(-num_states // chunk), max(1, 2**20 // chunk))
        parts, bad, starts = [], np.zeros(2, int), range(0, num_states, chunk * num_chunks)
        for start in starts:
            tops, sums, nans, infinities = jax.device_get(
                _sum_block(energy, jnp.int32(start), chunk=chunk, num_chunks=num_chunks)
            )
            with np.errstate(divide="ignore"):
                parts.append(tops.astype(np.float64) + np.log(sums.astype(np.float64)))
            bad += int(nans.sum()), int(infinities.sum())
            clock.num_evaluations = min(num_states, start + chunk * num_chunks)
            if clock.out_of_time and start != starts[-1]:
                break
        done = clock.num_evaluations
        reasons, value = [], log_sum_exp(np.concatenate(parts))
        if bad[0]:
            reasons.append(f"f(x) is NaN at {bad[0]:,} of {done:,} states")
        if bad[1]:
            value = np.float64(np.inf)
            reasons.append(f"f(x) is +inf at {bad[1]:,} states: Z is infinite")
        if done < num_states:
            reasons.append(f"time ended after {done:,} of {num_states:,} states")
        elif value == -np.inf and not bad[0]:
            reasons.append("f(x) is -inf at every state: there is no mass to normalise")
        return answer(
            value,
            0.0 if done == num_states and not bad.any() else np.inf,
            clock,
            method="enumeration",
            reasons=reasons,
            time_limited=done < num_states,
        )


def _check_cost(num_states: int, max_states: int) -> None:
    if num_states > max_states:
        shown = f"{num_states:,}" if num_states < 2**63 else f"2^{num_states.bit_length() - 1}"
        raise ValueError(
            f"the exact sum has {shown} states, over the limit of {max_states:,}; "
            "estimate it with method='ais', or raise max_states"
        )


def _not_finite(value: float, what: str) -> list[str]:
    return [] if np.isfinite(value) else [f"{what} is {value}"]


def _float64_or_32(energy, compute) -> float:
    """compute(energy) with everything in float64, or as it stands where that fails to trace."""
    try:
        with jax.enable_x64(True):
            return float(eqx.filter_jit(compute)(in_float64(energy)))
    except (TypeError, ValueError):
        return float(eqx.filter_jit(compute)(energy))


@eqx.filter_jit
def _sum_block(energy: AbstractEnergy, start, *, chunk: int, num_chunks: int):
    """(maximum, Σ exp(f − maximum), NaNs, +∞s) of each of `num_chunks` chunks of states."""
    num_states = energy.space.num_states
    assert num_states is not None

    def one(offset):
        index = offset + jnp.arange(chunk, dtype=jnp.int32)
        f = batched(energy, energy.space.states(jnp.minimum(index, num_states - 1)))
        inside = index < num_states
        nan, infinite = inside & jnp.isnan(f), inside & (f == jnp.inf)
        f = jnp.where(inside & ~nan & ~infinite, f, -jnp.inf)
        top = jnp.max(f)
        weights = jnp.exp(f - jnp.where(jnp.isfinite(top), top, 0.0))
        # Two short sums round less than a long one.
        total = jnp.sum(jnp.sum(weights.reshape(-1, min(chunk, 128)), axis=1))
        return jnp.where(jnp.isfinite(top), top, 0.0), total, jnp.sum(nan), jnp.sum(infinite)

    return jax.lax.map(one, start + chunk * jnp.arange(num_chunks, dtype=jnp.int32))
