"""What all commands share: how they read, answer and fail.

Exit status: 0 done; 2 bad input or usage; 3 with --strict, done but unreliable; 1 input/output or
internal fault; 130 interrupted. With --json stdout carries one JSON object and nothing else.
"""

import contextlib
import dataclasses
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from energax import io
from energax.results import plain

app = typer.Typer(
    name="energax",
    help="Energy-based models whose answers carry an error bar and a verdict.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DONE, FAULT, BAD_INPUT, UNRELIABLE, INTERRUPTED = 0, 1, 2, 3, 130
SETTINGS = "run.json"  # in a run's folder

RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="folder written by `energax fit`")]
DataFile = Annotated[Path, typer.Argument(metavar="DATA", help=".npy, .npz, .csv or .parquet")]
OutFile = Annotated[Path, typer.Option("--out", help="file to write: .npy, .npz, .csv, .parquet")]
Seed = Annotated[int, typer.Option("--seed", help="equal seeds give equal results")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Strict = Annotated[bool, typer.Option("--strict", help="exit 3 where the result is unreliable")]
Part = Annotated[str | None, typer.Option("--array", help="which array of an .npz holds the rows")]


class BadInput(Exception):
    """What the user gave cannot be used; the message says what was expected and what to do."""


@dataclasses.dataclass
class Answer:
    """What a command prints: lines for people, one object for --json, and the verdict."""

    lines: list[str]
    data: dict[str, Any]
    reliable: bool = True
    reasons: tuple[str, ...] = ()

    def finish(self, *, as_json: bool, strict: bool, quiet: bool = False) -> None:
        if not quiet:
            self._show(as_json)
        if strict and not self.reliable:
            raise typer.Exit(UNRELIABLE)

    def _show(self, as_json: bool) -> None:
        if as_json:
            verdict = {"reliable": self.reliable, "reasons": list(self.reasons)}
            print(json.dumps(plain({**self.data, **verdict})))
        else:
            for line in self.lines:
                print(line)
            if not self.reliable:
                print("NOT RELIABLE: " + "; ".join(self.reasons))


def read(path: Path, array: str | None = None, *, missing: bool = False) -> np.ndarray:
    """The rows of a data file; whatever is wrong with it is the user's to mend."""
    with users_fault():
        return io.read_data(path, array=array, allow_missing=missing)


@contextlib.contextmanager
def users_fault() -> Iterator[None]:
    """Turns errors about values, types and missing files into `BadInput`."""
    try:
        yield
    except (ValueError, TypeError, FileNotFoundError, IsADirectoryError, KeyError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
        raise BadInput(str(text)) from error


def load(run: Path):
    """(Fit, settings) of a run folder."""
    from energax import training

    if not (run / SETTINGS).is_file():
        raise BadInput(
            f"{run}: expected a folder written by `energax fit`, found no {SETTINGS} in it"
        )
    settings = read_settings(run)
    with users_fault():
        return training.load(run), settings


def write_settings(run: Path, settings: dict[str, Any]) -> None:
    """The settings of a run as run.json, with a checksum."""
    io.write_json(run / SETTINGS, {**settings, "checksum": _checksum(settings)})


def read_settings(run: Path) -> dict[str, Any]:
    """What `write_settings` wrote; its data file may have been given another place since."""
    path = run / SETTINGS
    try:
        settings = json.loads(path.read_bytes())
        said = settings.pop("checksum", None)
    except (ValueError, AttributeError, TypeError) as error:
        raise BadInput(
            f"{path} is damaged: it is no complete JSON object; start a new run with `fit`"
        ) from error
    if said not in (None, _checksum(settings)):  # None: of an energax that wrote none
        raise BadInput(
            f"{path} is damaged: it was changed after it was written; start a new run with `fit`"
        )
    return settings


def _checksum(settings: dict[str, Any]) -> str:
    """Of all but the data file's place: its content has a checksum of its own."""
    kept = {name: value for name, value in settings.items() if name != "data"}
    return hashlib.sha256(json.dumps(plain(kept), sort_keys=True).encode()).hexdigest()


def writable(path: Path, *, folder: bool = False) -> None:
    """Fails before the work starts if nothing can be written at `path`."""
    parent = path if folder else path.parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=parent):
        pass


def out_file(path: Path) -> None:
    if path.suffix not in io.WRITABLE:
        raise BadInput(f"--out {path}: expected a name ending in {', '.join(io.WRITABLE)}")
    writable(path)


def key_of(seed: int):
    from energax import random

    return random.key(seed)


def rows_for(energy, rows: np.ndarray) -> np.ndarray:
    """Rows as the energy's space wants them; a flat table is folded to the event shape."""
    shape = energy.space.shape
    if rows.ndim == 2 and len(shape) != 1 and rows.shape[1] == int(np.prod(shape)):
        rows = rows.reshape(-1, *shape)
    return rows


def say(text: str) -> None:
    """Progress goes to stderr, so that stdout stays the answer."""
    print(text, file=sys.stderr, flush=True)
