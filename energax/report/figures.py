"""The pictures of a report, each a PNG with a sentence that says what it shows."""

import io as bytes_io
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractEnergy
from energax.report._base import Figure
from energax.results import Draws

_COLOURS = ("#1f5a99", "#c1531b", "#2c7a3f", "#7a3b8f", "#946b00", "#4d4d4d", "#a3195b", "#007c80")


def _new(num_columns: int = 1, *, width: float = 9.0, height: float = 3.2, num_rows: int = 1):
    """(figure, axes as a 2-d array), without touching pyplot's global state."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise ImportError("reports need matplotlib: pip install energax[report]") from error
    canvas = Canvas(figsize=(width, height * num_rows), layout="constrained")
    return canvas, canvas.subplots(num_rows, num_columns, squeeze=False)


def _png(canvas, alt: str) -> Figure:
    buffer = bytes_io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=110)
    return Figure(buffer.getvalue(), alt)


def image_grid(images: np.ndarray, title: str, num_columns: int = 10) -> Figure:
    """Images (num, height, width) in rows of `num_columns`, one grey scale for all."""
    scale = {"vmin": float(np.min(images)), "vmax": float(np.max(images))}
    canvas = _grid(images, num_columns, cmap="gray", **scale)
    return _png(canvas, f"{len(images)} images: {title}")


def _grid(images: np.ndarray, num_columns: int, **options: Any):
    """Images (num, height, width) in rows of `num_columns`; `options` of Matplotlib's imshow."""
    num_rows = -(-len(images) // num_columns)
    canvas, axes = _new(num_columns, num_rows=num_rows, height=0.95)
    for ax, image in zip(axes.flat, images, strict=False):
        ax.imshow(image, **options)
    for ax in axes.flat:
        ax.set_axis_off()
    return canvas


def before_after(rows: Mapping[str, np.ndarray], shape: tuple[int, int]) -> Figure:
    """Images of each kind under one another, one column an image."""
    num_columns = len(next(iter(rows.values())))
    canvas, axes = _new(num_columns, num_rows=len(rows), height=1.0)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, images, strict=True):
            ax.imshow(np.reshape(image, shape), cmap="gray", vmin=0, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return _png(canvas, "rows from top to bottom: " + ", ".join(rows))


def energy_histograms(energies: Mapping[str, np.ndarray]) -> Figure:
    """Histograms of E(x) of several sets of rows on one axis."""
    canvas, axes = _new()
    ax = axes[0, 0]
    finite = {name: v[np.isfinite(v)] for name, v in energies.items()}
    everything = np.concatenate(list(finite.values()))
    low, high = np.quantile(everything, [0.001, 0.999])
    edges = np.linspace(low, high, 50)
    for colour, (name, values) in zip(_COLOURS, finite.items(), strict=False):
        ax.hist(values, edges, density=True, histtype="step", lw=1.8, color=colour, label=name)
    ax.set_xlabel("energy E(x)")
    ax.set_ylabel("density")
    ax.legend()
    return _png(canvas, "energies of " + ", ".join(energies))


def training_curves(history: Mapping[str, np.ndarray]) -> Figure:
    """The two halves of the gradient and their gap against the step."""
    halves = [name for name in ("energy_data", "energy_samples", "loss") if name in history]
    if "energy_samples" in halves:
        halves.remove("loss")
    canvas, axes = _new(2)
    for colour, name in zip(_COLOURS, halves, strict=False):
        axes[0, 0].plot(history["step"], history[name], color=colour, label=name, lw=1)
    axes[0, 0].legend()
    second = "gap" if "gap" in history else "gradient_norm"
    axes[0, 1].plot(history["step"], history[second], color=_COLOURS[3], lw=1, label=second)
    axes[0, 1].legend()
    for ax in axes.flat:
        ax.set_xlabel("step")
    return _png(canvas, f"training curves: {', '.join(halves)} and {second}")


def likelihood_curves(history: Mapping[str, np.ndarray]) -> Figure:
    """Tracked log-likelihoods of held-out and of training rows, ±2 standard errors of log Z."""
    canvas, axes = _new()
    ax, step = axes[0, 0], history["log_likelihood_step"]
    error = 2 * history["log_likelihood_std_err"]
    shown = np.isfinite(history["log_likelihood"]) & np.isfinite(error)
    names = {"log_likelihood": "held-out rows", "log_likelihood_training": "training rows"}
    for colour, (name, label) in zip(_COLOURS, names.items(), strict=False):
        values = history[name][shown]
        ax.plot(step[shown], values, color=colour, lw=1.2, label=label)
        low, high = values - error[shown], values + error[shown]
        ax.fill_between(step[shown], low, high, color=colour, alpha=0.2, lw=0)
    if shown.any():
        best = np.flatnonzero(shown)[np.argmax(history["log_likelihood"][shown])]
        ax.axvline(step[best], color=_COLOURS[5], lw=0.8, ls="--")
    ax.set_xlabel("step")
    ax.set_ylabel("log-likelihood, nats a row")
    ax.legend()
    return _png(canvas, "log-likelihood during training, ±2 standard errors of log Z; dashed: best")


def chain_diagnostics(draws: Draws) -> Figure:
    """Trace, ranks and ESS of the log-density of the draws."""
    values = np.asarray(draws.log_density, float)
    canvas, axes = _new(3)
    trace, ranks, ess = axes[0]
    for colour, chain in zip(_COLOURS, values, strict=False):
        trace.plot(chain, lw=0.6, color=colour)
    trace.set_xlabel("draw")
    trace.set_ylabel("log density f")
    order = values.ravel().argsort().argsort().reshape(values.shape)
    edges = np.linspace(0, values.size, 21)
    for colour, chain in zip(_COLOURS, order, strict=False):
        ranks.hist(chain, edges, histtype="step", color=colour)
    ranks.set_xlabel("rank of f among all chains")
    sizes = np.concatenate([np.ravel(v) for v in jax.tree.leaves(draws.ess_bulk)])
    steady = np.concatenate([np.ravel(v) for v in jax.tree.leaves(draws.constant)])
    ess.hist(sizes[~steady], 30, color=_COLOURS[0])
    ess.axvline(400, color=_COLOURS[1])
    ess.set_xlabel("bulk ESS of each coordinate (limit 400)")
    return _png(canvas, "chains: trace of the log density, rank histogram, effective sample sizes")


def landscape(energy: AbstractEnergy, paths: Mapping[str, Draws], num_grid: int = 150) -> Figure:
    """exp(f) of a 2-d energy as contours, with the first 300 draws of one chain of each run."""
    points = np.concatenate([d.x.reshape(-1, 2) for d in paths.values()])
    low, high = points.min(0), points.max(0)
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    grid = np.stack(
        np.meshgrid(*(np.linspace(low[i], high[i], num_grid) for i in (0, 1)), indexing="xy"), -1
    )
    f = np.asarray(jax.vmap(energy.log_density)(jnp.asarray(grid.reshape(-1, 2), float)))
    density = np.exp(f - np.nanmax(f)).reshape(num_grid, num_grid)
    canvas, axes = _new(len(paths) + 1, height=3.6, width=4.0 * (len(paths) + 1))
    for ax in axes[0]:
        ax.contourf(grid[..., 0], grid[..., 1], density, 20, cmap="Blues")
        ax.set_aspect("equal")
    axes[0, 0].set_title("the density")
    for ax, (name, draws) in zip(axes[0, 1:], paths.items(), strict=True):
        every = np.asarray(draws.x).reshape(-1, 2)
        ax.plot(*every.T, ".", ms=1, color=_COLOURS[1], alpha=0.4)
        ax.plot(*np.asarray(draws.x)[0, :300].T, lw=0.5, color="#1a1a1a")
        ax.set_title(f"{name}: {'reliable' if draws.reliable else 'NOT reliable'}")
    names = ", ".join(paths)
    return _png(canvas, f"density of the 2-d energy, and draws with one chain's path by {names}")


def coordinate_histograms(train: np.ndarray, draws: np.ndarray, most: int = 8) -> Figure:
    """Marginals of the first coordinates: data against draws."""
    columns = min(most, train.shape[1])
    canvas, axes = _new(min(columns, 4), num_rows=-(-columns // 4), height=2.2)
    for i, ax in enumerate(list(axes.flat)[:columns]):
        both = np.concatenate([train[:, i], draws[:, i]])
        low, high = np.quantile(both, [0.001, 0.999])
        edges = np.linspace(low, high, 30)
        if edges[0] == edges[-1]:
            edges = np.linspace(edges[0] - 0.5, edges[0] + 0.5, 30)
        for colour, name, values in ((_COLOURS[0], "data", train), (_COLOURS[1], "draws", draws)):
            ax.hist(values[:, i], edges, density=True, histtype="step", color=colour, label=name)
        ax.set_title(f"column {i}", fontsize=9)
    axes.flat[0].legend(fontsize=8)
    return _png(canvas, f"marginals of the first {columns} columns: data against draws")


def filters(weight: np.ndarray, most: int = 40) -> Figure:
    """Weights (features, hidden) of the units whose weights are largest, as images where they are
    some, else as one table; blue below 0, red above."""
    order = np.argsort(-np.linalg.norm(weight, axis=0))[:most]
    rows, size = weight.T[order], max(float(np.abs(weight).max()), 1e-30)
    options = {"cmap": "RdBu_r", "vmin": -size, "vmax": size}
    images = as_images(rows)
    if images is None:
        canvas, axes = _new()
        axes[0, 0].imshow(rows, aspect="auto", interpolation="nearest", **options)
        axes[0, 0].set_xlabel("feature of the visible layer")
        axes[0, 0].set_ylabel("hidden unit")
    else:
        canvas = _grid(images, 10, **options)
    return _png(canvas, f"weights of the {len(rows)} hidden units with the largest, blue below 0")


def as_images(rows: Any) -> np.ndarray | None:
    """Rows as grey images where their shape allows: (num, h, w), or flat squares of 16 or more."""
    rows = np.asarray(rows)
    if rows.ndim == 4 and rows.shape[-1] == 1:
        return rows[..., 0]
    if rows.ndim == 3:
        return rows
    side = round(np.sqrt(rows.shape[1])) if rows.ndim == 2 else 0
    return rows.reshape(-1, side, side) if side >= 4 and side * side == rows.shape[1] else None
