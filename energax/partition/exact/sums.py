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
    Conditional,
    FrozenEnergy,
    batched,
)
from energax.partition._base import Clock, answer, in_float64, log_sum_exp
from energax.partition.exact._base import (
    MAX_TERMS,
    AbstractExactMethod,
    PairForm,
    Quote,
    constant_of,
    float64_or_32,
    not_finite,
    pair_form,
)
from energax.results import LogZ

_WIDE_UP_TO = 2**20  # states, above which f is evaluated in the energy's own precision


class Known(AbstractExactMethod):
    """The log Z that an `AbstractNormalised` energy knows of itself."""

    def quote(self, energy: AbstractEnergy) -> Quote:
        if isinstance(energy, AbstractNormalised):
            return Quote(0.0)
        return Quote(np.inf, f"{type(energy).__name__} does not know its normaliser")

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        self.check(energy)
        clock = Clock()
        value = float64_or_32(energy, lambda e: e.log_z)
        return answer(value, 0.0, clock, method="known", reasons=not_finite(value, "its log_z"))


class SummedSide(AbstractExactMethod):
    """log Z = log Σ over the smaller layer of a bipartite energy, the other in closed form.

    Salakhutdinov & Murray 2008. An RBM with some visible units held is one itself.
    """

    max_states: int = eqx.field(static=True, default=MAX_TERMS)

    def quote(self, energy: AbstractEnergy) -> Quote:
        inner = _bipartite(energy)
        if inner is None:
            return Quote(
                np.inf, f"summed side: {type(energy).__name__} has no second layer to sum out"
            )
        if inner.num_summed_states is None:
            return Quote(np.inf, "summed side: both layers have infinitely many states")
        return _quote_states("summed side", inner.num_summed_states, self.max_states)

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        self.check(energy)
        clock = Clock()
        with jax.enable_x64(True):
            inner = _bipartite(in_float64(energy))
        assert inner is not None
        value = float64_or_32(inner, lambda e: e.log_z_by_sum())
        if not isinstance(energy, AbstractBipartiteEnergy):  # equal up to a constant
            value += float64_or_32(energy, lambda e: e.log_density(e.space.example()))
            value -= float64_or_32(inner, lambda e: e.log_density(e.space.example()))
        clock.num_evaluations = inner.num_summed_states or 0
        reasons = not_finite(value, "the sum over the smaller layer")
        return answer(value, 0.0, clock, method="summed side", reasons=reasons)


def _bipartite(energy: AbstractEnergy) -> AbstractBipartiteEnergy | None:
    """The energy itself, or up to a constant what stays of it where some units are held."""
    if isinstance(energy, FrozenEnergy):
        return _bipartite(energy.energy)
    if isinstance(energy, Conditional) and isinstance(energy.energy, AbstractBipartiteEnergy):
        restricted = energy.energy.restrict(energy)
        return restricted if isinstance(restricted, AbstractBipartiteEnergy) else None
    return energy if isinstance(energy, AbstractBipartiteEnergy) else None


