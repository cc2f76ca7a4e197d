"""The mode by looking at every state of a small finite space (MacKay 2003, chapter 29)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractEnergy, batched
from energax.partition._base import in_float64
from energax.tasks.mode._base import SAME, Found, take

MOST_STATES = 2**24
_CHUNK = 2**14


def by_listing(energy: AbstractEnergy) -> Found | str:
    """The mode, or why the states cannot be listed.

    **Raises:** ValueError where f is NaN or +∞, or −∞ everywhere.
    """
    num_states = energy.space.num_states
    if num_states is None:
        return f"{energy.space} has infinitely many points"
    if num_states > MOST_STATES:
        bits = (num_states - 1).bit_length()
        return f"it has up to 2^{bits} states, and at most {MOST_STATES:,} are listed"
    try:
        with jax.enable_x64(True):
            f, wide = _all(in_float64(energy), num_states), True
    except (TypeError, ValueError):
        f, wide = _all(energy, num_states), False
    if np.any(np.isnan(f) | (f == np.inf)):
        bad = int(np.argmax(np.isnan(f) | (f == np.inf)))
        raise ValueError(
            f"the energy gives f = {f[bad]} at state {bad} of its space; a log-density is a "
            "finite number or -inf: mend the energy there"
        )
    best = int(f.argmax())
    if f[best] == -np.inf:
        raise ValueError("f is -inf at every state of the space: there is nothing to find")
    close = (SAME if wide else 1e-5) * (1 + abs(f[best]))
    alike = int((f >= f[best] - close).sum())
    x = take(energy.space.states(jnp.asarray([best])), 0)
    return Found(x, "enumeration", 0.0, True, alike == 1, num_evaluations=num_states)


def _all(energy: AbstractEnergy, num_states: int) -> np.ndarray:
    chunk = min(_CHUNK, num_states)
    parts = [
        np.asarray(_some(energy, jnp.asarray(start), chunk), np.float64)
        for start in range(0, num_states, chunk)
    ]
    return np.concatenate(parts)[:num_states]


@eqx.filter_jit
def _some(energy: AbstractEnergy, start, chunk: int):
    num_states = energy.space.num_states
    assert num_states is not None
    number = jnp.minimum(start + jnp.arange(chunk), num_states - 1)
    return batched(energy, energy.space.states(number))
