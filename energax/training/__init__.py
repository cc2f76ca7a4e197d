"""The loop over the data: minibatches, optimiser, checkpoints, and a stop on trouble."""

from energax.training._base import DamagedCheckpoint, Fit, Stopping, load
from energax.training.choose import pretrain
from energax.training.loop import check_optimizer, fit, resume
from energax.training.stopping import EarlyStopping

__all__ = [
    "DamagedCheckpoint",
    "EarlyStopping",
    "Fit",
    "Stopping",
    "check_optimizer",
    "fit",
    "load",
    "pretrain",
    "resume",
]
