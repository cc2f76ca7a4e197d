"""Is `log_z` with its defaults ever wrong without saying so, and do its intervals mean 95 %?

`python -m benchmarks.gauntlet [--names NAME ...] [--groups GROUP ...] [--every N] [--seeds N]
[--no-exact | --both] [--jobs N] [--resume FILE]` runs targets of known log Z, and some that have
none. `--show` judges what FILE holds without running anything; `--check-truths` computes every
truth a second time. A whole run takes many hours; `--every 2` runs every second target of each
group, which is enough for calibration.
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path

from benchmarks._timing import Options, Report, say

SEEDS = 10
SPARSEST = 2  # every second target of each group still is enough for calibration
FILE = Path("runs/gauntlet.jsonl")  # where `python -m benchmarks` goes on after an interruption
WIDEST = 0.25  # nats; a reliable answer has no larger standard error
ROUNDING = 3e-7  # of |log Z|: two or three units in the last place of float32
DEFAULT, ESTIMATE = "default", "estimate"


@dataclasses.dataclass
class Run:
    """One call of `ex.log_z`; `truth` is None where Z does not exist.

    `exact`: energax has an exact method for the target. `mode`: with its defaults, or with exact
    methods off (without an exact method both are the same, and called default). `version`: a digest
    of energax's sources. `error`: the last line of what it raised.
    """

    target: str
    kind: str
    size: int
    exact: bool
    mode: str
    seed: int
    truth: float | None
    value: float = math.nan
    std_err: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    bracket: tuple[float | None, float | None] = (None, None)
    ess: float = math.inf
    method: str = ""
    reliable: bool = False
    time_limited: bool = False
    reasons: list[str] = dataclasses.field(default_factory=list)
    evaluations: int = 0
    cpu: float = 0.0
    wall: float = 0.0
    max_seconds: float | None = None
    version: str = ""
    error: str | None = None

    @property
    def allowed(self) -> float:
        """How far a reliable answer may be off."""
        assert self.truth is not None
        return max(4 * self.std_err, 0.05 + 1e-5 * abs(self.truth))

    @property
    def off(self) -> float:
        """|error| over what is allowed; above 1 is wrong."""
        if self.truth is None or not math.isfinite(self.value):
            return math.inf
        return abs(self.value - self.truth) / self.allowed

    @property
    def fault(self) -> str | None:
        """What no answer may be."""
        if self.error is not None:
            return "failed"
        if not self.reliable:
            return None
        if self.truth is None:
            return None if math.isinf(self.value) else "a number for no Z"
        # The order matters: NaN is never at most anything.
        if not self.off <= 1:
            return "wrong"
        return None if self.std_err <= WIDEST else "wide"

    @property
    def calibrated(self) -> bool:
        """One of the answers by which intervals are judged: reliable, and found by chance.

        Quadrature bounds its error and draws nothing (its ESS is infinite): it is counted with the
        exact answers.
        """
        return (
            self.truth is not None and self.reliable and self.error is None
            and self.std_err > 0 and math.isfinite(self.ess)
        )  # fmt: skip

    @property
    def covered(self) -> bool:
        assert self.truth is not None
        slack = ROUNDING * abs(self.truth)
        return self.lower - slack <= self.truth <= self.upper + slack

    def holds(self, end: int) -> bool | None:
        """Whether an end of the bracket (0 low, 1 high) is on its side; None where it has none."""
        bound = self.bracket[end]
        if bound is None:
            return None
        assert self.truth is not None
        slack = ROUNDING * abs(self.truth)
        return bound <= self.truth + slack if end == 0 else bound >= self.truth - slack


def run(options: Options) -> Report:
    from benchmarks import _gauntlet

    seeds = range(1 if options.quick else SEEDS)
    jobs = max(1, len(os.sched_getaffinity(0)) // (options.threads or 1))
    file = None if options.quick else FILE
    kept = [] if file is None else [r for r in read(file) if r.version == version()]
    names = _gauntlet.in_turns(_gauntlet.names())
    runs = measure(names, seeds, (DEFAULT, ESTIMATE), kept, jobs=jobs, file=file)
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


def measure(
    names: list[str],
    seeds: Iterable[int],
    modes: tuple[str, ...],
    kept: Iterable[Run] = (),
    *,
    jobs: int = 1,
    file: Path | None = None,
    max_seconds: float | None = None,
) -> list[Run]:
    """The runs of `kept` and those that are missing, each target in a process of its own.

    Runs that failed are tried again.
    """
    seeds, lock = list(seeds), threading.Lock()
    wanted = set(names)
    runs = [r for r in kept if r.target in wanted and r.seed in seeds and not r.error]
    runs = [r for r in runs if r.mode in modes or not r.exact]
    done = {(r.target, r.mode, r.seed) for r in runs}
    done |= {(r.target, mode, r.seed) for r in runs if not r.exact for mode in modes}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)

    def one(name: str) -> None:
        todo = [(m, s) for m in modes for s in seeds if (name, m, s) not in done]
        if not todo:
            return
        found = []
        for each in _in_process(name, todo, max_seconds):
            found.append(each)
            with lock:
                runs.append(each)
                if file is not None:
                    with file.open("a") as out:
                        out.write(json.dumps(dataclasses.asdict(each)) + "\n")
        for line in lines(found):
            say(line)

    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    before = os.environ.get("NPROC")
    if jobs > 1:
        os.environ["NPROC"] = str(threads)  # read by JAX as it starts in the children
    try:
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, names))
    finally:
        os.environ.pop("NPROC", None)
        if before is not None:
            os.environ["NPROC"] = before
    return runs


def read(file: Path) -> list[Run]:
    """What `measure` wrote; the last of several runs of one kind, and no line cut short."""
    runs = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            each = Run(**json.loads(line))
        except ValueError:
            continue  # of an interrupted write
        runs[each.target, each.mode, each.seed] = each
    return list(runs.values())


def version() -> str:
    """A digest of energax's sources."""
    import energax

    digest = hashlib.sha256()
    root = Path(energax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _in_process(name: str, todo: list[tuple[str, int]], max_seconds: float | None):
    """Runs as they come; what a process that died or hangs did not give comes as failed."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, name, todo, max_seconds), daemon=True)
    process.start()
    sender.close()
    patience = None if max_seconds is None else 5 * max_seconds + 300
    header: dict = {"kind": "", "size": 0, "exact": False, "truth": None}
    seen, why = set(), "its process died"
    try:
        while True:
            if not receiver.poll(patience):
                why = f"no answer within {patience} s"
                break
            message = json.loads(receiver.recv())
            if "target" not in message:
                header, todo = message, [tuple(t) for t in message.pop("todo")]
                continue
            each = Run(**message)
            seen.add((each.mode, each.seed))
            yield each
    except EOFError:
        pass
    finally:
        if process.is_alive() and why.startswith("no answer"):
            process.kill()
        process.join()
    for mode, seed in todo:
        if (mode, seed) not in seen:
            text = f"{why} (status {process.exitcode})"
            yield Run(target=name, mode=mode, seed=seed, error=text, version=version(), **header)


def _serve(pipe, name: str, todo: list[tuple[str, int]], max_seconds: float | None) -> None:
    from benchmarks import _gauntlet

    target, now = _gauntlet.make(name), version()
    exact = target.has_exact
    if not exact:  # nothing to turn off: both modes are one
        todo = list(dict.fromkeys((DEFAULT, seed) for _, seed in todo))
    header = {"kind": target.kind, "size": target.size, "exact": exact, "truth": target.log_z}
    pipe.send(json.dumps(header | {"todo": todo}))
    failed = False
    for mode, seed in todo:
        each = Run(
            target=name, mode=mode, seed=seed, version=now, max_seconds=max_seconds, **header
        )
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _answer(each, target)
        except Exception as error:
            if not failed:
                traceback.print_exc()  # of the first; the table has the others' last lines
            failed = True
            each.error = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
        each.wall, each.cpu = time.perf_counter() - wall, time.process_time() - cpu
        pipe.send(json.dumps(dataclasses.asdict(each)))


def _answer(each: Run, target) -> None:
    import energax as ex

    method = "auto" if each.mode == DEFAULT else _estimate(target.energy)
    z = ex.log_z(
        target.energy, key=ex.random.key(each.seed), method=method, max_seconds=each.max_seconds
    )
    each.value, each.std_err = float(z.value), float(z.std_err)
    each.lower, each.upper = float(z.lower), float(z.upper)
    low, high = (None if end is None else float(end) for end in z.bracket)
    each.bracket = low, high
    each.ess = float(z.ess)
    each.method, each.reliable, each.reasons = z.method, bool(z.reliable), list(z.reasons)
    each.evaluations, each.time_limited = int(z.num_evaluations), bool(z.time_limited)


def _estimate(energy) -> str:
    """The name of the default estimate with exact methods off."""
    from energax.partition.choose import default_method

    try:
        default_method(energy, method="estimate")
    except ValueError:
        return "ais"
    return "estimate"


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
            max_seconds=arguments.max_seconds_per_run,
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
