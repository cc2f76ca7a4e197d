"""Which value does one part of a record have, given the rest?"""

import equinox as eqx
import numpy as np

from energax.energies._base import AbstractEnergy, check_scalar
from energax.objectives.conditional import check_target, conditional_log_densities
from energax.spaces import Point, Record
from energax.tasks._base import in_blocks

_AT_ONCE = 2**16  # energies


def classify(energy: AbstractEnergy, X: Point, *, target: str = "y") -> np.ndarray:
    """p(y | x) = exp f(x, y) / Σ_y' exp f(x, y') of every row: exact, and Z is not needed.

    Larochelle & Bengio 2008, eq. 2, where f is an RBM's.

    **Arguments:** `X`: the other parts of the record by name, (rows, *event) each; a part `target`
    among them is not looked at. `target`: the name of y.

    **Returns:** float64 (rows, states of y), in the order of its space's `enumerate()`; of one
    category that is 0 to k − 1.

    **Raises:** TypeError or ValueError where the energy is not on a record with such a part, y has
    more than 4096 values, or rows lie outside their space.
    """
    check_scalar(energy)
    num_states = check_target(energy, target)
    space = energy.space
    assert isinstance(space, Record)
    parts = {name: part for name, part in space.parts.items() if name != target}
    if not isinstance(X, dict) or not set(parts) <= set(X) <= set(space.parts):
        got = sorted(X) if isinstance(X, dict) else type(X).__name__
        raise ValueError(f"X: expected a dict with keys {sorted(parts)}, got {got}")
    rows = Record(**parts).validate({name: X[name] for name in parts}, batch=True, name="X")
    most = max(1, _AT_ONCE // num_states)
    found = in_blocks(lambda x: _log_densities(energy, x, target), rows, most)
    f = np.concatenate(found).astype(np.float64)
    weight = np.exp(f - f.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


@eqx.filter_jit
def _log_densities(energy: AbstractEnergy, x: Point, target: str):
    return conditional_log_densities(energy, x, target)
