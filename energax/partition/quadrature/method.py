"""log Z by adaptive quadrature in one to three continuous coordinates.

Every coordinate is stretched so that its ends, finite or not, lie exponentially far off. Then a
power law decays exponentially and an integrable singularity at a wall is gone, so that one question
decides whether Z is finite: does the density of t die out along every axis? The mass is first
looked for on many scales; the box of t is cut up around what was found and integrated by adaptive
cubature; random points check every cell, and the tails are followed to astronomical distances.
"""

import dataclasses
import math
from itertools import product

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractEnergy
from energax.partition._base import AbstractLogZMethod, Clock, answer, in_float64
from energax.partition.quadrature._base import (
    Cubature,
    StretchedMap,
    halton,
    halve,
    integrate,
)
from energax.results import LogZ
from energax.spaces import AbstractArraySpace, AbstractSpace, Box, Real, Record

_MAX_SUMMED = 4096  # discrete states summed at each node


class Quadrature(AbstractLogZMethod):
    """log Z = log ∫ exp(f(x)) dx for at most three real coordinates, times a small discrete sum.

    Genz & Malik 1980, "An adaptive algorithm for numerical integration over an N-dimensional
    rectangular region"; Gauss-Kronrod in one dimension. Evaluated in float64 where the energy can
    be traced so (its parameters widened), else as it is. `std_err` sums the error estimates of the
    cells and all that the tails may hold.

    **Arguments:** `max_evaluations`: of the energy, every discrete state counted.
    """

    max_evaluations: int = eqx.field(static=True, default=10_000_000)

    def cost(self, energy: AbstractEnergy) -> float:
        split = _split(energy.space)
        if split is None:
            return np.inf
        return float({1: 2.5e5, 2: 1.5e6, 3: 4e6}[split.dim] * split.num_states)

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        split = _split(energy.space)
        if split is None:
            raise TypeError(
                f"quadrature takes 1 to 3 coordinates on Real or Box (and up to {_MAX_SUMMED:,} "
                f"discrete states beside them), got {energy.space}; use method='ais'"
            )
        clock = Clock(max_seconds)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
        search = _Search(_Evaluator(energy, split, clock), split, rng, self.max_evaluations)
        return search.run(precision)


@dataclasses.dataclass(frozen=True)
class _Split:
    """The real coordinates of a space, and its discrete states listed beside them."""

    real: dict[str, AbstractArraySpace]
    discrete: Record | None
    is_record: bool

    @property
    def dim(self) -> int:
        return sum(part.num_sites for part in self.real.values())

    @property
    def num_states(self) -> int:
        return 1 if self.discrete is None else self.discrete.num_states or 1

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = [], []
        for part in self.real.values():
            a, b = (part.low, part.high) if isinstance(part, Box) else (-np.inf, np.inf)
            low.append(np.broadcast_to(np.asarray(a, np.float64), part.shape).ravel())
            high.append(np.broadcast_to(np.asarray(b, np.float64), part.shape).ravel())
        return np.concatenate(low), np.concatenate(high)

    def points(self, y):
        """All points that share the real coordinates `y`, one for each discrete state."""
        point, start = {}, 0
        for name, part in self.real.items():
            value = y[start : start + part.num_sites].reshape(part.shape)
            point[name] = jnp.broadcast_to(value, (self.num_states, *part.shape))
            start += part.num_sites
        if self.discrete is not None:
            point |= self.discrete.states(jnp.arange(self.num_states))
        return point if self.is_record else point[""]


def _split(space: AbstractSpace) -> _Split | None:
    """How quadrature reads `space`, None where it cannot."""
    parts = space.parts if isinstance(space, Record) else {"": space}
    real = {name: part for name, part in parts.items() if isinstance(part, (Real, Box))}
    rest = {name: part for name, part in parts.items() if name not in real}
    discrete = Record(**rest) if real and rest else None  # type: ignore[arg-type]
    num_states = 1 if discrete is None else discrete.num_states
    split = _Split(real, discrete, isinstance(space, Record))  # type: ignore[arg-type]
    fits = 1 <= split.dim <= 3 and num_states is not None and num_states <= _MAX_SUMMED
    return split if fits else None


