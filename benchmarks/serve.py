"""How many rows a second does `energax serve` score, and does it stand what is thrown at it?

A small network is trained on 30 real columns and served by the real command; clients are threads of
this process, on connections that they keep.
"""

import collections
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np

from benchmarks import _malformed
from benchmarks._timing import Options, Report, Timing, say

COLUMNS, ROWS, CLIENTS = 30, 100, 4
ROWS_ASKED, MALFORMED, GROWTH_MIB = 5_000, 10_000, 32.0
_COMMAND = [sys.executable, "-m", "energax.cli"]


def run(options: Options) -> Report:
    num, seconds = (1_000, 3.0) if options.quick else (MALFORMED, 10.0)
    with tempfile.TemporaryDirectory() as folder:
        path = _trained(Path(folder), 100 if options.quick else 1_000)
        with _serving(path) as service:
            score = _post(service, "/score", _body(np.random.default_rng(0)))
            timing = Timing(f"{CLIENTS} clients", service.start_seconds, [], [], 0.0)
            alone = _alone(service)
            for _ in range(options.rounds(5)):
                wall, cpu = _rate(service, seconds)
                timing.wall.append(wall)
                timing.cpu.append(cpu)
            say(f"benchmarks: {num:,} malformed requests ...")
            before = service.memory("VmRSS")
            found, half = _thrown(service, num)
            after = service.memory("VmRSS")
            timing.peak_mib = service.memory("VmHWM")
            same = _post(service, "/score", _body(np.random.default_rng(0))) == score
    answered = collections.Counter(status for _, status in found)
    silent = sum(1 for kind, status in found if not status and kind != _malformed.LEAVES)
    faults = sum(count for status, count in answered.items() if status >= 500)
    kinds = collections.Counter(kind for kind, status in found if status == 200)
    told = ", ".join(
        f"{count:,} × {status or 'none'}" for status, count in sorted(answered.items())
    )
    parts = ("starlette", "uvicorn", "h11", "msgspec")
    return Report(
        name="serve",
        question=f"Seconds for {ROWS_ASKED:,} rows, {ROWS} rows of {COLUMNS} reals a request, by a "
        f"network of 2 × 64 units; then {num:,} malformed requests of {len(_malformed.KINDS)} "
        "kinds.",
        timings=[timing],
        ratios=[],
        limits=[
            (f"seconds for {ROWS_ASKED:,} rows", timing.wall_median, 1.0),
            (f"answers of 5xx to {num:,} malformed requests", faults, 0),
            ("malformed requests that got no answer and waited for one", silent, 0),
            ("growth of resident memory over them, MiB", after - before, GROWTH_MIB),
            ("good requests answered otherwise after them", int(not same), 0),
        ],
        notes=[
            f"{ROWS_ASKED / timing.wall_median:,.0f} rows a second; one client alone waits "
            f"{1e3 * alone:.1f} ms for {ROWS} rows. CPU is the service's; its clients use the same "
            "cores. The first call is the start of the service up to its first answer: reading, "
            "compiling, log Z.",
            f"Answers to malformed requests: {told}"
            + (f"; 200 where an edit left the body good ({dict(kinds)})" if kinds else ""),
            f"Resident: {before:.0f} MiB before, {half:.0f} after half of them, {after:.0f} after.",
            ", ".join(f"{name} {metadata.version(name)}" for name in parts),
        ],
    )


