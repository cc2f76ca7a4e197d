"""`Job`: warm-up, rounds of sampling and the verdict, for one sampler."""

import contextlib
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from energax import random
from energax.diagnostics import rhat_limit
from energax.energies._base import AbstractEnergy
from energax.results import Draws
from energax.samplers._base import (
    AbstractSampler,
    Trace,
    in_use,
    mesh_for,
    run,
    shared_out,
    started,
)
from energax.samplers.driver._base import Assessment, History, Kept
from energax.samplers.driver.answer import answer
from energax.samplers.driver.ascent import NUM_STEPS, ascend
from energax.samplers.driver.progress import Progress
from energax.samplers.driver.saved import Saved
from energax.samplers.driver.starts import (
    Candidates,
    is_low,
    num_candidates,
    share_out,
    spread_among,
)
from energax.samplers.driver.tails import slowest_fall, tail_reason
from energax.samplers.driver.verdict import (
    ESS_NEEDED,
    assess,
    forgotten,
    kernel_reasons,
    left_behind,
    quick_rhat,
)
from energax.samplers.driver.walls import wall_reason
from energax.spaces import Point, num_rows

_BLOCK_STEPS = 512
_BLOCK_NUMBERS = 2**22  # floats that one block may leave on the device
_KEPT_NUMBERS = 2**26  # floats of history that are kept in memory
_SUMMARY_NUMBERS = 2**22  # the same where no draws are asked for, only summaries
_OPINION_ESS = 30  # importance weights whose means are worth comparing
_CLIMBERS, _CLIMBERS_LOW = 256, 2_048  # points from which peaks of f are looked for
_CLIMB_SHARE = 0.1  # of the budget, that it may cost
_SD_ERROR, _SD_SHARE = 0.05, 0.25  # error of an sd to go on for, and the budget's share for it
_SLACK = 2 / 3  # of the effective draws needed, and of R-hat's way down, that a run must promise
_REMEMBERED = 128  # steps of each round of warm-up, to know where chains had been
_BURNT_IN = 1.2  # R-hat at which warm-up may end


