"""Figures that are pictures: rows that are images, and weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from energax.report._base import Figure, canvas, picture


def image_grid(images: np.ndarray, title: str, num_columns: int = 10) -> Figure:
    """Images (num, height, width) in rows of `num_columns`, one grey scale for all."""
    scale = {"vmin": float(np.min(images)), "vmax": float(np.max(images))}
    figure = _grid(images, num_columns, cmap="gray", **scale)
    return picture(figure, f"{len(images)} images: {title}")


def _grid(images: np.ndarray, num_columns: int, **options: Any):
    """Images (num, height, width) in rows of `num_columns`; `options` of Matplotlib's imshow."""
    num_rows = -(-len(images) // num_columns)
    figure, axes = canvas(num_columns, num_rows=num_rows, height=0.95)
    for ax, image in zip(axes.flat, images, strict=False):
        ax.imshow(image, **options)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure


def before_after(rows: Mapping[str, np.ndarray], shape: tuple[int, int]) -> Figure:
    """Images of each kind under one another, one column an image."""
    num_columns = len(next(iter(rows.values())))
    figure, axes = canvas(num_columns, num_rows=len(rows), height=1.0)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, images, strict=True):
            ax.imshow(np.reshape(image, shape), cmap="gray", vmin=0, vmax=1)
        _name(line, name)
    return picture(figure, "rows from top to bottom: " + ", ".join(rows))


def unusual_images(images: np.ndarray, contributions: np.ndarray) -> Figure:
    """Images (num, height, width) over what each pixel contributes to their energy, red."""
    figure, axes = canvas(len(images), num_rows=2, height=1.0)
    most = max(float(np.max(contributions[np.isfinite(contributions)], initial=0.0)), 1e-30)
    scale = {"vmin": float(np.min(images)), "vmax": float(np.max(images))}
    for ax, image in zip(axes[0], images, strict=True):
        ax.imshow(image, cmap="gray", **scale)
    for ax, shares in zip(axes[1], contributions, strict=True):
        ax.imshow(np.minimum(shares, most), cmap="Reds", vmin=0, vmax=most)
    _name(axes[0], "row")
    _name(axes[1], "pixels")
    words = f"the {len(images)} most unusual rows, and below which pixels make them so"
    return picture(figure, f"{words}: white 0 nats, dark red {most:.3g}")


def _name(line, name: str) -> None:
    for ax in line:
        ax.set_xticks([])
        ax.set_yticks([])
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")


def filters(weight: np.ndarray, most: int = 40) -> Figure:
    """Weights (features, hidden) of the units whose weights are largest, as images where they are
    some, else as one table; blue below 0, red above."""
    order = np.argsort(-np.linalg.norm(weight, axis=0))[:most]
    rows, size = weight.T[order], max(float(np.abs(weight).max()), 1e-30)
    options = {"cmap": "RdBu_r", "vmin": -size, "vmax": size}
    images = as_images(rows)
    if images is None:
        figure, axes = canvas()
        axes[0, 0].imshow(rows, aspect="auto", interpolation="nearest", **options)
        axes[0, 0].set_xlabel("feature of the visible layer")
        axes[0, 0].set_ylabel("hidden unit")
    else:
        figure = _grid(images, 10, **options)
    alt = f"weights of the {len(rows)} hidden units with the largest, blue below 0"
    return picture(figure, alt)


def as_images(rows: Any) -> np.ndarray | None:
    """Rows as grey images where their shape allows: (num, h, w), or flat squares of 16 or more."""
    rows = np.asarray(rows)
    if rows.ndim == 4 and rows.shape[-1] == 1:
        return rows[..., 0]
    if rows.ndim == 3:
        return rows
    side = round(np.sqrt(rows.shape[1])) if rows.ndim == 2 else 0
    return rows.reshape(-1, side, side) if side >= 4 and side * side == rows.shape[1] else None
