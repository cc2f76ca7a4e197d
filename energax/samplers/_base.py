"""What a sampler is, and the one loop that runs every sampler.

A sampler moves an ENSEMBLE of chains, `x: (num_chains, *event)`, under one key: random numbers are
drawn in bulk and the chains adapt together in warm-up. State carries forward, Info only reports,
Tuning is frozen after warm-up.
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from energax.energies._base import AbstractEnergy, batched
from energax.results import Population
from energax.spaces import Point


class State(eqx.Module):
    """The ensemble: `x` (num_chains, *event), f(x), and where a kernel uses it ∇f(x)."""

    x: Point
    log_density: Float[Array, " chains"]
    gradient: PyTree | None = None


class Info(eqx.Module):
    """One step's report: acceptance probability and divergence of each chain."""

    acceptance: Float[Array, " chains"]
    divergent: Bool[Array, " chains"]


class AbstractSampler(eqx.Module):
    """A Markov kernel on an ensemble, in four parts; `run` below is the loop around it."""

    @property
    @abstractmethod
    def is_exact(self) -> bool:
        """True if the frozen kernel leaves exp(f) invariant exactly; unadjusted kernels are not."""

    @abstractmethod
    def evaluations_per_step(self, energy: AbstractEnergy) -> float:
        """Energy evaluations (a gradient counts as one) that one step of one chain costs."""

    @abstractmethod
    def init(self, energy: AbstractEnergy, x: Point, *, key: Key[Array, ""]) -> tuple[State, Any]:
        """(State, Tuning) at the ensemble `x`.

        **Raises:** TypeError if the energy lacks the structure that this sampler needs.
        """

    def refresh(self, energy: AbstractEnergy, state: State) -> State:
        """The same `x` under a changed energy: everything cached about x is recomputed."""
        return State(state.x, batched(energy, state.x))

    def follow(self, energy: AbstractEnergy, state: State) -> State:
        """`state` after a small parameter update, for chains that live on through training.

        As `refresh`, but a kernel may keep what it would draw at the old parameters: the chains lag
        behind the parameters anyway, and no exact use may call this.
        """
        return self.refresh(energy, state)

    def temper(self, energy: AbstractEnergy, state: State) -> State:
        """The same `x` at another β of the path that `state` is on, `energy` = `path.at(β)`.

        As `refresh`, but a kernel may keep what is the same at every β.
        """
        return self.refresh(energy, state)

    @abstractmethod
    def step(
        self, energy: AbstractEnergy, state: State, tuning: Any, *, key: Key[Array, ""]
    ) -> tuple[State, Info]:
        """One step of every chain."""

    def reversal(self) -> "AbstractSampler":
        """The sampler whose steps run this one's backwards in time: itself, if it is reversible."""
        return self

    @abstractmethod
    def adapt(self, tuning: Any, state: State, info: Info) -> Any:
        """The tuning after one warm-up step; statistics are taken over the whole ensemble."""

    def freeze(self, tuning: Any) -> Any:
        """The tuning that warm-up leaves behind; `run` calls it once, after its last `adapt`."""
        return tuning

    def describe(self, state: State, tuning: Any) -> dict[str, Any]:
        """What warm-up settled on and the run met, by name (step size, swap rates): for the reader.

        Numbers or arrays; `sample` puts them into `Draws.details`.
        """
        return {}


class AbstractPopulationMethod(eqx.Module):
    """A way to draw from an energy that is no Markov kernel: whole populations in one go."""

    @abstractmethod
    def run(self, energy: AbstractEnergy, *, key: Key[Array, ""]) -> Population:
        """Weighted draws and log Z.

        **Raises:** TypeError or ValueError where the method does not apply to the energy.
        """


class Trace(eqx.Module):
    """What `run` kept: `x` (kept, num_chains, *event), `log_density` (kept, num_chains), and each
    chain's mean acceptance and number of divergences over all the steps."""

    x: Point
    log_density: Float[Array, "kept chains"] | None  # None where nothing was kept
    acceptance: Float[Array, " chains"]
    num_divergent: Int[Array, " chains"]


