"""The loop over the data: minibatches, optimiser, checkpoints, and a stop on trouble."""

from energax.training._base import (
    Best,
    DamagedCheckpoint,
    Fit,
    Recovery,
    Stopping,
    load,
    step_to_go_on_from,
)
from energax.training.board import TensorBoard
from energax.training.choose import pretrain
from energax.training.curves import Curves, Progress, ProgressFile, read_progress
from energax.training.experts import (
    ClassMixtures,
    Columns,
    Experts,
    MixedMixture,
    NormalMixture,
    fit_class_mixtures,
    fit_components,
    fit_experts,
    fit_mixed_mixture,
    fit_mixture,
)
from energax.training.loop import (
    check_matrices,
    check_optimizer,
    check_recovery,
    fit,
    resume,
    rows_a_window,
)
from energax.training.stopping import EarlyStopping

__all__ = [
    "Best",
    "ClassMixtures",
    "Columns",
    "Curves",
    "DamagedCheckpoint",
    "EarlyStopping",
    "Experts",
    "Fit",
    "MixedMixture",
    "NormalMixture",
    "Progress",
    "ProgressFile",
    "Recovery",
    "Stopping",
    "TensorBoard",
    "check_matrices",
    "check_optimizer",
    "check_recovery",
    "fit",
    "fit_class_mixtures",
    "fit_components",
    "fit_experts",
    "fit_mixed_mixture",
    "fit_mixture",
    "load",
    "pretrain",
    "read_progress",
    "resume",
    "rows_a_window",
    "step_to_go_on_from",
]
