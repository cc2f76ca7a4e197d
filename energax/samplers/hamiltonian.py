"""Hamiltonian kernels: paths of a given number of leapfrogs (HMC), or as long as pays (ChEES)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from energax.energies._base import AbstractEnergy
from energax.samplers._base import (
    ENERGY_JUMP,
    AbstractSampler,
    DualAveraging,
    Info,
    Metric,
    State,
    accepted,
    all_finite,
    as_rows,
    choose,
    evaluate,
    from_rows,
    metropolis_probability,
    standard_normal,
    start_on_real,
)

_DENSE_UP_TO = 256
"""Coordinates up to which the metric is a full matrix unless told otherwise."""


class HMCTuning(eqx.Module):
    """ε by dual averaging, and the metric."""

    factor: DualAveraging
    metric: Metric


class HMC(AbstractSampler):
    """(x', v') = L leapfrogs from (x, v), v ~ N(0, 1), accepted with probability
    min(1, exp(H(x, v) − H(x', v'))), H = −f(x) + ½|v|².

    Neal 2011 (arXiv:1206.1901), section 3.2; a leapfrog is v += ε/2 ∇f, x += εv, v += ε/2 ∇f in the
    coordinates of the metric. At each step the whole ensemble draws one L, uniform within `jitter`
    of the number given, so that no path closes on itself. A path that gains over 1000 nats of H, or
    ends where f is NaN or +∞, is rejected and counted as divergent.

    In warm-up dual averaging of ε drives the mean acceptance to its target, and the chains learn
    the metric together (`energax.samplers._base.Metric`). With one leapfrog this is MALA with a
    metric that may be dense.

    **Arguments:** `num_leapfrog`: L, an array, so that another one compiles nothing anew.
    `step_size`: None is tuned in warm-up; else ε is used as given, with a metric of 1. `jitter`: in
    [0, 1). `target_acceptance`: in (0, 1). `dense`: whether the metric is a full matrix; None makes
    it one up to 256 coordinates.

    **Raises:** ValueError for a number out of its range.
    """

    num_leapfrog: Int[Array, ""]
    step_size: Float[Array, ""] | None
    jitter: Float[Array, ""]
    target_acceptance: Float[Array, ""]
    dense: bool | None = eqx.field(static=True)

    def __init__(
        self, num_leapfrog=8, *, step_size=None, jitter=0.5, target_acceptance=0.7, dense=None
    ):
        _check("num_leapfrog", num_leapfrog, "a whole number from 1", num_leapfrog >= 1)
        _check("jitter", jitter, "a number in [0, 1)", 0 <= jitter < 1)
        _check_target(target_acceptance)
        if step_size is not None:
            _check("step_size", step_size, "a positive number", step_size > 0)
            step_size = jnp.asarray(step_size, float)
        self.num_leapfrog = jnp.asarray(num_leapfrog, int)
        self.step_size = step_size
        self.jitter = jnp.asarray(jitter, float)
        self.target_acceptance = jnp.asarray(target_acceptance, float)
        self.dense = dense

    is_exact = property(lambda self: True)

    def evaluations_per_step(self, energy):
        return float(self.num_leapfrog)

    def init(self, energy, x, *, key):
        state = start_on_real(self, energy, x)
        if self.step_size is not None:
            return state, None
        return state, HMCTuning(_first_step(energy), _first_metric(energy, x, self.dense))

    def refresh(self, energy, state):
        return evaluate(energy, state.x)

    def step(self, energy, state, tuning, *, key):
        key_length, key_path = jax.random.split(key)
        if tuning is None:
            n = as_rows(state.x).shape[1]
            metric = Metric(jnp.zeros(n), jnp.ones(n), jnp.ones(n), jnp.zeros(()))
            step_size = jnp.asarray(self.step_size)
        else:
            metric, step_size = tuning.metric, jnp.exp(tuning.factor.log_step)
        stretch = 1 + self.jitter * jax.random.uniform(key_length, (), float, -1.0, 1.0)
        num = jnp.maximum(jnp.rint(stretch * self.num_leapfrog).astype(int), 1)
        state, info, _ = _move(energy, state, metric, step_size, num, key=key_path)
        return state, info

    def adapt(self, tuning, state, info):
        if tuning is None:
            return None
        factor = tuning.factor.update(info.acceptance, self.target_acceptance)
        return HMCTuning(factor, tuning.metric.update(state.x))

    def freeze(self, tuning):
        return None if tuning is None else HMCTuning(tuning.factor.freeze(), tuning.metric)

    def describe(self, state, tuning):
        step_size = self.step_size if tuning is None else tuning.factor.step_size
        return {"step_size": step_size, "leapfrogs": self.num_leapfrog}


class PathLength(eqx.Module):
    """log of the longest path T, by Adam without momentum (Kingma & Ba 2015) on a noisy slope.

    `size` and `square` are running means of the criterion and of its squared relative slope.
    """

    log_length: Float[Array, ""]
    log_average: Float[Array, ""]
    size: Float[Array, ""]
    square: Float[Array, ""]
    count: Float[Array, ""]

    @staticmethod
    def start() -> "PathLength":
        log_length = jnp.log(jnp.asarray(1.6, float))  # a quarter of the period of N(0, 1)
        zero = jnp.zeros_like(log_length)
        return PathLength(log_length, log_length, zero, zero, zero)

    def update(
        self,
        criterion: Float[Array, " chains"],
        slope: Float[Array, " chains"],
        step_size: Float[Array, ""],
        longest: Float[Array, ""],
    ) -> "PathLength":
        """One step up log(criterion) − ¾ log(leapfrogs), T between one step and `longest`.

        **Arguments:** `slope`: d criterion / d log T.
        """
        rate, decay = 0.025, 0.95  # the values of the ChEES paper
        count = self.count + 1
        correct = 1 - decay**count
        size = decay * self.size + (1 - decay) * jnp.mean(criterion)
        # Of T/2ε + ½ leapfrogs a step. The power ¾ stands for what a step costs beside them.
        length = jnp.exp(self.log_length)
        cost = 0.75 * length / (length + step_size)
        rise = jnp.clip(jnp.mean(slope) / (size / correct + 1e-30) - cost, -100.0, 100.0)
        rise = jnp.where(count > 50, rise, 0.0)  # until ε fits, no path tells much
        square = decay * self.square + (1 - decay) * rise**2
        move = rate * rise / (jnp.sqrt(square / correct) + 1e-6)
        log_length = jnp.clip(self.log_length + move, jnp.log(step_size), jnp.log(longest))
        weight = 3 / (count + 10)
        log_average = (1 - weight) * self.log_average + weight * log_length
        return PathLength(log_length, log_average, size, square, count)

    def freeze(self) -> "PathLength":
        """The averaged length becomes the one in use, `log_length`."""
        return eqx.tree_at(lambda p: p.log_length, self, self.log_average)


class ChEESTuning(eqx.Module):
    """ε by dual averaging, the metric, and the longest path."""

    factor: DualAveraging
    metric: Metric
    path: PathLength


class ChEESInfo(Info):
    """Also what each chain's path adds to the criterion, and to its slope by the log length."""

    criterion: Float[Array, " chains"] | None = None
    slope: Float[Array, " chains"] | None = None


