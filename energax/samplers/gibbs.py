"""Gibbs samplers: sites redrawn from their exact conditionals, nothing to tune.

Geman & Geman 1984. A block of sites may be redrawn at once where they are independent given the
rest; on any energy one site can be.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax.energies._base import (
    AbstractBipartiteEnergy,
    AbstractColouredEnergy,
    AbstractEnergy,
    AbstractOfLengths,
    batched,
)
from energax.samplers._base import AbstractSampler, Info, State, accepted, choose
from energax.spaces import AbstractArraySpace, few_valued, with_site_moved

_RUNGS = 16  # chains shorter than those of the ensemble


class BipartiteState(State):
    """The ensemble with what the hidden units see of it, which the next step starts from."""

    hidden_input: Float[Array, "chains hidden"] | None = None


class BlockGibbs(AbstractSampler):
    """h ~ p(h | x), then x ~ p(x | h), for energies of two layers such as RBMs.

    Hinton 2002, "Training products of experts by minimizing contrastive divergence". A step costs
    two matrix products: the one that gives f(x) at its end is the one that the next step starts
    from.
    """

    @property
    def is_exact(self):
        return True

    def evaluations_per_step(self, energy):
        return 2.0

    def init(self, energy, x, *, key):
        """(State, None).

        **Raises:** TypeError unless `energy` is an `AbstractBipartiteEnergy`.
        """
        return _bipartite_state(_as_bipartite(energy), x), None

    def refresh(self, energy, state):
        return _bipartite_state(_as_bipartite(energy), state.x)

    def follow(self, energy, state):
        """The state as it is: h is drawn at the parameters that x was drawn at, as if at once.

        A chain of PCD is then one in (x, h); it saves one matrix product in six of a PCD-1 update.
        """
        return state

    def temper(self, energy, state):
        """`state` with f at the new β; what the hidden units see is the same at every β."""
        energy = _as_bipartite(energy)
        assert isinstance(state, BipartiteState) and state.hidden_input is not None
        f = energy.log_density_from(state.x, state.hidden_input)
        return BipartiteState(state.x, f, hidden_input=state.hidden_input)

    def step(self, energy, state, tuning, *, key):
        energy = _as_bipartite(energy)
        assert isinstance(state, BipartiteState) and state.hidden_input is not None
        key_hidden, key_visible = jax.random.split(key)
        hidden = energy.draw_hidden(state.hidden_input, key=key_hidden)
        new = _bipartite_state(energy, energy.sample_visible(hidden, key=key_visible))
        return new, _info(new)

    def adapt(self, tuning, state, info):
        return tuning


class ExchangeState(BipartiteState):
    """The ensemble, and hidden units of points shorter than any in it."""

    short: Float[Array, "rungs hidden"] | None = None


class ExchangeGibbs(AbstractSampler):
    """Block Gibbs on an ensemble of many lengths n, whose chains swap hidden units in between.

    Where p(h | n) ∝ exp(n u(h)), n is to h what β is in replica exchange (Geyer 1991; Swendsen &
    Wang 1986): the hidden units of chains i and j change places with probability min(1, exp((n_i −
    n_j)(u(h_j) − u(h_i)))), which leaves the product of all p(x_i, h_i | n_i) invariant. So long
    points, whose hidden units all but follow from x and stay as they are, get those of shorter
    ones. In training some 16 chains of lengths from 1 to the shortest of the ensemble go along.

    **Arguments:** `num_rounds`: of swaps a step, each of all chains in random pairs; they cost next
    to nothing.
    """

    num_rounds: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        if self.num_rounds < 1:
            raise ValueError(f"num_rounds: expected a whole number from 1, got {self.num_rounds}")

    @property
    def is_exact(self):
        return True

    def evaluations_per_step(self, energy):
        return 3.0

    def init(self, energy, x, *, key):
        """(State, None).

        **Raises:** TypeError unless `energy` is an `AbstractOfLengths`.
        """
        energy = _as_of_lengths(energy)
        state = _bipartite_state(energy, x)
        lengths = energy.lengths(x)
        least = jnp.maximum(1, jnp.min(lengths)).astype(float)
        ladder = jnp.round(least ** jnp.linspace(0.0, 1.0, _RUNGS))
        key_row, key_hidden = jax.random.split(key)
        rows = jax.random.randint(key_row, (_RUNGS,), 0, len(lengths))
        hidden = energy.draw_hidden(state.hidden_input[rows], key=key_hidden)  # type: ignore[index]
        short = energy.with_length(hidden, ladder)
        return ExchangeState(
            x, state.log_density, hidden_input=state.hidden_input, short=short
        ), None

    def refresh(self, energy, state):
        new = _bipartite_state(_as_of_lengths(energy), state.x)
        short = state.short if isinstance(state, ExchangeState) else None
        return ExchangeState(new.x, new.log_density, hidden_input=new.hidden_input, short=short)

    def follow(self, energy, state):
        """The state as it is, as `BlockGibbs` has it."""
        return state

    def step(self, energy, state, tuning, *, key):
        energy = _as_of_lengths(energy)
        assert isinstance(state, ExchangeState) and state.hidden_input is not None
        keys = jax.random.split(key, 5)
        hidden = energy.draw_hidden(state.hidden_input, key=keys[0])
        num, short = len(hidden), state.short
        if short is not None:
            seen = energy.hidden_input(energy.sample_visible(short, key=keys[1]))
            hidden = jnp.concatenate([hidden, energy.draw_hidden(seen, key=keys[2])])
        hidden = self._swapped(energy, hidden, keys[3])
        if short is not None:
            hidden, short = hidden[:num], hidden[num:]
        new = _bipartite_state(energy, energy.sample_visible(hidden, key=keys[4]))
        new = ExchangeState(new.x, new.log_density, hidden_input=new.hidden_input, short=short)
        return new, _info(new)

    def _swapped(self, energy: AbstractOfLengths, hidden, key):
        """The hidden units after the swaps; lengths stay in their places."""
        gain, length = energy.hidden_gain(hidden)
        num = len(gain)

        def exchange(place, round_key):
            key_pairs, key_accept = jax.random.split(round_key)
            order = jnp.argsort(jax.random.uniform(key_pairs, (num,)))
            a, b = order[: num // 2], order[num // 2 : 2 * (num // 2)]
            log_ratio = (length[a] - length[b]) * (gain[place[b]] - gain[place[a]])
            swap = jnp.log(jax.random.uniform(key_accept, a.shape)) < log_ratio
            new = place.at[a].set(jnp.where(swap, place[b], place[a]))
            return new.at[b].set(jnp.where(swap, place[a], place[b])), None

        keys = jax.random.split(key, self.num_rounds)
        place, _ = jax.lax.scan(exchange, jnp.arange(num), keys)
        return energy.with_length(hidden[place], length)

    def adapt(self, tuning, state, info):
        return tuning


class ColouredGibbs(AbstractSampler):
    """Each colour of sites in turn from p(sites | the others), for energies on graphs.

    Geman & Geman 1984, section XI. One step is one sweep over all the sites.

    **Arguments:** `backwards`: take the colours from the last to the first, which is the sweep run
    backwards in time.
    """

    backwards: bool = eqx.field(static=True, default=False)

    @property
    def is_exact(self):
        return True

    def evaluations_per_step(self, energy):
        return 2.0  # each edge is read from both its ends

    def init(self, energy, x, *, key):
        """(State, None).

        **Raises:** TypeError unless `energy` is an `AbstractColouredEnergy`.
        """
        return _coloured_state(_as_coloured(energy), x), None

    def refresh(self, energy, state):
        return _coloured_state(_as_coloured(energy), state.x)

    def step(self, energy, state, tuning, *, key):
        x, f = _as_coloured(energy).sweep(state.x, key=key, backwards=self.backwards)
        new_state = State(x, f)
        return new_state, _info(new_state)

    def reversal(self):
        return ColouredGibbs(backwards=not self.backwards)

    def adapt(self, tuning, state, info):
        return tuning


class SiteGibbs(AbstractSampler):
    """Single sites of any energy, a random one each time, from p(x_i | the others) made repulsive.

    All k values of the site are evaluated. One that differs is drawn with p(j | rest)/(1 − p(x_i |
    rest)) and taken with probability min(1, (1 − p(x_i | rest))/(1 − p(j | rest))), which leaves
    the same distribution invariant as drawing from p(· | rest) and moves more often (Liu 1996,
    "Peskun's theorem and a modified discrete-state Gibbs sampler", section 2). For two values it is
    the flip of one site with probability min(1, p(x')/p(x)). One time in sites + 1 no site is
    taken, or else on a flat energy the number of flips would tell odd from even for ever.

    **Arguments:** `num_updates`: sites a step, one after the other.
    """

    num_updates: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if self.num_updates < 1:
            raise ValueError(f"num_updates: expected a whole number from 1, got {self.num_updates}")

    @property
    def is_exact(self):
        return True

    def evaluations_per_step(self, energy):
        return float(self.num_updates * (_few_valued(energy.space).num_values - 1))

    def init(self, energy, x, *, key):
        """(State, None).

        **Raises:** TypeError where a site has no few values (Count, Real, Box, Record).
        """
        _few_valued(energy.space)
        return State(x, batched(energy, x)), None

    def step(self, energy, state, tuning, *, key):
        if self.num_updates == 1:
            return _update_site(energy, state, key)

        def update(carry, update_key):
            state, acceptance, divergent = carry
            state, info = _update_site(energy, state, update_key)
            return (state, acceptance + info.acceptance, divergent | info.divergent), None

        zero = jnp.zeros_like(state.log_density)
        keys = jax.random.split(key, self.num_updates)
        carry, _ = jax.lax.scan(update, (state, zero, jnp.zeros(zero.shape, bool)), keys)
        state, acceptance, divergent = carry
        return state, Info(acceptance / self.num_updates, divergent)

    def adapt(self, tuning, state, info):
        return tuning


def _few_valued(space) -> Any:
    return few_valued("SiteGibbs", space, "use Metropolis(), which works on every space")


def _update_site(energy: AbstractEnergy, state: State, key) -> tuple[State, Info]:
    """One site of each chain, or none, by `SiteGibbs`'s rule."""
    space = energy.space
    assert isinstance(space, AbstractArraySpace)
    keys = jax.random.split(key, 3)
    chains, num_values = len(state.log_density), _few_valued(space).num_values
    site = jax.random.randint(keys[0], (chains,), 0, space.num_sites + 1)
    shift = jnp.arange(1, num_values)
    others = with_site_moved(space, state.x, site, shift)
    f = jax.vmap(batched, (None, 0))(energy, others).T  # (chains, k − 1)
    divergent = jnp.any(jnp.isnan(f) | (f == jnp.inf), axis=1)
    f = jnp.where(jnp.isfinite(f), f, -jnp.inf)
    here = jnp.where(jnp.isfinite(state.log_density), state.log_density, -jnp.inf)
    if num_values == 2:
        chosen = jnp.zeros(chains, int)
        log_ratio = f[:, 0] - here
    else:
        chosen = jax.random.categorical(keys[1], f)
        left = jnp.where(jnp.arange(num_values - 1) == chosen[:, None], -jnp.inf, f)
        log_ratio = _log_sum(f) - jnp.logaddexp(here, _log_sum(left))
    there = jnp.take_along_axis(f, chosen[:, None], axis=1)[:, 0]
    usable = jnp.isfinite(there) & (site < space.num_sites)
    probability = jnp.where(usable, jnp.exp(jnp.minimum(log_ratio, 0.0)), 0.0)
    accept = accepted(keys[2], probability)
    x = others[chosen, jnp.arange(chains)]
    new = State(choose(accept, x, state.x), jnp.where(accept, there, state.log_density))
    return new, Info(probability, divergent)


def _log_sum(f: Float[Array, "chains others"]) -> Float[Array, " chains"]:
    return jax.nn.logsumexp(f, axis=1)


def _as_bipartite(energy: AbstractEnergy) -> AbstractBipartiteEnergy:
    if isinstance(energy, AbstractBipartiteEnergy):
        return energy
    raise TypeError(
        "BlockGibbs needs an energy of a visible and a hidden layer (an AbstractBipartiteEnergy "
        f"such as BernoulliRBM), got {type(energy).__name__}. Use Metropolis; or to temper an RBM "
        "take rbm.path(base).at(beta), which has two layers itself (a power of an RBM has not)"
    )


def _as_of_lengths(energy: AbstractEnergy) -> AbstractOfLengths:
    if isinstance(energy, AbstractOfLengths):
        return energy
    raise TypeError(
        "ExchangeGibbs needs an energy whose points have lengths (an AbstractOfLengths such as "
        f"ReplicatedSoftmax), got {type(energy).__name__}. Use BlockGibbs for one with two layers"
    )


def _as_coloured(energy: AbstractEnergy) -> AbstractColouredEnergy:
    if isinstance(energy, AbstractColouredEnergy):
        return energy
    raise TypeError(
        "ColouredGibbs needs an energy that knows groups of independent sites (an "
        f"AbstractColouredEnergy such as Ising), got {type(energy).__name__}. Use Metropolis; or "
        "to temper an Ising model take energy.tempered(beta) (Tempered hides its colours)"
    )


def _bipartite_state(energy: AbstractBipartiteEnergy, x) -> BipartiteState:
    hidden_input = energy.hidden_input(x)
    f = energy.log_density_from(x, hidden_input)
    return BipartiteState(x, f, hidden_input=hidden_input)


def _coloured_state(energy: AbstractColouredEnergy, x) -> State:
    return State(x, energy.ensemble_log_density(x))


def _info(state: State) -> Info:
    """Nothing is ever refused; a chain diverges only where the parameters are not finite."""
    return Info(jnp.ones_like(state.log_density), ~jnp.isfinite(state.log_density))
