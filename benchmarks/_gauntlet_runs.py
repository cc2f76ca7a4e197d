"""Runs of the gauntlet: calls of `ex.log_z`, made in processes of their own and kept in a file."""

import concurrent.futures
import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks._lines import append

WIDEST = 0.25  # nats; a reliable answer has no larger standard error
ROUNDING = 3e-7  # of |log Z|: two or three units in the last place of float32
DEFAULT, ESTIMATE = "default", "estimate"
_ROOMS = (
    *("compiler", "random", "results", "diagnostics", "spaces"),
    *("energies", "samplers", "partition"),
)


@dataclasses.dataclass
class Run:
    """One call of `ex.log_z`; `truth` is None where Z does not exist.

    `exact`: energax has an exact method for the target. `mode`: with its defaults, or with exact
    methods off (without an exact method both are the same, and called default). `version`: a digest
    of energax's sources for log Z. `error`: the last line of what it raised.
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


def measure(
    names: list[str],
    seeds: Iterable[int],
    modes: tuple[str, ...],
    kept: Iterable[Run] = (),
    *,
    jobs: int = 1,
    file: Path | None = None,
    max_seconds: float | None = None,
    tell: Callable[[list[Run]], None] = lambda runs: None,
) -> list[Run]:
    """The runs of `kept` and those that are missing, each target in a process of its own.

    Runs that failed are tried again. `tell` is given what came of each target.
    """
    seeds, lock = list(seeds), threading.Lock()
    wanted = set(names)
    runs = [r for r in kept if r.target in wanted and r.seed in seeds and not r.error]
    runs = [r for r in runs if r.mode in modes or not r.exact]
    done = {(r.target, r.mode, r.seed) for r in runs}
    done |= {(r.target, mode, r.seed) for r in runs if not r.exact for mode in modes}

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
                    append(file, each)
        tell(found)

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
    """A digest of those of energax's sources that have a hand in log Z."""
    import energax

    digest = hashlib.sha256()
    root = Path(energax.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.parts[0].removesuffix(".py") in _ROOMS:
            digest.update(name.as_posix().encode() + path.read_bytes())
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