class ChEES(AbstractSampler):
    """HMC with paths of length hT, h ~ U(0, 1), whose ensemble learns T: up the slope of
    log E[(‖z'‖² − ‖z‖²)²] − ¾ log E[leapfrogs], z = L⁻¹(x − mean).

    Hoffman, Radul & Sountsov 2021, eq. 4 and 5: the change in the estimator of the expected square.
    Its slope by T is E[4 (‖z'‖² − ‖z‖²) z'·v' h], each chain weighted by its acceptance. That it is
    set against the number of leapfrogs follows Sountsov & Hoffman 2021 (arXiv:2110.11576), section
    3. All chains share h, ε and T, so all take ⌈hT/ε⌉ leapfrogs; each step is ε u^¼ long, u ~ U(0,
    1), which lets a chain out of narrow places that ε itself does not fit. Divergences are counted
    as in `HMC`.

    In warm-up dual averaging of ε drives the mean acceptance to its target, and the chains learn
    the metric together (`energax.samplers._base.Metric`), dense where n² numbers are few: on a
    rotated normal of condition 10⁴ it saves 50 gradients in 51.

    **Arguments:** `max_leapfrog`: most leapfrogs of a step. `target_acceptance`: in (0, 1).
    `dense`: whether the metric is a full matrix; None makes it one up to 256 coordinates.

    **Raises:** ValueError for a number out of its range.
    """

    max_leapfrog: Int[Array, ""]
    target_acceptance: Float[Array, ""]
    dense: bool | None = eqx.field(static=True)

    def __init__(self, *, max_leapfrog=1000, target_acceptance=0.7, dense=None):
        _check("max_leapfrog", max_leapfrog, "a whole number from 1", max_leapfrog >= 1)
        _check_target(target_acceptance)
        self.max_leapfrog = jnp.asarray(max_leapfrog, int)
        self.target_acceptance = jnp.asarray(target_acceptance, float)
        self.dense = dense

    is_exact = property(lambda self: True)

    def evaluations_per_step(self, energy):
        return 3.0  # about that many once the metric is learned

    def init(self, energy, x, *, key):
        state = start_on_real(self, energy, x)
        metric = _first_metric(energy, x, self.dense)
        return state, ChEESTuning(_first_step(energy), metric, PathLength.start())

    def refresh(self, energy, state):
        return evaluate(energy, state.x)

    def step(self, energy, state, tuning, *, key):
        key_length, key_path = jax.random.split(key)
        part, shorten = jax.random.uniform(key_length, (2,), float)
        step_size = jnp.exp(tuning.factor.log_step)
        length = part * jnp.exp(tuning.path.log_length)
        # At first ε is small and T a guess: no thousand leapfrogs for that
        most = jnp.minimum(self.max_leapfrog, 4 + (tuning.path.count / 4).astype(int))
        num = jnp.clip(jnp.ceil(length / step_size).astype(int), 1, most)
        step_size = step_size * shorten**0.25
        metric = tuning.metric
        before = metric.whiten(as_rows(state.x))
        state, info, (end, velocity) = _move(energy, state, metric, step_size, num, key=key_path)
        after = metric.whiten(end)
        change = jnp.sum((after - before) * (after + before), axis=1)
        slope = 4 * length * change * jnp.sum(after * velocity, axis=1)
        usable = (info.acceptance > 0) & jnp.isfinite(change) & jnp.isfinite(slope)
        criterion = jnp.where(usable, info.acceptance * change**2, 0.0)
        slope = jnp.where(usable, info.acceptance * slope, 0.0)
        info = ChEESInfo(info.acceptance, info.divergent, info.evaluations, criterion, slope)
        return state, info

    def adapt(self, tuning, state, info):
        assert isinstance(info, ChEESInfo)
        step_size = jnp.exp(tuning.factor.log_step)
        longest = step_size * self.max_leapfrog
        path = tuning.path.update(info.criterion, info.slope, step_size, longest)
        factor = tuning.factor.update(info.acceptance, self.target_acceptance)
        return ChEESTuning(factor, tuning.metric.update(state.x), path)

    def freeze(self, tuning):
        return ChEESTuning(tuning.factor.freeze(), tuning.metric, tuning.path.freeze())

    def describe(self, state, tuning):
        step_size, length = tuning.factor.step_size, jnp.exp(tuning.path.log_average)
        leapfrogs = jnp.maximum(0.5 + length / (2 * step_size), 1.0)
        return {"step_size": step_size, "path_length": length / 2, "leapfrogs": leapfrogs}


