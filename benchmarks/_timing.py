"""Paired timings: every contender in its own process, one repetition each by turns (A B A B ...).

A shared machine can swing threefold within minutes, so a ratio is the median over rounds of the
ratio within one round, and CPU seconds stand beside wall seconds. A process of its own keeps the
thread pools of JAX and torch apart, and lets each contender's peak memory be told.
"""

import importlib
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import _pages

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("energax", "jax", "jaxlib", "equinox", "optax", "numpy", "scikit-learn"),
    *("torch", "blackjax", "ebmkit", "torchebm", "rbms", "thrml"),
)


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    data: Path | None = None
    quick: bool = False
    threads: int | None = None  # None leaves each library its own choice
    minutes: float | None = None  # of training, where a question trains for a time

    def rounds(self, full: int) -> int:
        return 2 if self.quick else full


@dataclass(frozen=True)
class Contender:
    """A way to do the job: `setup`, "module:function", called with `arguments`, returns a function
    of no arguments that does it once and waits until it's done."""

    name: str
    setup: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class Timing:
    """Seconds of one contender; `first` is what only its first call pays (tracing, compiling)."""

    name: str
    first: float
    wall: list[float]
    cpu: list[float]
    peak_mib: float

    @property
    def wall_median(self) -> float:
        return statistics.median(self.wall)

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu)


@dataclass
class Ratio:
    """`slow` / `fast`, the median over rounds; the target is the least, or the most, wanted of
    the one by `clock`."""

    slow: str
    fast: str
    wall: float
    cpu: float
    at_least: float | None = None
    at_most: float | None = None
    clock: str = "wall"

    @property
    def value(self) -> float:
        return self.wall if self.clock == "wall" else self.cpu

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}"

    @property
    def met(self) -> bool | None:
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most


@dataclass
class Report:
    """The answer to one question."""

    name: str
    question: str
    timings: list[Timing]
    ratios: list[Ratio]
    limits: list[tuple[str, float, float]] = field(default_factory=list)  # what, measured, at most
    notes: list[str] = field(default_factory=list)


def race(contenders: list[Contender], rounds: int, threads: int | None = None) -> list[Timing]:
    """Times `rounds` repetitions of each contender, all of one round before any of the next.

    **Arguments:** `threads`: that each may use; None leaves each library its own choice.

    **Raises:** RuntimeError with the traceback of a contender that failed.
    """
    workers = []
    try:
        for contender in contenders:
            workers.append(_Worker(contender, _thread_limits(threads)))
        timings = [Timing(worker.name, worker.first, [], [], 0.0) for worker in workers]
        for _ in range(rounds):
            for timing, worker in zip(timings, workers, strict=True):
                wall, cpu = worker.ask("again")
                timing.wall.append(wall)
                timing.cpu.append(cpu)
        for timing, worker in zip(timings, workers, strict=True):
            timing.first -= timing.wall_median
            timing.peak_mib = worker.ask("peak")
        return timings
    finally:
        for worker in workers:
            worker.close()


def _thread_limits(threads: int | None) -> dict[str, str]:
    """What JAX (NPROC), torch and NumPy's BLAS read when they start."""
    names = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {} if threads is None else dict.fromkeys(names, str(threads))


def ratio(timings: list[Timing], slow: str, fast: str, **target) -> Ratio:
    """`slow` over `fast`, round by round; `target` as in `Ratio`."""
    by_name = {timing.name: timing for timing in timings}
    a, b = by_name[slow], by_name[fast]
    wall = statistics.median(x / y for x, y in zip(a.wall, b.wall, strict=True))
    cpu = statistics.median(x / y for x, y in zip(a.cpu, b.cpu, strict=True))
    return Ratio(slow, fast, wall, cpu, **target)


class _Worker:
    """The process of one contender. It is warmed up when the constructor returns."""

    def __init__(self, contender: Contender, environment: dict[str, str]):
        context = multiprocessing.get_context("spawn")
        self.name = contender.name
        self.pipe, far_end = context.Pipe()
        kept = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            self.process = context.Process(
                target=_serve, args=(far_end, contender.setup, contender.arguments), daemon=True
            )
            self.process.start()
        finally:
            for name, value in kept.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        far_end.close()
        self.first = self.receive()

    def ask(self, command: str):
        self.pipe.send(command)
        return self.receive()

    def receive(self):
        try:
            answer = self.pipe.recv()
        except EOFError:
            self.process.join()
            answer = f"its process ended with status {self.process.exitcode}"
        if isinstance(answer, str):
            raise RuntimeError(f"contender {self.name!r} failed: {answer}")
        return answer

    def close(self) -> None:
        self.pipe.close()  # the worker reads the end of the pipe and leaves
        self.process.join(10)
        if self.process.is_alive():
            self.process.terminate()


