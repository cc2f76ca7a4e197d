"""Lists a room's modules on its reference page, so that no page has to be kept up by hand.

A line `modules: energax.energies` becomes one mkdocstrings block for each public file of the room,
with its abstract classes (`_base`) last.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINE = re.compile(r"^modules: energax\.(\w+)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_) -> str:
    return LINE.sub(_blocks, markdown)


def _blocks(match: re.Match[str]) -> str:
    room = match.group(1)
    names = sorted(file.stem for file in (ROOT / "energax" / room).glob("*.py"))
    if not names:
        raise FileNotFoundError(f"docs: energax/{room}/ holds no modules")
    shown = [name for name in names if not name.startswith("_")]
    shown += [name for name in names if name == "_base"]
    return "\n\n".join(f"::: energax.{room}.{name}" for name in shown)
