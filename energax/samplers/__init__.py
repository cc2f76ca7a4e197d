"""Markov chain samplers: kernels that move an ensemble of chains, and `sample`, which runs them."""

from energax.samplers.choose import default_sampler, initial_points, sample
from energax.samplers.cluster import SwendsenWang, Wolff
from energax.samplers.elliptical import EllipticalSlice
from energax.samplers.gibbs import BlockGibbs, ColouredGibbs, ExchangeGibbs, SiteGibbs
from energax.samplers.hamiltonian import HMC, ChEES
from energax.samplers.langevin import MALA, ULA
from energax.samplers.locally_informed import DiscreteLangevin, GibbsWithGradients
from energax.samplers.metropolis import Metropolis
from energax.samplers.mixed import Mixed
from energax.samplers.nuts import NUTS
from energax.samplers.tempering import ParallelTempering, TemperedSMC, TemperedTransitions
from energax.samplers.transformed import Transformed
from energax.samplers.underdamped import UnderdampedLangevin

__all__ = [
    "HMC",
    "MALA",
    "NUTS",
    "ULA",
    "BlockGibbs",
    "ChEES",
    "ColouredGibbs",
    "DiscreteLangevin",
    "EllipticalSlice",
    "ExchangeGibbs",
    "GibbsWithGradients",
    "Metropolis",
    "Mixed",
    "ParallelTempering",
    "SiteGibbs",
    "SwendsenWang",
    "TemperedSMC",
    "TemperedTransitions",
    "Transformed",
    "UnderdampedLangevin",
    "Wolff",
    "default_sampler",
    "initial_points",
    "sample",
]