def _check(name: str, value, wanted: str, fine) -> None:
    if not fine:
        raise ValueError(f"{name}: expected {wanted}, got {value}")


def _check_target(value) -> None:
    _check("target_acceptance", value, "a number in (0, 1)", 0 < value < 1)


def _first_step(energy: AbstractEnergy) -> DualAveraging:
    return DualAveraging.start(energy.space.num_sites**-0.25)


def _first_metric(energy: AbstractEnergy, x, dense: bool | None) -> Metric:
    return Metric.start(x, energy.space.num_sites <= _DENSE_UP_TO if dense is None else dense)


def _move(
    energy: AbstractEnergy,
    state: State,
    metric: Metric,
    step_size: Float[Array, ""],
    num_leapfrog: Int[Array, ""],
    *,
    key: Key[Array, ""],
) -> tuple[State, Info, tuple[Float[Array, "chains n"], Float[Array, "chains n"]]]:
    """Every chain goes `num_leapfrog` leapfrogs; also where each path ended, and its velocity.

    In z, x = mean + Lz (`Metric`), masses are 1: v += ε/2 Lᵀ∇f, x += ε L v, v += ε/2 Lᵀ∇f.
    """
    key_velocity, key_accept = jax.random.split(key)
    x = as_rows(state.x)
    start = standard_normal(key_velocity, x)

    def half_kick(gradient):
        return step_size / 2 * metric.pull(gradient)

    def leapfrog(_, carry):
        x, velocity, _, _ = carry
        x = x + step_size * metric.push(velocity)
        new = evaluate(energy, from_rows(x, state.x))
        gradient = as_rows(new.gradient)
        return x, velocity + 2 * half_kick(gradient), new.log_density, gradient

    gradient = as_rows(state.gradient)
    first = x, start + half_kick(gradient), state.log_density, gradient
    x, velocity, log_density, gradient = jax.lax.fori_loop(0, num_leapfrog, leapfrog, first)
    velocity = velocity - half_kick(gradient)
    new = State(from_rows(x, state.x), log_density, from_rows(gradient, state.x))
    old = state.log_density
    log_ratio = log_density - old + 0.5 * jnp.sum((start - velocity) * (start + velocity), axis=1)
    finite = all_finite(new.x)
    told = ~jnp.isnan(log_ratio) | ~jnp.isfinite(old)
    usable = finite & jnp.isfinite(log_density) & told
    outside = finite & (log_density == -jnp.inf)  # being outside is no fault
    jump = (log_ratio < -ENERGY_JUMP) & jnp.isfinite(old)
    probability = metropolis_probability(log_ratio, old, usable)
    accept = accepted(key_accept, probability)
    evaluations = jnp.broadcast_to(num_leapfrog.astype(old.dtype), old.shape)
    info = Info(probability, ~outside & (~usable | jump), evaluations)
    return choose(accept, new, state), info, (x, velocity)
