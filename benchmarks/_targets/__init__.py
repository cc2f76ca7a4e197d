"""Distributions whose means, sds and mode weights are known, for `benchmarks.targets`."""

from benchmarks._targets import bounded, continuous, discrete
from benchmarks._targets._base import Target, make, names

__all__ = ["Target", "bounded", "continuous", "discrete", "make", "names"]
