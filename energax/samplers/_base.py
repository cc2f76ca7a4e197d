"""What a sampler is, and the one loop that runs every sampler.

A sampler moves an ENSEMBLE of chains, `x: (num_chains, *event)`, under one key: random numbers are
drawn in bulk and the chains adapt together in warm-up. State carries forward, Info only reports,
Tuning is frozen after warm-up.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from energax import random
from energax.energies._base import AbstractEnergy, batched
from energax.results import Population
from energax.spaces import AbstractSpace, Point, Real, Record

ENERGY_JUMP = 1000.0
"""A rise of the energy in one step, in nats, that no chain at rest makes: a divergence."""


class State(eqx.Module):
    """The ensemble: `x` (num_chains, *event), f(x), and where a kernel uses it ∇f(x)."""

    x: Point
    log_density: Float[Array, " chains"]
    gradient: PyTree | None = None


class Info(eqx.Module):
    """One step's report: acceptance probability and divergence of each chain.

    `evaluations`: of the energy (a gradient counts as one) that each chain's step took, where that
    changes from step to step; None means `evaluations_per_step`.
    """

    acceptance: Float[Array, " chains"]
    divergent: Bool[Array, " chains"]
    evaluations: Float[Array, " chains"] | None = None


class AbstractSampler(eqx.Module):
    """A Markov kernel on an ensemble, in four parts; `run` below is the loop around it."""

    @property
    @abstractmethod
    def is_exact(self) -> bool:
        """True if the frozen kernel leaves exp(f) invariant exactly; unadjusted kernels are not."""

    @property
    def crosses_modes(self) -> bool:
        """True if the kernel itself takes chains from one mode to another, however far apart."""
        return False

    @abstractmethod
    def evaluations_per_step(self, energy: AbstractEnergy) -> float:
        """Energy evaluations (a gradient counts as one) that one step of one chain costs.

        A typical number where it changes from step to step; `Trace.evaluations` has the true one.
        """

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

    def doubts(self, state: State, tuning: Any) -> list[str]:
        """What the kernel itself has met in a run that speaks against trusting its draws."""
        return []

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
    chain's mean acceptance, number of divergences and mean number of energy evaluations a step."""

    x: Point
    log_density: Float[Array, "kept chains"] | None  # None where nothing was kept
    acceptance: Float[Array, " chains"]
    num_divergent: Int[Array, " chains"]
    evaluations: Float[Array, " chains"]


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
    adapt: bool | Bool[Array, ""] = False,
    keep: bool = True,
) -> tuple[State, Any, Trace]:
    """The one sampling loop: `num_steps` steps (a multiple of `thin`), keeping every `thin`-th.

    **Arguments:** `num_steps`, `thin`, `keep` are Python values and compile in; `keep=False` stores
    no draws. `adapt`: whether the tuning learns (warm-up). A Python bool compiles in too; as a
    boolean array, one program serves warm-up and sampling.

    **Returns:** (State, Tuning, Trace).
    """
    if num_steps % thin:
        raise ValueError(f"num_steps={num_steps} is not a multiple of thin={thin}")
    num_chains = state.log_density.shape[0]

    def step(carry, scanned):
        step_key, number = scanned
        state, tuning, acceptance, divergent, evaluations = carry
        state, info = sampler.step(energy, state, tuning, key=step_key)
        if adapt is not False:
            # XLA would inline a branch on a constant, and `number` is none
            learns = number >= 0 if adapt is True else adapt
            tuning = _adapted(sampler, tuning, state, info, learns)
        if info.evaluations is None:
            evaluations = evaluations + sampler.evaluations_per_step(energy)
        else:
            evaluations = evaluations + info.evaluations
        sums = acceptance + info.acceptance, divergent + info.divergent, evaluations
        return (state, tuning, *sums), None

    def thinned(carry, scanned):
        carry, _ = jax.lax.scan(step, carry, scanned)
        return carry, (carry[0].x, carry[0].log_density) if keep else None

    keys = jax.random.split(key, (num_steps // thin, thin))
    numbers = jnp.arange(num_steps).reshape(keys.shape)
    zeros = jnp.zeros(num_chains), jnp.zeros(num_chains, int), jnp.zeros(num_chains)
    carry, kept = jax.lax.scan(thinned, (state, tuning, *zeros), (keys, numbers))
    state, tuning, acceptance, divergent, evaluations = carry
    if adapt is True:
        tuning = sampler.freeze(tuning)
    elif adapt is not False:
        tuning = _if(adapt, sampler.freeze, tuning)
    x, log_density = (None, None) if kept is None else kept
    trace = Trace(x, log_density, acceptance / num_steps, divergent, evaluations / num_steps)
    return state, tuning, trace


def together(tree: PyTree) -> PyTree:
    """`tree` whole on every device of the mesh in use, if there is one.

    Statistics over chains are then sums in one order, whatever the number of devices.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    everywhere = jax.sharding.PartitionSpec()
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.lax.with_sharding_constraint(arrays, everywhere), rest)


def _adapted(sampler: AbstractSampler, tuning: Any, state: State, info: Info, learns) -> Any:
    """`sampler.adapt` if `learns`, to the last bit the same on any number of devices.

    XLA contracts a·b + c to one rounding within what it compiles together, which depends on what
    stands around. A branch is compiled by itself.
    """

    def adapt(tuning, state, info):
        return sampler.adapt(tuning, together(state), together(info))

    return together(_if(learns, adapt, tuning, state, info))


def _if(condition, change: Callable, first: PyTree, *others: PyTree) -> PyTree:
    """`change(first, *others)` if `condition`, a traced value, else `first`."""
    given, rest = eqx.partition((first, *others), eqx.is_array)
    out_rest = [rest[0]]  # outside of jit only the branch that is taken runs

    def changed(given):
        arrays, others = eqx.partition(change(*eqx.combine(given, rest)), eqx.is_array)
        out_rest.append(others)
        return arrays

    def same(given):
        return given[0]

    return eqx.combine(jax.lax.cond(condition, changed, same, given), out_rest[-1])


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
    # 0·x is NaN where x is not finite, and XLA sums floats much faster than it joins booleans
    nothing = [jnp.sum(0 * leaf.reshape(leaf.shape[0], -1), -1) for leaf in jax.tree.leaves(x)]
    out = nothing[0] == 0
    for other in nothing[1:]:
        out = out & (other == 0)
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


def is_real(space: AbstractSpace) -> bool:
    """True where a Gaussian step from any point leads to another point of the space."""
    if isinstance(space, Record):
        return all(isinstance(part, Real) for part in space.parts.values())
    return isinstance(space, Real)


def start_on_real(sampler: AbstractSampler, energy: AbstractEnergy, x: Point) -> State:
    """`evaluate`, or a TypeError that says which sampler moves x on such a space."""
    if not is_real(energy.space):
        raise TypeError(
            f"{type(sampler).__name__} moves x on Real spaces, got {energy.space}; use "
            "Metropolis(), which works on every space (BlockGibbs() for an RBM, ColouredGibbs() "
            "for an Ising graph)"
        )
    return evaluate(energy, x)


def evaluate(energy: AbstractEnergy, x: Point) -> State:
    """f and ∇f at once; where ∇f is not finite it becomes 0, a drift as good as any other."""
    log_density, gradient = jax.vmap(jax.value_and_grad(energy.log_density))(x)
    zero = jax.tree.map(jnp.zeros_like, gradient)
    return State(x, log_density, choose(all_finite(gradient), gradient, zero))


def standard_normal(key: Key[Array, ""], x: Point) -> PyTree:
    """Noise of the shape and dtype of `x`."""
    leaves, structure = jax.tree.flatten(x)
    keys = jax.random.split(key, len(leaves)) if len(leaves) > 1 else [key]
    noise = [random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, noise)


def column(value: Float[Array, " chains"], like: Array) -> Array:
    """One number a chain, shaped to multiply `like`."""
    return value.reshape(value.shape + (1,) * (like.ndim - 1))


def as_rows(x: PyTree) -> Float[Array, "chains sites"]:
    """An ensemble of points as one flat row a chain."""
    rows = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(x)]
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows, axis=1)


def from_rows(rows: Float[Array, "chains sites"], like: PyTree) -> PyTree:
    """The points, shaped as the ensemble `like`, whose flat rows these are."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf[0].size for leaf in leaves])[:-1].tolist()
    parts = jnp.split(rows, ends, axis=1) if ends else [rows]
    shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


class Metric(eqx.Module):
    """What makes the coordinates comparable: x = mean + Lz, z about standard normal.

    Learned from all chains and warm-up steps with the gains of `EnsembleMoments`. L is the sd of
    each coordinate, or where `covariance` is a matrix its Cholesky factor, shrunk. With R the
    correlations and s = E[noise in R]/‖R − 1‖², at most 1, as Schäfer & Strimmer 2005 shrink, L
    belongs to (1 − s²) R + s² 1: to a diagonal metric as long as the correlations can't be told
    from noise, and to the full one soon after, since a weight s would hide the stiffest direction.

    `mean` (n,); `covariance` (n,) or (n, n), `factor` L of the same shape; `count` of steps.
    """

    mean: Float[Array, " n"]
    covariance: Float[Array, "..."]
    factor: Float[Array, "..."]
    count: Float[Array, ""]
    draws_as_one: float = eqx.field(static=True, default=3.0)

    @staticmethod
    def start(x: PyTree, dense: bool, draws_as_one: float = 3.0) -> "Metric":
        """From an ensemble; a coordinate without spread gets 1. At first L is diagonal.

        **Arguments:** `draws_as_one`: how many draws in warm-up tell as much as one independent.
        """
        moments = EnsembleMoments.start(as_rows(x).astype(float))
        variance, sd = moments.variance, moments.sd
        if dense:
            variance, sd = jnp.diag(variance), jnp.diag(sd)
        return Metric(moments.mean, variance, sd, moments.count, draws_as_one)

    def push(self, z: Float[Array, "chains n"]) -> Float[Array, "chains n"]:
        """Lz, row by row."""
        return z * self.factor if self.factor.ndim == 1 else z @ self.factor.T

    def pull(self, gradient: Float[Array, "chains n"]) -> Float[Array, "chains n"]:
        """Lᵀ∇, row by row."""
        return gradient * self.factor if self.factor.ndim == 1 else gradient @ self.factor

    def whiten(self, x: Float[Array, "chains n"]) -> Float[Array, "chains n"]:
        """L⁻¹(x − mean), row by row."""
        centred = x - self.mean
        if self.factor.ndim == 1:
            return centred / self.factor
        return jax.scipy.linalg.solve_triangular(self.factor, centred.T, lower=True).T

    def update(self, x: PyTree) -> "Metric":
        rows = as_rows(x).astype(float)
        num_chains, n = rows.shape
        count = self.count + 1
        gain = 3 / (count + 10)
        here = jnp.mean(rows, axis=0)
        shift, centred = here - self.mean, rows - here
        mean = self.mean + gain * shift
        if self.factor.ndim == 1:
            within, between = jnp.mean(centred**2, axis=0), shift**2
        else:
            within, between = centred.T @ centred / num_chains, jnp.outer(shift, shift)
        new = (1 - gain) * self.covariance + gain * (within + (1 - gain) * between)
        if self.factor.ndim == 1:
            new = jnp.where(jnp.isfinite(new) & (new > 0), new, self.covariance)
            return Metric(mean, new, jnp.sqrt(new), count, self.draws_as_one)
        fine = jnp.all(jnp.isfinite(new)) & jnp.all(jnp.diagonal(new) > 0)
        new = jnp.where(fine, new, self.covariance)
        every = max(1, n // 10)  # a factor costs n³/3
        # The gains give step s a weight of about s²
        num = 5 / 9 * (count + 5) * num_chains / self.draws_as_one
        factor = jax.lax.cond(
            count % every == 0, lambda: _shrunk_factor(new, num, self.factor), lambda: self.factor
        )
        return Metric(mean, new, factor, count, self.draws_as_one)


def _shrunk_factor(covariance, num_samples, fallback):
    """L of `Metric` from a covariance of `num_samples` draws."""
    n = len(covariance)
    sd = jnp.sqrt(jnp.diagonal(covariance))
    correlation = covariance / jnp.outer(sd, sd)
    signal = jnp.sum(correlation**2) - jnp.sum(jnp.diagonal(correlation) ** 2)
    noise = n * (n - 1) / num_samples
    shrink = jnp.minimum(1.0, noise / jnp.maximum(signal, 1e-30)) ** 2
    shrink = jnp.maximum(shrink, 1e-6)  # rounding
    factor = jnp.linalg.cholesky((1 - shrink) * correlation + shrink * jnp.eye(n))
    factor = sd[:, None] * factor
    return jnp.where(jnp.all(jnp.isfinite(factor)), factor, fallback)
