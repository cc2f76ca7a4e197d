"""`sample`: draws from any energy with a verdict; and the defaults that suit each energy."""

import dataclasses
import math
import time
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from energax.energies._base import (
    AbstractBipartiteEnergy,
    AbstractColouredEnergy,
    AbstractEnergy,
    AbstractNormalised,
    AbstractOfLengths,
    Conditional,
    check_one_distribution,
    check_scalar,
)
from energax.energies.mixture import ModelMixture
from energax.energies.reference import default_base, matched_base
from energax.random import as_key
from energax.results import Draws, UnreliableResult, Verdict
from energax.samplers._base import AbstractSampler, is_real
from energax.samplers.driver._base import Kept, pooled_moments
from energax.samplers.driver.answer import complete, draw_exactly
from energax.samplers.driver.choose import Job
from energax.samplers.driver.pooled import pooled
from energax.samplers.driver.progress import Progress
from energax.samplers.driver.saved import Saved, fingerprint
from energax.samplers.driver.starts import initial_points
from energax.samplers.driver.verdict import DIVERGENCES_ALLOWED
from energax.samplers.gibbs import BlockGibbs, ColouredGibbs, ExchangeGibbs, SiteGibbs
from energax.samplers.hamiltonian import ChEES
from energax.samplers.langevin import MALA
from energax.samplers.metropolis import Metropolis
from energax.samplers.mixed import Mixed
from energax.samplers.tempering import ParallelTempering, TemperedTransitions
from energax.samplers.transformed import Transformed
from energax.spaces import (
    AbstractSpace,
    Binary,
    Box,
    Categorical,
    Ordinal,
    Point,
    Real,
    Record,
    Spin,
)

__all__ = ["default_sampler", "initial_points", "sample"]

_FIRST_SHARE = 0.3  # of the budget, for plain chains that do not come nearer to agreeing
_LEAST_SHARE = 0.3  # of the budget, that another sampler can do something with
_MANY = 15  # coordinates, above which a metric and long paths pay
_WIDEN = 1.5  # the base of the tempering against the spread of the plain chains


def default_sampler(energy: AbstractEnergy) -> AbstractSampler:
    """The local sampler that suits an energy.

    Block Gibbs where it has two layers, with swaps where its points have lengths; coloured Gibbs
    where its sites are coloured; where JAX differentiates f, MALA on Real, and on Box by a change
    of variables; single-site Gibbs on spaces of few values a site; on other records each part by
    its own; else Metropolis.

    **Raises:** ValueError for a power, a product or the like of an `AbstractOfLengths`.
    """
    space = energy.space
    if isinstance(energy, AbstractOfLengths):
        return ExchangeGibbs()
    if isinstance(energy, AbstractBipartiteEnergy):
        return BlockGibbs()
    check_one_distribution(energy, "chains")
    if isinstance(energy, AbstractColouredEnergy):
        return ColouredGibbs()
    parts = space.parts.values() if isinstance(space, Record) else [space]
    if all(isinstance(part, Real | Box) for part in parts):
        if not is_smooth(energy):
            return Metropolis()
        return MALA() if is_real(space) else Transformed(MALA())
    if isinstance(space, Binary | Spin | Categorical | Ordinal):
        return SiteGibbs()
    if isinstance(space, Record):
        return Mixed.of(energy, default_sampler)
    return Metropolis()


def _local_samplers(energy: AbstractEnergy) -> list[AbstractSampler]:
    """The local samplers that `sample` tries by turns.

    In many dimensions ChEES first, which learns a metric and a path length of its own; MALA, whose
    tails are safer, where its chains do not agree. Where its steps diverge nothing follows: that is
    how a narrow place tells of itself, which MALA would pass by.
    """
    local = default_sampler(energy)
    if isinstance(local, MALA) and energy.space.num_sites > _MANY:
        return [ChEES(max_leapfrog=128, target_acceptance=0.9), local]
    return [local]


def is_smooth(energy: AbstractEnergy) -> bool:
    """Whether JAX differentiates f: not through a while loop or a callback."""
    try:
        eqx.filter_eval_shape(jax.grad(energy.log_density), energy.space.example())
    except Exception:
        return False
    return True


def name_of(sampler: AbstractSampler) -> str:
    """The name of its class, and of the sampler inside it: "ParallelTempering(MALA)"."""
    name = type(sampler).__name__
    if isinstance(sampler, Mixed):
        return f"{name}({', '.join(name_of(part) for part in sampler.samplers)})"
    if isinstance(sampler, ParallelTempering | TemperedTransitions | Transformed):
        return f"{name}({name_of(sampler.sampler)})"
    return name


