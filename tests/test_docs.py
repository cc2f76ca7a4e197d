"""Every ```python block of README.md and docs/ runs, each page in one namespace, in order."""

import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if BLOCK.search(page.read_text())
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # what a page writes, it writes here
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": page.stem}
    with warnings.catch_warnings():
        # What a page shows as a plain answer must be one: no unreliable result in passing.
        warnings.filterwarnings("error", category=_unreliable())
        for block in BLOCK.finditer(text):
            line = text[: block.start()].count("\n") + 2
            padded = "\n" * (line - 1) + block.group(1)  # errors then name the page's own line
            exec(compile(padded, str(page), "exec"), namespace)


def _unreliable() -> type[Warning]:
    from energax.results import UnreliableResult

    return UnreliableResult
