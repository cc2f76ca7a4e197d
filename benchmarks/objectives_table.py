"""How likely are held-out rows under a model, by the objective that trained it, and at what cost?

`python -m benchmarks.objectives_table [--data DIR] [--resume FILE] [--only NAME ...] [--seeds N]
[--steps N] [--quick] [--threads N]` trains one model a data set with every objective that fits it,
from several seeds. The rows stay the same: what differs are the first weights, the minibatches, the
chains and the noise. A whole run writes results/objectives_table.json and the tables of
docs/objectives.md; `--quick` and `--only` print theirs. nltcs comes by `--data DIR`.
"""

import argparse
import math
import statistics
import sys
from pathlib import Path

from benchmarks._objectives import page
from benchmarks._objectives.runs import BATCH, Run
from benchmarks._timing import (
    Options,
    Report,
    Timing,
    as_json,
    isolated,
    machine,
    save,
    table,
)

SEEDS, STEPS, SIZE = 5, 3_000, 10_000
QUICK_SEEDS, QUICK_STEPS, QUICK_SIZE = 1, 200, 2_000
FILE = Path("runs/objectives_table.jsonl")  # where `python -m benchmarks` goes on


def run(options: Options) -> Report:
    return measured(options, None if options.quick else FILE)


def measured(
    options: Options,
    file: Path | None = None,
    *,
    only: tuple[str, ...] = (),
    seeds: int | None = None,
    steps: int | None = None,
    size: int | None = None,
) -> Report:
    """Every objective on every data set.

    **Arguments:** `file`: one line a finished training; those that it holds are not made again.
    `only`: names of sets and of objectives, none for all. `seeds`, `steps` and `size` (rows of a
    synthetic set) default to those of the full run or of the quick one.
    """
    seeds = seeds or (QUICK_SEEDS if options.quick else SEEDS)
    steps = steps or (QUICK_STEPS if options.quick else STEPS)
    size = size or (QUICK_SIZE if options.quick else SIZE)
    sets, rows = _chosen(only)
    runs, notes, peaks = [], [], {}
    for name in sets:
        wanted = {"name": name, "rows": rows, "seeds": seeds, "steps": steps, "size": size}
        wanted["folder"] = None if options.data is None else str(options.data.resolve())
        wanted["file"] = None if file is None else str(file.resolve())
        try:
            found = isolated("benchmarks._objectives.runs:measure", wanted, options.threads)
        except FileNotFoundError as error:
            notes.append(f"{name} is left out: {error.filename} is absent, {error.strerror}")
            continue
        peaks[name] = found["peak"]
        runs += [Run(**each) for each in found["runs"]]
        for what, value in found["references"].items():
            notes.append(page.reference_line(name, what, value))
    return report(runs, notes, peaks, f"{steps:,} steps of {BATCH} rows", seeds)


def report(
    runs: list[Run], notes: list[str], peaks: dict[str, float], trained: str, seeds: int
) -> Report:
    """**Arguments:** `notes`: what is said of the sets. `peaks`: MiB, by set."""
    from benchmarks._objectives.rows import names

    timings, lines, doubts = [], [], []
    for name in page.TITLES:
        for row in names():
            some = [r for r in runs if (r.set, r.row) == (name, row)]
            if not some:
                continue
            good = [r for r in some if not r.error]
            if good:
                wall, cpu = [r.wall for r in good], [r.cpu for r in good]
                first = max(r.first for r in good)
                timings.append(Timing(f"{name}, {row}", first, wall, cpu, peaks.get(name, 0.0)))
            lines.append(page.line_of(cell(some)))
            doubts += _doubts(some)
    if len({r.version for r in runs}) > 1:
        notes = [*notes, f"{len({r.version for r in runs})} versions of energax are mixed here"]
    return Report(
        name="objectives_table",
        question=f"Held-out log-likelihood in nats a row by training objective, {trained}, {seeds} "
        "seeds: mean and sd over seeds whose log Z can be trusted. CPU seconds are of the "
        "training, log Z apart; the first call more is CPU seconds of compiling.",
        timings=timings,
        ratios=[],
        limits=[("trainings that failed", float(sum(bool(r.error) for r in runs)), 0.0)],
        notes=notes + lines + doubts,
    )


def cell(runs: list[Run]) -> dict:
    """The numbers of one objective on one set, as `page.line_of` takes them."""
    good = [r for r in runs if not r.error]
    trusted = [r for r in good if r.trusted and math.isfinite(r.value)]
    values = [r.value for r in trusted]
    errors = [r.std_err for r in trusted]
    brackets = [r.bracket for r in trusted if r.bracket is not None]
    whole = len(brackets) == len(trusted) > 0
    return {
        "set": runs[0].set,
        "row": runs[0].row,
        "mean": page.number(statistics.mean(values) if values else None),
        "sd": page.number(statistics.stdev(values) if len(values) > 1 else None),
        "error": page.number(max(errors, default=None)),
        "bracket": page.number(max(brackets) if whole else None),
        "num": len(runs),
        "reliable": sum(r.reliable for r in good),
        "stopped": sum(r.stopped for r in good),
        "trusted": len(trusted),
        "failed": len(runs) - len(good),
    }


def _doubts(runs: list[Run]) -> list[str]:
    """What was said against runs of a cell, one line a reason with the seeds that it is from."""
    told: dict[str, list[int]] = {}
    for run in runs:
        for reason in [run.error] if run.error else run.reasons:
            told.setdefault(reason, []).append(run.seed)
    where = f"{runs[0].set}, {runs[0].row}"
    return [f"{where}, seed {', '.join(map(str, at))}, said {why}" for why, at in told.items()]


def _chosen(only: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(names of sets, of objectives) that are asked for."""
    from benchmarks._objectives.rows import names

    sets = [name for name in page.TITLES if name in only] or list(page.TITLES)
    return sets, [name for name in names() if name in only] or names()


def main() -> int:
    from benchmarks._objectives.rows import names

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.objectives_table", description=__doc__
    )
    parser.add_argument("--data", type=Path, help="folder that holds debd/nltcs.npz")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on with FILE, JSON lines")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a set or an objective"
    )
    parser.add_argument("--seeds", type=int, metavar="N")
    parser.add_argument("--steps", type=int, metavar="N")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps and rows")
    parser.add_argument("--threads", type=int, help="threads of JAX")
    arguments = parser.parse_args()
    known = [*page.TITLES, *names()]
    for name in arguments.only:
        if name not in known:
            parser.error(f"--only {name}: expected one of {', '.join(known)}")
    if arguments.data is not None and not arguments.data.is_dir():
        parser.error(f"--data: there is no folder {arguments.data}")
    options, before = Options(arguments.data, arguments.quick, arguments.threads), machine()
    found = measured(
        options,
        arguments.resume,
        only=tuple(arguments.only),
        seeds=arguments.seeds,
        steps=arguments.steps,
    )
    document = as_json(found, options, before)
    if not (arguments.quick or arguments.only):
        save(document)
    print("\n".join(table(document)))
    for target in ("objectives", *(f"objectives_{name}" for name in page.TITLES)):
        print("\n".join(["", f"**{target}**", "", *page.table(document, target)]))
    return 1 if any(not limit["met"] for limit in document["limits"]) else 0


if __name__ == "__main__":
    sys.exit(main())
