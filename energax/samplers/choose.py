"""`sample`: draws from any energy with a verdict; and the defaults that suit each energy."""

import contextlib
import math
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from energax.diagnostics import rhat_limit
from energax.energies._base import (
    AbstractBipartiteEnergy,
    AbstractColouredEnergy,
    AbstractEnergy,
    AbstractNormalised,
    batched,
    check_scalar,
)
from energax.random import as_key
from energax.results import Draws, Verdict
from energax.samplers._base import AbstractSampler, Trace, run
from energax.samplers.gibbs import BlockGibbs, ColouredGibbs
from energax.samplers.langevin import MALA, is_real
from energax.samplers.metropolis import Metropolis
from energax.samplers.progress import Progress
from energax.samplers.starts import Candidates, initial_points, is_low, num_candidates
from energax.samplers.tails import slowest_fall, tail_reason
from energax.samplers.verdict import (
    Assessment,
    History,
    Kept,
    assess,
    kernel_reasons,
    left_behind,
    quick_rhat,
)
from energax.spaces import Point, num_rows

__all__ = ["default_sampler", "initial_points", "sample"]

_BLOCK_STEPS = 512
_BLOCK_NUMBERS = 2**22  # floats that one block may leave on the device
_KEPT_NUMBERS = 2**26  # floats of history that are kept in memory
_OPINION_ESS = 200  # importance weights whose means are worth comparing
_BURNT_IN = 1.2  # R-hat at which warm-up may end


def default_sampler(energy: AbstractEnergy) -> AbstractSampler:
    """The sampler that suits an energy.

    Block Gibbs where it has two layers, coloured Gibbs where its sites are coloured, MALA on Real
    where JAX differentiates f, else Metropolis.
    """
    if isinstance(energy, AbstractBipartiteEnergy):
        return BlockGibbs()
    if isinstance(energy, AbstractColouredEnergy):
        return ColouredGibbs()
    if is_real(energy.space):
        try:
            eqx.filter_eval_shape(jax.grad(energy.log_density), energy.space.example())
            return MALA()
        except Exception:  # whatever JAX cannot differentiate, a while loop or a callback
            return Metropolis()
    return Metropolis()


def sample(
    energy: AbstractEnergy,
    num_samples: int = 1000,
    *,
    key: Key[Array, ""],
    sampler: AbstractSampler | None = None,
    num_chains: int = 8,
    initial: Point | None = None,
    num_warmup: int | None = None,
    num_steps: int | None = None,
    max_evaluations: int = 4_000_000,
    max_seconds: float | None = None,
    progress: bool = False,
) -> Draws:
    """Draws from p(x) = exp(f(x))/Z, with diagnostics and a verdict.

    Chains start dispersed, adapt in warm-up until they agree roughly (R-hat below 1.2) or a quarter
    of the budget is spent, then run with frozen tuning for rounds of doubling length until
    rank-normalised R-hat is below its limit, bulk and tail ESS are at least 400 and each mean is
    known to 0.1 sd, for f and every coordinate that is not constant (Vehtari et al. 2021,
    arXiv:1903.08008). If only the last half of the run passes, the first counts as warm-up. Beyond
    16 chains R-hat is nested (Margossian et al. 2024) and consecutive chains share starts. After
    warm-up the chains are spread over points of usual density, as far apart as may be, so that a
    mode once seen is not forgotten, and in up to 8 dimensions the means must agree with importance
    sampling wherever that is any good. An energy of known normaliser is drawn from exactly,
    without chains, unless `sampler` or `initial` is given.

    **Arguments:**

    - `num_samples`: how many draws come back, thinned evenly from the whole run.
    - `sampler`: see `default_sampler`. `num_chains`: how many chains.
    - `initial`: (num_chains, *event), instead of dispersed starts.
    - `num_warmup`, `num_steps`: steps a chain, fixed instead of until converged.
    - `max_evaluations`: budget of energy evaluations, all chains together; more is spent only on
      the search for starts (up to 20,480 points) and where `num_samples` asks for more steps.
    - `max_seconds`: optional limit, looked at after each block of steps; a run that hits it does
      not repeat exactly.
    - `progress`: a bar on stderr.

    **Returns:** Draws, `x` of shape (rows, num_samples / rows, *event), rows = gcd(num_samples,
    num_chains). Unreliable ones come with reasons and an `UnreliableResult` warning.

    **Raises:** TypeError or ValueError for arguments that do not fit, or if no start is found.
    """
    start = time.perf_counter()
    key = as_key(key)
    check_scalar(energy)
    counts = {"num_samples": num_samples, "num_chains": num_chains}
    counts |= {"max_evaluations": max_evaluations}
    counts |= {} if num_steps is None else {"num_steps": num_steps}
    for name, value in counts.items():
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"{name}: expected a positive whole number, got {value!r}")
    if num_warmup is not None and num_warmup < 0:
        raise ValueError(f"num_warmup: expected a whole number from 0, got {num_warmup!r}")
    if sampler is None and initial is None and isinstance(energy, AbstractNormalised):
        draws = _draw_exactly(energy, num_samples, num_chains, start, key=key)
    else:
        sampler = default_sampler(energy) if sampler is None else sampler
        job = _Job(energy, sampler, num_chains, max_evaluations, max_seconds, start)
        with Progress("sampling", progress) as bar:
            draws = job.run(num_samples, initial, num_warmup, num_steps, bar, key=key)
    Verdict(draws.reasons).warn("the sample")
    return draws


