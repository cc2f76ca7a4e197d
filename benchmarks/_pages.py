"""Tables of measured figures in the pages of docs/, written from results/*.json.

A table stands between `<!-- figures: NAME -->` and `<!-- end -->`.
"""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks._objectives import page as objectives

HERE = Path(__file__).parent
PAGES = HERE.parent / "docs"
_NAMES = {
    "exact": "exact",
    "ais": "AIS",
    "bridge": "bridge",
    "mbar": "MBAR",
    "thermodynamic integration": "integration",
    "smc": "SMC",
}
_TARGETS = {
    "logistic": ("log_z_cost", "reals in a chain"),
    "bits": ("log_z_cost", "bits in a ring"),
    "ring": ("log_z_structure", "Ising ring, sites"),
    "rbm": ("log_z_structure", "RBM, visible bits"),
} | {
    target: ("objectives_table", "objective")
    for target in ("objectives", *(f"objectives_{name}" for name in objectives.TITLES))
}
_TARGETS["faults"] = "faults", "what was put in"
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def write() -> None:
    """Every page anew, from the results that lie there."""
    for page in PAGES.glob("*.md"):
        old = page.read_text()
        new = written(old)
        if new != old:
            page.write_text(new)


def written(page: str) -> str:
    """The text of a page with its tables as they follow from the results, those without results as
    they are.

    **Raises:** KeyError for a table of another name.
    """

    def block(found: re.Match) -> str:
        if not (HERE / "results" / f"{_TARGETS[found[2]][0]}.json").exists():
            return found[0]
        return found[1] + "\n" + "\n".join(_table(found[2])) + "\n\n" + found[4]

    return _BLOCK.sub(block, page)


def _table(target: str) -> list[str]:
    file, first = _TARGETS[target]
    document = json.loads((HERE / "results" / f"{file}.json").read_text())
    if file == "objectives_table":
        return objectives.table(document, target)
    if file == "faults":
        return _faults(document, first)
    return _costs(document, target, first)


def _faults(document: dict[str, Any], first: str) -> list[str]:
    """How trainings with a fault put in ended, by the kind of fault."""
    lines = [f"| {first} | runs | recovered | cause named | wrong |", "| --- |" + " ---: |" * 4]
    form = r"(.+): (\d+) runs, (\d+) recovered, (\d+) ended with the cause named, (\d+) wrong"
    for note in document["notes"]:
        found = re.fullmatch(form, note)
        if found is not None:
            lines.append("| " + " | ".join(found.groups()) + " |")
    return lines


def _costs(document: dict[str, Any], target: str, first: str) -> list[str]:
    """CPU seconds of log Z by dimension and precision, a column a method."""
    seconds = _seconds(document, target)
    methods = [name for name in _NAMES if any(method == name for _, method, _ in seconds)]
    rows = sorted({(d, precision) for d, _, precision in seconds}, key=lambda r: (r[0], -r[1]))
    lines = [
        f"| {first} | to, nat | " + " | ".join(_NAMES[name] for name in methods) + " |",
        "| ---: |" + " ---: |" * (len(methods) + 1),
    ]
    for d, precision in rows:
        cells = []
        for method in methods:
            # What is exact is asked for once.
            once = seconds.get((d, method, 0.3)) if method == "exact" else None
            cells.append(seconds.get((d, method, precision), once) or "–")
        lines.append(f"| {d:,} | {precision:g} | " + " | ".join(cells) + " |")
    return lines


def _seconds(document: dict[str, Any], target: str) -> dict[tuple[int, str, float], str]:
    """By dimension, method and precision."""
    verdicts = {}
    for note in document["notes"]:
        name, _, rest = note.partition(": ")
        verdicts[name] = re.search(r"(un)?reliable", rest)
    found = {}
    for timing in document["timings"]:
        name = timing["name"]
        parts = re.fullmatch(rf"{target}, d = ([\d,]+), (.+), to ([\d.]+)", name)
        if parts is None:
            continue
        key = int(parts[1].replace(",", "")), parts[2], float(parts[3])
        verdict = verdicts[name]
        assert verdict is not None, f"{name}: there is no verdict in the notes"
        said = _digits(timing["cpu_median"])
        found[key] = said if verdict[0] == "reliable" else f"no, {said}"
    return found


def _digits(seconds: float) -> str:
    if seconds < 0.01:
        return "<0.01"
    return (
        f"{seconds:.2f}" if seconds < 1 else f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"
    )
