"""The mode of a continuous density, searched for uphill from many far-flung points."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from energax.energies._base import AbstractEnergy
from energax.samplers._base import is_real
from energax.samplers.choose import initial_points, is_smooth
from energax.samplers.driver.ascent import ascend
from energax.spaces import Box, Point, Real
from energax.tasks.mode._base import Found, energies_of, lowest, take

_POINTS = 256
_ROUNDS = 4
_SETTLED = 1e-4  # nats that one more round of steps may still bring
_FAR = 1e6  # times as far out as any start


class _Folded(AbstractEnergy):
    """E on all of ℝⁿ, the box laid out between mirrors: its lows are those of E in the box."""

    energy: AbstractEnergy

    @property
    def space(self):  # type: ignore[override]
        return Real(self.energy.space.shape)

    def __call__(self, x):
        box = self.energy.space
        assert isinstance(box, Box)
        return self.energy(box.reflect(x))


def by_ascent(energy: AbstractEnergy, *, key: Key[Array, ""], initial: Point | None) -> Found | str:
    """The highest of the peaks that 256 climbs found, or why they do not apply."""
    boxed = isinstance(energy.space, Box)
    if not boxed and not is_real(energy.space):
        return f"it climbs on Real and Box spaces, got {energy.space}"
    if not is_smooth(energy):
        return "JAX does not differentiate this energy"
    x = initial_points(energy, _POINTS, key=key) if initial is None else initial
    num = jax.tree.leaves(x)[0].shape[0]
    free = _Folded(energy) if boxed else energy
    reach = 1 + max(float(np.max(np.abs(a))) for a in jax.tree.leaves(x))
    rounds, gains, best_f = 0, np.inf, -np.inf
    while rounds < _ROUNDS and not gains <= _SETTLED:
        x, f = ascend(free, x)
        gains, best_f = float(np.max(f)) - best_f, float(np.max(f))
        rounds += 1
    if isinstance(energy.space, Box):
        x = np.asarray(energy.space.reflect(jnp.asarray(x)))
    energies = energies_of(energy, x)
    best, _ = lowest(energies)
    same = energies <= energies[best] + 10 * _SETTLED
    reasons = [
        f"climbing proves no more than a local mode: {int(same.sum())} of {num} climbs ended at "
        "this height and none higher, but a higher one may lie elsewhere"
    ]
    out = max(float(np.max(np.abs(a))) for a in jax.tree.leaves(take(x, best)))
    if not gains <= _SETTLED or out > _FAR * reach:
        reasons.append(
            "it rose as far as the climb went: the density may have no highest point, or a very "
            "narrow one"
        )
    evaluations = num * 150 * rounds
    return Found(
        take(x, best),
        "ascent",
        agreement=float(same.mean()),
        num_evaluations=evaluations,
        reasons=tuple(reasons),
    )
