"""What the driver keeps of a run, thinned when it grows too many, and points as rows of numbers."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np

from energax import diagnostics
from energax.energies._base import AbstractEnergy, batched
from energax.spaces import AbstractSpace, Box, Count, Point, Real, Record


def flat_rows(leaves: list[np.ndarray]) -> np.ndarray:
    """Points, each leaf (num, *part), as float64 (num, coordinates)."""
    return np.concatenate([a.reshape(len(a), -1).astype(np.float64) for a in leaves], axis=1)


def f_at(energy: AbstractEnergy, flat: np.ndarray, like: Point) -> np.ndarray:
    """f at points given flat, (num, coordinates), in float64; `like`: points (num, *event)."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf[0].size for leaf in leaves])[:-1]
    points = []
    for part, leaf in zip(np.split(flat, ends, axis=1), leaves, strict=True):
        if leaf.dtype.kind == "i":
            part = np.round(part.clip(0, 2**30))
        points.append(jax.device_put(part.reshape(-1, *leaf.shape[1:]).astype(leaf.dtype)))
    f = eqx.filter_jit(batched)(energy, jax.tree.unflatten(structure, points))
    return np.asarray(f).astype(np.float64)


def ends(space: AbstractSpace) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper) ends of all coordinates, flat: ±inf where there is none, NaN where there is
    nothing to approach by small steps or to run off to (few values; counts from below)."""
    parts = list(space.parts.values()) if isinstance(space, Record) else [space]
    found = []
    for part in parts:
        low, high = np.nan, np.nan
        if isinstance(part, Box):
            low, high = part.low, part.high
        elif isinstance(part, Real):
            low, high = -np.inf, np.inf
        elif isinstance(part, Count):
            high = np.inf
        each = [np.broadcast_to(np.asarray(end, np.float64), part.shape) for end in (low, high)]
        found.append(np.stack([end.ravel() for end in each]))
    low, high = np.concatenate(found, axis=1)
    return low, high


def evenly(size: int, num: int) -> np.ndarray:
    """Up to `num` of the numbers below `size`, at even distances."""
    return np.linspace(0, size - 1, min(num, size)).astype(int)


class History:
    """The sampling phase: x and f after each step, thinned by two whenever it grows too large."""

    def __init__(self, most_steps: int):
        self._most = max(int(most_steps), 8)
        self._blocks: list[tuple[list[np.ndarray], np.ndarray]] = []
        self._structure: Any = None
        self.thin = 1
        self.num_steps = 0

    def add(self, x: Point, log_density: Any, drop: int = 0) -> None:
        """A block of steps, x (steps, chains, *event), without its last `drop` steps."""
        leaves, self._structure = jax.tree.flatten(x)
        steps = len(log_density) - drop
        keep = slice((-self.num_steps - 1) % self.thin, steps, self.thin)
        kept = [np.asarray(a)[keep] for a in (*leaves, log_density)]
        if len(kept[-1]) < len(log_density):  # a view would hold the whole block
            kept = [a.copy() for a in kept]
        self._blocks.append((kept[:-1], kept[-1]))
        self.num_steps += steps
        if self.num_kept > self._most:
            self.thin *= 2
            leaves, f = self._joined()
            self._blocks = [([a[1::2].copy() for a in leaves], f[1::2].copy())]

    def restore(
        self, leaves: list[np.ndarray], log_density: np.ndarray, structure: Any, thin: int, num: int
    ) -> None:
        """What a history had kept of `num` steps, every `thin`-th of them."""
        self._blocks, self._structure = [(leaves, log_density)], structure
        self.thin, self.num_steps = thin, num

    @property
    def num_kept(self) -> int:
        return sum(len(f) for _, f in self._blocks)

    def _joined(self) -> tuple[list[np.ndarray], np.ndarray]:
        if len(self._blocks) > 1:
            leaves = [np.concatenate(a) for a in zip(*(b[0] for b in self._blocks), strict=True)]
            self._blocks = [(leaves, np.concatenate([b[1] for b in self._blocks]))]
        return self._blocks[0]

    def since(self, first: int) -> "Kept":
        """What was kept from the kept step number `first` on."""
        leaves, f = self._joined()
        return Kept(leaves, f, self._structure).since(first)


@dataclasses.dataclass
class Kept:
    """Kept draws: each leaf of x is (steps, chains, *part), f (steps, chains)."""

    leaves: list[np.ndarray]
    log_density: np.ndarray
    structure: Any

    def since(self, first: int) -> "Kept":
        """Without the steps before number `first`."""
        return Kept([a[first:] for a in self.leaves], self.log_density[first:], self.structure)

    def until(self, end: int) -> "Kept":
        """The steps before number `end`."""
        return Kept([a[:end] for a in self.leaves], self.log_density[:end], self.structure)

    def some(self, num: int) -> "Kept":
        """Up to `num` of the steps, at even distances."""
        chosen = evenly(len(self.log_density), num)
        return Kept([a[chosen] for a in self.leaves], self.log_density[chosen], self.structure)

    @staticmethod
    def joined(runs: "list[Kept]") -> "Kept":
        """The steps of one run after the other, of the same chains."""
        leaves = [np.concatenate(a) for a in zip(*(run.leaves for run in runs), strict=True)]
        return Kept(leaves, np.concatenate([r.log_density for r in runs]), runs[0].structure)

    def columns(self) -> list[np.ndarray]:
        """f and each leaf of x as (chains, steps, quantities)."""
        steps, chains = self.log_density.shape
        arrays = [self.log_density, *self.leaves]
        return [a.reshape(steps, chains, -1).swapaxes(0, 1) for a in arrays]

    def principal(self, num: int = 2) -> np.ndarray:
        """The draws along the directions of largest variance, (chains, steps, at most `num`).

        Coordinates are in units of their sd. Modes that lie apart in many coordinates at once, by
        little in each, lie apart along the first of them. Found by power iteration.
        """
        columns = self.columns()[1:]
        size = sum(c.shape[2] for c in columns)
        steps, chains = self.log_density.shape
        if size < 2:
            return np.zeros((chains, steps, 0))
        thin = max(1, steps * chains // 4_096)
        rows = np.concatenate(
            [c[:, ::thin].reshape(-1, c.shape[2]).astype(np.float64) for c in columns], axis=1
        )
        mean, sd = rows.mean(0), rows.std(0)
        weight = np.where(sd > 0, 1 / np.where(sd > 0, sd, 1.0), 0.0)
        rows = np.nan_to_num((rows - mean) * weight, posinf=0.0, neginf=0.0)
        v = np.random.default_rng(0).normal(size=(size, min(num, size)))
        for _ in range(30):
            v, _ = np.linalg.qr(rows.T @ (rows @ v))
        v, out, at = v * weight[:, None], 0.0, 0
        for c in columns:
            out = out + c.astype(np.float64) @ v[at : at + c.shape[2]]
            at += c.shape[2]
        return np.asarray(out)

    def rebuild(self, flat: np.ndarray) -> Any:
        """A number for each coordinate of x, (quantities,), in the shape of a point."""
        out, at = [], 0
        for leaf in self.leaves:
            size = int(np.prod(leaf.shape[2:]))
            out.append(flat[at : at + size].reshape(leaf.shape[2:]))
            at += size
        return jax.tree.unflatten(self.structure, out)


@dataclasses.dataclass
class Assessment:
    """Diagnostics of f (number 0) and of every coordinate of x, and what is wrong."""

    kept: Kept
    summary: diagnostics.Summary
    rhat_limit: float
    reasons: list[str]

    @property
    def ess(self) -> float:
        """The least bulk or tail ESS of any quantity that is not constant."""
        ess = np.minimum(self.summary.ess_bulk, self.summary.ess_tail)
        return float(np.min(ess[~self.summary.is_constant], initial=np.inf))

    @property
    def sd_error(self) -> float:
        """The largest Monte Carlo error of an sd, in units of it."""
        sd, error = self.summary.sd, self.summary.mcse_sd
        some = (sd > 0) & ~self.summary.is_constant
        return float(np.max(error[some] / sd[some], initial=0.0))


def pooled_moments(runs: list[Kept]) -> tuple[Any, Any]:
    """(mean, variance) of each coordinate over all chains of all runs, each run counting alike."""
    mean, variance = [], []
    for leaves in zip(*(run.leaves for run in runs), strict=True):
        means = np.stack([a.mean((0, 1), float) for a in leaves])
        within = np.stack([a.var((0, 1), float) for a in leaves])
        mean.append(means.mean(0))
        variance.append(within.mean(0) + means.var(0))
    structure = runs[0].structure
    return jax.tree.unflatten(structure, mean), jax.tree.unflatten(structure, variance)
