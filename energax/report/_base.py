"""One self-contained HTML page: sections of text, tables and embedded pictures; no network."""

import base64
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from energax.io import atomic_write

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{% if reload %}<meta http-equiv="refresh" content="{{ reload }}">
{% endif %}<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; border-bottom: 1px solid #bbb; margin-top: 2rem; }
pre { background: #f4f4f2; padding: .8rem; overflow-x: auto; font-size: .85rem; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; } .wide { overflow-x: auto; }
th, td { border: 1px solid #bbb; padding: .2rem .6rem; text-align: right; }
th { background: #f4f4f2; }
.good { color: #14601f; } .bad { color: #a31515; }
nav a { margin-right: 1rem; }
</style></head><body>
<h1>{{ title }}</h1>
{% if verdict %}<p class="{{ 'good' if not reasons else 'bad' }}"><strong>{{ verdict }}</strong></p>
{% if reasons %}<ul>{% for reason in reasons %}<li>{{ reason }}</li>{% endfor %}</ul>{% endif %}
{% endif %}
<nav>{% for s in sections %}<a href="#s{{ loop.index }}">{{ s.title }}</a>{% endfor %}</nav>
{% for s in sections %}<section id="s{{ loop.index }}"><h2>{{ s.title }}</h2>
{% if s.text %}<pre>{{ s.text | join('\n') }}</pre>{% endif %}
{% if s.table %}<div class="wide"><table><thead><tr>
{% for cell in s.table[0] %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead><tbody>
{% for row in s.table[1:] %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endif %}
{% for f in s.figures %}<figure><img alt="{{ f.alt }}" src="data:image/png;base64,{{ f.base64 }}">
<figcaption>{{ f.alt }}</figcaption></figure>{% endfor %}
</section>{% endfor %}
</body></html>
"""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture and the sentence that says what it shows."""

    png: bytes
    alt: str

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode("ascii")


@dataclasses.dataclass(frozen=True)
class _Section:
    title: str
    text: Sequence[str]
    figures: Sequence[Figure]
    table: Sequence[Sequence[str]] | None


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
    ) -> None:
        """Adds a section; the first row of `table` is its header."""
        self._sections.append(_Section(title, list(text), list(figures), table))

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
        return (
            Environment(autoescape=True)
            .from_string(_TEMPLATE)
            .render(
                title=self.title,
                reload=self.reload_seconds,
                sections=self._sections,
                verdict=verdict,
                reasons=self.reasons or (),
            )
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the page in one piece: an old file at `path` is replaced only when all is done."""
        page = self.html().encode()
        with atomic_write(Path(path)) as file:
            file.write(page)
