"""The record of a run: parts of metrics by name, of which each is of steps in a row or of looks."""

from collections.abc import Iterable

import numpy as np

from energax.training._base import History


def joined(record: Iterable[History], before: int | None = None) -> History:
    """The parts of the record as one, of what was seen up to the parameters of step `before`."""
    pieces: dict[str, list[np.ndarray]] = {}
    for part in record:
        for name, values in (part if before is None else _up_to(part, before)).items():
            pieces.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in pieces.items()}


def _up_to(part: History, step: int) -> History:
    # Step t starts from the parameters of step t, so that its row comes after them.
    wanted = part["step"] < step if "step" in part else part[_step_of(part)] <= step
    return {name: values[wanted] for name, values in part.items()}


# what is not of every step, each with a `..._step`
_BESIDE = "validation", "log_likelihood", "recovery", "checkpoint"


def _step_of(part: History) -> str:
    """The name of the steps in a part that is looked at now and then."""
    return next(f"{name}_step" for name in _BESIDE if f"{name}_step" in part)


def records_of(history: History, step: int) -> tuple[tuple[History, ...], tuple[History, ...]]:
    """A joined history as a record again: (of what was seen up to `step`, the whole)."""
    parts: dict[str, History] = {}
    for name, values in history.items():
        kind = next((kind for kind in _BESIDE if name.startswith(kind)), "")
        parts.setdefault(kind, {})[name] = values
    whole = tuple(parts.values())
    return tuple(_up_to(part, step) for part in whole), whole
