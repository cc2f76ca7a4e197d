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
    folder = ROOT / "energax" / match.group(1)
    files = [file.relative_to(ROOT).with_suffix("") for file in sorted(folder.rglob("*.py"))]
    if not files:
        raise FileNotFoundError(f"docs: {folder} holds no modules")
    shown = [file for file in files if not file.name.startswith("_")]
    shown += [file for file in files if file.name == "_base"]
    return "\n\n".join("::: " + ".".join(file.parts) for file in shown)
