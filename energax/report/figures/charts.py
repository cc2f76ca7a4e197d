"""Figures of numbers: curves of a training, histograms, chains, pairs of columns."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from energax.report._base import (
    COLOURS,
    Figure,
    Panel,
    Series,
    canvas,
    numbers,
    picture,
    plotted,
)
from energax.results import Draws

_MOST_PAIRED = 400  # rows of each kind
_MOST_CHAINS = 8


def energy_histograms(energies: Mapping[str, np.ndarray]) -> Figure:
    """Histograms of E(x) of several sets of rows on one axis."""
    finite = {name: v[np.isfinite(v)] for name, v in energies.items()}
    edges = _edges(np.concatenate(list(finite.values())), 50)
    series = [
        _histogram(name, values, edges, colour, density=True)
        for colour, (name, values) in zip(COLOURS, finite.items(), strict=False)
    ]
    panel = Panel("energy E(x)", series, "density", "Energies")
    return plotted([panel], "energies of " + ", ".join(energies))


def _edges(values: np.ndarray, num: int) -> np.ndarray:
    """Of bins for all but the outermost thousandths."""
    low, high = np.quantile(values, [0.001, 0.999])
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, num)


def _histogram(
    name: str, values: np.ndarray, edges: np.ndarray, colour: str, *, density: bool = False
) -> Series:
    inside = values[(values >= edges[0]) & (values <= edges[-1])]
    counts = np.histogram(inside, edges)[0].astype(float)
    if density:
        counts = counts / np.maximum(counts.sum() * np.diff(edges), 1e-300)
    return Series(name, edges, counts, "steps", colour=colour)


def training_curves(history: Mapping[str, np.ndarray]) -> Figure:
    """The two halves of the gradient and their gap against the step."""
    halves = [name for name in ("energy_data", "energy_samples", "loss") if name in history]
    if "energy_samples" in halves:
        halves = [name for name in halves if name != "loss"]
    second = "gap" if "gap" in history else "gradient_norm"
    step = history["step"]
    left = [
        Series(name, step, history[name], colour=colour)
        for colour, name in zip(COLOURS, halves, strict=False)
    ]
    right = [Series(second, step, history[second], colour=COLOURS[3])] if second in history else []
    panels = [Panel("step", left, title="Training"), Panel("step", right, second)]
    shown = [panel for panel in panels if panel.series]
    return plotted(shown, f"training curves: {', '.join([*halves, *(s.name for s in right)])}")


def likelihood_curves(history: Mapping[str, np.ndarray]) -> Figure:
    """Tracked log-likelihoods of held-out and of training rows, ±2 standard errors of log Z."""
    step, error = history["log_likelihood_step"], 2 * history["log_likelihood_std_err"]
    seen = np.isfinite(history["log_likelihood"]) & np.isfinite(error)
    names = {"log_likelihood": "held-out rows", "log_likelihood_training": "training rows"}
    series = [
        Series(label, step[seen], history[name][seen], error=error[seen], colour=colour)
        for colour, (name, label) in zip(COLOURS, names.items(), strict=False)
    ]
    marks = []
    if seen.any():
        best = np.flatnonzero(seen)[np.argmax(history["log_likelihood"][seen])]
        marks = [(float(step[best]), "best")]
    panel = Panel("step", series, "log-likelihood, nats a row", "Log-likelihood", marks)
    alt = "log-likelihood during training, ±2 standard errors of log Z; dashed: best"
    return plotted([panel], alt)


def chain_diagnostics(draws: Draws) -> Figure:
    """Trace, ranks and ESS of the log-density of the draws."""
    values = np.asarray(draws.log_density, float)[:_MOST_CHAINS]
    names = [f"chain {i}" for i in range(len(values))]
    number = np.arange(values.shape[1])
    traces = [
        Series(name, number, chain, colour=colour)
        for colour, name, chain in zip(COLOURS, names, values, strict=False)
    ]
    order = values.ravel().argsort().argsort().reshape(values.shape)
    edges = np.linspace(0, values.size, 21)
    ranks = [
        _histogram(name, chain, edges, colour)
        for colour, name, chain in zip(COLOURS, names, order, strict=False)
    ]
    sizes = np.concatenate([np.ravel(v) for v in jax.tree.leaves(draws.ess_bulk)])
    steady = np.concatenate([np.ravel(v) for v in jax.tree.leaves(draws.constant)])
    moving = sizes[~steady]
    bins = np.histogram_bin_edges(moving, 30) if len(moving) else np.linspace(0, 400, 31)
    panels = [
        Panel("draw", traces, "log density f", "Traces"),
        Panel("rank of f among all chains", ranks, "draws", "Ranks"),
        Panel(
            "bulk ESS of each coordinate (limit 400)",
            [_histogram("coordinates", moving, bins, COLOURS[0])],
            "coordinates",
            "Effective draws",
            [(400.0, "limit")],
        ),
    ]
    alt = "chains: trace of the log density, rank histogram, effective sample sizes"
    return plotted(panels, alt)


def coordinate_histograms(train: np.ndarray, draws: np.ndarray, most: int = 8) -> Figure:
    """Marginals of the first coordinates: data against draws."""
    columns = min(most, train.shape[1])
    panels = []
    kinds = {"data": train, "draws": draws}
    for i in range(columns):
        edges = _edges(np.concatenate([train[:, i], draws[:, i]]), 30)
        series = [
            _histogram(name, values[:, i], edges, colour, density=True)
            for colour, (name, values) in zip(COLOURS, kinds.items(), strict=False)
        ]
        panels.append(Panel(f"column {i}", series, "density", f"column {i}"))
    alt = f"marginals of the first {columns} columns: data against draws"
    return plotted(panels, alt, height=2.2)


def pairs(groups: Mapping[str, np.ndarray], columns: Sequence[str]) -> Figure:
    """Rows of several kinds as points over two columns: the first two in the picture, any two in
    the page. `columns`: names of the first columns."""
    shown = {
        name: np.asarray(rows)[:: -(-len(rows) // _MOST_PAIRED), : len(columns)]
        for name, rows in groups.items()
    }
    figure, axes = canvas(width=5.0, height=4.0)
    for colour, (name, rows) in zip(COLOURS, shown.items(), strict=False):
        axes[0, 0].plot(rows[:, 0], rows[:, 1], ".", ms=3, alpha=0.6, color=colour, label=name)
    axes[0, 0].set_xlabel(columns[0])
    axes[0, 0].set_ylabel(columns[1])
    axes[0, 0].legend(fontsize=8)
    told = [
        {"name": name, "colour": colour, "values": numbers(rows.T)}
        for colour, (name, rows) in zip(COLOURS, shown.items(), strict=False)
    ]
    alt = f"{' and '.join(groups)} over {columns[0]} and {columns[1]}"
    return picture(figure, alt, {"kind": "pairs", "columns": list(columns), "groups": told})