@eqx.filter_jit
def run(
    sampler: AbstractSampler,
    energy: AbstractEnergy,
    state: State,
    tuning: Any,
    *,
    key: Key[Array, ""],
    num_steps: int,
    thin: int = 1,
    adapt: bool = False,
    keep: bool = True,
) -> tuple[State, Any, Trace]:
    """The one sampling loop: `num_steps` steps (a multiple of `thin`), keeping every `thin`-th.

    **Arguments:** `num_steps`, `thin`, `adapt`, `keep` are Python values and compile in; `adapt`
    lets the tuning learn (warm-up); `keep=False` stores no draws.

    **Returns:** (State, Tuning, Trace).
    """
    if num_steps % thin:
        raise ValueError(f"num_steps={num_steps} is not a multiple of thin={thin}")
    num_chains = state.log_density.shape[0]

    def step(carry, step_key):
        state, tuning, acceptance, divergent = carry
        state, info = sampler.step(energy, state, tuning, key=step_key)
        if adapt:
            tuning = sampler.adapt(tuning, state, info)
        return (state, tuning, acceptance + info.acceptance, divergent + info.divergent), None

    def thinned(carry, keys):
        carry, _ = jax.lax.scan(step, carry, keys)
        return carry, (carry[0].x, carry[0].log_density) if keep else None

    keys = jax.random.split(key, (num_steps // thin, thin))
    zeros = jnp.zeros(num_chains), jnp.zeros(num_chains, int)
    carry, kept = jax.lax.scan(thinned, (state, tuning, *zeros), keys)
    state, tuning, acceptance, divergent = carry
    if adapt:
        tuning = sampler.freeze(tuning)
    x, log_density = (None, None) if kept is None else kept
    trace = Trace(x, log_density, acceptance / num_steps, divergent)
    return state, tuning, trace


def run_fixed(
    sampler: AbstractSampler,
    energy: AbstractEnergy,
    x0: Point,
    *,
    key: Key[Array, ""],
    num_warmup: int,
    num_steps: int,
    thin: int = 1,
) -> Trace:
    """Warm-up, then `num_steps` steps with frozen tuning; no checks, so it can be vmapped.

    `eqx.filter_vmap` over `energy`, `x0` and `key` runs one ensemble for each energy (a posterior a
    row, say) in one go.

    **Arguments:** `x0`: (num_chains, *event), where f should be finite. `num_warmup` may be 0.

    **Returns:** Trace of the sampling phase, x (num_steps / thin, num_chains, *event).
    """
    key_init, key_warmup, key_run = jax.random.split(key, 3)
    state, tuning = sampler.init(energy, x0, key=key_init)
    if num_warmup:
        state, tuning, _ = run(
            sampler,
            energy,
            state,
            tuning,
            key=key_warmup,
            num_steps=num_warmup,
            adapt=True,
            keep=False,
        )
    return run(sampler, energy, state, tuning, key=key_run, num_steps=num_steps, thin=thin)[2]


class EnsembleMoments(eqx.Module):
    """Mean and variance of each coordinate over chains and warm-up steps, late steps counting most.

    Step t enters with gain 3/(t + 10), so that step s weighs about s² and the start is forgotten.
    """

    mean: PyTree
    variance: PyTree
    count: Float[Array, ""]

    @staticmethod
    def start(x: PyTree) -> "EnsembleMoments":
        """From an ensemble, leaves (num_chains, *event); a coordinate without spread gets 1."""

        def spread(leaf):
            variance = jnp.var(leaf.astype(float), axis=0)
            return jnp.where((variance > 0) & jnp.isfinite(variance), variance, 1.0)

        mean = jax.tree.map(lambda leaf: jnp.mean(leaf.astype(float), axis=0), x)
        return EnsembleMoments(mean, jax.tree.map(spread, x), jnp.zeros((), float))

    @property
    def sd(self) -> PyTree:
        return jax.tree.map(jnp.sqrt, self.variance)

    def freeze(self) -> "EnsembleMoments":
        """The same moments; should warm-up go on, what it learned from the start is forgotten."""
        return eqx.tree_at(lambda m: m.count, self, jnp.zeros_like(self.count))

    def update(self, x: PyTree) -> "EnsembleMoments":
        count = self.count + 1
        gain = 3 / (count + 10)

        def moved(mean, leaf):
            return mean + gain * (jnp.mean(leaf.astype(float), axis=0) - mean)

        def spread(mean, variance, leaf):  # the variance of a mixture: within, and between means
            shift = jnp.mean(leaf.astype(float), axis=0) - mean
            within = jnp.var(leaf.astype(float), axis=0)
            new = (1 - gain) * variance + gain * within + gain * (1 - gain) * shift**2
            return jnp.where(jnp.isfinite(new) & (new > 0), new, variance)

        mean = jax.tree.map(moved, self.mean, x)
        variance = jax.tree.map(spread, self.mean, self.variance, x)
        return EnsembleMoments(mean, variance, count)


def all_finite(x: PyTree) -> Bool[Array, " chains"]:
    """Which chains of the ensemble `x` are finite everywhere."""
    finite = [jnp.isfinite(leaf).reshape(leaf.shape[0], -1).all(-1) for leaf in jax.tree.leaves(x)]
    out = finite[0]
    for other in finite[1:]:
        out = out & other
    return out


def choose(accept: Bool[Array, " chains"], new: PyTree, old: PyTree) -> PyTree:
    """`new` for the chains where `accept`, else `old`."""

    def pick(a, b):
        return jnp.where(accept.reshape(accept.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, new, old)


def metropolis_probability(
    log_ratio: Float[Array, "*chains"], old: Float[Array, "*chains"], usable: Bool[Array, "*chains"]
) -> Float[Array, "*chains"]:
    """min(1, exp(log_ratio)); 1 away from a state of no finite density, 0 where not `usable`."""
    lost = ~jnp.isfinite(old)
    ratio = jnp.where(lost | ~usable, 0.0, jnp.minimum(log_ratio, 0.0))
    return jnp.where(usable, jnp.exp(ratio), 0.0)


def accepted(key: Key[Array, ""], probability: Float[Array, "*chains"]) -> Bool[Array, "*chains"]:
    """True with the given probability; never where it is below 2⁻²³.

    A uniform draw can be exactly 0, once in 2²³, and must not let a chain jump to anywhere then:
    1 − u lies in (0, 1].
    """
    uniform = jax.random.uniform(key, probability.shape, probability.dtype)
    return 1 - uniform <= probability


class DualAveraging(eqx.Module):
    """Step size that drives the ensemble's mean acceptance to a target.

    Hoffman & Gelman 2014 (arXiv:1111.4246), eq. 6, with one statistic a step: the mean over chains.
    """

    log_step: Float[Array, ""]
    log_average: Float[Array, ""]
    error_sum: Float[Array, ""]
    count: Float[Array, ""]
    anchor: Float[Array, ""]

    @staticmethod
    def start(step_size) -> "DualAveraging":
        log_step = jnp.log(jnp.asarray(step_size, float))
        zero = jnp.zeros_like(log_step)
        return DualAveraging(log_step, log_step, zero, zero, log_step + jnp.log(10.0))

    @property
    def step_size(self) -> Float[Array, ""]:
        """The averaged step size, which warm-up leaves behind."""
        return jnp.exp(self.log_average)

    def freeze(self) -> "DualAveraging":
        """The averaged step size becomes the one in use, `log_step`."""
        return eqx.tree_at(lambda d: d.log_step, self, self.log_average)

    def update(
        self, acceptance: Float[Array, " chains"], target: float | Float[Array, ""]
    ) -> "DualAveraging":
        gamma, t0, kappa = 0.05, 10.0, 0.75  # the paper's values
        count = self.count + 1
        error = target - jnp.mean(jnp.nan_to_num(acceptance))
        error_sum = self.error_sum + error
        log_step = self.anchor - jnp.sqrt(count) / gamma * error_sum / (count + t0)
        log_step = jnp.clip(log_step, -50.0, 50.0)  # a flat density accepts any step
        weight = count**-kappa
        log_average = weight * log_step + (1 - weight) * self.log_average
        return DualAveraging(log_step, log_average, error_sum, count, self.anchor)
