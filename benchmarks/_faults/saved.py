"""What a training left on the disk, read without energax: whether it is whole, finite, the same."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

_SAID = "num_steps", "reliable", "reasons", "recoveries"


@dataclasses.dataclass(frozen=True)
class Saved:
    """The arrays of an archive by name, and its plain data."""

    info: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def broken(self) -> str:
        """The first parameter that is not finite, "" if all are."""
        for name, value in self.arrays.items():
            if name.startswith("energy") and not np.all(np.isfinite(value)):
                return name
        return ""

    def differs(self, other: "Saved") -> str:
        """What is not bit for bit the same, "" if nothing; the seconds taken apart."""
        if self.arrays.keys() != other.arrays.keys():
            return "other arrays"
        for name, value in self.arrays.items():
            if value.dtype != other.arrays[name].dtype or value.shape != other.arrays[name].shape:
                return name
            if value.tobytes() != other.arrays[name].tobytes():
                return name
        return next((name for name in _SAID if self.info[name] != other.info[name]), "")


def read(path: Path) -> Saved | None:
    """An archive, None where there is none or it is not whole."""
    try:
        document = json.loads(path.read_bytes())
        said = document["arrays"]
        content = path.with_name(said["file"]).read_bytes()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    claimed = document.pop("sha256", None)
    whole = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    if claimed != whole or hashlib.sha256(content).hexdigest() != said["sha256"]:
        return None
    return Saved(document["info"], safetensors.numpy.load(content))


def result(run: Path) -> Saved | None:
    return read(run / "fit.json")


def steps(run: Path) -> list[int]:
    """Of the checkpoints by their names, good or not."""
    return sorted(int(path.stem[5:]) for path in (run / "checkpoints").glob("step-*.json"))


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:09d}.json"


def good(run: Path) -> list[int]:
    """Steps of the checkpoints that are whole."""
    return [step for step in steps(run) if read(checkpoint(run, step)) is not None]


def marks(run: Path) -> dict[Path, int]:
    """When each checkpoint was last written."""
    found = {}
    for path in (run / "checkpoints").glob("step-*.json"):
        try:
            found[path] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue  # dropped meanwhile
    return found
