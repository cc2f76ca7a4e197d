"""Markov chain samplers: kernels that move an ensemble of chains."""

from energax.samplers.gibbs import BlockGibbs, ColouredGibbs
from energax.samplers.langevin import MALA, ULA
from energax.samplers.metropolis import Metropolis

__all__ = ["MALA", "ULA", "BlockGibbs", "ColouredGibbs", "Metropolis"]
