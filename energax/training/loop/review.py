"""Judging: what a training that ended is asked before it is trusted, and the `Fit` it leaves."""

import numpy as np
from jaxtyping import PyTree

from energax.results import Verdict
from energax.training._base import Fit, History
from energax.training.loop._base import LEAST_ACCEPTANCE, Ended, Prepared, Run, joined

_STEPS_BESIDE = 16  # of the last, in which the loss is compared with that of the start


def judge(prepared: Prepared, ended: Ended) -> Fit:
    """What the run came to, with a warning where that is not to be trusted."""
    run, watcher = prepared.run, prepared.watcher
    history, recoveries = joined(run.moment.record), run.moment.recoveries
    trained, steps, stopping = run.averaged_energy, run.step, None
    reasons = _reasons(prepared, ended, history)
    if watcher is not None:
        stopping, doubts = watcher.finish(trained, run.step)
        reasons += doubts
        if stopping.best_step is not None:
            trained, steps = watcher.best_energy(trained), stopping.best_step
    verdict = Verdict(reasons)
    verdict.warn("the training")
    return Fit(
        energy=trained,
        history=history,
        reliable=verdict.reliable,
        reasons=verdict.reasons,
        objective=prepared.doctor.objective(recoveries),
        num_steps=steps,
        seconds=run.seconds,
        time_limited=ended.time_limited and run.step < prepared.num_steps,
        early_stopping=stopping,
        recoveries=recoveries,
        best=prepared.checkpoints.kept(),
    )


def _reasons(prepared: Prepared, ended: Ended, history: History) -> tuple[str, ...]:
    run, plan = prepared.run, prepared.run.plan
    if ended.reason:
        return (ended.reason,)
    reasons = review(history, plan.fixed.space.num_sites)
    if not (run.settled or run.step >= prepared.num_steps):
        return reasons
    reasons = reasons or of_loss(run, prepared.first)
    if plan.settles:
        reasons += plan.optimizer.doubts(run.state.optimizer, prepared.num_steps)
    return reasons


def of_loss(run: Run, first: PyTree) -> tuple[str, ...]:
    """A reason where the loss is above what it was with the `first` parameters, (θ, own), or had
    run far above it on the way.

    The end is compared in the last steps, with the same rows and the same chance for both. Only an
    objective without chains is asked: of others the loss tells nothing, and energies that run
    apart do.
    """
    history, end = run.history(), run.step
    if end < 100 or "acceptance" in history or run.plan.settles:
        return ()
    steps = range(end - _STEPS_BESIDE, end)
    now, then = run.losses(steps), run.losses(steps, first)
    start, spread, worse = then.mean(), then.std(ddof=1), now - then
    least = max(spread, 0.01 * abs(start), 4.5 * worse.std(ddof=1) / np.sqrt(len(worse)))
    tenths = [part.mean() for part in np.array_split(history["loss"], 10)]
    with_first = f"{start:.4g} with the parameters that training began with"
    return Verdict.of(
        [
            (
                bool(worse.mean() <= least),
                f"in the last steps the loss is {now.mean():.4g}, and {with_first}: it has got "
                "worse; take a lower learning_rate",
            ),
            (
                bool(max(tenths) <= start + 10 * spread + 0.1 * abs(start)),
                f"over a tenth of the steps the loss was {max(tenths):.4g} on average, and is "
                f"{with_first}: training threw the model about, and where it came down is chance; "
                "take a lower learning_rate",
            ),
        ]
    ).reasons


def review(history: History, num_sites: int) -> tuple[str, ...]:
    """Reasons not to trust a training that ran to its end.

    Energies of draws of p spread by about √(sites/2) nats (of a normal by just that; of
    log-concave densities by √sites at the most: Fradelizi, Madiman & Wang 2016), more where rows
    are of many kinds. A training that blows up slowly takes the spread along with the gap, so that
    neither is measured by the other alone.
    """
    names = "gap", "energy_data_sd", "acceptance"
    steps = len(history.get("step", ()))
    if steps < 100 or not set(names) <= set(history):
        return ()
    gap, spread, acceptance = (float(history[name][steps - steps // 10 :].mean()) for name in names)
    tenths = np.array_split(history["energy_data_sd"], 10)
    widest = max(float(part.mean()) for part in tenths[5:])
    most = 10 * num_sites**0.5
    most_spread = max(most, num_sites)
    grown = "often where the data have modes between which chains do not cross; take a lower "
    grown += "learning rate, chains that start anew or are tempered (ReplayCD, TemperedPCD), or an "
    grown += "EnergyPenalty"
    return Verdict.of(
        [
            (
                abs(gap) <= min(spread, most) + 1,
                f"in the last tenth of the steps the samples' energies were {abs(gap):.3g} nats "
                f"{'below' if gap > 0 else 'above'} the data's, whose spread is {spread:.3g}: the "
                "chains do not keep up; take more sampler steps an update, a lower learning rate "
                "or more steps",
            ),
            (
                spread <= most_spread,
                f"in the last tenth of the steps the data's energies spread by {spread:.3g} nats, "
                f"and those of a density that fits {num_sites} site(s) do by some "
                f"{(num_sites / 2) ** 0.5:.2g}: E has grown without bounds, {grown}",
            ),
            (
                spread > most_spread or widest <= most_spread,
                f"over a tenth of the steps of the second half the data's energies spread by "
                f"{widest:.3g} nats, and do by {spread:.3g} at the end: training threw E about, "
                f"and where it came down is chance, {grown}",
            ),
            (
                acceptance >= LEAST_ACCEPTANCE,
                f"in the last tenth of the steps the chains accepted {acceptance:.2g} of their "
                "moves and hardly moved: choose another sampler",
            ),
        ]
    ).reasons
