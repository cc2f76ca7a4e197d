"""Curves, histograms and points, described once and drawn twice.

Matplotlib draws the picture that a page shows where scripts do not run, and page/plots.js the same
description as a figure that tells values under the pointer and lets itself be zoomed.
"""

import base64
import dataclasses
import io as bytes_io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from energax.report._base.page import Figure

COLOURS = ("#1f5a99", "#c1531b", "#2c7a3f", "#7a3b8f", "#946b00", "#4d4d4d", "#a3195b", "#007c80")
_MOST_POINTS = 2_000  # of a curve
_PALETTE = 128  # colours of a picture: a third of the bytes, and no difference to be seen


@dataclasses.dataclass(frozen=True)
class Series:
    """One set of numbers in a panel.

    - `kind`: "line" through (x, y); "steps", y of the bins whose edges are x (one more); "points".
    - `error`: of y, drawn as a band of ± around a line.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    kind: Literal["line", "steps", "points"] = "line"
    error: np.ndarray | None = None
    colour: str = COLOURS[0]


@dataclasses.dataclass(frozen=True)
class Panel:
    """A pair of axes with what is in it; `marks`: (x, name) of dashed lines across."""

    x: str
    series: Sequence[Series]
    y: str = ""
    title: str = ""
    marks: Sequence[tuple[float, str]] = ()


def canvas(num_columns: int = 1, *, width: float = 9.0, height: float = 3.2, num_rows: int = 1):
    """(figure, axes as a 2-d array), without touching pyplot's global state."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise ImportError("reports need matplotlib: pip install energax[report]") from error
    figure = Canvas(figsize=(width, height * num_rows), layout="constrained")
    return figure, figure.subplots(num_rows, num_columns, squeeze=False)


def picture(figure: Any, alt: str, data: dict[str, Any] | None = None) -> Figure:
    """A Matplotlib figure as one of the page; `data`: what the page's script draws instead."""
    import PIL.Image  # of which Matplotlib is made

    drawn, small = bytes_io.BytesIO(), bytes_io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    whole = PIL.Image.open(drawn).convert("RGB")
    whole.quantize(_PALETTE, dither=PIL.Image.Dither.NONE).save(small, "PNG", optimize=True)
    return Figure(small.getvalue(), alt, data)


def plotted(panels: Sequence[Panel], alt: str, *, height: float = 3.2, most: int = 4) -> Figure:
    """The panels side by side, at most `most` in a row."""
    num_columns = min(len(panels), most)
    num_rows = -(-len(panels) // num_columns)
    figure, axes = canvas(num_columns, num_rows=num_rows, height=height)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, panel in zip(axes.flat, panels, strict=False):
        _draw(ax, panel)
    return picture(figure, alt, {"kind": "panels", "panels": [_panel(panel) for panel in panels]})


def _draw(ax, panel: Panel) -> None:
    for each in panel.series:
        style: dict[str, Any] = {"color": each.colour, "label": each.name}
        if each.kind == "steps":
            ax.stairs(each.y, each.x, lw=1.5, **style)
        elif each.kind == "points":
            ax.plot(each.x, each.y, ".", ms=2, alpha=0.6, **style)
        else:
            ax.plot(each.x, each.y, lw=1, **style)
        if each.error is not None:
            low, high = each.y - each.error, each.y + each.error
            ax.fill_between(each.x, low, high, color=each.colour, alpha=0.2, lw=0)
    for x, _ in panel.marks:
        ax.axvline(x, color=COLOURS[5], lw=0.8, ls="--")
    ax.set_xlabel(panel.x)
    ax.set_ylabel(panel.y)
    ax.set_title(panel.title, fontsize=9)
    if 1 < len(panel.series) <= 4:
        ax.legend(fontsize=8)


def _panel(panel: Panel) -> dict[str, Any]:
    told = {"x": panel.x, "y": panel.y, "title": panel.title}
    marks = [{"x": float(x), "name": name} for x, name in panel.marks]
    return {**told, "series": [_series(each) for each in panel.series], "marks": marks}


def _series(each: Series) -> dict[str, Any]:
    x, y, error = (None if a is None else np.asarray(a) for a in (each.x, each.y, each.error))
    assert x is not None and y is not None
    if each.kind == "line" and len(y) > _MOST_POINTS:
        kept = _extremes(y)
        x, y, error = x[kept], y[kept], None if error is None else error[kept]
    told = {"kind": each.kind, "name": each.name, "colour": each.colour, "x": numbers(x, 7)}
    told |= {"y": numbers(y)}
    return told if error is None else {**told, "error": numbers(error)}


def _extremes(y: np.ndarray) -> np.ndarray:
    """Places of the lowest and the highest value of stretches of a curve, in order."""
    finite = np.isfinite(y)
    y = np.where(finite, y, y[finite].mean() if finite.any() else 0.0)
    stretches = np.array_split(np.arange(len(y)), _MOST_POINTS // 2)
    places = [s[[y[s].argmin(), y[s].argmax()]] for s in stretches]
    return np.unique(np.concatenate(places))


def numbers(values: Any, digits: int = 5) -> list[Any]:
    """Numbers as JSON holds them, to so many significant digits; None where not finite."""
    array = np.asarray(values, np.float64)
    if array.ndim > 1:
        return [numbers(part, digits) for part in array]
    short = (float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in array)
    return [int(v) if v is not None and v.is_integer() and abs(v) < 1e15 else v for v in short]


def coded(values: np.ndarray, low: Any, high: Any) -> str:
    """Numbers from `low` to `high` in 65,536 steps, two bytes each, as base64."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    share = np.clip((np.asarray(values, np.float64) - low) / (high - low), 0, 1)
    return base64.b64encode(np.round(65_535 * share).astype("<u2").tobytes()).decode("ascii")
