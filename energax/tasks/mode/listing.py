"""The mode by looking at every state of a small finite space (MacKay 2003, chapter 29)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractEnergy
from energax.objectives.likelihood import all_log_densities
from energax.partition._base import in_float64
from energax.tasks.mode._base import SAME, Found, take

MOST_STATES = 2**24


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
            f, wide = np.asarray(_all(in_float64(energy)), np.float64), True
    except (TypeError, ValueError):
        f, wide = np.asarray(_all(energy), np.float64), False
    f = f[:num_states]  # the last chunk is padded
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


@eqx.filter_jit
def _all(energy: AbstractEnergy):
    return all_log_densities(energy)
