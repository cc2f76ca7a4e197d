"""What tempered samplers share: the ladder of inverse temperatures, and how it is spaced evenly."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from energax.energies._base import AbstractNormalised, AbstractPath
from energax.energies.reference import matched_base
from energax.samplers._base import AbstractSampler, EnsembleMoments, State, choose
from energax.spaces import Point

_MOST_NARROWING = 0.25
"""Least share of its variance that the base keeps at one fit: rungs near it must go on looking
where no chain has been yet."""


class Ladder(eqx.Module):
    """Rungs 0 = β₀ < β₁ < … < β_R = 1, and the base at β = 0; `betas` leaves β₀ out.

    `version` grows by one at every change, so that a state knows whether it was made on it.
    """

    betas: Float[Array, " rungs"]
    base: AbstractNormalised
    version: Int[Array, ""]

    @property
    def all_betas(self) -> Float[Array, " betas"]:
        return jnp.concatenate([jnp.zeros_like(self.betas[:1]), self.betas])

    def changed(self, betas: Float[Array, " rungs"], base: AbstractNormalised) -> "Ladder":
        return Ladder(betas, base, self.version + 1)


class BaseFit(eqx.Module):
    """Moments from which the base is fitted in warm-up."""

    moments: EnsembleMoments
    variance: PyTree  # that the base has now, before it is widened

    @staticmethod
    def start(x: Point) -> "BaseFit":
        moments = EnsembleMoments.start(x)
        return BaseFit(moments, moments.variance)

    def update(self, x: Point) -> "BaseFit":
        return BaseFit(self.moments.update(x), self.variance)

    def renewed(self) -> "BaseFit":
        variance = jax.tree.map(
            lambda new, old: jnp.maximum(new, _MOST_NARROWING * old),
            self.moments.variance,
            self.variance,
        )
        return BaseFit(self.moments.freeze(), variance)

    def base(self, space) -> AbstractNormalised:
        return matched_base(space, self.moments.mean, self.variance)


def at_other_beta(sampler: AbstractSampler, path: AbstractPath, state: State, here, there) -> State:
    """`state` of rung `here` > 0 as it would be at rung `there`.

    On a linear path f_β' = f_0 + (β'/β)(f_β − f_0), and so with ∇f: no evaluation of the energy is
    needed, only of the base. A kernel whose state holds more than f and ∇f is asked to `temper`.
    """
    if not path.is_linear or type(state) is not State:
        return sampler.temper(path.at(there), state)
    ratio = there / here

    def along(own, start):
        # at β' = 0 the term is gone, walls (f = −∞) included
        return jnp.where(ratio == 0, start, start + ratio * (own - start))

    if state.gradient is None:
        f0 = jax.vmap(path.start_log_density)(state.x)
        return State(state.x, along(state.log_density, f0))
    f0, start = jax.vmap(jax.value_and_grad(path.start_log_density))(state.x)
    gradient = jax.tree.map(along, state.gradient, start)
    # kernels put 0 where ∇f is not finite, at every β
    known = [(g != 0).reshape(len(g), -1).any(1) for g in jax.tree.leaves(state.gradient)]
    gradient = choose(jnp.stack(known).any(0), gradient, state.gradient)
    return State(state.x, along(state.log_density, f0), gradient)


def first_betas(num_rungs: int) -> Float[Array, " rungs"]:
    """β_j = (j/R)³: dense near the base, where a path usually changes fastest."""
    return (jnp.arange(1, num_rungs + 1, dtype=float) / num_rungs) ** 3


def evenly_spaced(
    betas: Float[Array, " rungs"], cost: Float[Array, " rungs"]
) -> Float[Array, " rungs"]:
    """As many rungs, at equal shares of the total cost, linear in β within each interval.

    Syed et al. 2021, section 5.1, with the rejection rates as the cost.

    **Arguments:** `cost`: of the intervals (0, β₁), (β₁, β₂), …
    """
    num = betas.shape[0]
    cost = jnp.where(jnp.isfinite(cost), cost, 1.0) + 1e-3  # no interval for nothing
    total = jnp.concatenate([jnp.zeros_like(cost[:1]), jnp.cumsum(cost)])
    old = jnp.concatenate([jnp.zeros_like(betas[:1]), betas])
    wanted = jnp.arange(1, num + 1, dtype=float) / num * total[-1]
    return jnp.interp(wanted, total, old).astype(betas.dtype).at[-1].set(1.0)


def at_new_betas(
    tunings: PyTree, old: Float[Array, " rungs"], new: Float[Array, " rungs"]
) -> PyTree:
    """Tunings, one a rung on their leading axis, at other rungs: linear in β between old ones."""
    right = jnp.clip(jnp.searchsorted(old, new), 1, max(old.shape[0] - 1, 1))
    left = right - 1
    right = jnp.minimum(right, old.shape[0] - 1)
    gap = jnp.maximum(old[right] - old[left], jnp.finfo(old.dtype).tiny)
    weight = jnp.clip((new - old[left]) / gap, 0.0, 1.0)

    def between(leaf):
        if not eqx.is_inexact_array(leaf):
            return leaf
        w = weight.reshape(-1, *(1,) * (leaf.ndim - 1)).astype(leaf.dtype)
        return (1 - w) * leaf[left] + w * leaf[right]

    return jax.tree.map(between, tunings)


def systematic(log_weight: Float[Array, "p n"], key) -> Int[Array, "p n"]:
    """Indices of the survivors of each population, one uniform number a population (Kitagawa 1996).

    Particle i gets ⌊n C_i + u⌋ − ⌊n C_{i−1} + u⌋ places, C the cumulative weight.
    """
    num = log_weight.shape[1]
    top = jnp.max(log_weight, axis=1, keepdims=True)
    weight = jnp.exp(log_weight - jnp.where(jnp.isfinite(top), top, 0.0))
    weight = jnp.where(jnp.isfinite(top), weight, 1.0)  # nobody has any: all stay
    total = jnp.cumsum(weight, axis=1)
    share = total / total[:, -1:]
    u = jax.random.uniform(key, (log_weight.shape[0], 1), share.dtype)
    places = (jnp.arange(num) + u) / num
    index = jax.vmap(lambda c, p: jnp.searchsorted(c, p, side="right"))(share, places)
    # rounding may leave the last places beyond the last particle that weighs anything
    heavy = num - 1 - jnp.argmax((weight > 0)[:, ::-1], axis=1)[:, None]
    return jnp.minimum(index, heavy).astype(jnp.int32)