def sample(
    energy: AbstractEnergy,
    num_samples: int = 1000,
    *,
    key: Key[Array, ""],
    sampler: AbstractSampler | None = None,
    given: Any = None,
    num_chains: int = 8,
    initial: Point | None = None,
    num_warmup: int | None = None,
    num_steps: int | None = None,
    max_evaluations: int = 8_000_000,
    max_seconds: float | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> Draws:
    """Draws from p(x) = exp(f(x))/Z, with diagnostics and a verdict.

    Chains start dispersed (on Real spaces also at the peaks of f, which are climbed from many
    points if JAX differentiates f), adapt in warm-up until they agree roughly (R-hat below 1.2) or
    a quarter of the budget is spent, then run with frozen tuning for rounds of doubling length
    until rank-normalised R-hat is below its limit, bulk and tail ESS are at least 400 and each mean
    is known to 0.1 sd, for f, every coordinate that is not constant, and the two directions in
    which the draws spread most (Vehtari et al. 2021, arXiv:1903.08008). If only the last half of
    the run passes, and knows each mean to 0.05 sd, the first counts as warm-up. Beyond 16 chains
    R-hat is nested (Margossian et al. 2024) and consecutive chains share starts. After warm-up the
    chains are spread over points of usual density, as far apart as may be, among them places that
    warm-up knew and left, so that a mode once seen is not forgotten, and in up to 8 dimensions the
    means must agree with importance sampling wherever that is any good. Chains that do not come
    nearer to agreeing, or would not have enough effective draws when the budget ends, give way to
    parallel tempering of the same kernel, unless `sampler`, `num_steps`, `num_warmup` or
    `checkpoint` is given; a mode that they were in and it never visits is told, and so is an f by
    which exp(f) has no finite integral far out or at a wall of a `Box`. An energy of known
    normaliser is drawn from exactly, without chains, unless `sampler`, `initial` or `given` is
    given, and a `ModelMixture` by its components, which share the budget. Where there are several
    devices and they divide the chains, each takes its share; the draws are the same.

    **Arguments:**

    - `num_samples`: how many draws come back, thinned evenly from the whole run. 0 asks for the
      summaries alone, in memory that does not grow with the run.
    - `sampler`: see `default_sampler`. `num_chains`: how many chains.
    - `given`: what is held fixed, as `energy.condition` takes it: parts of a record by name, or a
      point with NaN where it is free. The draws are whole points.
    - `initial`: (num_chains, *event), instead of dispersed starts; of the free part, with `given`.
    - `num_warmup`, `num_steps`: steps a chain, fixed instead of until converged.
    - `max_evaluations`: budget of energy evaluations, all chains together; more is spent only on
      the search for starts (up to 131,072 points) and where `num_samples` asks for more steps.
    - `max_seconds`: optional limit, looked at after each block of steps; a run that hits it does
      not repeat exactly.
    - `checkpoint`: NAME.json, written after each round of sampling and every ten seconds. If it is
      there, the run goes on from it and ends, bit for bit, where it would have; with a larger
      `max_evaluations`, later.
    - `progress`: a bar on stderr.

    **Returns:** Draws, `x` of shape (rows, num_samples / rows, *event), rows = gcd(num_samples,
    num_chains). Unreliable ones come with reasons and an `UnreliableResult` warning.

    **Raises:** TypeError or ValueError for arguments that do not fit, if no start is found, or if
    `checkpoint` is of another run; OSError if it cannot be written.
    """
    start = time.perf_counter()
    key = as_key(key)
    check_scalar(energy)
    check_one_distribution(energy, "sample")
    _check_counts(num_samples, num_chains, max_evaluations, num_warmup, num_steps)
    free: AbstractEnergy = energy
    conditional: Conditional | None = None
    if given is not None:
        conditional = energy.condition(**(given if isinstance(given, dict) else {"x": given}))
        free = energy.restrict(conditional)
    limits = {
        "num_chains": num_chains,
        "max_evaluations": max_evaluations,
        "max_seconds": math.inf if max_seconds is None else float(max_seconds),
        "start": start,
    }
    fixed = (sampler, checkpoint, num_steps, num_warmup)
    planned = all(option is None for option in fixed)
    with Progress("sampling", progress) as bar:
        if sampler is None and initial is None and isinstance(free, AbstractNormalised):
            draws = draw_exactly(free, max(num_samples, 1), num_chains, start, key=key)
        elif planned and initial is None and isinstance(free, ModelMixture):
            draws = _by_component(free, num_samples, limits, key=key)
        elif planned:
            draws = _by_plan(free, num_samples, initial, limits, bar, key=key)
        else:
            sampler = default_sampler(free) if sampler is None else sampler
            saved = None
            if checkpoint is not None:
                settings = {
                    "sampler": f"{name_of(sampler)} {fingerprint(sampler)}",
                    "energy": f"{type(free).__name__} {fingerprint(free)}",
                    "key": fingerprint(key),
                    "num_chains": num_chains,
                    "num_warmup": num_warmup,
                    "num_steps": num_steps,
                    "initial": fingerprint(jax.tree.map(np.asarray, initial)),
                    "wants_draws": num_samples > 0,
                }
                saved = Saved(checkpoint, settings)
            job = Job(free, sampler, name=name_of(sampler), saved=saved, **limits)
            draws = job.run(num_samples, initial, num_warmup, num_steps, bar, key=key)
    if conditional is not None:
        draws = complete(draws, free, conditional)
    Verdict(draws.reasons).warn("the sample")
    return draws


def _by_plan(
    energy: AbstractEnergy,
    num_samples: int,
    initial: Point | None,
    limits: dict[str, Any],
    bar: Progress,
    *,
    key: Key[Array, ""],
) -> Draws:
    """Plain chains; and if they are not reliable, tempering of the same kernel.

    The base of the tempering has the place and the spread of the plain chains together, which
    stand in every mode that any of them found.
    """
    most = left = limits["max_evaluations"]
    earlier: list[Kept] = []
    peaks = None
    samplers = _local_samplers(energy)
    can_temper = _has_base(energy.space)
    for local in samplers:
        share = _FIRST_SHARE if can_temper else 1.0
        job = Job(energy, local, name=name_of(local), share=share, **limits)
        job.earlier, job.peaks = tuple(earlier), peaks
        job.looks_for_peaks = peaks is None and is_real(energy.space) and is_smooth(energy)
        job.max_evaluations = left
        draws = job.run(num_samples, initial, None, None, bar, key=key)
        left -= draws.num_evaluations
        peaks = job.peaks
        earlier += [] if job.kept is None else [job.kept]
        few = left < _LEAST_SHARE * most
        last = job.hopeless or few or draws.time_limited or limits["num_chains"] == 1
        # MALA would step into the same narrow places as rarely, and not tell
        last |= local is not samplers[-1] and job.share_divergent > DIVERGENCES_ALLOWED
        if draws.reliable or last:
            return dataclasses.replace(draws, num_evaluations=most - left)
    if not can_temper:
        return dataclasses.replace(draws, num_evaluations=most - left)
    mean, variance = jax.tree.map(jnp.asarray, pooled_moments(earlier))
    base = matched_base(energy.space, mean, variance, widen=_WIDEN)
    tempered = ParallelTempering(local, base)
    job = Job(energy, tempered, name=name_of(tempered), **limits)
    job.earlier, job.max_evaluations = tuple(earlier), left
    draws = job.run(num_samples, initial, None, None, bar, key=jax.random.fold_in(key, 1))
    return dataclasses.replace(draws, num_evaluations=most - left + draws.num_evaluations)


def _has_base(space: AbstractSpace) -> bool:
    """Whether there is a base to temper from: on every space of the library."""
    try:
        default_base(space)
    except TypeError:
        return False
    return True


def _by_component(
    energy: ModelMixture, num_samples: int, limits: dict[str, Any], *, key: Key[Array, ""]
) -> Draws:
    """Each component by its own sampler, w_k of the draws from component k."""
    num_components = len(energy.components)
    rng = np.random.default_rng(np.asarray(jax.random.bits(jax.random.fold_in(key, 0), (4,))))
    counts = rng.multinomial(max(num_samples, 1), energy.weights)
    parts = []
    for i, component in enumerate(energy.components):
        left = limits["start"] + limits["max_seconds"] - time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableResult)  # the whole says it
            draws = sample(
                component,
                max(int(counts[i]), 1),
                key=jax.random.fold_in(key, 1 + i),
                num_chains=limits["num_chains"],
                max_evaluations=max(1, limits["max_evaluations"] // num_components),
                max_seconds=None if math.isinf(left) else max(left, 0.0) / (num_components - i),
            )
        parts.append(draws)
    seconds = time.perf_counter() - limits["start"]
    return pooled(energy, parts, counts, limits["num_chains"], seconds, rng)


def _check_counts(num_samples, num_chains, max_evaluations, num_warmup, num_steps) -> None:
    counts = {"num_chains": (num_chains, 1), "max_evaluations": (max_evaluations, 1)}
    counts |= {"num_samples": (num_samples, 0)}
    counts |= {} if num_steps is None else {"num_steps": (num_steps, 1)}
    counts |= {} if num_warmup is None else {"num_warmup": (num_warmup, 0)}
    for name, (value, least) in counts.items():
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name}: expected a whole number from {least}, got {value!r}")
