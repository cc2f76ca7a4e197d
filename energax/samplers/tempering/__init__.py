"""Samplers that move along a path from a base to the target, for targets of many modes."""

from energax.samplers.tempering.parallel import ParallelTempering

__all__ = ["ParallelTempering"]