@eqx.filter_jit
def _log_density(energy: AbstractEnergy, y):
    """f at real points (n, dim), summed over the discrete states."""
    split = _split(energy.space)
    assert split is not None

    def one(point):
        f = jax.vmap(energy.log_density)(split.points(point))
        return _log_sum(f) if split.num_states > 1 else f[0]

    return jax.vmap(one)(y)


def _log_sum(f):
    """log Σ exp(f). Where f is −10¹⁹, f computed twice by XLA differs by thousands, and exp(f − max
    f) is +inf or 0 for every term: none is above 1, and their sum not below."""
    top = jnp.max(f)
    base = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.sum(jnp.exp(jnp.minimum(f - base, 0.0)))
    return jnp.where(jnp.isfinite(top), base + jnp.log(jnp.maximum(total, 1.0)), top)


class _Evaluator:
    """f at many real points, (n, dim) -> (n,) float64, in padded blocks of two sizes."""

    def __init__(self, energy: AbstractEnergy, split: _Split, clock: Clock):
        self.clock, self.num_states = clock, split.num_states
        self.block = max(64, 2**14 >> (split.num_states - 1).bit_length())
        self.is_wide = True
        try:
            with jax.enable_x64(True):
                self.energy = in_float64(energy)
            self.is_wide = self._block(np.zeros((1, split.dim))).dtype == np.float64
        except Exception:  # the user's function insists on float32 somewhere
            self.is_wide = False
        if not self.is_wide:
            self.energy = energy
        self.eps = float(np.finfo(np.float64 if self.is_wide else np.float32).eps)

    def _block(self, x: np.ndarray) -> np.ndarray:
        with jax.enable_x64(self.is_wide):
            return np.asarray(_log_density(self.energy, jnp.asarray(x, float)))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.clock.num_evaluations += len(x) * self.num_states
        out, start, small = np.empty(len(x)), 0, self.block // 16
        while start < len(x):
            size = self.block if len(x) - start > self.block // 2 else small
            part = x[start : start + size]
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), 0)])
            out[start : start + size] = self._block(padded)[: len(part)]
            start += size
        return out


@dataclasses.dataclass
class _Modes:
    """Local maxima of the log density of t, with half-widths and Laplace estimates of the mass."""

    t: np.ndarray  # (m, dim)
    top: np.ndarray  # (m,)
    width: np.ndarray  # (m, dim) where it has fallen by 1
    log_mass: np.ndarray  # (m,)


