"""The objectives of the table, and those of `energax.objectives` that have no row."""

import dataclasses
from collections.abc import Callable
from typing import Any

from benchmarks._objectives.sets import BINARY, CATEGORICAL, REAL, Set, learned_noise
from energax import objectives as o
from energax.samplers import SiteGibbs

REAL_STEPS, FEW_STEPS = 10, 5  # of the sampler an update, on reals and on few-valued sites
ALL, DISCRETE = (REAL, BINARY, CATEGORICAL), (BINARY, CATEGORICAL)

LEFT_OUT = {
    "AbstractObjective": "what all of them are",
    "ConditionalLikelihood": "learns p(y given x) alone",
    "JointClassifier": "wants a column of labels",
    "LatentPCD": "wants a part of every point that is never seen",
    "MeanFieldPCD": "wants hidden layers in a point",
    "Penalised": "a penalty beside any of them",
    "SparseHidden": "a penalty beside any of them",
    "default_objective": "chooses one of them",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """`stages(data)`: objectives that share the steps of a training in equal parts, one after the
    other. `kinds` of the sets that it fits."""

    name: str
    kinds: tuple[str, ...]
    stages: Callable[[Set], list[Any]]


def rows() -> list[Row]:
    return [
        _row("MaximumLikelihood()", DISCRETE, lambda k: o.MaximumLikelihood()),
        _row("ContrastiveDivergence(1)", ALL, lambda k: o.ContrastiveDivergence(1)),
        _row("ContrastiveDivergence(k)", ALL, lambda k: o.ContrastiveDivergence(k)),
        _row("PersistentCD(k)", ALL, lambda k: o.PersistentCD(k)),
        Row("TemperedPCD(k)", ALL, _tempered),
        _row("ReplayCD(k)", ALL, lambda k: o.ReplayCD(k)),
        _row("ImprovedCD(k)", (REAL,), lambda k: o.ImprovedCD(k)),
        _row("RecoveryLikelihood()", (REAL,), lambda k: o.RecoveryLikelihood()),
        _row("ScoreMatching()", (REAL,), lambda k: o.ScoreMatching()),
        _row("SlicedScoreMatching()", (REAL,), lambda k: o.SlicedScoreMatching()),
        _row("DenoisingScoreMatching()", (REAL,), lambda k: o.DenoisingScoreMatching()),
        _row("MultiscaleDenoising()", (REAL,), lambda k: o.MultiscaleDenoising()),
        _row("NoiseContrastive(), fixed noise", ALL, lambda k: o.NoiseContrastive()),
        Row("NoiseContrastive(), learned noise", ALL, _learned),
        _row("ConditionalNCE()", ALL, lambda k: o.ConditionalNCE()),
        _row("EnergyDiscrepancy()", ALL, lambda k: o.EnergyDiscrepancy()),
        _row("EquilibriumMatching()", (REAL,), lambda k: o.EquilibriumMatching()),
        _row("EnergyMatching()", (REAL,), lambda k: o.EnergyMatching()),
        Row("EnergyMatching(), then with PersistentCD(k)", (REAL,), _transport_then_contrast),
        _row("PseudoLikelihood()", DISCRETE, lambda k: o.PseudoLikelihood()),
        _row("RatioMatching()", DISCRETE, lambda k: o.RatioMatching()),
        _row("MinimumProbabilityFlow()", DISCRETE, lambda k: o.MinimumProbabilityFlow()),
        _row("ConcreteScoreMatching()", DISCRETE, lambda k: o.ConcreteScoreMatching()),
    ]  # fmt: skip


def names(kind: str | None = None) -> list[str]:
    """Of all rows, or those that fit a kind of set."""
    return [row.name for row in rows() if kind is None or kind in row.kinds]


def _row(name: str, kinds: tuple[str, ...], make: Callable[[int], Any]) -> Row:
    return Row(name, kinds, lambda data: [make(_steps(data))])


def _steps(data: Set) -> int:
    return REAL_STEPS if data.kind == REAL else FEW_STEPS


def _tempered(data: Set) -> list[Any]:
    if data.kind != CATEGORICAL:
        return [o.TemperedPCD(_steps(data))]
    # Rungs between the base and tables for every pair have no colours, which the default needs.
    # This one redraws one site a step.
    sites = data.train.shape[1]
    return [o.TemperedPCD(sites * _steps(data), sampler=SiteGibbs())]


def _learned(data: Set) -> list[Any]:
    return [o.NoiseContrastive(learned_noise(data), learn_noise=True)]


def _transport_then_contrast(data: Set) -> list[Any]:
    return [o.EnergyMatching(), o.EnergyMatching(contrast=o.PersistentCD(_steps(data)))]
