"""Gibbs samplers: whole blocks of sites redrawn from their exact conditionals, nothing to tune.

Geman & Geman 1984. A block may be redrawn at once where its sites are independent given the rest.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from energax.energies._base import AbstractBipartiteEnergy, AbstractColouredEnergy, AbstractEnergy
from energax.samplers._base import AbstractSampler, Info, State


class BipartiteState(State):
    """The ensemble with what the hidden units see of it, which the next step starts from."""

    hidden_input: Float[Array, "chains hidden"] | None = None


class BlockGibbs(AbstractSampler):
    """h ~ p(h | x), then x ~ p(x | h), for energies of two layers such as RBMs.

    Hinton 2002, section 4. A step costs two matrix products: the one that gives f(x) at its end is
    the one that the next step starts from.
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
        if not isinstance(energy, AbstractBipartiteEnergy):
            raise TypeError(
                "BlockGibbs needs an energy of a visible and a hidden layer (an "
                f"AbstractBipartiteEnergy such as BernoulliRBM), got {type(energy).__name__}. Use "
                "Metropolis, or for a tempered RBM rbm.path(base).at(beta), which is bipartite "
                "itself (a power of an RBM is not)"
            )
        return _bipartite_state(energy, x), None

    def refresh(self, energy, state):
        return _bipartite_state(energy, state.x)

    def step(self, energy, state, tuning, *, key):
        key_hidden, key_visible = jax.random.split(key)
        hidden = energy.draw_hidden(state.hidden_input, key=key_hidden)
        new = _bipartite_state(energy, energy.sample_visible(hidden, key=key_visible))
        return new, _info(new)

    def adapt(self, tuning, state, info):
        return tuning


def _bipartite_state(energy: AbstractBipartiteEnergy, x) -> BipartiteState:
    hidden_input = energy.hidden_input(x)
    f = energy.log_density_from(x, hidden_input)
    return BipartiteState(x, f, hidden_input=hidden_input)


def _info(state: State) -> Info:
    """Nothing is ever refused; a chain diverges only where the parameters are not finite."""
    return Info(jnp.ones_like(state.log_density), ~jnp.isfinite(state.log_density))
