"""One self-contained HTML page: sections of text, tables and embedded pictures; no network.

The page's text, style and scripts are files in energax/report/page, written into every page.
"""

import base64
import dataclasses
import functools
import importlib.resources
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from energax.io import atomic_write

_SCRIPTS = ("plots.js", "landscape.js", "page.js")  # in the order in which they run


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture and the sentence that says what it shows.

    - `data`: plain JSON data from which the page's script draws it anew, with values under the
      pointer and zoom; the picture is then for where no scripts run. None: the picture is all.
    """

    png: bytes
    alt: str
    data: dict[str, Any] | None = None

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode("ascii")

    @property
    def script(self) -> str:
        """`data` as text that may stand in a script element."""
        text = json.dumps(self.data, separators=(",", ":"), allow_nan=False)
        return text.replace("<", "\\u003c")


@dataclasses.dataclass(frozen=True)
class _Section:
    title: str
    text: Sequence[str]
    figures: Sequence[Figure]
    table: Sequence[Sequence[str]] | None
    caption: str
    sortable: bool


class Page:
    """A page that is built section by section and written at once.

    **Arguments:** `reload_seconds`: after which a browser loads it again; None never.
    """

    def __init__(self, title: str, *, reload_seconds: int | None = None):
        self.title, self.reload_seconds = title, reload_seconds
        self.reasons: tuple[str, ...] | None = None
        self._sections: list[_Section] = []

    def section(
        self,
        title: str,
        *,
        text: Sequence[str] = (),
        figures: Iterable[Figure] = (),
        table: Sequence[Sequence[str]] | None = None,
        caption: str = "",
        sortable: bool = False,
    ) -> None:
        """Adds a section; the first row of `table` is its header, its first column names the rows.

        **Arguments:** `caption`: of the table, the title if empty. `sortable`: by its columns, by
        a click on their headers.
        """
        self._sections.append(_Section(title, list(text), list(figures), table, caption, sortable))

    def judge(self, reasons: Iterable[str]) -> None:
        """The verdict at the top of the page: reliable where there are no reasons."""
        self.reasons = tuple(reasons)

    def html(self) -> str:
        try:
            from jinja2 import Environment
        except ImportError as error:
            raise ImportError("reports need jinja2: pip install energax[report]") from error
        verdict = None
        if self.reasons is not None:
            verdict = (
                "Some answers are not reliable:" if self.reasons else "Every answer is reliable."
            )
        environment = Environment(autoescape=True)
        environment.tests["numeric"] = _is_numeric
        return environment.from_string(_file("page.html")).render(
            title=self.title,
            reload=self.reload_seconds,
            sections=self._sections,
            verdict=verdict,
            reasons=self.reasons or (),
            style=_file("page.css"),
            scripts="".join(map(_file, _SCRIPTS)) if self._is_alive else "",
        )

    @property
    def _is_alive(self) -> bool:
        """Whether there is anything for scripts to do."""
        drawn = any(f.data is not None for s in self._sections for f in s.figures)
        return drawn or self.reload_seconds is not None or any(s.sortable for s in self._sections)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the page in one piece: an old file at `path` is replaced only when all is done."""
        page = self.html().encode()
        with atomic_write(Path(path)) as file:
            file.write(page)


@functools.cache
def _file(name: str) -> str:
    return (importlib.resources.files("energax.report") / "page" / name).read_text("utf-8")


def _is_numeric(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
