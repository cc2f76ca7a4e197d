"""Trainings of the table: made in one process a data set, each kept in a file as it ends."""

import dataclasses
import hashlib
import json
import math
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path

from benchmarks._lines import append
from benchmarks._timing import clock, say

BATCH = 200


@dataclasses.dataclass
class Run:
    """One training and the likelihood of held-out rows under what came of it.

    `steps`: that were asked for; `rows`: of a synthetic set. `value`: nats a row; `std_err`: of log
    Z; `bracket`: hi − lo, None where there is no hi. `trusted`: log Z is reliable. `stopped`:
    training ended in trouble before its last step. `first`: CPU seconds of compiling, `cpu`: of
    training without. `version`: a digest of energax's sources. `error`: the last line of what it
    raised.
    """

    set: str
    row: str
    seed: int
    steps: int
    rows: int
    value: float = math.nan
    std_err: float = math.nan
    bracket: float | None = None
    method: str = ""
    trusted: bool = False
    reliable: bool = False
    stopped: bool = False
    reasons: list[str] = dataclasses.field(default_factory=list)
    first: float = 0.0
    cpu: float = 0.0
    wall: float = 0.0
    log_z_cpu: float = 0.0
    version: str = ""
    error: str | None = None


def measure(
    name: str,
    rows: list[str],
    seeds: int,
    steps: int,
    size: int,
    folder: str | None = None,
    file: str | None = None,
) -> dict:
    """Trainings on one set, those that `file` holds as they stand there, and its references.

    **Arguments:** `rows`: names of objectives, those that do not fit the set are passed over.
    `size`: rows of a synthetic set, to train on and held out.
    """
    from benchmarks._objectives import sets
    from benchmarks._objectives.rows import rows as all_rows

    warnings.simplefilter("ignore")  # what is unreliable stands in the lines
    data = sets.make(name, folder, size)
    kept = {key(run): run for run in read(file) if not run.error}
    runs = []
    for row in all_rows():
        if row.name not in rows or data.kind not in row.kinds:
            continue
        wanted = [Run(name, row.name, seed, steps, size) for seed in range(seeds)]
        runs += [kept[key(run)] for run in wanted if key(run) in kept]
        for run in _trained(data, row, [run for run in wanted if key(run) not in kept]):
            runs.append(run)
            if file is not None:
                append(file, run)
            say(_told(run))
    return {"runs": [dataclasses.asdict(run) for run in runs], "references": data.references}


def read(file: str | Path | None) -> list[Run]:
    """What `measure` wrote; the last of several runs of one kind, and no line cut short."""
    runs = {}
    path = None if file is None else Path(file)
    for line in path.read_text().splitlines() if path is not None and path.exists() else []:
        try:
            run = Run(**json.loads(line))
        except ValueError:
            continue  # of an interrupted write
        runs[key(run)] = run
    return list(runs.values())


def key(run: Run) -> tuple:
    """What a run is of."""
    return run.set, run.row, run.seed, run.steps, run.rows


def version() -> str:
    """A digest of energax's sources."""
    import energax

    digest = hashlib.sha256()
    for path in sorted(Path(energax.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _trained(data, row, todo: list[Run]) -> Iterable[Run]:
    """The runs one by one. The first compiles, by a training of two steps, what all of them use."""
    first, now = None, version()
    for run in todo:
        run.version = now
        try:
            if first is None:
                spent = clock()
                _fit(data, row, seed=run.seed, steps=2 * len(row.stages(data)))
                first = spent()[1]
            run.first = first
            _train(run, data, row)
        except Exception as error:
            traceback.print_exc()
            text = str(error).splitlines()[0] if str(error) else ""
            run.error = f"{type(error).__name__}: {text}"
        yield run


def _train(run: Run, data, row) -> None:
    import energax as ex

    spent = clock()
    fits = _fit(data, row, run.seed, run.steps)
    run.wall, run.cpu = spent()
    run.reliable = all(fit.reliable for fit in fits)
    run.stopped = sum(fit.num_steps for fit in fits) < run.steps
    run.reasons = [reason for fit in fits for reason in fit.reasons]
    spent = clock()
    z = ex.log_z(fits[-1].energy, key=ex.random.key(run.seed))
    score = ex.score_samples(fits[-1].energy, data.held, key=ex.random.key(0), log_z=z).mean()
    run.log_z_cpu = spent()[1]
    run.value, run.std_err = float(score.value), float(z.std_err)
    low, high = z.bracket
    run.bracket = None if low is None or high is None else float(high - low)
    run.method, run.trusted = z.method.split(" (")[0], bool(score.reliable)
    run.reasons += list(z.reasons)


def _fit(data, row, seed: int, steps: int) -> list:
    """The trainings of the stages, none after one that ended in trouble."""
    import energax as ex

    energy, fits = data.start(seed), []
    stages = row.stages(data)
    for i, objective in enumerate(stages):
        share = steps // len(stages)
        fit = ex.fit(
            energy,
            data.train,
            objective,
            key=ex.random.key(100 * seed + i),
            num_steps=share,
            batch_size=min(BATCH, len(data.train)),
            learning_rate=data.rate,
        )
        fits.append(fit)
        if fit.num_steps < share:
            break
        energy = fit.energy
    return fits


def _told(run: Run) -> str:
    what = f"{run.set}: {run.row}: seed {run.seed}: "
    if run.error:
        return what + f"failed: {run.error}"
    return (
        what + f"{run.value:.3f} ± {run.std_err:.3f} (log Z by {run.method}), {run.cpu:.1f} CPU s, "
        f"log Z {run.log_z_cpu:.1f} s, compiling {run.first:.1f} s"
        + "".join(f"; {reason}" for reason in run.reasons)
    )