def _serve(pipe, setup: str, arguments: dict[str, Any]) -> None:
    try:
        module, function = setup.split(":")
        once: Callable[[], Any] = getattr(importlib.import_module(module), function)(**arguments)
        pipe.send(timed(once)[0])
        once()  # the second call may still grow pools and caches
        while True:
            command = pipe.recv()
            if command == "again":
                pipe.send(timed(once))
            else:
                pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    except (EOFError, KeyboardInterrupt):
        return
    except BaseException:
        pipe.send(traceback.format_exc())


def child(command: list[str], **popen) -> tuple[float, float, float]:
    """(wall s, CPU s, peak MiB) of a process and of what it started.

    **Raises:** RuntimeError if it ends with another status than 0.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, **popen)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with status {process.returncode}")
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def timed(once: Callable[[], Any]) -> tuple[float, float]:
    """(wall, CPU) seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    once()
    return time.perf_counter() - wall, time.process_time() - cpu


def isolated(setup: str, arguments: dict[str, Any], threads: int | None = None) -> dict[str, Any]:
    """What "module:function", called with `arguments` in a process of its own, returns (a dict),
    with its `peak` memory in MiB."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_called, (setup, arguments, _thread_limits(threads)))


def _called(setup: str, arguments: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    os.environ.update(environment)
    module, function = setup.split(":")
    found = getattr(importlib.import_module(module), function)(**arguments)
    return found | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def clock() -> Callable[[], tuple[float, float]]:
    """A function that tells the (wall, CPU) seconds of this process since now."""
    wall, cpu = time.perf_counter(), time.process_time()
    return lambda: (time.perf_counter() - wall, time.process_time() - cpu)


def machine() -> dict[str, Any]:
    """The machine and what else it was doing."""
    model = platform.processor() or platform.machine()
    memory = None
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model,
        "cores": cores,
        "memory_gib": memory,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    """What is installed of `PACKAGES`."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def as_json(report: Report, options: Options, before: dict[str, Any]) -> dict[str, Any]:
    """The report as it is written to results/NAME.json."""
    return {
        "name": report.name,
        "question": report.question,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "quick": options.quick,
        "threads": options.threads,
        "machine": before,
        "versions": versions(),
        "timings": [
            asdict(t) | {"wall_median": t.wall_median, "cpu_median": t.cpu_median}
            for t in report.timings
        ],
        "ratios": [asdict(r) | {"target": r.target, "met": r.met} for r in report.ratios],
        "limits": [
            {
                "what": what,
                "measured": float(measured),
                "at_most": float(most),
                "met": bool(measured <= most),
            }
            for what, measured, most in report.limits
        ],
        "notes": report.notes,
    }


def save(document: dict[str, Any]) -> None:
    """Writes results/NAME.json and, from all that lie there, results/README.md and the tables of
    the pages in docs/."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{document['name']}.json"
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    documents = [json.loads(p.read_text()) for p in sorted(RESULTS.glob("*.json"))]
    lines = ["# Measured figures", "", "Written by `python -m benchmarks`; do not edit.", ""]
    for each in documents:
        lines += table(each)
    (RESULTS / "README.md").write_text("\n".join(lines))
    _pages.write()


def table(document: dict[str, Any]) -> list[str]:
    """One report as lines of Markdown."""
    here = document["machine"]
    lines = [f"## {document['name']}", "", document["question"], ""]
    if document["timings"]:
        lines += [
            "| | wall s | CPU s | first call more, s | peak MiB |",
            "|---|---:|---:|---:|---:|",
        ]
        for t in document["timings"]:
            lines.append(
                f"| {t['name']} | {t['wall_median']:.3f} | {t['cpu_median']:.3f} "
                f"| {t['first']:.2f} | {t['peak_mib']:.0f} |"
            )
        lines.append("")
    if document["ratios"]:
        lines += ["| ratio | wall | CPU | target | |", "|---|---:|---:|---|---|"]
        for r in document["ratios"]:
            lines.append(
                f"| {r['slow']} / {r['fast']} | {r['wall']:.2f} | {r['cpu']:.2f} "
                f"| {r['target']}{' (CPU)' if r['target'] and r['clock'] == 'cpu' else ''} "
                f"| {_verdict(r['met'])} |"
            )
        lines.append("")
    if document["limits"]:
        lines += ["| limit | measured | at most | |", "|---|---:|---:|---|"]
        for limit in document["limits"]:
            lines.append(
                f"| {limit['what']} | {limit['measured']:.2f} | {limit['at_most']:g} "
                f"| {_verdict(limit['met'])} |"
            )
        lines.append("")
    lines += [f"- {note}" for note in document["notes"]]
    known = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    lines += [
        f"- {document['date']}, {here['cores']} cores of {here['cpu']}, {here['memory_gib']} GiB, "
        f"{here['system']}, Python {here['python']}, load before {here['load_before']}"
        + (f"; {document['threads']} thread(s) each" if document["threads"] else "")
        + ("; a quick look, two rounds" if document["quick"] else ""),
        f"- {known}",
        "",
    ]
    return lines


def _verdict(met: bool | None) -> str:
    return {True: "met", False: "MISSED", None: ""}[met]


def say(message: str) -> None:
    """Progress, on stderr."""
    print(message, file=sys.stderr, flush=True)