class Job:
    """Chains of one sampler: what they cost, how far they may go, and what they gave.

    **Arguments:** `share`: of the budget, after which chains that come no nearer to agreeing are
    given up.

    `looks_for_peaks`: whether f is climbed first, so that chains stand in every mode; `peaks`: what
    was found. `earlier`: what other samplers' chains left, to ask whether it is all still there.
    """

    def __init__(
        self,
        energy: AbstractEnergy,
        sampler: AbstractSampler,
        *,
        name: str,
        num_chains: int,
        max_evaluations: int,
        max_seconds: float,
        start: float,
        share: float = 1.0,
        saved: Saved | None = None,
    ):
        self.energy, self.sampler, self.num_chains = energy, sampler, num_chains
        self.name = name
        self.max_evaluations, self.max_seconds, self.start = max_evaluations, max_seconds, start
        self.cost = num_chains * sampler.evaluations_per_step(energy)  # evaluations a step
        self.saved = saved
        self.kept: Kept | None = None
        self.share = share
        self.looks_for_peaks = False
        self.earlier: tuple[Kept, ...] = ()
        self.peaks: tuple[Point, np.ndarray] | None = None
        self.num_evaluations, self.num_blocks = 0.0, 0
        self.num_superchains: int | None = None
        self.candidates: list[Candidates] = []
        self.opinion: tuple[np.ndarray, np.ndarray] | None = None
        self.hopeless = self.given = False
        self.point_size = sum(math.prod(s) for s in _shapes(energy.space.shape))
        self.acceptance, self.num_divergent, self.warmup = 0.0, 0, 0
        self.share_divergent = 0.0
        self.mesh = mesh_for(num_chains)

    def run(
        self,
        num_samples: int,
        initial: Point | None,
        num_warmup: int | None,
        num_steps: int | None,
        bar: Progress,
        *,
        key: Key[Array, ""],
    ) -> Draws:
        with in_use(self.mesh):
            return self._run(num_samples, initial, num_warmup, num_steps, bar, key)

    def _run(self, num_samples, initial, num_warmup, num_steps, bar, key) -> Draws:
        key_start, key_init, self.key = random.split(key, 3)
        enough = -(-num_samples // self.num_chains)
        numbers = self.num_chains * (self.point_size + 1)
        most_kept = _KEPT_NUMBERS if num_samples else _SUMMARY_NUMBERS
        history = History(max(most_kept // numbers, 2 * enough, 128))
        x = self._starts(initial, key_start)
        x = shared_out(x, self.mesh)
        self.state, self.tuning = started(self.sampler, self.energy, x, key=key_init)
        self.num_evaluations += self.num_chains
        budget = self._steps_left
        self.block = self._block(budget, num_steps)
        block = 0 if num_warmup == 0 else self._block(budget, num_warmup)
        self.one_program = block == self.block
        resumed = self.saved is not None and self.saved.read(self, history)
        if not resumed:
            self.warmup = self._warm_up(block, budget, num_warmup, bar)
            best = max(self.candidates, key=lambda c: c.ess, default=None)
            if best is not None and best.ess >= _OPINION_ESS:
                self.opinion = best.mean()
        assessment = self._sample(history, num_steps, enough, bar)
        self.kept = kept = assessment.kept
        used = len(kept.log_density) * history.thin
        name = self.name
        self.share_divergent = share = self.num_divergent / (history.num_steps * self.num_chains)
        reasons = kernel_reasons(name, self.sampler.is_exact, self.num_chains, share)
        reasons += assessment.reasons
        reasons += self.sampler.doubts(self.state, self.tuning)
        late = [run.since(len(run.log_density) // 2) for run in self.earlier]
        missing = sum(forgotten(kept, run) for run in late)
        if missing:
            reasons.append(
                f"{missing} of {len(late) * self.num_chains} chains of another sampler were, at "
                f"usual density, where {name} hardly went: a mode may be missing; run longer "
                "(max_evaluations=), or give initial= points"
            )
        early = self.hopeless
        for look in (tail_reason, wall_reason):
            found = look(self.energy, _rows(kept))
            reasons += [] if found is None else [found]
            self.hopeless |= found is not None
        if len(kept.log_density) < enough:
            reasons.append(
                f"only {kept.log_density.size:,} draws were made in the time given, so that some "
                f"of the {num_samples:,} are repeated; raise max_seconds="
            )
        time_limited = self._late and history.num_steps < self._most(history, num_steps, enough)
        if reasons and num_steps is None:
            if early:
                reasons.append("stopped early, as longer chains would not help")
            elif time_limited:
                reasons.append(f"stopped by max_seconds={self.max_seconds:g}")
            else:
                reasons.append(f"stopped by max_evaluations={self.max_evaluations:,}")
        details = self.sampler.describe(self.state, self.tuning)
        return answer(
            assessment,
            num_samples,
            reasons,
            acceptance=self.acceptance / history.num_steps,
            num_divergent=self.num_divergent,
            sampler=name,
            num_chains=self.num_chains,
            num_warmup=self.warmup + history.num_steps - used,
            num_steps=used,
            num_evaluations=round(self.num_evaluations),
            seconds=time.perf_counter() - self.start,
            time_limited=bool(time_limited),
            details=jax.tree.map(np.asarray, details),
        )

    @property
    def _steps_left(self) -> int:
        return max(0, int((self.max_evaluations - self.num_evaluations) / self.cost))

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
        num = num_candidates(self.energy, num_starts, self.max_evaluations)
        self.num_evaluations += num
        self.candidates.append(Candidates.look(self.energy, num, key=key))
        if self.looks_for_peaks:
            climbers = _CLIMBERS_LOW if is_low(self.energy.space) else _CLIMBERS
            climbers = min(climbers, int(_CLIMB_SHARE * self.max_evaluations / NUM_STEPS))
            if climbers:
                self.peaks = ascend(self.energy, self.candidates[0].some(climbers))
            self.num_evaluations += climbers * NUM_STEPS
        return self._shared(self.candidates[0].starts(num_starts))

    def _shared(self, x: Point) -> Point:
        """The chains of a superchain start at the same point."""
        if self.num_superchains is None:
            return x
        times = self.num_chains // self.num_superchains
        return jax.tree.map(lambda a: jnp.repeat(a, times, axis=0), x)

    def _start_anew(self, kept: Kept, seen: Kept, key) -> None:
        """Spreads the chains, tuning as it is, over points of usual density far from each other.

        Large steps early in warm-up, or the pull of the widest mode, may have taken all chains to
        one mode, and warm-up goes on until they agree, which may be once the last has left a lesser
        one; unless some start from every mode that was found, nothing would tell. So places where
        chains were in warm-up, `seen`, and no more are at its end, are among the points. In few
        dimensions a second look, around what the chains found, finds modes. Superchains must share
        a start to tell. Chains whose start was given stay where they are.
        """
        key_look, key_init = random.split(key)
        num_starts = self.num_superchains or self.num_chains
        if is_low(self.energy.space):
            num = num_candidates(self.energy, num_starts, self.max_evaluations)
            self.num_evaluations += num
            with contextlib.suppress(ValueError):  # drifted off to where nothing is finite
                self.candidates.append(
                    Candidates.look(self.energy, num, key=key_look, around=_rows(kept))
                )
        if self.given or self.sampler.crosses_modes:
            return
        f = kept.log_density[np.isfinite(kept.log_density)]
        least = float(np.quantile(f, 0.01)) if len(f) else np.inf
        x, found = self.state.x, self.num_superchains is not None
        for candidates in self.candidates:
            x, heavy = candidates.spread(x, num_starts, least)
            found |= heavy
        if self.peaks is not None:
            peaks, height = self.peaks
            usual = height >= least
            if usual.any():
                found, shared = True, None
                peaks = jax.tree.map(lambda a: a[usual], peaks)
                if not is_low(self.energy.space):
                    shared = share_out(peaks, _rows(kept), num_starts)
                x = spread_among(x, peaks, num_starts) if shared is None else shared
        left = left_behind(kept.since(3 * len(kept.log_density) // 4), seen)
        if left is not None:
            found, x = True, spread_among(x, left, num_starts)
        if found:
            x = shared_out(self._shared(x), self.mesh)
            self.state, _ = started(self.sampler, self.energy, x, key=key_init)
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
        key = jax.random.fold_in(self.key, np.uint32(self.num_blocks))
        self.state, self.tuning, trace = run(
            self.sampler,
            self.energy,
            self.state,
            self.tuning,
            key=key,
            num_steps=num_steps,
            adapt=jnp.asarray(adapt) if self.one_program else adapt,
        )
        self.num_blocks += 1
        # What a step costs is known to kernels of a fixed cost only; the others have counted.
        self.cost = float(np.asarray(trace.evaluations, np.float64).mean()) * self.num_chains
        self.num_evaluations += num_steps * self.cost
        return trace

    def _report(self, bar: Progress, text: str) -> None:
        done = self.num_evaluations / self.max_evaluations
        if self.max_seconds < math.inf:
            done = max(done, (time.perf_counter() - self.start) / max(self.max_seconds, 1e-9))
        bar.update(min(done, 1.0), text)

    def _warm_up(self, block: int, budget: int, num_warmup: int | None, bar: Progress) -> int:
        """Adapts in rounds of doubling length; returns the steps taken."""
        if num_warmup == 0:
            return 0
        spent, seen = 0, []
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
            seen.append(late_half.some(_REMEMBERED))
            over = num_warmup is not None or spent + 2 * goal > budget / 4 or self._late
            fall = slowest_fall(self.energy, _rows(late_half))
            self.hopeless = fall is not None and fall[2]
            self.hopeless |= wall_reason(self.energy, _rows(late_half)) is not None
            over |= self.hopeless
            if over or quick_rhat(late_half, self.num_superchains) < _BURNT_IN:
                key = jax.random.fold_in(self.key, np.uint32(2**31 - 1))
                self._start_anew(late_half, Kept.joined(seen), key)
                return spent
            goal *= 2

    def _most(self, history: History, fixed: int | None, enough: int) -> int:
        """Steps of sampling at the most, by what they have cost so far."""
        return fixed or max(history.num_steps + self._steps_left, enough, 4)

    def _sample(
        self, history: History, fixed: int | None, enough: int, bar: Progress
    ) -> Assessment:
        """Rounds of doubling length with frozen tuning, until converged or out of budget."""
        goal = fixed or max(2 * _BLOCK_STEPS, enough)
        while not fixed and goal <= history.num_steps:  # a run that goes on
            goal *= 2
        while True:
            most = self._most(history, fixed, enough)
            while history.num_steps < min(goal, most):
                trace = self._advance(self.block, adapt=False)
                drop = max(0, history.num_steps + self.block - fixed) if fixed else 0
                history.add(trace.x, trace.log_density, drop)
                acceptance = float(np.asarray(trace.acceptance, np.float64).mean())
                self.acceptance += acceptance * (self.block - drop)
                self.num_divergent += int(np.asarray(trace.num_divergent).sum())
                self._report(bar, "sampling")
                most = self._most(history, fixed, enough)
                if self.saved is not None:
                    self.saved.write(self, history, now=history.num_steps >= min(goal, most))
                if self._late:
                    break
            last = self._late or history.num_steps >= most or self.hopeless
            assessment = self._judge(history, enough, last)
            if not last and not fixed and self._gives_up(history, enough, assessment):
                last, assessment = True, assessment or self._judge(history, enough, True)
            if assessment is not None and (last or not assessment.reasons):
                # Of a skewed or heavy-tailed coordinate the sd, and its own error, need more.
                spent = self.num_evaluations / self.max_evaluations
                if last or assessment.sd_error <= _SD_ERROR or spent > _SD_SHARE:
                    return assessment
            goal *= 2

    def _gives_up(self, history: History, enough: int, found: Assessment | None) -> bool:
        """Whether its share of the budget is spent and the rest would not do.

        R-hat − 1 falls as one over the steps where chains are merely slow, and stays where they are
        trapped; the effective number of draws grows as the steps.
        """
        if self.num_evaluations < self.share * self.max_evaluations:
            return False
        growth = self._most(history, None, enough) / history.num_steps  # of what is judged
        if found is not None:
            return found.ess * growth < ESS_NEEDED * _SLACK
        kept, half = history.since(0), history.since(0).until(history.num_kept // 2)
        now = quick_rhat(kept, self.num_superchains) - 1
        trapped = now > 0.75 * (quick_rhat(half, self.num_superchains) - 1)
        at_the_end = now / growth
        return now > 0.01 and (trapped or at_the_end * _SLACK > self._rhat_limit - 1)

    @property
    def _rhat_limit(self) -> float:
        return rhat_limit(
            self.point_size + 1, self.num_chains, num_superchains=self.num_superchains
        )

    def _judge(self, history: History, enough: int, last: bool) -> Assessment | None:
        """Diagnostics of all that was kept, or of its last half where only that passes.

        None where a look at a part shows that neither passes, and more steps are to come.
        """
        whole: Assessment | None = None
        limit = self._rhat_limit
        for first in (0, history.num_kept // 2):
            kept = history.since(first)
            if first and len(kept.log_density) < enough:
                break
            if first and forgotten(kept, history.since(0).until(first)) > 0:
                break
            hopeless = quick_rhat(kept, self.num_superchains) > limit + 0.05
            if hopeless and not (last and first == 0):
                continue
            assessment = assess(
                kept, self.energy.space, self.num_superchains, self.opinion, is_late=first > 0
            )
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
