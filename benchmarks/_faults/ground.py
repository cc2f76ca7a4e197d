"""Where faulted trainings run: folders, child processes, and the unfaulted run of each training."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks._faults import saved, trainings
from benchmarks._faults.trainings import Training

PATIENCE = 600.0  # seconds, after which a child hangs
ROOT = Path(__file__).parents[2]
T = TypeVar("T")
RECOVERED, NAMED, WRONG = "recovered", "named", "WRONG"


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a child ended."""

    status: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """Its last line on stderr."""
        return (self.err.strip().splitlines() or [""])[-1]


@dataclasses.dataclass
class Verdict:
    """`outcome`: RECOVERED, NAMED or WRONG. `said`: by the training; `why`: of what is WRONG."""

    outcome: str
    said: str = ""
    why: str = ""


@dataclasses.dataclass
class Done:
    """What was done to which training, filled in on the way, so that it is known whatever comes."""

    training: str = ""
    variant: str = ""
    moment: str = ""


class Wrong(Exception):
    """An outcome that no faulted run may have."""


def claim(holds: bool, why: str) -> None:
    """Raises Wrong with `why` unless it holds."""
    if not holds:
        raise Wrong(why)


class Ground:
    """A folder for children to run in; one compile cache for all, and unfaulted runs kept."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cache = folder / "compiled"
        self.kept: dict[str, saved.Saved] = {}  # unfaulted results by name
        self._seconds: dict[str, float] = {}
        self._count = 0

    def data(self, training: Training, ending: str = ".npy") -> Path:
        """Its data file, which no fault may touch."""
        path = self.folder / f"{training.rows}{ending}"
        if not path.exists():
            trainings.write(trainings.rows_of(training.rows), path)
        return path

    def unfaulted(self, training: Training) -> saved.Saved:
        """The result without a fault; what it compiles is in the cache from then on."""
        if training.name not in self.kept:
            with self.fresh() as folder:
                run = folder / "run"
                began = time.monotonic()
                ended = self.run(trainings.fit(training, self.data(training), run))
                self._seconds[training.name] = time.monotonic() - began
                found = saved.result(run)
            if ended.status or found is None or found.broken():
                raise RuntimeError(f"{training.name} fails without a fault: {ended.err}")
            self.kept[training.name] = found
        return self.kept[training.name]

    def seconds(self, training: Training) -> float:
        """What a training without a fault takes, roughly: a half of the first, which compiles."""
        self.unfaulted(training)
        return self._seconds[training.name] / 2

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        """A folder that is gone afterwards."""
        self._count += 1
        path = self.folder / f"run{self._count}"
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def run(
        self,
        command: list[str],
        act: Callable[[subprocess.Popen], bool] | None = None,
        *,
        largest_file: int | None = None,
        cache: Path | None = None,
    ) -> Ended:
        """Runs a child to its end.

        **Arguments:** `act`: called over and over while it runs until it returns True.
        `largest_file`: bytes that it may write to any file.

        **Raises:** Wrong if it hangs.
        """
        environment = {
            **{k: v for k, v in os.environ.items() if k != "ENERGAX_TRACEBACK"},
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "JAX_COMPILATION_CACHE_DIR": str(cache or self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))

        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
            cwd=self.folder,
            preexec_fn=None if largest_file is None else limit,
        )
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(process.communicate)
            began = time.monotonic()
            while act is not None and not answer.done() and not act(process):
                if time.monotonic() - began > PATIENCE:
                    break
                time.sleep(0.001)
            try:
                out, err = answer.result(max(0.0, PATIENCE - (time.monotonic() - began)))
            except concurrent.futures.TimeoutError:
                process.kill()
                raise Wrong(f"no end within {PATIENCE:g} s") from None
        return Ended(process.returncode, out, err)

    def goes_on(self, training: Training, data: Path, run: Path, **options) -> tuple[Verdict, str]:
        """Resumes a run, which must come to the end of the unfaulted one, from its newest good
        checkpoint; also what it said on stderr."""
        kept, before = saved.good(run), saved.marks(run)
        first = []

        def look(process: subprocess.Popen) -> bool:
            now = saved.marks(run)
            first.extend(int(p.stem[5:]) for p in now if before.get(p) != now[p])
            return bool(first)

        begun = not training.is_command or (run / "run.json").exists()
        how = trainings.resume if begun else trainings.fit
        ended = self.run(how(training, data, run), look, **options)
        no_traceback(training, ended)
        claim(ended.status == 0, f"going on ended with status {ended.status}: {ended.last}")
        newest = max(kept, default=0)
        claim(
            min(first, default=newest + 1) > newest,
            f"it went on from before its newest good checkpoint: step {min(first, default=0)} was "
            f"made after that of step {newest}",
        )
        self.same_end(training, run)
        return Verdict(RECOVERED, ended.last), ended.err

    def same_end(self, training: Training, run: Path) -> None:
        found = saved.result(run)
        claim(found is not None, "there is no whole result")
        assert found is not None
        claim(not found.broken(), f"{found.broken()} in the result is not finite")
        different = found.differs(self.unfaulted(training))
        claim(not different, f"the end is another than without the fault: {different}")


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def answer(ended: Ended) -> dict[str, Any]:
    """The one JSON object on stdout."""
    claim(ended.status == 0, f"it ended with status {ended.status}: {ended.last}")
    try:
        return json.loads(ended.out)
    except ValueError:
        raise Wrong(f"no JSON object on stdout: {ended.out[:200]!r}") from None


def no_traceback(training: Training, ended: Ended) -> None:
    """The command line speaks in words, whatever happens."""
    if training.is_command:
        for word in ("Traceback", "internal fault"):
            claim(word not in ended.err, f"{word} on the command line: {ended.last}")


def finite_everywhere(run: Path) -> None:
    """No result and no checkpoint holds a parameter that is NaN or infinite."""
    for path in [run / "fit.json", *(saved.checkpoint(run, step) for step in saved.steps(run))]:
        found = saved.read(path) if path.exists() else None
        if found is not None:
            claim(not found.broken(), f"{found.broken()} in {path.name} is not finite")


def version() -> str:
    """A digest of energax's sources."""
    import energax

    root = Path(energax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]
