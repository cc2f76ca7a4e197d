"""What is said of a cell, as a line of the results and as a row of the tables in docs/.

A cell is one objective on one data set, over all seeds. Light: the pages are written without JAX.
"""

import re
from collections.abc import Iterable
from typing import Any

TITLES = {
    "moons": "two moons",
    "eight_gaussians": "8 Gaussians",
    "checkerboard": "checkerboard",
    "mixture_10d": "10-d mixture",
    "nltcs": "nltcs, 16 bits",
    "potts": "7 sites of 4 values",
}
CONVOLVED = "f is the log-density of the rows with noise of σ added, not of the rows"
STEEPER = "f is steeper than the log-density of the rows by a factor that is known for normals only"
SLOPES = "f leads from noise to the rows and is no log-density of anything"
DOUBTED = "not every training was reliable: the columns of its data set say how many"
MARKS = {CONVOLVED: "¹", STEEPER: "²", SLOPES: "³", DOUBTED: "†"}
NOT_THE_ROWS = {
    "DenoisingScoreMatching()": CONVOLVED,
    "MultiscaleDenoising()": STEEPER,
    "EnergyMatching()": SLOPES,
    "EquilibriumMatching()": SLOPES,
}
"""Objectives whose population target is no log-density of the rows, as their docstrings say."""

_CELL = re.compile(
    r"(?P<set>\w+): (?P<row>.+): held-out (?P<mean>\S+), sd (?P<sd>\S+), "
    r"log Z ± (?P<error>\S+), bracket (?P<bracket>\S+); of (?P<num>\d+) trainings "
    r"(?P<reliable>\d+) reliable, (?P<stopped>\d+) stopped, (?P<trusted>\d+) log Z trusted"
    r"(, (?P<failed>\d+) failed)?"
)
_REFERENCE = re.compile(r"(?P<set>\w+): reference, (?P<name>.+): (?P<mean>\S+)")
_ASKED = re.compile(r"objectives_?(\w*)")


def line_of(cell: dict[str, Any]) -> str:
    """The line of the results on a cell: a dict of the names in `_CELL`."""
    line = (
        "{set}: {row}: held-out {mean}, sd {sd}, log Z ± {error}, bracket {bracket}; of {num} "
        "trainings {reliable} reliable, {stopped} stopped, {trusted} log Z trusted"
    ).format(**cell)
    return line + (f", {cell['failed']} failed" if cell["failed"] else "")


def reference_line(name: str, what: str, value: float) -> str:
    return f"{name}: reference, {what}: {value:.3f}"


def number(value: float | None) -> str:
    """As it stands in a line: "none" for None, in three digits after the point below 1,000."""
    if value is None:
        return "none"
    return f"{value:.3f}" if abs(value) < 1e3 else f"{value:.3g}"


def table(document: dict[str, Any], target: str) -> list[str]:
    """The table `objectives`, all sets beside each other, or `objectives_NAME`, one in full."""
    cells = [m.groupdict() for note in document["notes"] if (m := _CELL.match(note))]
    references = [m.groupdict() for note in document["notes"] if (m := _REFERENCE.match(note))]
    asked = _ASKED.fullmatch(target)
    assert asked is not None, target
    if asked[1]:
        seconds = {t["name"]: t for t in document["timings"]}
        mine = [cell for cell in cells if cell["set"] == asked[1]]
        return _one(mine, [r for r in references if r["set"] == asked[1]], seconds)
    return _all(cells, references)


def _all(cells: list[dict[str, Any]], references: list[dict[str, Any]]) -> list[str]:
    """Objectives by data sets: mean ± sd of the held-out log-likelihood."""
    shown = [name for name in TITLES if any(cell["set"] == name for cell in cells)]
    lines = [
        "| objective | " + " | ".join(TITLES[name] for name in shown) + " |",
        "| --- |" + " ---: |" * len(shown),
    ]
    for what in dict.fromkeys(r["name"] for r in references):
        known = {r["set"]: r["mean"] for r in references if r["name"] == what}
        lines.append(_row(f"*{what}*", (_minus(known.get(name, "–")) for name in shown)))
    for row in dict.fromkeys(cell["row"] for cell in cells):
        found = {cell["set"]: _likelihood(cell) for cell in cells if cell["row"] == row}
        lines.append(_row(_named(row), (found.get(name, "–") for name in shown)))
    return lines + _footnotes(cells)


def _one(cells, references, seconds) -> list[str]:
    """All that was measured on one data set."""
    lines = [
        "| objective | held-out, nats a row | log Z ± | bracket | CPU s | compiling, s "
        "| reliable | stopped | log Z trusted |",
        "| --- |" + " ---: |" * 8,
    ]
    for r in references:
        lines.append(_row(f"*{r['name']}*", [_minus(r["mean"]), *[""] * 7]))
    for cell in cells:
        time = seconds.get(f"{cell['set']}, {cell['row']}")  # of a failed one there is none
        lines.append(
            _row(
                _named(cell["row"]),
                [
                    _likelihood(cell),
                    _none(cell["error"]),
                    _none(cell["bracket"]),
                    *(f"{time[key]:.1f}" if time else "–" for key in ("cpu_median", "first")),
                    *(f"{cell[key]} of {cell['num']}" for key in ("reliable", "stopped")),
                    f"{cell['trusted']} of {cell['num']}",
                ],
            )
        )
    return lines + _footnotes(cells)


def _likelihood(cell: dict[str, Any]) -> str:
    """The mean over seeds whose log Z can be trusted, with how many these are where not all."""
    if cell["failed"] == cell["num"]:
        return "failed"
    if cell["trusted"] == "0":
        text = "log Z untrusted"
    else:
        text = _minus(cell["mean"])
        text += f" ± {cell['sd']}" if cell["sd"] != "none" else ""
        if cell["trusted"] != cell["num"]:
            text += f" ({cell['trusted']} of {cell['num']})"
    return text + "".join(f" {MARKS[why]}" for why in _remarks(cell))


def _remarks(cell: dict[str, Any]) -> list[str]:
    """What a footnote says of a cell."""
    said = [NOT_THE_ROWS[cell["row"]]] if cell["row"] in NOT_THE_ROWS else []
    return said + ([DOUBTED] if cell["reliable"] != cell["num"] else [])


def _named(row: str) -> str:
    """The name as code, what is said beside it as words."""
    code, comma, words = row.partition("), ")
    return f"`{code})`, {words}" if comma else f"`{row}`"


def _footnotes(cells: Iterable[dict[str, Any]]) -> list[str]:
    """Paragraphs below a table."""
    said = {why for cell in cells for why in _remarks(cell)}
    lines = []
    for why, mark in MARKS.items():
        if why in said:
            what = "" if why == DOUBTED else "Not a likelihood of the rows: "
            lines += ["", f"{mark} {what}{why}."]
    return lines


def _row(first: str, rest: Iterable[str]) -> str:
    return f"| {first} | " + " | ".join(rest) + " |"


def _minus(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text


def _none(text: str) -> str:
    return "–" if text == "none" else text
