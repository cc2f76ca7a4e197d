"""Gibbs samplers: whole blocks of sites redrawn from their exact conditionals, nothing to tune.

Geman & Geman 1984. A block may be redrawn at once where its sites are independent given the rest.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax.energies._base import AbstractBipartiteEnergy, AbstractColouredEnergy, AbstractEnergy
from energax.samplers._base import AbstractSampler, Info, State
from energax.spaces import Spin


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

    def step(self, energy, state, tuning, *, key):
        energy = _as_bipartite(energy)
        assert isinstance(state, BipartiteState) and state.hidden_input is not None
        key_hidden, key_visible = jax.random.split(key)
        hidden = energy.draw_hidden(state.hidden_input, key=key_hidden)
        new = _bipartite_state(energy, energy.sample_visible(hidden, key=key_visible))
        return new, _info(new)

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
        energy = _as_coloured(energy)
        up, down = 1.0, -1.0 if isinstance(energy.space, Spin) else 0.0
        sites = _sites_first(state.x)
        keys = jax.random.split(key, len(energy.colours))
        order = list(enumerate(energy.colours))
        for colour, members in order[::-1] if self.backwards else order:
            log_odds = energy.log_odds(sites, colour)
            u = jax.random.uniform(keys[colour], log_odds.shape, log_odds.dtype)
            new = jnp.where(u < jax.nn.sigmoid(log_odds), up, down).astype(sites.dtype)
            sites = sites.at[members].set(new, unique_indices=True)
        new_state = State(sites.T.reshape(state.x.shape), energy.log_density_from_sites(sites))
        return new_state, _info(new_state)

    def reversal(self):
        return ColouredGibbs(backwards=not self.backwards)

    def adapt(self, tuning, state, info):
        return tuning


def _as_bipartite(energy: AbstractEnergy) -> AbstractBipartiteEnergy:
    if isinstance(energy, AbstractBipartiteEnergy):
        return energy
    raise TypeError(
        "BlockGibbs needs an energy of a visible and a hidden layer (an AbstractBipartiteEnergy "
        f"such as BernoulliRBM), got {type(energy).__name__}. Use Metropolis; or to temper an RBM "
        "take rbm.path(base).at(beta), which has two layers itself (a power of an RBM has not)"
    )


def _as_coloured(energy: AbstractEnergy) -> AbstractColouredEnergy:
    if isinstance(energy, AbstractColouredEnergy):
        return energy
    raise TypeError(
        "ColouredGibbs needs an energy that knows groups of independent sites (an "
        f"AbstractColouredEnergy such as Ising), got {type(energy).__name__}. Use Metropolis; or "
        "to temper an Ising model scale its couplings and fields (Tempered hides its colours)"
    )


def _bipartite_state(energy: AbstractBipartiteEnergy, x) -> BipartiteState:
    hidden_input = energy.hidden_input(x)
    f = energy.log_density_from(x, hidden_input)
    return BipartiteState(x, f, hidden_input=hidden_input)


def _coloured_state(energy: AbstractColouredEnergy, x) -> State:
    return State(x, energy.log_density_from_sites(_sites_first(x)))


def _sites_first(x: Float[Array, "chains ..."]) -> Float[Array, "sites chains"]:
    return x.reshape(x.shape[0], -1).T


def _info(state: State) -> Info:
    """Nothing is ever refused; a chain diverges only where the parameters are not finite."""
    return Info(jnp.ones_like(state.log_density), ~jnp.isfinite(state.log_density))
