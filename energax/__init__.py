"""energax: energy-based models whose answers carry an error bar and a verdict.

Any scalar function f(x) of one data point is treated as p(x) = exp(f(x))/Z: draw from it, train it,
compare points, estimate Z and likelihoods, find anomalies, remove noise, fill gaps, read features.
"""

import importlib
from typing import TYPE_CHECKING

from energax import compiler

if TYPE_CHECKING:
    from energax import energies as energies
    from energax import io as io
    from energax import objectives as objectives
    from energax import partition as partition
    from energax import random as random
    from energax import samplers as samplers
    from energax import spaces as spaces
    from energax import tasks as tasks
    from energax import training as training
    from energax.energies import Moments as Moments
    from energax.energies import from_log_density as from_log_density
    from energax.energies import from_positive as from_positive
    from energax.energies import frozen as frozen
    from energax.io import read_alignment as read_alignment
    from energax.partition import log_z as log_z
    from energax.results import UnreliableResult as UnreliableResult
    from energax.samplers import sample as sample
    from energax.spaces import Binary as Binary
    from energax.spaces import Box as Box
    from energax.spaces import Categorical as Categorical
    from energax.spaces import Count as Count
    from energax.spaces import Ordinal as Ordinal
    from energax.spaces import Real as Real
    from energax.spaces import Record as Record
    from energax.spaces import Spin as Spin
    from energax.tasks import BitFlip as BitFlip
    from energax.tasks import Blur as Blur
    from energax.tasks import GaussianNoise as GaussianNoise
    from energax.tasks import Mask as Mask
    from energax.tasks import PoissonNoise as PoissonNoise
    from energax.tasks import SaltAndPepper as SaltAndPepper
    from energax.tasks import anomaly_scores as anomaly_scores
    from energax.tasks import classify as classify
    from energax.tasks import compare as compare
    from energax.tasks import contact_scores as contact_scores
    from energax.tasks import denoise as denoise
    from energax.tasks import explain as explain
    from energax.tasks import features as features
    from energax.tasks import impute as impute
    from energax.tasks import log_ratio as log_ratio
    from energax.tasks import mode as mode
    from energax.tasks import perplexity as perplexity
    from energax.tasks import same_distribution as same_distribution
    from energax.tasks import score_samples as score_samples
    from energax.tasks import sequence_weights as sequence_weights
    from energax.tasks import variational_bound as variational_bound
    from energax.training import EarlyStopping as EarlyStopping
    from energax.training import Fit as Fit
    from energax.training import fit as fit
    from energax.training import load as load
    from energax.training import pretrain as pretrain
    from energax.training import resume as resume

__version__ = "0.1.0"

compiler.set_flags()  # before JAX is first used

# Rooms, and the names that each lends: loaded when first used, so that `import energax` is fast.
_ROOMS = {
    "energies": ("Moments", "from_log_density", "from_positive", "frozen"),
    "io": ("read_alignment",),
    "objectives": (),
    "partition": ("log_z",),
    "random": (),
    "results": ("UnreliableResult",),
    "samplers": ("sample",),
    "spaces": ("Binary", "Box", "Categorical", "Count", "Ordinal", "Real", "Record", "Spin"),
    "tasks": (
        "BitFlip",
        "Blur",
        "GaussianNoise",
        "Mask",
        "PoissonNoise",
        "SaltAndPepper",
        "anomaly_scores",
        "classify",
        "compare",
        "contact_scores",
        "denoise",
        "explain",
        "features",
        "impute",
        "log_ratio",
        "mode",
        "perplexity",
        "same_distribution",
        "score_samples",
        "sequence_weights",
        "variational_bound",
    ),
    "training": ("EarlyStopping", "Fit", "fit", "load", "pretrain", "resume"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f"energax.{name}")
    if name in _ROOM_OF:
        value = getattr(importlib.import_module(f"energax.{_ROOM_OF[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'energax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_ROOM_OF})
