"""Makes the pictures of docs/gallery.md anew: runs its blocks in docs/gallery/."""

import os
import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

if __name__ == "__main__":
    page = (DOCS / "gallery.md").read_text()
    (DOCS / "gallery").mkdir(exist_ok=True)
    os.chdir(DOCS / "gallery")
    namespace: dict[str, object] = {"__name__": "gallery"}
    for block in BLOCK.finditer(page):
        exec(compile(block.group(1), "docs/gallery.md", "exec"), namespace)
