"""The loop over the data: minibatches, optimiser, checkpoints, and a stop on trouble."""

from energax.training._base import DamagedCheckpoint, Fit, load
from energax.training.loop import fit, resume

__all__ = ["DamagedCheckpoint", "Fit", "fit", "load", "resume"]
