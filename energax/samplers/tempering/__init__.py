"""Samplers that move along a path from a base to the target, for targets of many modes."""

from energax.samplers.tempering.parallel import ParallelTempering
from energax.samplers.tempering.smc import TemperedSMC
from energax.samplers.tempering.transitions import TemperedTransitions

__all__ = ["ParallelTempering", "TemperedSMC", "TemperedTransitions"]