def _trained(folder: Path, num_steps: int) -> Path:
    """The folder of a run on rows of two correlated clusters."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(COLUMNS, COLUMNS)) / np.sqrt(COLUMNS)
    centres = rng.choice([-1.0, 1.0], (5_000, 1))
    np.save(folder / "rows.npy", rng.normal(size=(5_000, COLUMNS)) @ mixing + centres)
    command = [*_COMMAND, "fit", str(folder / "rows.npy"), "--out", str(folder / "run")]
    command += ["--space", "real", "--model", "mlp", "--hidden", "64", "--objective", "denoising"]
    subprocess.run([*command, "--num-steps", str(num_steps)], check=True, stdout=subprocess.DEVNULL)
    return folder / "run"


class _Running:
    """A service in a process of its own."""

    def __init__(self, run: Path):
        start = time.perf_counter()
        command = [*_COMMAND, "serve", str(run), "--port", "0", "--json", "--max-seconds", "20"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the service ended with status {self.process.wait()}")
        self.port = int(json.loads(line)["url"].rsplit(":", 1)[1])
        _post(self, "/score", _body(np.random.default_rng(0)))
        self.start_seconds = time.perf_counter() - start

    def memory(self, name: str) -> float:
        """VmRSS or VmHWM, MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return float(next(line for line in lines if line.startswith(name)).split()[1]) / 1024

    def cpu(self) -> float:
        """Seconds of user and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _serving(run: Path) -> Iterator[_Running]:
    service = _Running(run)
    try:
        yield service
        service.process.terminate()
        status = service.process.wait(60)
        if status:
            raise RuntimeError(f"the service ended with status {status}")
    finally:
        service.process.kill()
        service.process.wait()


def _body(rng: np.random.Generator) -> bytes:
    return _malformed.good(rng, COLUMNS, ROWS)


def _connect(service: _Running) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)


def _ask(connection: http.client.HTTPConnection, path: str, body: bytes) -> bytes:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status} {answer[:200]!r}")
    return answer


def _post(service: _Running, path: str, body: bytes) -> bytes:
    with contextlib.closing(_connect(service)) as connection:
        return _ask(connection, path, body)


def _alone(service: _Running) -> float:
    """Median seconds that one client waits for the answer to `ROWS` rows."""
    body, took = _body(np.random.default_rng(1)), []
    with contextlib.closing(_connect(service)) as connection:
        for _ in range(50):
            start = time.perf_counter()
            _ask(connection, "/score", body)
            took.append(time.perf_counter() - start)
    return statistics.median(took)


def _rate(service: _Running, seconds: float) -> tuple[float, float]:
    """(wall, CPU of the service) seconds for `ROWS_ASKED` rows, by clients that ask at once."""
    counts, end = [0] * CLIENTS, time.perf_counter() + seconds

    def client(number: int) -> None:
        bodies = [_body(np.random.default_rng(number * 10 + i)) for i in range(10)]
        with contextlib.closing(_connect(service)) as connection:
            while time.perf_counter() < end:
                _ask(connection, "/score", bodies[counts[number] % len(bodies)])
                counts[number] += 1

    start, cpu = time.perf_counter(), service.cpu()
    _in_threads([lambda number=number: client(number) for number in range(CLIENTS)])
    share = ROWS_ASKED / (ROWS * sum(counts))
    return (time.perf_counter() - start) * share, (service.cpu() - cpu) * share


def _thrown(service: _Running, num: int) -> tuple[list[tuple[str, int]], float]:
    """((kind, status of the answer or 0) of each malformed request, MiB after half of them)."""
    found: list[tuple[str, int]] = []
    half = 0.0
    for part in range(2):
        made = _malformed.requests(part, num // 2, COLUMNS)
        lock = threading.Lock()

        def client(made=made, lock=lock) -> None:
            while True:
                with lock:
                    kind, sent = next(made, ("", b""))
                if not kind:
                    return
                found.append((kind, _status(service, kind, sent)))

        _in_threads([client] * CLIENTS)
        half = half or service.memory("VmRSS")
    return found, half


def _status(service: _Running, kind: str, sent: bytes) -> int:
    """The status that bytes on a fresh connection are answered with, 0 for none."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        # A service may have answered and closed before all was sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(sent)
            if kind == _malformed.LEAVES:
                return 0
        try:
            line = connection.recv(4_096).split(b"\r\n", 1)[0].split()
        except ConnectionResetError:
            return 0
    return int(line[1]) if len(line) > 1 else 0


def _in_threads(jobs: list) -> None:
    """Runs the jobs at the same time; raises what the first one that failed raised."""
    failed: list[BaseException] = []

    def guarded(job) -> None:
        try:
            job()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