class _Search:
    """One run: look for the mass, follow the tails, integrate."""

    def __init__(self, evaluate: _Evaluator, split: _Split, rng, max_evaluations: int):
        self.evaluate, self.dim, self.rng = evaluate, split.dim, rng
        self.clock, self.max_evaluations = evaluate.clock, max_evaluations
        low, high = split.ends()
        self.set_map(StretchedMap(low, high, np.zeros(self.dim), np.ones(self.dim)))
        self.infinite_at: np.ndarray | None = None

    def set_map(self, new: StretchedMap) -> None:
        self.map = new
        self.low, self.high = new.ends(self.evaluate.eps)

    def stop(self) -> bool:
        return self.clock.num_evaluations > self.max_evaluations or self.clock.out_of_time

    def density(self, t: np.ndarray) -> np.ndarray:
        """Log density of t, (n, dim) -> (n,). NaN stays; at +∞ it is looked up a hair aside."""
        with np.errstate(over="ignore", invalid="ignore"):
            x, jacobian = self.map(t)
            out = self.evaluate(x) + jacobian
            infinite = out == np.inf
            if infinite.any():
                aside = t[infinite] + 1e-6 * (1 + np.abs(t[infinite]))
                x, jacobian = self.map(np.where(aside > self.high, 2 * t[infinite] - aside, aside))
                out[infinite] = again = self.evaluate(x) + jacobian
                if (again == np.inf).any():
                    self.infinite_at = x[again == np.inf][0]
        return out

    def mass(self, t: np.ndarray) -> np.ndarray:
        """The same with NaN as no density."""
        out = self.density(t)
        return np.where(np.isnan(out), -np.inf, out)

    # Where the mass is -------------------------------------------------------------------------

    def scan(self, num: int = 2**16) -> np.ndarray:
        """Points on many scales at once, as t: (about num, dim)."""
        low, high = np.maximum(self.low, -35), np.minimum(self.high, 35)
        if self.dim == 1:
            even = self.even(np.linspace(0, 1, num + 2)[1:-1, None], 1.0)
            return np.concatenate([np.linspace(low, high, 2 * num), even])
        t = low + (high - low) * halton(num // 4, self.dim)
        scales = np.exp(np.repeat(np.linspace(-9, 20, 30), num // 40))
        return np.concatenate([t, self.even(halton(len(scales), self.dim)[::-1], scales)])

    def even(self, unit: np.ndarray, scale) -> np.ndarray:
        """Points of the unit box, spread evenly over a finite box, or within ±4 `scale`, as t."""
        m, x = self.map, np.empty(unit.shape)
        for i in range(self.dim):
            u, low, high = unit[:, i], m.low[i], m.high[i]
            if np.isfinite(low) and np.isfinite(high):
                x[:, i] = low + (high - low) * u
            elif np.isfinite(low) or np.isfinite(high):
                x[:, i] = low + 4 * scale * u if np.isfinite(low) else high - 4 * scale * u
            else:
                x[:, i] = m.centre[i] + m.scale[i] * scale * (8 * u - 4)
        # A hair apart, where they lie beyond the ends: the tree below is slow on equal points.
        t = np.clip(m.inverse(x), self.low + 1e-3, self.high - 1e-3)
        return t + 1e-6 * self.rng.uniform(-1, 1, t.shape)

    def peaks(self, t: np.ndarray, num: int = 64, grid: int = 0) -> np.ndarray:
        """Those of the points `t` that stand above their neighbours: (at most num, dim).

        `grid`: the points are a grid with so many on each side; else neighbours are looked up.
        """
        top = self.mass(t)
        if grid:
            from scipy.ndimage import maximum_filter

            cube = top.reshape((grid,) * self.dim)
            is_peak, near = (cube == maximum_filter(cube, 3)).ravel(), 0.0
        elif self.dim == 1:
            order = np.argsort(t[:, 0], kind="stable")
            t, top = t[order], top[order]
            left, right = np.append(-np.inf, top[:-1]), np.append(top[1:], -np.inf)
            is_peak = (top >= left) & (top >= right) & ((top > left) | (top > right))
            near = 0.0
        else:
            from scipy.spatial import KDTree

            _, neighbours = KDTree(t).query(t, k=9)
            is_peak, near = (top[:, None] >= top[neighbours]).all(1), 0.25
        is_peak &= np.isfinite(top)
        t, top = t[is_peak], top[is_peak]
        kept = np.empty((0, self.dim))
        for i in np.argsort(-top)[:20_000]:
            if len(kept) == num:
                break
            if not len(kept) or np.abs(kept - t[i]).max(1).min() > near:
                kept = np.append(kept, t[i : i + 1], axis=0)
        return kept

    def climb(self, t: np.ndarray, step: float = 0.1, fixed: np.ndarray | None = None) -> tuple:
        """(t, log density) after a pattern search uphill from each row, in turning frames.

        `fixed`: (n,) the coordinate of each row that stays, where given.
        """
        top, steps, rows = self.mass(t), np.full(len(t), step), np.arange(len(t))
        for _ in range(80):
            frame, _ = np.linalg.qr(self.rng.normal(size=(len(t), self.dim, self.dim)))
            if fixed is not None:
                frame[rows, :, fixed] = 0
            moves = np.concatenate([frame, -frame], 1) * steps[:, None, None]
            trial = np.clip(t[:, None] + moves, self.low, self.high)
            value = self.mass(trial.reshape(-1, self.dim)).reshape(len(t), -1)
            best = np.argmax(value, 1)
            better = value[rows, best] > top
            t = np.where(better[:, None], trial[rows, best], t)
            top = np.where(better, value[rows, best], top)
            steps = np.where(better, np.minimum(1.7 * steps, 8.0), 0.5 * steps)
            if (steps < 1e-10).all():
                break
        return t, top

    def widths(self, t: np.ndarray, top: np.ndarray) -> np.ndarray:
        """(n, dim): how far along each coordinate (the farther way) the density falls by 1."""
        reach = np.exp(np.linspace(np.log(1e-13), np.log(100.0), 64))
        moves = np.concatenate([np.eye(self.dim), -np.eye(self.dim)])
        trial = t[:, None, None] + moves[:, None] * reach[:, None]
        inside = ((trial >= self.low) & (trial <= self.high)).all(-1)
        trial = np.clip(trial, self.low, self.high)
        value = self.mass(trial.reshape(-1, self.dim)).reshape(inside.shape)
        fallen = ~inside | (value < top[:, None, None] - 1)
        fallen[..., -1] = True
        width = reach[np.argmax(fallen, -1)]
        return np.maximum(width[:, : self.dim], width[:, self.dim :])

    def modes(self, starts: np.ndarray) -> _Modes | None:
        """The local maxima uphill from `starts`, the heaviest first; None if there is no mass."""
        if not len(starts):
            return None
        t, top = self.climb(starts)
        finite = np.isfinite(top)
        if not finite.any():
            return None
        t, top = t[finite], top[finite]
        width = self.widths(t, top)
        log_mass = top + np.log(2 * width).sum(1)
        kept: list[int] = []
        for i in np.argsort(-log_mass):
            away = np.abs(t[kept] - t[i])
            same = (away <= 2 * np.minimum(width[kept], width[i])).all(1)
            # Another point of a plateau; a spike that stands on it is no such.
            same |= (away <= 1.5 * width[kept]).all(1) & (top[i] < top[kept] + 0.5)
            if not same.any() and (not kept or log_mass[i] > log_mass[kept[0]] - 60):
                kept.append(int(i))
        return _Modes(t[kept], top[kept], width[kept], log_mass[kept])

    def recentre(self, modes: _Modes) -> np.ndarray:
        """Fits centre and scale of the endless coordinates; returns the modes under the new map."""
        m = self.map
        x, _ = m(modes.t)
        away, _ = m(np.clip(modes.t + np.minimum(modes.width, 3), self.low, self.high))
        weight = np.exp(modes.log_mass - modes.log_mass.max())[:, None]
        weight = weight / weight.sum()
        centre = (weight * x).sum(0)
        spread = (weight * ((x - centre) ** 2 + (away - x) ** 2)).sum(0)
        endless = np.isinf(m.low) & np.isinf(m.high)
        scale = np.where(endless, np.clip(np.sqrt(spread), 1e-30, 1e30), 1.0)
        self.set_map(StretchedMap(m.low, m.high, np.where(endless, centre, 0.0), scale))
        return np.clip(self.map.inverse(x), self.low, self.high)

    def locate(self) -> _Modes | None:
        """All modes that scans on many scales, and then near the mass, lead to."""
        modes = self.modes(self.peaks(self.scan()))
        if modes is None:
            return None
        starts = self.recentre(modes)
        if self.dim > 1:
            num = {2: 400, 3: 64}[self.dim]
            side = (np.arange(num) + 0.5) / num
            grid = np.stack(np.meshgrid(*[side] * self.dim, indexing="ij"), -1)
            for scale in (1.0, 4.0, 16.0):
                unit = grid.reshape(-1, self.dim) + self.rng.uniform(-0.4, 0.4, self.dim) / num
                starts = np.concatenate([starts, self.peaks(self.even(unit, scale), 32, grid=num)])
        return self.modes(starts)

    def poles(self, modes: _Modes) -> list[str]:
        """A reason where the density grows towards a point r → 0 as r^−dim or faster.

        The mass of a shell, r^dim times its density, then does not die out inwards. A narrow mode
        that is no pole is flat at such distances, or gone.
        """
        if not self.evaluate.is_wide:
            return []
        r = 1e-8 * 2.0 ** np.arange(11)
        for i in np.flatnonzero(modes.width.max(1) < 1e-6)[:8]:
            t, _ = self.climb(modes.t[i : i + 1], step=1e-8)
            away = self.rng.normal(size=(24, self.dim))
            away /= np.linalg.norm(away, axis=1, keepdims=True)
            trial = np.clip(
                t + (r[:, None, None] * away).reshape(-1, self.dim), self.low, self.high
            )
            top = np.median(self.mass(trial).reshape(len(r), -1), axis=1)
            with np.errstate(invalid="ignore"):
                slope = np.diff(top + self.dim * np.log(r)) / math.log(2)
            if ((slope <= 0.02) & (slope > -50)).all():
                where, power = _show(self.map(t)[0][0]), slope.mean() - self.dim
                return [
                    f"the density grows towards x = {where} as r^{power:.3g} with the distance r, "
                    f"in {self.dim} dimensions: Z may be infinite"
                ]
        return []

    # The tails ---------------------------------------------------------------------------------

    def shells(self, modes: _Modes) -> list[tuple[int, int, np.ndarray, np.ndarray]]:
        """(coordinate, side, τ, log mass per unit of t_i at t_i = side · τ) for both ends of all.

        The mass is the largest density there, over the other coordinates, times its widths.
        """
        num, starts, fixed, rays = 16, [], [], []
        live = modes.log_mass >= modes.log_mass.max() - 40
        near = modes.t[live][np.arange(6) % live.sum()]
        for i, side in product(range(self.dim), (-1, 1)):
            end = side * (self.high[i] if side > 0 else self.low[i])
            inner = (side * modes.t[live, i] + 2 * modes.width[live, i]).max()
            tau = np.linspace(min(inner + 1, end - 1), end, num)
            rays.append((i, side, tau))
            for level in tau:
                reach = abs(level) * np.concatenate(
                    [
                        self.rng.uniform(-1.2, 1.2, (6, self.dim)),
                        self.rng.choice([-1.0, 1.0], (6, self.dim)),
                    ]
                )
                group = near[:1] if self.dim == 1 else np.concatenate([near, reach])
                group = np.clip(group, self.low, self.high)
                group[:, i] = side * level
                starts.append(group)
                fixed.append(np.full(len(group), i))
        t, fixed = np.concatenate(starts), np.concatenate(fixed)
        log_width = np.zeros(len(t))
        if self.dim == 1:
            top = self.mass(t)
        else:
            t, top = self.climb(t, step=0.5, fixed=fixed)
            ok = np.isfinite(top)
            if ok.any():
                width = self.widths(t[ok], top[ok])
                width[np.arange(len(width)), fixed[ok]] = 0.5  # 2 · 0.5 counts once
                log_width[ok] = np.log(2 * width).sum(1)
        mass = (top + log_width).reshape(len(rays), num, -1).max(-1)
        return [(*ray, m) for ray, m in zip(rays, mass, strict=True)]

    def tails(self, shells, log_z: float) -> tuple[float, list[str], bool]:
        """(what may lie beyond the box relative to Z, reasons against Z, whether Z is infinite)."""
        reasons, beyond, infinite = [], 0.0, False
        for i, side, tau, mass in shells:
            last = mass[-1]
            if last >= log_z - 45:
                slope = (mass[-1] - mass[-6]) / (tau[-1] - tau[-6])
                if not slope < -0.02:
                    infinite = True
                    reasons.append(f"the density does not die out {self.name(i, side)}")
                    continue
                decay = max(-slope - 1 / max(abs(tau[-1]), 1.0), 1e-3)
                beyond += float(np.exp(min(last - log_z, 50.0)) / decay)
            if (mass > log_z + 3).any():
                reasons.append(f"mass was found {self.name(i, side)} that the cells did not see")
        return beyond, reasons, infinite

    def name(self, i: int, side: int) -> str:
        low, high = self.map.low[i], self.map.high[i]
        # Under a single wall from above, t runs downwards.
        end = (high if side > 0 else low) if np.isfinite(low) or np.isinf(high) else None
        if end is None:
            end = low if side > 0 else high
        if np.isinf(end):
            return f"towards x = {'+' if end > 0 else '-'}inf in coordinate {i}"
        return f"at the end x = {end:g} of coordinate {i}"

    # All together ------------------------------------------------------------------------------

    def cells(self, modes: _Modes) -> tuple[np.ndarray, np.ndarray]:
        """(centre, half) of cells that cover the box of t and grow finer towards every mode."""
        num = {1: 256, 2: 16, 3: 8}[self.dim]
        half = (self.high - self.low) / (2 * num)
        grid = np.array(list(product(range(num), repeat=self.dim)))
        centre = self.low + (2 * grid + 1) * half
        half = np.broadcast_to(half, centre.shape).copy()
        live = modes.log_mass >= modes.log_mass.max() - 40
        for _ in range(400):
            # As wide as a mode where it is, no wider than the gap to it elsewhere; the worst first.
            excess = np.zeros(half.shape)
            for t, width in zip(modes.t[live], modes.width[live], strict=True):
                gap = np.maximum(np.abs(centre - t) - half, 0).max(1, keepdims=True)
                excess = np.maximum(excess, half / (width + 0.7 * gap))
            worst = excess.max()
            if worst <= 1 or len(centre) > 15_000:
                break
            bad = excess.max(1) > max(1.0, worst / 2)
            centre, half = halve(centre, half, np.where(bad, excess.argmax(1), -1))
        return centre, half

    def run(self, precision: float) -> LogZ:
        modes = self.locate()
        if self.infinite_at is not None:
            return self.is_infinite()
        if modes is None:
            reason = "no point of finite density was found on any scale that was looked at"
            return self.finish(-np.inf, np.inf, [reason])
        shells = self.shells(modes)
        guess = float(np.logaddexp.reduce(modes.log_mass))
        beyond, against, infinite = self.tails(shells, guess)
        if infinite or self.infinite_at is not None:
            reasons = [*against, "Z is not finite"]
            return self.finish(np.inf, np.inf, reasons)
        cubature = Cubature(
            self.density,
            self.rng,
            self.stop,
            tolerance=1e-10 if self.dim == 1 else 1e-6,
            max_cells={1: 2**15, 2: 2**14, 3: 2**15}[self.dim],
        )
        found = integrate(cubature, *self.cells(modes), float(modes.top.max()))
        if found.log_value == np.inf:
            return self.is_infinite()
        is_nan = []
        if found.nan_at is not None:
            x, _ = self.map(found.nan_at[None])
            is_nan = [f"f is NaN at x = {_show(x[0])}, beside points that hold mass"]
        if found.log_value == -np.inf:
            x, _ = self.map(modes.t[np.argmax(modes.top)][None])
            reason = (
                f"the cells saw no density beside its largest, exp({modes.top.max():.3g}) near "
                f"x = {_show(x[0])}: f is steeper there than its numbers can tell apart, or rises "
                "ever higher"
            )
            return self.finish(-np.inf, np.inf, [*is_nan, reason])
        beyond, reasons, infinite = self.tails(shells, found.log_value)
        reasons += self.poles(modes)
        if self.infinite_at is not None:
            reasons.append(f"f is +inf around x = {_show(self.infinite_at)}")
        reasons += is_nan
        std_err = found.error + beyond + self.evaluate.eps * (4 + np.abs(modes.top).max())
        limit = min(precision, 0.05)
        if not std_err <= limit:
            why = "the tails hold too much" if beyond > found.error else "it has not converged"
            reasons.append(f"{why}: error {std_err:.2g} nat, over {limit:g}")
        limited = self.clock.out_of_time and not found.finished
        return self.finish(found.log_value, std_err, reasons, limited)

    def is_infinite(self) -> LogZ:
        assert self.infinite_at is not None
        where = _show(self.infinite_at)
        return self.finish(np.inf, np.inf, [f"f is +inf around x = {where}: Z is infinite"])

    def finish(self, value, std_err, reasons, limited=False) -> LogZ:
        return answer(
            value, std_err, self.clock, method="quadrature", reasons=reasons, time_limited=limited
        )


def _show(x: np.ndarray) -> str:
    return "[" + ", ".join(f"{v:.6g}" for v in x) + "]"
