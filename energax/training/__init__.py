"""The loop over the data: minibatches, optimiser, checkpoints, and a stop on trouble."""

from energax.training._base import DamagedCheckpoint, Fit, Stopping, load
from energax.training.choose import pretrain
from energax.training.loop import fit, resume
from energax.training.stopping import EarlyStopping

__all__ = [
    "DamagedCheckpoint",
    "EarlyStopping",
    "Fit",
    "Stopping",
    "fit",
    "load",
    "pretrain",
    "resume",
]
