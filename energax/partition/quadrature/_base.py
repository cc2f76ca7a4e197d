"""The numerics of quadrature: stretched coordinates, cubature rules, cells that split themselves.

Everything is NumPy float64; a density is a function of points t, (n, dim) -> (n,) log density.
"""

import dataclasses
from collections.abc import Callable
from itertools import combinations, product

import numpy as np

_NUM_RANDOM = 2**17  # random points tried in one look at the cells


@dataclasses.dataclass(frozen=True)
class StretchedMap:
    """x(t), coordinate by coordinate, with every end of x exponentially far off in t.

    x = c + s sinh t without ends, x = a + s exp t above a wall (mirrored below one), and a logistic
    function of t between two walls. `low`, `high`, `centre`, `scale`: (dim,).
    """

    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    scale: np.ndarray

    def __call__(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x, Σ log |dx/dt|) of t (n, dim)."""
        x, jacobian = np.empty_like(t), np.zeros(len(t))
        for i in range(t.shape[1]):
            u, low, high, scale = t[:, i], self.low[i], self.high[i], self.scale[i]
            if np.isinf(low) and np.isinf(high):
                x[:, i] = self.centre[i] + scale * np.sinh(u)
                jacobian += np.log(scale / 2) + np.abs(u) + np.log1p(np.exp(-2 * np.abs(u)))
            elif np.isinf(high):
                x[:, i] = low + scale * np.exp(u)
                jacobian += np.log(scale) + u
            elif np.isinf(low):
                x[:, i] = high - scale * np.exp(u)
                jacobian += np.log(scale) + u
            else:
                near = (high - low) / (1 + np.exp(np.abs(u)))  # distance to the nearer end
                x[:, i] = np.where(u < 0, low + near, high - near)
                jacobian += np.log(high - low) - np.abs(u) - 2 * np.log1p(np.exp(-np.abs(u)))
        return x, jacobian

    def inverse(self, x: np.ndarray) -> np.ndarray:
        t = np.empty_like(x)
        for i in range(x.shape[1]):
            u, low, high, scale = x[:, i], self.low[i], self.high[i], self.scale[i]
            with np.errstate(divide="ignore"):
                if np.isinf(low) and np.isinf(high):
                    t[:, i] = np.arcsinh((u - self.centre[i]) / scale)
                elif np.isinf(high):
                    t[:, i] = np.log((u - low) / scale)
                elif np.isinf(low):
                    t[:, i] = np.log((high - u) / scale)
                else:
                    t[:, i] = np.log(u - low) - np.log(high - u)
        return t

    def ends(self, eps: float) -> tuple[np.ndarray, np.ndarray]:
        """How far t goes each way: until x is huge, or x no longer differs from the wall."""
        dim = len(self.low)
        reach = (150.0 if dim == 1 else 60.0) if eps < 1e-12 else 36.0
        lows, highs = np.full(dim, -reach), np.full(dim, reach)

        def wall(end, width):  # log of the least distance to the wall that x can hold
            return max(-reach, float(np.log(max(64 * eps * abs(end) / width, 1e-300))))

        for i in range(dim):
            low, high, scale = self.low[i], self.high[i], self.scale[i]
            if np.isfinite(low) and np.isfinite(high):
                lows[i], highs[i] = wall(low, high - low), -wall(high, high - low)
            elif np.isfinite(low) or np.isfinite(high):
                lows[i] = wall(low if np.isfinite(low) else high, scale)
        return lows, highs


def halton(num: int, dim: int) -> np.ndarray:
    """Evenly spread points of the unit box (Halton 1960), (num, dim)."""
    out = np.zeros((num, dim))
    for i, base in enumerate((2, 3, 5)[:dim]):
        index, weight = np.arange(1, num + 1), 1.0
        while index.any():
            weight /= base
            out[:, i] += weight * (index % base)
            index = index // base
    return out


@dataclasses.dataclass(frozen=True)
class Rule:
    """A cubature rule on [−1, 1]^dim: points, weights that sum to 1, and which axis to split."""

    points: np.ndarray  # (points, dim)
    fine: np.ndarray
    coarse: np.ndarray
    axis: Callable[[np.ndarray, np.ndarray], np.ndarray]  # of values (n, points), half (n, dim)


def rule_for(dim: int) -> Rule:
    return _gauss_kronrod() if dim == 1 else _genz_malik(dim)


def _gauss_kronrod() -> Rule:
    """Gauss-Kronrod 7-15 (Kronrod 1965; the nodes and weights of QUADPACK's qk15)."""
    nodes = [0.991455371120812639206854697526329, 0.949107912342758524526189684047851,
             0.864864423359769072789712788640926, 0.741531185599394439863864773280788,
             0.586087235467691130294144691693013, 0.405845151377397166906606412076961,
             0.207784955007898467600689403773245, 0.0]  # fmt: skip
    kronrod = [0.022935322010529224963732008058970, 0.063092092629978553290700663189204,
               0.104790010322250183839876322541518, 0.140653259715525918745189590510238,
               0.169004726639267902826583426598550, 0.190350578064785409913256402421014,
               0.204432940075298892414161999234649, 0.209482141084727828012999174892]  # fmt: skip
    gauss = [0.129484966168869693270611432679082, 0.279705391489276667901467771423780,
             0.381830050505118944950369775488975, 0.417959183673469387755102040816327]  # fmt: skip
    x, k, g = np.array(nodes), np.array(kronrod), np.zeros(8)
    g[1::2] = gauss
    points = np.concatenate([x, -x[:-1]])[:, None]
    fine, coarse = np.concatenate([k, k[:-1]]) / 2, np.concatenate([g, g[:-1]]) / 2
    return Rule(points, fine, coarse, lambda values, half: np.zeros(len(values), int))


def _genz_malik(dim: int) -> Rule:
    """Degrees 7 and 5 (Genz & Malik 1980, section 2); cut where the fourth difference is large."""
    l2, l3, l5 = np.sqrt(9 / 70), np.sqrt(9 / 10), np.sqrt(9 / 19)
    unit = np.eye(dim)
    near = [s * l2 * unit[i] for i in range(dim) for s in (1, -1)]
    far = [s * l3 * unit[i] for i in range(dim) for s in (1, -1)]
    pairs = [
        l3 * (a * unit[i] + b * unit[j])
        for i, j in combinations(range(dim), 2)
        for a, b in product((1, -1), repeat=2)
    ]
    corners = [l5 * np.array(c) for c in product((1, -1), repeat=dim)]
    groups = [[np.zeros(dim)], near, far, pairs, corners]
    fine = [
        (12824 - 9120 * dim + 400 * dim**2) / 19683,
        980 / 6561,
        (1820 - 400 * dim) / 19683,
        200 / 19683,
        6859 / 19683 / 2**dim,
    ]
    coarse = [
        (729 - 950 * dim + 50 * dim**2) / 729,
        245 / 486,
        (265 - 100 * dim) / 1458,
        25 / 729,
        0.0,
    ]
    sizes = [len(group) for group in groups]

    def axis(values, half):
        middle = values[:, :1]
        second = values[:, 1 : 1 + 2 * dim].reshape(-1, dim, 2).sum(-1) - 2 * middle
        wide = values[:, 1 + 2 * dim : 1 + 4 * dim].reshape(-1, dim, 2).sum(-1) - 2 * middle
        fourth = np.abs(second - wide / 7)
        # Near a tie the longer side is cut, so that no cell grows thin for nothing.
        score = fourth + 1e-3 * fourth.max(1, keepdims=True) * half / half.max(1, keepdims=True)
        return np.where(fourth.max(1) > 0, score.argmax(1), half.argmax(1))

    points = np.array([point for group in groups for point in group])
    return Rule(points, np.repeat(fine, sizes), np.repeat(coarse, sizes), axis)


def halve(centre: np.ndarray, half: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every cell with axis ≥ 0 becomes two, cut across the middle of that axis."""
    cut = axis >= 0
    rows, column = np.arange(cut.sum()), axis[cut]
    small, move = half[cut].copy(), np.zeros_like(half[cut])
    small[rows, column] /= 2
    move[rows, column] = small[rows, column]
    return (
        np.concatenate([centre[~cut], centre[cut] - move, centre[cut] + move]),
        np.concatenate([half[~cut], small, small]),
    )


@dataclasses.dataclass
class Integral:
    """log ∫, its relative error, and how the two were found."""

    log_value: float
    error: float
    nan_at: np.ndarray | None = None
    finished: bool = True


@dataclasses.dataclass
class _Cells:
    """Cells of t and what the rule says of each, all relative to exp(shift)."""

    centre: np.ndarray  # (n, dim)
    half: np.ndarray  # (n, dim)
    value: np.ndarray  # (n,) integral
    error: np.ndarray  # (n,)
    axis: np.ndarray  # (n,) where to cut next
    least: np.ndarray  # (n,) smallest and largest density at the rule's points
    most: np.ndarray
    checked: np.ndarray  # (n,) whether random points have been tried
    rough: np.ndarray  # (n,) whether they showed what the rule does not see

    def take(self, keep: np.ndarray) -> "_Cells":
        return _Cells(*(getattr(self, f.name)[keep] for f in dataclasses.fields(self)))

    def join(self, other: "_Cells") -> "_Cells":
        return _Cells(
            *(
                np.concatenate([getattr(self, f.name), getattr(other, f.name)])
                for f in dataclasses.fields(self)
            )
        )

    def rescale(self, factor: float) -> None:
        for name in ("value", "error", "least", "most"):
            setattr(self, name, getattr(self, name) * factor)

    @property
    def volume(self) -> np.ndarray:
        return np.prod(2 * self.half, axis=1)

    def __len__(self) -> int:
        return len(self.value)


class Cubature:
    """Integrates exp(log density) over cells that split where they err or look rough.

    A rule's own error estimate misses what lies between its points (a wall through the corner of a
    cell), so random points are tried in every cell. Where they leave the range of the rule's
    points the cell is rough: it is split for a few rounds, and in the end integrated by stratified
    random points, whose error is honest whatever the density does.
    """

    def __init__(
        self,
        density: Callable[[np.ndarray], np.ndarray],
        rng: np.random.Generator,
        stop: Callable[[], bool],
        *,
        tolerance: float,
        max_cells: int,
    ):
        self.density, self.rng, self.stop = density, rng, stop
        self.tolerance, self.max_cells = tolerance, max_cells
        self.shift, self.nan_at = 0.0, None

    def run(self, centre: np.ndarray, half: np.ndarray, shift: float) -> Integral:
        """∫ over the cells `centre` ± `half` (n, dim); exp(shift) is about the largest density."""
        self.rule, self.shift = rule_for(centre.shape[1]), shift
        cells = self.look(self.refine(self.measure(centre, half)))
        for _ in range(12):
            again, most = cells.rough, len(cells) + cells.rough.sum()
            swing = (cells.volume * (cells.most - cells.least))[again]
            news = again & (cells.value == 0)
            if swing.sum() < 0.5 * cells.value.sum():
                again = news
            if not again.any() or most > 3 * self.max_cells or self.stop():
                break
            # Cut along the longest side: the rule's choice is blind here.
            longest = np.argmax(cells.half[again], axis=1)
            new = self.measure(*halve(cells.centre[again], cells.half[again], longest))
            cells = self.look(self.refine(cells.take(~again).join(new)))
        return self.total(cells)

    def measure(self, centre: np.ndarray, half: np.ndarray) -> _Cells:
        """The rule applied to every cell."""
        t = centre[:, None] + half[:, None] * self.rule.points
        values = self.weigh(t)
        volume = np.prod(2 * half, axis=1)
        fine, coarse = volume * (values @ self.rule.fine), volume * (values @ self.rule.coarse)
        no = np.zeros(len(centre), bool)
        return _Cells(
            centre,
            half,
            fine,
            np.abs(fine - coarse),
            self.rule.axis(values, half),
            values.min(1),
            values.max(1),
            no,
            no.copy(),
        )

    def weigh(self, t: np.ndarray) -> np.ndarray:
        """exp(log density − shift) at t (n, points, dim) -> (n, points); NaN is noted, counts 0."""
        g = self.density(t.reshape(-1, t.shape[-1])).reshape(t.shape[:2])
        bad = np.isnan(g)
        g = np.where(bad, -np.inf, g)
        beside = bad & (g.max(1, keepdims=True) > self.shift - 40)
        if beside.any():
            self.nan_at = t[beside][0]
        peak = float(g.max(initial=-np.inf))
        if peak > self.shift + 300:
            raise _Higher(peak)
        return np.exp(g - self.shift)

    def refine(self, cells: _Cells) -> _Cells:
        """Splits the cells that err most until the error is small or the cells are many."""
        room = max(1, 2**17 // len(self.rule.points))
        while len(cells) < self.max_cells and not self.stop():
            wrong = cells.error.sum()
            if not wrong > self.tolerance * abs(cells.value.sum()):
                break
            order = np.argsort(-cells.error)
            enough = np.searchsorted(np.cumsum(cells.error[order]), 0.7 * wrong) + 1
            chosen = np.zeros(len(cells), bool)
            chosen[order[: min(enough, room)]] = True
            cut = cells.take(chosen)
            new = self.measure(*halve(cut.centre, cut.half, cut.axis))
            cells = cells.take(~chosen).join(new)
        return cells

    def sample(self, cells: _Cells, share: np.ndarray) -> tuple[np.ndarray, ...]:
        """Density at random points of every cell, shared out in proportion to `share`.

        **Returns:** (number, mean, sd, least, most) for each cell.
        """
        num = np.maximum(4, np.floor(_NUM_RANDOM * share / max(share.sum(), 1e-300))).astype(int)
        owner = np.repeat(np.arange(len(cells)), num)
        offset = self.rng.uniform(-1, 1, (len(owner), cells.half.shape[1]))
        value = self.weigh((cells.centre[owner] + cells.half[owner] * offset)[:, None])[:, 0]
        starts = np.concatenate([[0], np.cumsum(num)[:-1]])
        mean = np.add.reduceat(value, starts) / num
        sd = np.sqrt(np.add.reduceat((value - mean[owner]) ** 2, starts) / (num - 1))
        least, most = np.minimum.reduceat(value, starts), np.maximum.reduceat(value, starts)
        return num, mean, sd, least, most

    def look(self, cells: _Cells) -> _Cells:
        """Tries random points in the cells not yet tried and marks the rough ones."""
        fresh = np.flatnonzero(~cells.checked)
        if len(fresh) == 0 or cells.half.shape[1] == 1:  # on a line the rule needs no such help
            return cells
        some, total = cells.take(fresh), max(cells.value.sum(), 1e-300)
        # Cells with room for much mass get most of the points, empty ones too.
        room = np.minimum(some.volume * cells.most.max() / total, 0.05)
        _, _, _, low, high = self.sample(some, room)
        least, most = np.minimum(some.least, low), np.maximum(some.most, high)
        beyond = (most - least) > 1.6 * (some.most - some.least)
        steep = most > 30 * least  # a wall through the cell, or nearly one
        matters = some.volume * (most - least) * len(cells) > 1e-2 * total
        cells.rough[fresh], cells.checked[fresh] = (beyond | steep) & matters, True
        cells.least[fresh], cells.most[fresh] = least, most
        self.look_around(cells)
        return cells

    def look_around(self, cells: _Cells) -> None:
        """Marks cells into which the mass of a rough neighbour spills over, unseen so far."""
        rough = np.flatnonzero(cells.rough)
        swing = (cells.volume * (cells.most - cells.least))[rough]
        if not swing.sum() > 0:
            return
        owner = self.rng.choice(rough, size=_NUM_RANDOM // 4, p=swing / swing.sum())
        offset = self.rng.uniform(-3, 3, (len(owner), cells.half.shape[1]))
        t = cells.centre[owner] + cells.half[owner] * offset
        low, high = (cells.centre - cells.half).min(0), (cells.centre + cells.half).max(0)
        t = t[((t > low) & (t < high)).all(1)]
        value, where = self.weigh(t[:, None])[:, 0], _holder(cells, t, low)
        unseen = (value > 30 * cells.most[where]) & ~cells.rough[where] & (where >= 0)
        unseen &= (cells.volume * len(cells))[where] * value > 1e-2 * cells.value.sum()
        cells.rough[where[unseen]] = True
        np.maximum.at(cells.most, where[unseen], value[unseen])

    def total(self, cells: _Cells) -> Integral:
        """Sums the cells; rough and unfinished ones by stratified random points."""
        rough, whole = cells.rough.copy(), np.abs(cells.value).sum()
        if not whole > 0:  # nothing to share points out by
            return Integral(-np.inf, np.inf, self.nan_at, not self.stop())
        if cells.error[~rough].sum() > 2 * self.tolerance * whole:
            rough |= cells.error * len(cells) > self.tolerance * whole
        some = cells.take(~rough)
        value, error = some.value.sum(), some.error.sum()
        # Where no random point has shown it, a wall may still graze the cells that look smooth.
        room = np.minimum(some.volume * cells.most.max() / whole, 0.05)
        num, mean, sd, _, _ = self.sample(some, np.abs(some.value) / whole + room / room.sum())
        missed = (some.volume * mean - some.value).sum()
        noise = np.sqrt((some.volume**2 * sd**2 / num).sum())
        swing = (cells.volume * (cells.most - cells.least))[rough]
        if swing.sum() > 0.01 * whole or abs(missed) > 4 * noise + 2 * error:
            value += missed
        # Beyond one dimension nothing finer than this noise has been ruled out.
        error += (cells.half.shape[1] - 1) * noise
        if rough.any():
            some = cells.take(rough)
            num, mean, sd, _, _ = self.sample(some, swing)
            value += (some.volume * mean).sum()
            # Few points may agree by chance where others have shown more.
            sd = np.maximum(sd, 0.3 * (some.most - some.least) / np.sqrt(num))
            error += np.sqrt((some.volume**2 * sd**2 / num).sum())
        done = not self.stop()
        if not (np.isfinite(value) and value > 0):
            return Integral(-np.inf, np.inf, self.nan_at, done)
        return Integral(float(np.log(value) + self.shift), float(error / value), self.nan_at, done)


def _holder(cells: _Cells, t: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Number of the cell that holds each point, −1 for none; cells of one shape form a lattice."""
    out = np.full(len(t), -1)
    shapes, kind = np.unique(cells.half, axis=0, return_inverse=True)
    for k, half in enumerate(shapes):
        members = np.flatnonzero(kind.ravel() == k)
        place = np.rint((cells.centre[members] - low) / (2 * half) - 0.5).astype(np.int64)
        wanted = np.floor((t - low) / (2 * half)).astype(np.int64)
        first, span = place.min(0), np.ptp(place, axis=0) + 1
        inside = ((wanted >= first) & (wanted < first + span)).all(1)
        stride = np.append(np.cumprod(span[::-1])[:-1][::-1], 1)
        keys = (place - first) @ stride
        order = np.argsort(keys)
        sought = (wanted[inside] - first) @ stride
        at = np.minimum(np.searchsorted(keys[order], sought), len(members) - 1)
        hit = keys[order][at] == sought
        out[np.flatnonzero(inside)[hit]] = members[order][at[hit]]
    return out


class _Higher(Exception):
    """A density far above all that was known, +∞ perhaps."""

    def __init__(self, peak: float):
        self.peak = peak


def integrate(cubature: Cubature, centre, half, shift: float) -> Integral:
    """`cubature.run`, begun again where a far higher density turns up on the way.

    The integral is ∞ where the density is, and −∞ (its log) with an error of ∞ where none is seen.
    """
    for _ in range(8):
        try:
            return cubature.run(centre, half, shift)
        except _Higher as found:
            shift = found.peak
            if shift == np.inf:
                return Integral(np.inf, np.inf, None, False)
    return Integral(-np.inf, np.inf, None, False)
