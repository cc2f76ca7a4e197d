"""A density in two dimensions, and the chains that move over it."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractEnergy
from energax.report._base import COLOURS, Figure, canvas, coded, picture
from energax.results import Draws

_MOST_DRAWS, _MOST_CHAINS = 300, 16  # of a run, in the page
_DEPTH = 50.0  # nats below the top that the page tells apart


def landscape(energy: AbstractEnergy, paths: Mapping[str, Draws], num_grid: int = 120) -> Figure:
    """exp(f) of a 2-d energy. The picture has the draws and one chain's path of each run; the page
    moves all chains over it, draw by draw as they were recorded (a row of `Draws.x` is a chain).

    Under 60 KB of data, and 30 for each run.
    """
    points = np.concatenate([np.asarray(d.x, float).reshape(-1, 2) for d in paths.values()])
    low, high = points.min(0), points.max(0)
    margin = np.maximum(0.1 * (high - low), 1e-6 * (1 + np.abs(low)))
    low, high = low - margin, high + margin
    axes_at = [np.linspace(low[i], high[i], num_grid) for i in (0, 1)]
    grid = np.stack(np.meshgrid(*axes_at, indexing="xy"), -1)
    f = np.asarray(jax.vmap(energy.log_density)(jnp.asarray(grid.reshape(-1, 2), float)), float)
    top = float(np.max(f[np.isfinite(f)]))
    f = np.maximum(np.where(np.isnan(f), -np.inf, f), top - _DEPTH)
    density = np.exp(f - top).reshape(num_grid, num_grid)
    figure, axes = canvas(len(paths) + 1, height=3.6, width=4.0 * (len(paths) + 1))
    for ax in axes[0]:
        ax.contourf(grid[..., 0], grid[..., 1], density, 20, cmap="Blues")
        ax.set_aspect("equal")
    axes[0, 0].set_title("the density")
    for ax, (name, draws) in zip(axes[0, 1:], paths.items(), strict=True):
        every = np.asarray(draws.x).reshape(-1, 2)
        ax.plot(*every.T, ".", ms=1, color=COLOURS[1], alpha=0.4)
        ax.plot(*np.asarray(draws.x)[0, :300].T, lw=0.5, color="#1a1a1a")
        ax.set_title(_verdict(name, draws))
    data = {
        "kind": "landscape",
        "size": num_grid,
        "xs": [float(low[0]), float(high[0])],
        "ys": [float(low[1]), float(high[1])],
        "low": top - _DEPTH,
        "high": top,
        "values": coded(f, top - _DEPTH, top),
        "colours": [COLOURS[i] for i in (1, 2, 3, 4, 6, 7, 5)],
        "runs": [_run(name, draws, low, high) for name, draws in paths.items()],
    }
    alt = f"density of the 2-d energy, and draws with one chain's path by {', '.join(paths)}"
    return picture(figure, alt, data)


def _verdict(name: str, draws: Draws) -> str:
    return f"{name}: {'reliable' if draws.reliable else 'NOT reliable'}"


def _run(name: str, draws: Draws, low: np.ndarray, high: np.ndarray) -> dict:
    """The first draws of the first chains, time first."""
    x = np.asarray(draws.x, float)[:_MOST_CHAINS, :_MOST_DRAWS]
    every = max(1, round(draws.num_steps / np.shape(draws.x)[1]))
    return {
        "name": _verdict(name, draws),
        "chains": x.shape[0],
        "draws": x.shape[1],
        "every": f"{every} step{'' if every == 1 else 's'}",
        "points": coded(x.transpose(1, 0, 2), low, high),
    }
