"""Random-walk Metropolis on every space."""

import math
from statistics import NormalDist

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from energax import random
from energax.energies._base import batched
from energax.samplers._base import (
    AbstractSampler,
    DualAveraging,
    EnsembleMoments,
    Info,
    Metric,
    State,
    accepted,
    all_finite,
    as_rows,
    choose,
    from_rows,
    is_real,
    metropolis_probability,
)
from energax.spaces import (
    AbstractArraySpace,
    AbstractSpace,
    Binary,
    Box,
    Categorical,
    Count,
    Ordinal,
    Point,
    Record,
    Spin,
)


class MetropolisTuning(eqx.Module):
    """One factor for all coordinates, its target, and the spread of the ordered coordinates."""

    factor: DualAveraging
    target: Float[Array, ""]
    moments: EnsembleMoments | Metric


class Metropolis(AbstractSampler):
    """x' ~ q(·|x) symmetric, accepted with probability min(1, exp(f(x') − f(x))).

    Metropolis et al. 1953. The space proposes (`space.propose`): a Gaussian step where values are
    ordered, folded at walls and rounded on integers; else each site changes with a small
    probability. A proposal where f is NaN or +∞ is rejected and counted as divergent; a chain that
    stands where f is not finite takes the first finite proposal it gets.

    In warm-up the step along each of the n ordered coordinates becomes factor · 2.38 sd/√n with the
    ensemble's own sd, at least so large that half an integer-valued site moves a step; each of m
    unordered sites changes with probability factor/m, held in [1/(2m), 1/2]. One dual-averaged
    factor drives the mean acceptance to 0.234 + 0.206/sites, which is 0.44 for a single coordinate
    (Roberts, Gelman & Gilks 1997; Roberts 1998 for the hypercube).

    With `dense` the step is factor · 2.38/√n Lz, LLᵀ the ensemble's covariance, shrunk
    (`energax.samplers._base.Metric`; after Haario, Saksman & Tamminen 2001, eq. 3).

    **Arguments:** `scale`: None is tuned in warm-up. Else it is used as given, a number, an array
    that broadcasts to one point, or for a `Record` a dict with a scale for each part: the standard
    deviation of a step where values are ordered, else the probability that a site changes.
    `dense`: learn a full covariance; on Real spaces, for stretched shapes.

    **Raises:** ValueError for `dense` with a `scale`; TypeError from `init` for `dense` elsewhere
    than on Real spaces.
    """

    scale: PyTree = eqx.field(
        default=None, converter=lambda s: jax.tree.map(lambda a: jnp.asarray(a, float), s)
    )

    dense: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.dense and self.scale is not None:
            raise ValueError("Metropolis: expected dense=True or a scale, got both; leave one out")

    is_exact = property(lambda self: True)

    def evaluations_per_step(self, energy):
        return 1.0

    def init(self, energy, x, *, key):
        if self.dense and not is_real(energy.space):
            raise TypeError(
                f"Metropolis(dense=True) learns a covariance on Real spaces, got {energy.space}; "
                "use Metropolis()"
            )
        state = State(x, batched(energy, x))
        if self.scale is not None:
            return state, None
        ordered = [name for name, part in _parts(energy.space).items() if not _unordered(part)]
        target = jnp.asarray(0.234 + 0.206 / energy.space.num_sites, float)
        if self.dense:
            # A walk in n coordinates takes some n steps to forget where it was
            moments = Metric.start(x, True, 3.0 * energy.space.num_sites)
        else:
            moments = EnsembleMoments.start(_select(x, ordered))
        return state, MetropolisTuning(DualAveraging.start(1.0), target, moments)

    def step(self, energy, state, tuning, *, key):
        key_propose, key_accept = jax.random.split(key)
        x = self._propose(energy.space, state.x, tuning, key_propose)
        log_density = batched(energy, x)
        divergent = jnp.isnan(log_density) | (log_density == jnp.inf) | ~all_finite(x)
        old = state.log_density
        probability = metropolis_probability(log_density - old, old, ~divergent)
        accept = accepted(key_accept, probability)
        state = State(choose(accept, x, state.x), jnp.where(accept, log_density, old))
        return state, Info(probability, divergent)

    def _propose(self, space, x, tuning, key):
        if tuning is None:
            return space.propose(x, self.scale, key=key)
        if not isinstance(tuning.moments, Metric):
            return space.propose(x, _scale(space, tuning), key=key)
        rows = as_rows(x)
        factor = jnp.exp(tuning.factor.log_step) * 2.38 / math.sqrt(rows.shape[1])
        noise = random.normal(key, rows.shape, rows.dtype)
        return from_rows(rows + factor * tuning.moments.push(noise), x)

    def adapt(self, tuning, state, info):
        if tuning is None:
            return None
        factor = tuning.factor.update(info.acceptance, tuning.target)
        if isinstance(tuning.moments, Metric):
            moments = tuning.moments.update(state.x)
        else:
            moments = tuning.moments.update(_select(state.x, tuning.moments.mean))
        return MetropolisTuning(factor, tuning.target, moments)

    def freeze(self, tuning):
        if tuning is None:
            return None
        moments = tuning.moments
        moments = moments if isinstance(moments, Metric) else moments.freeze()
        return MetropolisTuning(tuning.factor.freeze(), tuning.target, moments)


def _parts(space: AbstractSpace) -> dict[str, AbstractArraySpace]:
    """The parts of a record, or the space itself under the name ''."""
    if isinstance(space, Record):
        return space.parts
    assert isinstance(space, AbstractArraySpace)
    return {"": space}


def _select(x: Point, names) -> dict[str, Array]:
    return {name: x[name] if isinstance(x, dict) else x for name in names}


def _unordered(space: AbstractArraySpace) -> bool:
    return isinstance(space, (Binary, Spin, Categorical))


def _scale(space: AbstractSpace, tuning: MetropolisTuning) -> PyTree:
    """What `space.propose` takes, from the factor and the spread."""
    parts = _parts(space)
    factor = jnp.exp(tuning.factor.log_step)
    assert isinstance(tuning.moments, EnsembleMoments)
    sd = tuning.moments.sd

    def sites(kind) -> int:
        return sum(part.num_sites for part in parts.values() if kind(part))

    num_unordered = sites(_unordered)
    num_ordered = sites(lambda part: not _unordered(part))
    num_integers = sites(lambda part: isinstance(part, (Ordinal, Count)))

    def scale(name, part):
        if _unordered(part):
            return jnp.clip(factor / num_unordered, 0.5 / num_unordered, 0.5)
        step = factor * 2.38 / math.sqrt(num_ordered) * sd[name]
        if isinstance(part, (Ordinal, Count)):
            # Rounding to a whole number, P(|step z| > 1/2) = 1/(2 num_integers) at the least.
            least = 0.5 / NormalDist().inv_cdf(1 - 0.25 / num_integers)
            return jnp.clip(step, least, part.num_values if isinstance(part, Ordinal) else 2.0**30)
        return jnp.minimum(step, part.high - part.low) if isinstance(part, Box) else step

    scales = {name: scale(name, part) for name, part in parts.items()}
    return scales if isinstance(space, Record) else scales[""]
