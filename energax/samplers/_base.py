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

    @abstractmethod
    def step(
        self, energy: AbstractEnergy, state: State, tuning: Any, *, key: Key[Array, ""]
    ) -> tuple[State, Info]:
        """One step of every chain."""

    @abstractmethod
    def adapt(self, tuning: Any, state: State, info: Info) -> Any:
        """The tuning after one warm-up step; statistics are taken over the whole ensemble."""


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
    x, log_density = kept if keep else (None, None)
    trace = Trace(x, log_density, acceptance / num_steps, divergent)
    return state, tuning, trace


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

    def update(self, acceptance: Float[Array, " chains"], target: float) -> "DualAveraging":
        gamma, t0, kappa = 0.05, 10.0, 0.75  # the paper's values
        count = self.count + 1
        error = target - jnp.mean(jnp.nan_to_num(acceptance))
        error_sum = self.error_sum + error
        log_step = self.anchor - jnp.sqrt(count) / gamma * error_sum / (count + t0)
        weight = count**-kappa
        log_average = weight * log_step + (1 - weight) * self.log_average
        return DualAveraging(log_step, log_average, error_sum, count, self.anchor)
