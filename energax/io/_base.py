"""Writing a file whole or not at all, and telling whether it is still what was written."""

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_STARTED = time.time()
_TEMPORARY = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}\.tmp")


class DamagedFile(ValueError):
    """A file that is cut short or was changed after it was written."""


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """An open binary file that takes the name `path` when the block ends well, else is gone.

    The data are on the disk before the name is, so that a crash at any moment leaves the old file
    or the new one, whole.

    **Raises:** OSError if the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename, error.filename2 = str(path), None  # the name that the user knows
        raise
    _sync_folder(path.parent)


def remove_leftovers(folder: str | Path) -> None:
    """Removes what processes that were killed in the middle of `atomic_write` left in `folder`.

    Only files of that pattern, older than this call, whose process is gone (of this one's own
    number: older than this process).
    """
    before = time.time()
    for path in Path(folder).glob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None:
            continue
        pid = int(found[1])
        with contextlib.suppress(OSError):
            limit = _STARTED if pid == os.getpid() else before
            if path.stat().st_mtime < limit and (pid == os.getpid() or not is_alive(pid)):
                path.unlink()


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number on this machine, be it another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:  # no number of a process
        return False
    except OSError:  # another user's
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Puts the folder's list of names on the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: str | Path, value: Any) -> None:
    """`value` as readable JSON, written whole or not at all."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
