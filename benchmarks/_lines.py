"""Files of runs, one JSON object a line; the last may be cut short where a process was killed."""

import dataclasses
import json
from pathlib import Path
from typing import Any


def append(file: str | Path, run: Any) -> None:
    """Adds a dataclass as a line of its own; a line that was cut short is ended first.

    Readers pass over what is no whole object.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(dataclasses.asdict(run)) + "\n"
    with file.open("a+b") as out:
        if out.tell() > 0:
            out.seek(-1, 2)
            if out.read(1) != b"\n":
                line = "\n" + line
        out.write(line.encode())