class Enumeration(AbstractExactMethod):
    """log Z = log Σ_x exp(f(x)) over every state, in chunks.

    Memory is that of one chunk. Every chunk gives its maximum and its sum relative to it, which
    are put together in float64. Sums over pairs of sites (Ising, Potts) are split in two halves of
    the sites, the states of one half against those of the other in one matrix product.

    **Arguments:** `max_states`: above it `run` refuses. `chunk_size`: states evaluated at once.
    """

    max_states: int = eqx.field(static=True, default=MAX_TERMS)
    chunk_size: int = eqx.field(static=True, default=2**14)

    def __check_init__(self):
        if not 1 <= self.max_states <= 2**30:
            raise ValueError(f"max_states lies between 1 and 2^30, got {self.max_states}")
        if self.chunk_size < 1 or self.chunk_size & (self.chunk_size - 1):
            raise ValueError(f"chunk_size is a power of 2, got {self.chunk_size}")

    def quote(self, energy: AbstractEnergy) -> Quote:
        num_states = energy.space.num_states
        if num_states is None:
            return Quote(
                np.inf,
                f"enumeration: {energy.space} has infinitely many points: none can be listed",
            )
        return _quote_states("enumeration", num_states, self.max_states)

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        self.check(energy)
        clock = Clock(max_seconds)
        form = pair_form(energy)
        if form is not None and form.is_finite:
            return self._run_pairs(energy, form, clock)
        num_states = energy.space.num_states
        assert num_states is not None
        chunk = min(self.chunk_size, 1 << (num_states - 1).bit_length())
        # The clock is read between blocks of chunks.
        num_chunks = min(-(-num_states // chunk), max(1, 2**20 // chunk))
        evaluate = _evaluator(energy, num_states)
        parts, bad, starts = [], np.zeros(2, int), range(0, num_states, chunk * num_chunks)
        for start in starts:
            tops, sums, nans, infinities = evaluate(start, chunk=chunk, num_chunks=num_chunks)
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

    def _run_pairs(self, energy: AbstractEnergy, form: PairForm, clock: Clock) -> LogZ:
        """f(low half, high half) = f(low) + f(high) + what the high half says to every low site."""
        n, k = form.num_sites, form.num_values
        num_low = min(n - n // 2, int(np.log(2**12) / np.log(k)))
        low = _numbers(np.arange(k**num_low), num_low, k)
        f_low = constant_of(energy, form) + _half(form, low, range(num_low))
        one_hot = (low[:, :, None] == np.arange(k)).reshape(len(low), -1).astype(np.float64)
        num_high = k ** (n - num_low)
        parts, done, columns = [], 0, max(1, 2**18 // len(low))
        while done < num_high and not (clock.out_of_time and done):
            index = np.arange(done, min(num_high, done + columns))
            high = _numbers(index, n - num_low, k)
            f_high = _half(form, high, range(num_low, n))
            f = one_hot @ _said(form, high, num_low)
            f += f_low[:, None]
            top = f.max(0)
            f -= top
            np.exp(f, out=f)
            parts.append(top + np.log(f.sum(0)) + f_high)
            done = int(index[-1]) + 1
        clock.num_evaluations = done * len(low)
        reasons = []
        if done < num_high:
            reasons = [f"time ended after {done * len(low):,} of {k**n:,} states"]
        return answer(
            log_sum_exp(np.concatenate(parts)),
            np.inf if reasons else 0.0,
            clock,
            method="enumeration",
            reasons=reasons,
            time_limited=bool(reasons),
        )


def _numbers(index: np.ndarray, num_sites: int, k: int) -> np.ndarray:
    """Value numbers (states, sites) of the states of these numbers."""
    return index[:, None] // k ** np.arange(num_sites, dtype=np.int64) % k


def _half(form: PairForm, states: np.ndarray, sites: range) -> np.ndarray:
    """f of some sites alone, (states,), without the constant."""
    local = np.arange(len(sites))
    f = form.singles[sites.start : sites.stop][local, states].sum(1)
    for (i, j), table in zip(form.edges, form.pairs, strict=True):
        if i in sites and j in sites:
            f += table[states[:, i - sites.start], states[:, j - sites.start]]
    return f


def _said(form: PairForm, high: np.ndarray, num_low: int) -> np.ndarray:
    """What high states say to every value of every low site, (low sites · k, states)."""
    out = np.zeros((num_low, form.num_values, len(high)))
    for (i, j), table in zip(form.edges, form.pairs, strict=True):
        if i < num_low <= j:
            out[i] += table[:, high[:, j - num_low]]
    return out.reshape(-1, len(high))


def _quote_states(name: str, num_states: int, max_states: int) -> Quote:
    cost = np.inf if num_states > 2**1000 else float(num_states)
    if num_states <= max_states:
        return Quote(cost)
    size = f"2^{num_states.bit_length() - 1}"
    size = size if num_states.bit_count() == 1 else f"over {size}"
    shown = size if np.isinf(cost) else f"{cost:.3g} states ({size})"
    # Python's integers pass what a float can hold (2^2000 states).
    return Quote(min(cost, 1e300), f"{name}: {shown} to sum (the limit is {max_states:,})")


def _evaluator(energy: AbstractEnergy, num_states: int):
    """`_sum_block` in float64 where f can be traced so, but for sums so long that time matters."""
    is_wide = num_states <= _WIDE_UP_TO
    if is_wide:
        try:
            with jax.enable_x64(True):
                wide = in_float64(energy)
                eqx.filter_eval_shape(wide.log_density, wide.space.example())
        except (TypeError, ValueError):
            is_wide = False

    def evaluate(start: int, **sizes: int):
        with jax.enable_x64(is_wide):
            chosen = wide if is_wide else energy
            return jax.device_get(_sum_block(chosen, jnp.int32(start), **sizes))

    return evaluate


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
