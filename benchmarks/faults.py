"""Does a training with a fault put in either recover or end with the cause named, every time?

`python -m benchmarks.faults [--runs N] [--seed S] [--kinds KIND ...] [--resume FILE]` trains small
models in processes of their own and puts a fault into each at a random moment: NaN in a batch, a
learning rate far too large, kill -9, a full disk, a file cut short or changed. Exit status 1 if any
ended WRONG: a parameter that is not finite in what was saved, another end without a word, a
traceback in place of a message, something lost from before the last checkpoint. `--only N` runs one
again by its number; `--show` judges what FILE holds without running anything.
"""

import argparse
import dataclasses
import json
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks._faults.ground import NAMED, RECOVERED, WRONG, Done, Ground, Verdict, Wrong, version
from benchmarks._faults.kinds import KINDS, SHOWN
from benchmarks._lines import append
from benchmarks._timing import Options, Report, as_json, machine, save, say

RUNS = 100
FILE = Path("runs/faults.jsonl")  # where `python -m benchmarks` goes on after an interruption


@dataclasses.dataclass
class Run:
    """One faulted training. `said`: its last words; `why`: what is wrong about it."""

    number: int
    seed: int
    kind: str
    training: str
    variant: str
    moment: str
    outcome: str
    said: str
    why: str
    cpu: float
    wall: float
    version: str

    def __str__(self) -> str:
        text = f"{self.number:3d} {self.outcome:9s} {self.kind}, {self.variant}: {self.training}"
        text += f"; {self.moment}" if self.moment else ""
        return text + f": {self.why or self.said}"


def run(options: Options) -> Report:
    if options.quick:
        return report(measure(range(len(KINDS))))
    return report(measure(range(RUNS), file=FILE))


def measure(
    numbers: Iterable[int],
    *,
    seed: int = 0,
    kinds: Iterable[str] = tuple(KINDS),
    file: Path | None = None,
) -> list[Run]:
    """Runs by their numbers, those that `file` holds of this version of energax taken from it.

    What a run does follows from its number, the seed and the kinds, which take turns.
    """
    kinds, now = list(kinds), version()
    kept = {(r.number, r.seed, r.kind): r for r in ([] if file is None else read(file))}
    runs = []
    with tempfile.TemporaryDirectory(prefix="energax-faults-") as folder:
        ground = Ground(Path(folder))
        for number in numbers:
            kind = kinds[number % len(kinds)]
            each = kept.get((number, seed, kind))
            if each is None or each.version != now:
                each = one(ground, number, seed, kind)
                say(str(each))
                if file is not None:
                    append(file, each)
            runs.append(each)
    return runs


def one(ground: Ground, number: int, seed: int, kind: str) -> Run:
    rng = np.random.default_rng([seed, number])
    done = Done()
    wall, cpu = time.monotonic(), _cpu()
    try:
        verdict = KINDS[kind](rng, ground, done)
    except Wrong as error:
        verdict = Verdict(WRONG, why=str(error))
    except Exception as error:  # of what this process asked energax itself
        traceback.print_exc()
        verdict = Verdict(WRONG, why=f"{type(error).__name__}: {error}")
    return Run(
        number=number,
        seed=seed,
        kind=kind,
        training=done.training,
        variant=done.variant,
        moment=done.moment.rstrip("; "),
        outcome=verdict.outcome,
        said=verdict.said,
        why=verdict.why,
        cpu=_cpu() - cpu,
        wall=time.monotonic() - wall,
        version=version(),
    )


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))


def read(file: Path) -> list[Run]:
    """What `measure` wrote; no line cut short."""
    runs = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            runs.append(Run(**json.loads(line)))
        except (ValueError, TypeError):
            continue  # of an interrupted write, or of another version of this benchmark
    return runs


def report(runs: list[Run]) -> Report:
    notes = []
    for kind in dict.fromkeys(r.kind for r in runs):
        some = [r for r in runs if r.kind == kind]
        counts = [sum(r.outcome == what for r in some) for what in (RECOVERED, NAMED, WRONG)]
        notes.append(
            f"{SHOWN[kind]}: {len(some)} runs, {counts[0]} recovered, {counts[1]} ended with the "
            f"cause named, {counts[2]} wrong"
        )
    notes += [str(r) for r in runs if r.outcome == WRONG]
    if len({r.version for r in runs}) > 1:
        notes.append(f"{len({r.version for r in runs})} versions of energax are mixed")
    return Report(
        name="faults",
        question=f"{len(runs)} trainings with a fault put in at a random moment: the same end as "
        "without, or the cause named?",
        timings=[],
        ratios=[],
        limits=[
            ("runs that ended wrong", float(sum(r.outcome == WRONG for r in runs)), 0.0),
            ("CPU seconds of a run, the most", max((r.cpu for r in runs), default=0.0), 60.0),
        ],
        notes=notes,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="runs of these numbers")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on with FILE, JSON lines")
    parser.add_argument("--show", action="store_true", help="judge what FILE holds, run nothing")
    parser.add_argument("--save", action="store_true", help="write results/faults.json")
    arguments = parser.parse_args()
    before = machine()
    if arguments.show:
        if arguments.resume is None:
            parser.error("--show: name the file by --resume FILE")
        runs = read(arguments.resume)
    else:
        numbers = arguments.only or range(arguments.runs)
        options = {"seed": arguments.seed, "kinds": arguments.kinds, "file": arguments.resume}
        runs = measure(numbers, **options)
    found = report(runs)
    if arguments.save:
        save(as_json(found, Options(), before))
    print(found.question + "\n")
    print("\n".join(found.notes))
    return 1 if any(r.outcome == WRONG for r in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
