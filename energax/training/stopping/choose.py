"""`Watcher`: looks at the held-out log-likelihood, and how it knows log Z at each look."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from energax.energies._base import (
    AbstractEnergy,
    AbstractNormalised,
    AbstractPath,
    batched,
    partition_trainable,
)
from energax.energies.reference import fitted_base
from energax.objectives.likelihood import all_log_densities, num_exact_states, sums_a_layer
from energax.partition.exact._base import float64_or_32
from energax.samplers._base import started
from energax.samplers.choose import default_sampler
from energax.spaces import Point, num_rows
from energax.training._base import History, Stopping
from energax.training.stopping._base import (
    NUM_WALKERS,
    SCOUT_STEPS,
    SCOUTS,
    SETTLING_STEPS,
    Between,
    Survey,
    Walkers,
    at_base,
    carry,
    settle,
    spread_of_change,
    straight,
    survey,
)
from energax.training.stopping.rule import EarlyStopping

_MOST_ROWS = 2000
_MOST_LOOKS = 50
_EXACT_STATES = 2**12  # that are summed whatever the training costs
_ROWS_SHARE = 0.3  # of the allowance, for energies of rows
_CHECK_SHARE = 0.15  # of the allowance, kept for the check at the end
_LEAST_ESS = 0.2  # a step of lower conditional ESS may have missed what matters
_ANCHOR_STEPS = 16  # at the least
_LOOK_STEPS = 5  # from look to look at the least, where they can be paid, to keep up
_SAVED, _SAVED_IN_DOUBT = 0.3, 0.9  # of what a look may cost, for a new population
_ADVANCE = 0.2  # of the run's allowance, which may be spent from its start
_LOST = "a few walkers decide its weights"


class Watched(eqx.Module):
    """What the watcher remembers, a part of the checkpoints; numbers are NumPy float64, ()."""

    walkers: Walkers | None  # None where log Z is summed
    theta: PyTree  # where they stand
    best_theta: PyTree
    numbers: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> float:
        return float(self.numbers[name])

    def but(self, walkers=None, theta=None, best_theta=None, **numbers) -> "Watched":
        return Watched(
            self.walkers if walkers is None else walkers,
            self.theta if theta is None else theta,
            self.best_theta if best_theta is None else best_theta,
            {**self.numbers, **{k: np.asarray(v, np.float64) for k, v in numbers.items()}},
        )


_START = {
    **dict.fromkeys(("step", "spent", "looks", "trusted", "waited", "anchors", "stopped"), 0.0),
    "lost": 1.0,  # 1: the walkers do not tell log Z now
    "wanted": 0.0,  # evaluations that the next run from the base is known to cost
    **dict.fromkeys(("best_step", "best", "best_error", "best_sampling", "best_log_z"), np.nan),
}


class Watcher:
    """Looks at the held-out log-likelihood; all it remembers is `self.now`, a `Watched`."""

    def __init__(
        self,
        settings: EarlyStopping,
        energy: AbstractEnergy,
        rows: Point,
        held: Point,
        *,
        num_steps: int,
        step_evaluations: float,
        key: Key[Array, ""],
    ):
        self.settings, self.key = settings, key
        self.held = jax.tree.map(lambda a: jnp.asarray(a[:_MOST_ROWS]), held)
        num = min(num_rows(self.held), num_rows(rows))
        self.seen = jax.tree.map(lambda a: jnp.asarray(a[:num]), rows)
        self.rows_cost = float(num_rows(self.held) + num)
        self.step_cost = step_evaluations
        self.allowance = settings.share * step_evaluations  # of an update
        self.num_steps = num_steps
        fewest = math.ceil(self.rows_cost / (_ROWS_SHARE * self.allowance))
        self.every = settings.every or max(1, num_steps // _MOST_LOOKS, fewest)
        states = num_exact_states(energy)
        affordable = max(_EXACT_STATES, self.allowance * self.every / 2)
        self.states = states if states is not None and states <= min(affordable, 2**20) else None
        self.base: Any = None
        self.sampler: Any = None
        self.way_sampler: Any = None
        theta = partition_trainable(energy)[0]
        walkers = None
        if self.states is None:
            self.base = fitted_base(energy.space, jax.tree.map(np.asarray, rows))
            path = energy.path(self.base)
            self.sampler, self.way_sampler = default_sampler(energy), default_sampler(path.at(0.5))
            key_draw, key_init = jax.random.split(jax.random.fold_in(key, 0))
            walkers = at_base(path, None, key=key_draw)
            tuning = started(self.sampler, energy, walkers.x, key=key_init)[1]
            walkers = Walkers(walkers.x, walkers.log_weight, walkers.level, tuning)
            self.each = self.sampler.evaluations_per_step(energy)
            self.way_each = self.way_sampler.evaluations_per_step(path.at(0.5))
        numbers = {name: np.asarray(value) for name, value in _START.items()}
        self._held_states = [Watched(walkers, theta, theta, numbers)]

    # ---- where it stands ---------------------------------------------------------------------

    @property
    def now(self) -> Watched:
        return self._held_states[-1]

    def restore(self, *states: Watched) -> None:
        """`states`: oldest first."""
        self._held_states = list(states)

    def at(self, step: int) -> Watched:
        """What was known at `step` of the training, which is none that was let go."""
        return [state for state in self._held_states if state["step"] <= step][-1]

    def go_back(self, step: int) -> None:
        """To what was known at `step` of the training, which went on into trouble."""
        self._held_states = [state for state in self._held_states if state["step"] <= step]

    def let_go(self, step: int) -> None:
        """Forgets what was known before `step`, to which training does not go back any more."""
        later = [state for state in self._held_states if state["step"] > step]
        self._held_states = [self.at(step), *later]

    @property
    def stopped(self) -> bool:
        return bool(self.now["stopped"])

    def is_due(self, step: int) -> bool:
        if step == self.now["step"] and self.now["looks"]:
            return False
        return step % self.every == 0 or step == self.num_steps

    def best_energy(self, energy: AbstractEnergy) -> AbstractEnergy | None:
        """`energy` with the best parameters; None if no look was trusted."""
        if np.isnan(self.now["best_step"]):
            return None
        return eqx.combine(self.now.best_theta, partition_trainable(energy)[1])

    # ---- a look ------------------------------------------------------------------------------

    def look(self, energy: AbstractEnergy, step: int) -> History:
        """Log-likelihoods at `energy`, which training reached after `step` updates."""
        key = jax.random.fold_in(self.key, step + 1)
        theta = partition_trainable(energy)[0]
        old = self.now
        new = old.but(spent=old["spent"] + self.rows_cost, looks=old["looks"] + 1, step=step)
        if self.states is None:
            new, log_z, error = self._track(new, energy, theta, step, key)
        else:
            log_z, error = exact_log_z(energy), 0.0
            new = new.but(spent=new["spent"] + self.states)
        f = np.asarray(_log_densities(energy, self.held), np.float64)
        with np.errstate(invalid="ignore"):
            value = float(f.mean()) - log_z
        trusted = np.isfinite(log_z) and error <= self.settings.max_std_err
        trusted = trusted and (self.states is not None or not new["lost"])
        if trusted:
            better = np.isnan(new["best"]) or value > new["best"] + self.settings.min_delta
            new = new.but(trusted=new["trusted"] + 1, waited=0 if better else new["waited"] + 1)
            if better:
                sampling = f.std(ddof=1) / np.sqrt(len(f)) if len(f) > 1 else np.inf
                new = new.but(
                    best_theta=theta, best=value, best_error=error, best_sampling=sampling,
                    best_log_z=log_z, best_step=step,
                )  # fmt: skip
            if new["waited"] >= self.settings.patience:
                new = new.but(stopped=1)
        self._held_states.append(new)
        seen = float(np.mean(np.asarray(_log_densities(energy, self.seen), np.float64)))
        values = {
            "log_likelihood_step": step,
            "log_likelihood": value,
            "log_likelihood_training": seen - log_z,
            "log_likelihood_std_err": error,
            "log_likelihood_log_z": log_z,
        }
        return {name: np.asarray([float(v)]) for name, v in values.items()}

    def _balance(self, now: Watched, step: int) -> float:
        """Evaluations that may be spent now, what is kept for the check left out.

        The first part of the run, where θ moves fastest, may spend its allowance from the start.
        """
        step = max(step, int(_ADVANCE * self.num_steps))
        return (1 - _CHECK_SHARE) * self.allowance * step - now["spent"]

    def _is_doubtful(self, now: Watched) -> bool:
        assert now.walkers is not None
        return bool(now["lost"]) or now.walkers.log_z()[1] > 0.8 * self.settings.max_std_err

    def _track(
        self, now: Watched, energy: AbstractEnergy, theta: PyTree, step: int, key: Key[Array, ""]
    ) -> tuple[Watched, float, float]:
        """(what is known now, log Z, its standard error)."""
        key_carry, key_settle, key_anchor = jax.random.split(key, 3)
        if now["anchors"]:
            now = self._follow(now, energy, theta, step, key_carry, key_settle)
        assert now.walkers is not None
        if self._is_doubtful(now) and self._can_anchor(now, step):
            now = self._anchor(now, energy, theta, step, key_anchor)
        if not now["anchors"]:
            return now, np.nan, np.inf
        assert now.walkers is not None
        return now, *now.walkers.log_z()

    def _follow(self, now, energy, theta, step, key_carry, key_settle) -> Watched:
        """Carries the walkers from where they stand to `energy`."""
        assert now.walkers is not None
        start = eqx.combine(now.theta, partition_trainable(energy)[1])
        length = float(spread_of_change(start, energy, now.walkers))
        a_step = NUM_WALKERS * (self.each + 1)
        tuned = jax.tree.leaves(eqx.filter(now.walkers.tuning, eqx.is_array))
        settling = NUM_WALKERS * self.each * SETTLING_STEPS if tuned else 0.0
        # length²/(steps · walkers) is the square of a look's error, here a fifth of the limit.
        wanted = (length / (0.2 * self.settings.max_std_err)) ** 2 / NUM_WALKERS
        wanted = max(wanted, _LOOK_STEPS)
        income = (1 - _CHECK_SHARE) * self.allowance * self.every - self.rows_cost
        saved = _SAVED_IN_DOUBT if self._is_doubtful(now) else _SAVED
        spare = min(self._balance(now, step), (1 - saved) * income)
        spare = (spare - settling - 2 * NUM_WALKERS) / a_step  # the length above took two
        num_steps = int(np.clip(min(wanted, spare) if np.isfinite(wanted) else spare, 1, 10**6))
        walkers, least = carry(
            Between(start, energy),
            self.sampler,
            straight(now.walkers.tuning),
            now.walkers,
            num_steps,
            key=key_carry,
        )
        walkers = settle(energy, self.sampler, walkers, key=key_settle)
        return now.but(
            walkers=walkers,
            theta=theta,
            lost=max(now["lost"], float(least < _LEAST_ESS)),
            spent=now["spent"] + num_steps * a_step + 2 * NUM_WALKERS + settling,
        )

    def _can_anchor(self, now: Watched, step: int) -> bool:
        """Whether the allowance pays for a run from the base, as far as its price is known."""
        least = _ANCHOR_STEPS * NUM_WALKERS * (self.way_each + 1)
        return self._balance(now, step) >= max(now["wanted"], least)

    def _anchor(self, now, energy, theta, step, key) -> Watched:
        """A new population, annealed from the base, if that is no dearer than there is to spend."""
        path = energy.path(self.base)
        key_survey, key_run = jax.random.split(key)
        found, cost = self._survey(path, key_survey)
        now = now.but(spent=now["spent"] + cost)
        if not found.arrived:
            return now.but(wanted=8 * cost)
        num_steps = self._steps_of(found, 0.5 * self.settings.max_std_err)
        price = num_steps * NUM_WALKERS * (self.way_each + 1)
        if not self._can_anchor(now.but(wanted=price), step):
            return now.but(wanted=price)
        walkers, least = self._from_base(path, found, num_steps, key_run)
        tuning = found.tuning(jnp.ones(()))
        if not _alike(self.way_sampler, self.sampler):
            tuning = started(self.sampler, energy, walkers.x, key=key_run)[1]
        walkers = Walkers(walkers.x, walkers.log_weight, walkers.level, tuning)
        return now.but(
            walkers=walkers,
            theta=theta,
            lost=float(least < _LEAST_ESS),
            anchors=now["anchors"] + 1,
            wanted=0.0,
            spent=now["spent"] + price,
        )

    def _survey(self, path: AbstractPath, key) -> tuple[Survey, float]:
        found = survey(path, self.way_sampler, key=key)
        moves = SCOUTS * float(found.count) * SCOUT_STEPS * self.way_each
        return found, found.num_evaluations + moves

    def _steps_of(self, found: Survey, error: float) -> int:
        """Steps of equal length that leave `error`: length²/(steps · walkers) is its square."""
        wanted = (found.length / error) ** 2 / NUM_WALKERS
        return int(np.clip(wanted, _ANCHOR_STEPS, 10**6))

    def _from_base(self, path, found, num_steps, key) -> tuple[Walkers, float]:
        key_draw, key_run = jax.random.split(key)
        walkers = at_base(path, None, key=key_draw)
        return carry(path, self.way_sampler, found, walkers, num_steps, key=key_run)

    # ---- the end -----------------------------------------------------------------------------

    def finish(self, energy: AbstractEnergy, last_step: int) -> tuple[Stopping, tuple[str, ...]]:
        """(the record, reasons not to trust it)."""
        now, best = self.now, self.best_energy(energy)
        reasons, check, spent = [], None, now["spent"]
        looks, trusted = int(now["looks"]), int(now["trusted"])
        disagree = []
        if self.states is None and best is not None:
            assert now.walkers is not None
            told = {"best": (best, (now["best_log_z"], now["best_error"]))}
            if now["step"] != now["best_step"]:  # what led on to the end is judged by its end
                last = eqx.combine(now.theta, partition_trainable(energy)[1])
                told["last"] = last, now.walkers.log_z()
            for place, (there, (value, error)) in told.items():
                again, cost = self._check(there, last_step, spent)
                spent += cost
                if again is None:
                    continue
                check = again if place == "best" else check
                if abs(again[0] - value) > 4 * np.hypot(again[1], error) + 0.05:
                    disagree.append(
                        f"the tracked log Z at the {place} look, {value:.3f} ± {error:.3f}, and "
                        f"one annealed from a base, {again[0]:.3f} ± {again[1]:.3f}, disagree: the "
                        "log-likelihoods of the history are not to be trusted"
                    )
        if best is None:
            why = f"in none of {looks} looks could log Z be trusted"
            reasons.append(
                f"early stopping watched nothing: {why} (its error stayed above "
                f"{self.settings.max_std_err:g} nat or {_LOST}); the last parameters are "
                "returned. Train longer, or allow a larger share= of the training"
            )
            reason = why
        elif now["stopped"]:
            reason = f"no better in {self.settings.patience} looks of {self.every} updates each"
        else:
            reason = "the training came to its end"
        if best is not None and trusted < 0.5 * looks:
            reasons.append(
                f"the tracked log Z could be trusted at {trusted} of {looks} looks only, and the "
                "best of those may not be the best: train longer, or allow a larger share="
            )
        reasons += disagree
        record = Stopping(
            stopped=self.stopped,
            reason=reason,
            best_step=None if best is None else int(now["best_step"]),
            last_step=last_step,
            log_likelihood=now["best"],
            std_err=now["best_error"],
            sampling_std_err=now["best_sampling"],
            log_z=now["best_log_z"],
            method="tracked" if self.states is None else "exact",
            check=None if check is None else check[0],
            check_std_err=None if check is None else check[1],
            num_looks=looks,
            num_trusted=trusted,
            num_anchors=int(now["anchors"]),
            share=spent / max(1.0, self.step_cost * last_step),
        )
        return record, tuple(reasons)

    def _check(self, there: AbstractEnergy, last_step: int, spent: float) -> tuple[Any, float]:
        """((log Z, error) from the base once more, or None if it is too dear; evaluations)."""
        left = self.allowance * last_step - spent
        path = there.path(self.base)
        a_step = NUM_WALKERS * (self.way_each + 1)
        if left < 2 * _ANCHOR_STEPS * a_step:
            return None, 0.0
        key_survey, key_run = jax.random.split(jax.random.fold_in(self.key, 2**31 - 1))
        found, cost = self._survey(path, key_survey)
        if not found.arrived:
            return None, cost
        wanted = self._steps_of(found, 0.5 * self.settings.max_std_err)
        num_steps = int(min(wanted, (left - cost) / a_step))
        if num_steps < max(_ANCHOR_STEPS, wanted / 16):  # four times the error: no check at all
            return None, cost
        walkers, least = self._from_base(path, found, num_steps, key_run)
        cost += num_steps * a_step
        value, error = walkers.log_z()
        return (None if least < _LEAST_ESS else (value, error)), cost


def _alike(a, b) -> bool:
    return bool(eqx.tree_equal(a, b))


@eqx.filter_jit
def _log_densities(energy: AbstractEnergy, rows: Point) -> Array:
    return batched(energy, rows)


def exact_log_z(energy: AbstractEnergy) -> float:
    """log Z known or by a sum over states or a layer, in float64 where the energy allows it."""
    return float64_or_32(energy, _summed)


def _summed(energy):
    if isinstance(energy, AbstractNormalised):
        return energy.log_z
    if sums_a_layer(energy):
        return energy.log_z_by_sum()
    return jax.nn.logsumexp(all_log_densities(energy))
