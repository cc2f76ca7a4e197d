"""The default objective for an energy."""

from energax.energies._base import (
    AbstractBipartiteEnergy,
    AbstractColouredEnergy,
    AbstractDeepEnergy,
    AbstractEnergy,
)
from energax.objectives._base import AbstractObjective
from energax.objectives.chains import MeanFieldPCD, PersistentCD
from energax.objectives.likelihood import MaximumLikelihood, num_exact_states

_FEW_STATES = 2**12
"""Below this many states a sum over them costs little beside the chains that it replaces."""


def default_objective(energy: AbstractEnergy) -> AbstractObjective:
    """Exact maximum likelihood where log Z is known or a sum of at most 4096 terms, else PCD.

    Where a point holds hidden layers too it is mean-field PCD. Gibbs kernels redraw all units in a
    step, so 5 steps an update do; others get 20.
    """
    if isinstance(energy, AbstractDeepEnergy):
        return MeanFieldPCD()
    num_states = num_exact_states(energy)
    if num_states is not None and num_states <= _FEW_STATES:
        return MaximumLikelihood()
    has_gibbs = isinstance(energy, (AbstractBipartiteEnergy, AbstractColouredEnergy))
    return PersistentCD(num_steps=5 if has_gibbs else 20)
