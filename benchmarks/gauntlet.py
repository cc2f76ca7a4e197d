"""Is `log_z` with its defaults ever wrong without saying so, and do its intervals mean 95 %?

`python -m benchmarks.gauntlet [--names NAME ...] [--groups GROUP ...] [--every N] [--seeds N]
[--no-exact | --both] [--jobs N] [--resume FILE]` runs targets of known log Z, and some that have
none. `--show` judges what FILE holds without running anything; `--check-truths` computes every
truth a second time. A whole run takes many hours; `--every 2` runs every second target of each
group, which is enough for calibration.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks._gauntlet_runs import DEFAULT, ESTIMATE, WIDEST, Run, measure, read, version
from benchmarks._timing import Options, Report, say

SEEDS = 10
SPARSEST = 2  # every second target of each group still is enough for calibration
FILE = Path("runs/gauntlet.jsonl")  # where `python -m benchmarks` goes on after an interruption


def run(options: Options) -> Report:
    from benchmarks import _gauntlet

    seeds = range(1 if options.quick else SEEDS)
    jobs = max(1, len(os.sched_getaffinity(0)) // (options.threads or 1))
    file = None if options.quick else FILE
    kept = [] if file is None else [r for r in read(file) if r.version == version()]
    names = _gauntlet.in_turns(_gauntlet.names())
    runs = measure(names, seeds, (DEFAULT, ESTIMATE), kept, jobs=jobs, file=file, tell=_tell)
    return report(runs, complete=not options.quick)


def report(runs: list[Run], complete: bool) -> Report:
    """`complete`: enough targets and seeds ran to judge the numbers asked for, at least every
    second target of each group."""
    some, none = [r for r in runs if r.truth is not None], [r for r in runs if r.truth is None]
    default = [r for r in some if r.mode == DEFAULT]
    off = [r for r in some if r.mode == ESTIMATE or not r.exact]
    limits = [
        ("wrong answers called reliable", _count(runs, "wrong"), 0.0),
        (f"reliable answers with std_err > {WIDEST} nat", _count(runs, "wide"), 0.0),
        (
            "finite answers called reliable where there is no Z",
            _count(none, "a number for no Z"),
            0.0,
        ),
        ("runs that failed", _count(runs, "failed"), 0.0),
        ("% of normalisable runs not reliable, defaults", _doubt(default), 20.0),
        (
            "% of those without an exact method not reliable",
            _doubt([r for r in default if not r.exact]),
            20.0,
        ),
        ("% not reliable with exact methods off", _doubt(off), 20.0),
    ]
    chance = [r for r in some if r.calibrated]
    notes = []
    if chance:
        share = _share(r.covered for r in chance)
        low, high = _bootstrap(chance)
        energies = len({r.target for r in chance})
        notes.append(
            f"coverage {share:.1f} % of {len(chance)} stochastic reliable answers on {energies} "
            f"energies, {low:.1f} to {high:.1f} % by resampling energies (95 %); "
            f"{sum(r.reliable and not r.calibrated for r in some)} exact reliable answers apart"
        )
        limits.append(("distance of the coverage from 95 %", abs(share - 95), 3.0))
        for kind in dict.fromkeys(r.kind for r in chance):
            each = [r for r in chance if r.kind == kind]
            line = f"coverage of {kind}: {_share(r.covered for r in each):.1f} % of {len(each)}"
            notes.append(line)
            if len(each) >= 50:
                missed = 100 - _share(r.covered for r in each)
                limits.append((f"% not covered of {kind}", missed, 12.0))
        for end, name in enumerate(("lower", "upper")):
            held = [h for r in chance if (h := r.holds(end)) is not None]
            if held:
                notes.append(
                    f"the {name} end of the bracket holds in {_share(held):.1f} % of {len(held)}"
                )
                limits.append(
                    (f"% of {name} bracket ends that do not hold", 100 - _share(held), 5.0)
                )
        if complete:
            limits.append(
                ("answers short of 400 for calibration", max(0.0, 400 - len(chance)), 0.0)
            )
            limits.append(("energies short of 40 for calibration", max(0.0, 40 - energies), 0.0))
    if len({r.version for r in runs}) > 1:
        notes.append(
            f"{len({r.version for r in runs})} versions of energax are mixed in these runs"
        )
    limited = sum(r.max_seconds is not None for r in runs)
    if limited:
        notes.append(f"{limited} runs were given max_seconds, so are not at default settings")
    targets = len({r.target for r in some})
    return Report(
        name="gauntlet",
        question=f"{targets} energies of known log Z and {len({r.target for r in none})} that have "
        f"none, {len(runs)} runs of `ex.log_z`: right within its stated error, or says unreliable?",
        timings=[],
        ratios=[],
        limits=[(what, float(measured), most) for what, measured, most in limits],
        notes=notes + lines(runs),
    )


def lines(runs: list[Run]) -> list[str]:
    """One line for each target and mode, in the order of the targets."""
    out = []
    for name, mode in sorted(
        {(r.target, r.mode) for r in runs}, key=lambda key: (*_order(key[0]), key[1])
    ):
        some = [r for r in runs if (r.target, r.mode) == (name, mode)]
        first, sure = some[0], [r for r in some if r.reliable]
        faults = sorted({r.fault for r in some if r.fault})
        how = "exact methods off" if mode == ESTIMATE else "exact" if first.exact else "estimated"
        text = f"{' '.join(f.upper() + ':' for f in faults)} {name} ({first.kind}, {first.size}-d, "
        text += f"{how}): {len(sure)} of {len(some)} reliable"
        if first.truth is not None:
            finite = [r.off for r in sure if math.isfinite(r.off)]
            if sure:
                text += f", at worst {max(finite, default=math.inf):.2f} of what is allowed"
                text += f", std_err up to {max(r.std_err for r in sure):.2g}"
            values = [r.value - first.truth for r in some if not r.reliable]
            if values:
                text += f", unreliable ones off by up to {max(map(abs, values)):.2g}"
        else:
            text += "; there is no Z; " + ", ".join(sorted({f"{r.value:.3g}" for r in some})[:4])
        text += f"; {max(r.cpu for r in some):.1f} CPU s; {_methods(some)}"
        reasons = sorted({r.reasons[0][:80] for r in some if r.reasons})
        errors = sorted({r.error[:160] for r in some if r.error})
        text += "".join(f"; {what}" for what in (reasons[:2] + errors[:2]))
        out.append(text.strip())
    return out


def _tell(runs: list[Run]) -> None:
    for line in lines(runs):
        say(line)


def _order(name: str) -> tuple[int, str]:
    from benchmarks import _gauntlet

    names = _gauntlet.names()
    return (names.index(name) if name in names else len(names), name)


def _count(runs: list[Run], fault: str) -> float:
    return float(sum(r.fault == fault for r in runs))


def _share(flags: Iterable[bool]) -> float:
    flags = list(flags)
    return 100 * sum(flags) / len(flags) if flags else 100.0


def _doubt(runs: list[Run]) -> float:
    return 100 - _share(r.reliable for r in runs)


def _bootstrap(runs: list[Run], num: int = 4_000) -> tuple[float, float]:
    """95 % interval of the coverage in per cent, whole energies drawn with replacement."""
    import numpy as np

    names = list(dict.fromkeys(r.target for r in runs))
    size = np.array([sum(r.target == name for r in runs) for name in names])
    hits = np.array([sum(r.covered for r in runs if r.target == name) for name in names])
    chosen = np.random.default_rng(0).integers(0, len(names), (num, len(names)))
    shares = 100 * hits[chosen].sum(1) / size[chosen].sum(1)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)


def _methods(runs: list[Run]) -> str:
    return "/".join(sorted({r.method.split(" (")[0] for r in runs if r.method})) or "none"


def check_truths(names: list[str]) -> int:
    """Prints each truth beside a second computation from the energy itself, in float64."""
    import jax

    from benchmarks import _gauntlet

    bad, unchecked, count = 0, 0, 0
    with jax.enable_x64(True):
        for name in names:
            target = _gauntlet.make(name)
            if target.log_z is None:
                continue
            count += 1
            if target.check is None:
                unchecked += 1
                print(f"unchecked {name}: {target.log_z:.10g}", flush=True)
                continue
            again, error = target.check(target.energy)
            good = abs(again - target.log_z) <= error
            bad += not good
            print(
                f"{'agrees' if good else 'DISAGREES'} {name}: {target.log_z:.10g}, again "
                f"{again:.10g} ± {error:.1g}",
                flush=True,
            )
    print(f"{count} truths, {bad} disagree, {unchecked} without a second computation")
    return 1 if bad else 0


def main() -> int:
    from benchmarks import _gauntlet

    known = _gauntlet.names()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gauntlet", description=__doc__)
    parser.add_argument("--names", nargs="+", metavar="NAME", choices=known, default=known)
    groups = _gauntlet.groups()
    parser.add_argument("--groups", nargs="+", choices=groups, help="only these targets")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="every N-th of a group only"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--no-exact", action="store_true", help="exact methods off")
    modes.add_argument(
        "--both", action="store_true", help="with the defaults, then exact methods off"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on with FILE, JSON lines")
    parser.add_argument(
        "--fresh", action="store_true", help="only this version's lines of FILE count"
    )
    parser.add_argument("--max-seconds-per-run", type=float, metavar="S", help="passed to log_z")
    parser.add_argument("--show", action="store_true", help="judge what FILE holds, run nothing")
    parser.add_argument("--check-truths", action="store_true", help="compute every truth again")
    parser.add_argument("--list", action="store_true", help="names, classes, sizes and truths")
    arguments = parser.parse_args()
    names = arguments.names
    if arguments.groups:
        names = [name for group in arguments.groups for name in _gauntlet.names(group)]
    if arguments.every < 1:
        parser.error(f"--every: expected a whole number from 1, got {arguments.every}")
    names = _gauntlet.in_turns(names, arguments.every)
    if arguments.check_truths:
        return check_truths(names)
    if arguments.list:
        for name in names:
            target = _gauntlet.make(name)
            truth = "no Z" if target.log_z is None else f"{target.log_z:.8g}"
            how = "exact method" if target.has_exact else "estimated"
            print(f"{name} | {target.kind} | {target.size}-d | {truth} | {how}")
        return 0
    kept = [] if arguments.resume is None else read(arguments.resume)
    if arguments.fresh:
        kept = [r for r in kept if r.version == version()]
    wanted = (ESTIMATE,) if arguments.no_exact else (DEFAULT,)
    wanted = (DEFAULT, ESTIMATE) if arguments.both else wanted
    if arguments.show:
        if arguments.resume is None:
            parser.error("--show: name the file by --resume FILE")
        runs = [r for r in kept if r.target in set(names)]
    else:
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        runs = measure(
            names, seeds, wanted, kept, jobs=arguments.jobs, file=arguments.resume,
            max_seconds=arguments.max_seconds_per_run, tell=_tell,
        )  # fmt: skip
    whole = _gauntlet.in_turns(known, min(arguments.every, SPARSEST))
    complete = arguments.both and arguments.seeds >= SEEDS and set(names) >= set(whole)
    found = report(runs, complete)
    print(f"{found.question}\n")
    print("\n".join(found.notes))
    print()
    missed = 0
    for what, measured, most in found.limits:
        missed += measured > most
        verdict = "met   " if measured <= most else "MISSED"
        print(f"{verdict} {what}: {measured:.4g} (at most {most:g})")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
