"""A progress bar with the time left, on stderr: rich where it is installed, else a plain line."""

import sys
import time


class Progress:
    """`with Progress("sampling", shown) as bar: bar.update(share_done, text)`."""

    def __init__(self, what: str, shown: bool):
        self._what, self._shown = what, shown
        self._start = self._last = time.perf_counter()
        self._bar = self._task = None

    def __enter__(self) -> "Progress":
        if not self._shown:
            return self
        try:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar
        except ImportError:
            return self
        columns = [TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()]
        self._bar = Bar(*columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True))
        self._task = self._bar.add_task(self._what, total=1.0, text="")
        self._bar.start()
        return self

    def update(self, done: float, text: str = "") -> None:
        """`done`: the share of the work that is done at the most, 0 to 1."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, text=text)
        elif self._shown:
            now = time.perf_counter()
            if now - self._last > 0.5 and done > 0:
                self._last = now
                left = (now - self._start) * (1 - done) / done
                line = f"{self._what}: {100 * done:3.0f} %, at most {left:.0f} s left  {text}"
                print(f"\r{line[:79]:79}", end="", file=sys.stderr, flush=True)

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._shown:
            print(file=sys.stderr)
