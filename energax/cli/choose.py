"""The way in: all commands in one program, and the status it ends with."""

import os
import platform
import sys
import warnings
from pathlib import Path

import typer

from energax.cli import fitting, questions, serving, two_files
from energax.cli._base import (
    BAD_INPUT,
    DONE,
    FAULT,
    INTERRUPTED,
    UNRELIABLE,
    BadInput,
    app,
    is_worker,
    leave,
    say,
)
from energax.results import UnreliableResult

__all__ = [
    "fitting",
    "main",
    "questions",
    "serving",
    "two_files",
]  # these are imported for their commands


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    say(f"warning: {message}")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with its status."""
    warnings.showwarning = _show_warning
    warnings.simplefilter("ignore", UnreliableResult)  # the answer itself says so
    if arguments is None:  # a process of its own, whose settings nobody else has
        _keep_compilations()
    status = _status(sys.argv[1:] if arguments is None else arguments)
    if is_worker() and status not in (DONE, UNRELIABLE):
        leave(status)
    sys.exit(status)


def _keep_compilations() -> None:
    """Has JAX keep what it compiles in the user's cache folder, for the next command.

    Each machine has a folder of its own, as a home may be shared between unlike processors. The
    user's own JAX_COMPILATION_CACHE_DIR goes first, "" to have none; a folder that cannot be
    written is done without.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "energax" / (platform.node() or "here")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home
        return
    if not os.access(folder, os.W_OK):
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _status(arguments: list[str]) -> int:
    try:
        status = app(args=arguments or ["--help"], standalone_mode=False)
        return status if isinstance(status, int) else DONE
    except BadInput as error:
        say(f"energax: {error}")
        return BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        say(f"energax: {error.strerror or error}{where}")
        return FAULT
    except Exception as error:
        usage = getattr(error, "format_message", None)  # Typer's own errors carry it
        if usage is not None:
            command = " ".join(arguments[:1])
            say(f"energax: {usage()} (see `energax {command} --help`)")
            return BAD_INPUT
        if os.environ.get("ENERGAX_TRACEBACK"):
            raise
        first_line = (str(error).splitlines() or [""])[0]
        say(
            f"energax: internal fault, {type(error).__name__}: {first_line} "
            "(ENERGAX_TRACEBACK=1 shows where)"
        )
        return FAULT
