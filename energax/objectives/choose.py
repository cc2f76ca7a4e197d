"""The default objective for an energy and its data."""

from energax.energies._base import AbstractBipartiteEnergy, AbstractColouredEnergy, AbstractEnergy
from energax.objectives._base import AbstractObjective
from energax.objectives.contrastive_divergence import PersistentCD
from energax.objectives.likelihood import MaximumLikelihood, num_exact_states
from energax.spaces import Point

_FEW_STATES = 2**12
"""Below this many states a sum over them costs little beside the chains that it replaces."""


def default_objective(energy: AbstractEnergy, data: Point) -> AbstractObjective:
    """Exact maximum likelihood where log Z is known or a sum of at most 4096 terms, else PCD.

    Gibbs kernels redraw all units in a step, so 5 steps an update do; others get 20.
    """
    num_states = num_exact_states(energy)
    if num_states is not None and num_states <= _FEW_STATES:
        return MaximumLikelihood()
    has_gibbs = isinstance(energy, (AbstractBipartiteEnergy, AbstractColouredEnergy))
    return PersistentCD(num_steps=5 if has_gibbs else 20)