@eqx.filter_jit
def _init(sampler: AbstractSampler, energy: AbstractEnergy, x: Point, key: Key[Array, ""]):
    return sampler.init(energy, x, key=key)


class _Job:
    """One call of `sample`: the chains, what they cost, and how far they may go."""

    def __init__(self, energy, sampler, num_chains, max_evaluations, max_seconds, start):
        self.energy, self.sampler, self.num_chains = energy, sampler, num_chains
        self.max_evaluations, self.start = max_evaluations, start
        self.max_seconds = math.inf if max_seconds is None else float(max_seconds)
        self.cost = num_chains * sampler.evaluations_per_step(energy)  # evaluations a step
        self.num_evaluations, self.num_blocks = 0.0, 0
        self.num_superchains: int | None = None
        self.candidates: list[Candidates] = []
        self.hopeless = self.given = False
        self.point_size = sum(math.prod(s) for s in _shapes(energy.space.shape))

    def run(self, num_samples, initial, num_warmup, num_steps, bar, *, key) -> Draws:
        key_start, key_init, self.key = jax.random.split(key, 3)
        x = self._starts(initial, key_start)
        self.state, self.tuning = _init(self.sampler, self.energy, x, key_init)
        self.num_evaluations += self.num_chains
        budget = int((self.max_evaluations - self.num_evaluations) / self.cost)
        enough = -(-num_samples // self.num_chains)
        warmup = self._warm_up(budget, num_warmup, bar)
        most = max(budget - warmup, enough, 4) if num_steps is None else num_steps
        history, assessment, acceptance, num_divergent = self._sample(
            most, enough, self._block(budget, num_steps), num_steps is not None, bar
        )
        kept = assessment.kept
        used = len(kept.log_density) * history.thin
        share = num_divergent / (history.num_steps * self.num_chains)
        name = type(self.sampler).__name__
        reasons = kernel_reasons(name, self.sampler.is_exact, self.num_chains, share)
        reasons += assessment.reasons
        tails = tail_reason(self.energy, _rows(kept))
        reasons += [] if tails is None else [tails]
        if len(kept.log_density) < enough:
            reasons.append(
                f"only {kept.log_density.size:,} draws were made in the time given, so that some "
                f"of the {num_samples:,} are repeated; raise max_seconds="
            )
        time_limited = self._late and history.num_steps < most
        if assessment.reasons and num_steps is None:
            if self.hopeless:
                reasons.append("stopped early, as longer chains would not help")
            elif time_limited:
                reasons.append(f"stopped by max_seconds={self.max_seconds:g}")
            else:
                reasons.append(f"stopped by max_evaluations={self.max_evaluations:,}")
        return _answer(
            assessment,
            num_samples,
            reasons,
            acceptance=float(acceptance),
            num_divergent=int(num_divergent),
            sampler=name,
            num_chains=self.num_chains,
            num_warmup=warmup + history.num_steps - used,
            num_steps=used,
            num_evaluations=round(self.num_evaluations),
            seconds=time.perf_counter() - self.start,
            time_limited=bool(time_limited),
            details=jax.tree.map(np.asarray, self.sampler.describe(self.state, self.tuning)),
        )

    def _starts(self, initial, key) -> Point:
        self.given = initial is not None
        if self.given:
            x = self.energy.space.validate(initial, batch=True, name="initial")
            if num_rows(x) != self.num_chains:
                raise ValueError(
                    f"initial: expected a point for each of {self.num_chains} chains, got "
                    f"{num_rows(x)}; pass num_chains={num_rows(x)}"
                )
            return jax.tree.map(jnp.asarray, x)
        if self.num_chains > 16:
            # Groups that share a start: from 4 to 16 of them, or else every chain by itself
            divisors = [n for n in range(4, 17) if self.num_chains % n == 0]
            self.num_superchains = divisors[-1] if divisors else self.num_chains
        num_starts = self.num_superchains or self.num_chains
        self.num_evaluations += num_candidates(self.energy, num_starts)
        self.candidates.append(Candidates.look(self.energy, num_starts, key=key))
        return self._shared(self.candidates[0].starts(num_starts))

    def _shared(self, x: Point) -> Point:
        """The chains of a superchain start at the same point."""
        if self.num_superchains is None:
            return x
        return jax.tree.map(
            lambda a: jnp.repeat(a, self.num_chains // self.num_superchains, axis=0), x
        )

    def _start_anew(self, kept: Kept, key) -> None:
        """Spreads the chains, tuning as it is, over points of usual density far from each other.

        Large steps early in warm-up, or the pull of the widest mode, may have taken all chains to
        one mode; unless some start from every mode that was found, nothing would tell. In few
        dimensions a second look, around what the chains found, finds modes. Superchains must share
        a start to tell. Chains whose start was given stay where they are.
        """
        key_look, key_init = jax.random.split(key)
        num_starts = self.num_superchains or self.num_chains
        if is_low(self.energy.space):
            self.num_evaluations += num_candidates(self.energy, num_starts, around=True)
            with contextlib.suppress(ValueError):  # drifted off to where nothing is finite
                self.candidates.append(
                    Candidates.look(self.energy, num_starts, key=key_look, around=_rows(kept))
                )
        if self.given:
            return
        f = kept.log_density[np.isfinite(kept.log_density)]
        least = float(np.quantile(f, 0.01)) if len(f) else np.inf
        x, found = self.state.x, self.num_superchains is not None
        for candidates in self.candidates:
            x, heavy = candidates.spread(x, num_starts, least)
            found |= heavy
        if found:
            self.state, _ = _init(self.sampler, self.energy, self._shared(x), key_init)
            self.num_evaluations += self.num_chains

    @property
    def _late(self) -> bool:
        return time.perf_counter() - self.start > self.max_seconds

    def _block(self, budget: int, fixed: int | None) -> int:
        """Steps of one block, always the same, so that one compilation serves all rounds."""
        most = max(1, _BLOCK_NUMBERS // (self.num_chains * self.point_size))
        if fixed is not None:  # blocks of equal length that cover it
            return -(-fixed // -(-fixed // min(_BLOCK_STEPS, most)))
        most = min(_BLOCK_STEPS, most, max(1, budget // 16))
        return 2 ** int(math.log2(most))

    def _advance(self, num_steps: int, adapt: bool) -> Trace:
        key = jax.random.fold_in(self.key, self.num_blocks)
        self.state, self.tuning, trace = run(
            self.sampler,
            self.energy,
            self.state,
            self.tuning,
            key=key,
            num_steps=num_steps,
            adapt=adapt,
        )
        self.num_blocks += 1
        self.num_evaluations += num_steps * self.cost
        return trace

    def _report(self, bar: Progress, text: str) -> None:
        done = self.num_evaluations / self.max_evaluations
        if self.max_seconds < math.inf:
            done = max(done, (time.perf_counter() - self.start) / max(self.max_seconds, 1e-9))
        bar.update(min(done, 1.0), text)

    def _warm_up(self, budget: int, num_warmup: int | None, bar: Progress) -> int:
        """Adapts in rounds of doubling length; returns the steps taken."""
        if num_warmup == 0:
            return 0
        block, spent = self._block(budget, num_warmup), 0
        goal = block * max(1, min(_BLOCK_STEPS, budget // 8) // block)
        goal = goal if num_warmup is None else num_warmup
        while True:
            history, done = History(2**22 // (self.num_chains * self.point_size)), 0
            while done < goal and not (done and self._late):
                trace = self._advance(block, adapt=True)
                history.add(trace.x, trace.log_density)
                done += block
                self._report(bar, "warm-up")
            spent += done
            late_half = history.since(history.num_kept // 2)
            over = num_warmup is not None or spent + 2 * goal > budget / 4 or self._late
            fall = slowest_fall(self.energy, _rows(late_half))
            self.hopeless = fall is not None and fall[2]
            over |= self.hopeless
            if over or quick_rhat(late_half, self.num_superchains) < _BURNT_IN:
                self._start_anew(late_half, jax.random.fold_in(self.key, 2**31 - 1))
                return spent
            goal *= 2

    def _sample(self, most: int, enough: int, block: int, fixed: bool, bar: Progress):
        """Rounds of doubling length with frozen tuning, until converged or `most` steps."""
        numbers = self.num_chains * (self.point_size + 1)
        history = History(max(_KEPT_NUMBERS // numbers, 2 * enough, 128))
        goal = most if fixed else min(most, max(2 * _BLOCK_STEPS, enough))
        acceptance, num_divergent, blocks = 0.0, 0, 0
        text = "sampling"
        while True:
            while history.num_steps < goal:
                trace = self._advance(block, adapt=False)
                drop = max(0, history.num_steps + block - most) if fixed else 0
                history.add(trace.x, trace.log_density, drop)
                acceptance += float(jnp.mean(trace.acceptance))
                num_divergent += int(jnp.sum(trace.num_divergent))
                blocks += 1
                self._report(bar, text)
                if self._late:
                    break
            last = self._late or history.num_steps >= most or self.hopeless
            assessment = self._judge(history, enough, last)
            if assessment is not None and (last or not assessment.reasons):
                return history, assessment, acceptance / blocks, num_divergent
            goal = min(2 * history.num_steps, most)

    def _judge(self, history: History, enough: int, last: bool) -> Assessment | None:
        """Diagnostics of all that was kept, or of its last half where only that passes.

        None where a look at a part shows that neither passes, and more steps are to come.
        """
        whole: Assessment | None = None
        limit = rhat_limit(
            self.point_size + 1, self.num_chains, num_superchains=self.num_superchains
        )
        best = max(self.candidates, key=lambda c: c.ess, default=None)
        opinion = best.mean() if best is not None and best.ess >= _OPINION_ESS else None
        for first in (0, history.num_kept // 2):
            kept = history.since(first)
            if first and (len(kept.log_density) < enough or left_behind(history, first)):
                break
            hopeless = quick_rhat(kept, self.num_superchains) > limit + 0.05
            if hopeless and not (last and first == 0):
                continue
            assessment = assess(kept, self.energy.space, self.num_superchains, opinion)
            if not assessment.reasons:
                return assessment
            whole = assessment if first == 0 else whole
        return whole


def _rows(kept: Kept) -> Point:
    """Up to some 2,000 draws of all chains, (num, *event), the last ones of each."""
    steps = max(1, 2_000 // kept.log_density.shape[1])
    leaves = [a[-steps:].reshape(-1, *a.shape[2:]) for a in kept.leaves]
    return jax.tree.unflatten(kept.structure, leaves)


def _shapes(shape) -> list[tuple[int, ...]]:
    return list(shape.values()) if isinstance(shape, dict) else [shape]


def _answer(assessment: Assessment, num_samples: int, reasons: list[str], **counts) -> Draws:
    """`Draws` from an assessment: evenly thinned draws, the diagnostics of all."""
    kept, summary = assessment.kept, assessment.summary
    x, log_density = _thin(kept, num_samples, counts["num_chains"])
    fields = ("mean", "sd", "mcse_mean", "mcse_sd", "rhat", "ess_bulk", "ess_tail")
    return Draws(
        x=x,
        log_density=log_density,
        **{name: kept.rebuild(getattr(summary, name)[1:]) for name in fields},
        constant=kept.rebuild(summary.is_constant[1:]),
        rhat_log_density=float(summary.rhat[0]),
        ess_log_density=float(summary.ess_bulk[0]),
        rhat_limit=assessment.rhat_limit,
        reliable=not reasons,
        reasons=tuple(reasons),
        **counts,
    )


def _thin(kept: Kept, num_samples: int, num_chains: int) -> tuple[Any, np.ndarray]:
    """`num_samples` draws at even distances: as many from each chain, give or take one."""
    rows = math.gcd(num_samples, num_chains)
    pooled, size = num_chains // rows, num_samples // rows
    steps = len(kept.log_density)
    places, chains = [], []
    for row in range(rows):
        for i in range(pooled):
            count = size // pooled + (i < size % pooled)
            places.append(((np.arange(count) + 0.5) * steps / max(count, 1)).astype(int))
            chains.append(np.full(count, row * pooled + i))
    at = np.concatenate(places), np.concatenate(chains)
    leaves = [a[at].reshape(rows, size, *a.shape[2:]) for a in kept.leaves]
    f = kept.log_density[at].reshape(rows, size).astype(np.float64)
    return jax.tree.unflatten(kept.structure, leaves), f


def _draw_exactly(
    energy: AbstractNormalised, num_samples: int, num_chains: int, start: float, *, key
) -> Draws:
    """Independent draws; their moments are taken from at least 4,096 of them."""
    sites = max(energy.space.num_sites, 1)
    num = max(num_samples, min(4_096, 2**24 // sites))
    x = eqx.filter_jit(lambda energy, key: energy.draw(num, key=key))(energy, key)
    log_density = np.asarray(eqx.filter_jit(batched)(energy, x), np.float64)
    x = jax.tree.map(np.asarray, x)
    rows = math.gcd(num_samples, num_chains)

    def by_row(a):
        return a[:num_samples].reshape(rows, -1, *a.shape[1:])

    mean = jax.tree.map(lambda a: a.mean(0, dtype=np.float64), x)
    sd = jax.tree.map(lambda a: a.std(0, ddof=1, dtype=np.float64) if num > 1 else a[0] * np.inf, x)

    def sd_error(a, mean, sd):  # the delta method for the sd of independent draws
        fourth = ((a - mean) ** 4).mean(0)
        return np.sqrt(np.maximum(fourth - sd**4, 0) / num) / np.where(sd > 0, 2 * sd, 1.0)

    def full(value):
        return jax.tree.map(lambda a: np.full(a.shape, value), mean)

    reasons = []
    if not np.isfinite(log_density).all():
        reasons.append("f is not finite at some of its own exact draws: its parameters are not")
    return Draws(
        x=jax.tree.map(by_row, x),
        log_density=by_row(log_density),
        mean=mean,
        sd=sd,
        mcse_mean=jax.tree.map(lambda s: s / math.sqrt(num), sd),
        mcse_sd=jax.tree.map(sd_error, x, mean, sd),
        rhat=full(1.0),
        ess_bulk=full(float(num)),
        ess_tail=full(float(num)),
        constant=jax.tree.map(lambda s: s == 0, sd),
        rhat_log_density=1.0,
        ess_log_density=float(num),
        rhat_limit=1.0,
        acceptance=1.0,
        num_divergent=0,
        sampler="exact draws",
        num_chains=num_chains,
        num_warmup=0,
        num_steps=num // num_chains,
        num_evaluations=num,
        seconds=time.perf_counter() - start,
        time_limited=False,
        reliable=not reasons,
        reasons=tuple(reasons),
    )
