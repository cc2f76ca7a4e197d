"""A learning rate far too large, with and without recovery."""

import warnings
from pathlib import Path

import numpy as np

from benchmarks._faults import saved, trainings
from benchmarks._faults.ground import (
    NAMED,
    RECOVERED,
    Done,
    Ground,
    Verdict,
    Wrong,
    answer,
    claim,
    finite_everywhere,
    no_traceback,
    pick,
)
from benchmarks._faults.trainings import COMMANDS

SLACK = 0.1  # of what it was plus 1, by which a training called reliable may end above its start


def rate(rng: np.random.Generator, ground: Ground, done: Done) -> Verdict:
    """It ends with the rate named; or reliable, and then no worse than it started."""
    training = pick(rng, COMMANDS)
    recover = bool(rng.integers(2))
    value = float(f"{10 ** rng.uniform(0, 8):.3g}")
    done.training, done.variant = training.name, "recover" if recover else "as it is"
    done.moment = f"a learning rate of {value:g}"
    options = ["--learning-rate", str(value)] + ["--recover"] * recover
    with ground.fresh() as folder:
        run = folder / "run"
        ended = ground.run(trainings.fit(training, ground.data(training), run, *options))
        no_traceback(training, ended)
        told = answer(ended)
        finite_everywhere(run)
        claim(saved.result(run) is not None, "there is no whole result")
        reasons = "; ".join(told["reasons"])
        if not told["reliable"]:
            words = "learning_rate", "learning rate"
            claim(any(w in reasons for w in words), f"the rate is not named: {reasons}")
            return Verdict(NAMED, reasons)
        after = f"{len(told['recoveries'])} recoveries, " if told["recoveries"] else ""
        return Verdict(RECOVERED, after + no_worse(run, trainings.rows_of(training.rows)))


def no_worse(run: Path, rows: np.ndarray) -> str:
    """Claims that a model called reliable is no worse than the one before its training; how good
    both are, in words.

    By mean log p of the rows. Denoising sees scores near the rows alone and is judged by its own
    loss, with the same noise for both.
    """
    import json

    import energax as ex
    from energax import jobs
    from energax.objectives import DenoisingScoreMatching

    settings = json.loads((run / "run.json").read_text())
    names = jobs.Settings.__dataclass_fields__
    job = jobs.prepare(jobs.Settings(**{k: settings[k] for k in names if k in settings}), rows)
    key = ex.random.key(0)

    def cost(energy) -> float:
        if isinstance(job.objective, DenoisingScoreMatching):
            own, carry = job.objective.init(energy, rows, key=key)
            return float(job.objective(energy, own, rows, carry, key=key)[0])
        return -float(np.mean(ex.score_samples(energy, rows, key=key).log_prob))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = cost(job.energy)
        try:
            after = cost(ex.load(run).energy)
        except ValueError as error:
            raise Wrong(f"called reliable, yet its log Z fails: {error}") from error
    own = isinstance(job.objective, DenoisingScoreMatching)
    words = (
        f"{'its loss' if own else 'mean −log p of the rows'} {before:.3f} before, {after:.3f} after"
    )
    claim(after <= before + SLACK * (1 + abs(before)), f"called reliable, yet {words}")
    return words
