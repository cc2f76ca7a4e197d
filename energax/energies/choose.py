"""`fitted_mixture`: the reference that suits draws of several modes, or of a bent shape."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractNormalised, batched
from energax.energies.mixture import Mixture
from energax.energies.reference import fitted_base, matched_base
from energax.spaces import AbstractSpace, Categorical, Point, Real, Record, num_rows

_LEAST_ROWS = 40  # of a component
_ROUNDS = 6
_WORTH = 0.02  # nats a row, that more components must bring on rows kept aside
_FULL_UP_TO = 50  # coordinates, up to which each normal has a whole covariance


def fitted_mixture(
    space: AbstractSpace,
    x: Point,
    *,
    max_components: int = 32,
    defensive: float = 0.0,
    seed: int = 0,
) -> AbstractNormalised:
    """A mixture of `fitted_base`s that suits rows `x`; a single one where more bring nothing.

    Clusters by k-means (Lloyd 1982; starts by Arthur & Vassilvitskii 2007), then classification EM
    (Celeux & Govaert 1992). The number of components doubles as long as the mean log-probability of
    a quarter of the rows, kept aside, goes up.

    **Arguments:** `x`: (num, *event). `defensive`: share of a component three times as wide as all
    rows together (Hesterberg 1995), so that places the rows do not know of stay within reach.

    **Raises:** ValueError for rows outside the space; TypeError for a space without a reference.
    """
    rng = np.random.default_rng(seed)
    full = isinstance(space, Real) and space.num_sites <= _FULL_UP_TO

    def take(rows, index):
        return jax.tree.map(lambda a: np.asarray(a)[index], rows)

    def fit(rows):
        return fitted_base(space, rows, full=full)

    num = num_rows(x)
    order = rng.permutation(num)
    kept, train = take(x, order[: num // 4]), take(x, order[num // 4 :])
    parts, weights = [fit(train)], np.ones(1)
    if num // 4 >= _LEAST_ROWS:
        score, k, features = _score(parts, weights, kept), 2, _features(space, train)
        while k <= min(max_components, num // _LEAST_ROWS):
            more, shares = _classified(fit, take, train, k_means(features, k, rng))
            new = _score(more, shares, kept)
            if len(more) > 1 and new > score + _WORTH:
                (parts, weights), score = _padded(more, shares), new
            elif k > 4:
                break
            k *= 2
    if defensive:
        mean = jax.tree.map(lambda a: jnp.asarray(np.mean(a, 0, float)), x)
        variance = jax.tree.map(lambda a: jnp.asarray(np.var(a, 0, dtype=float)), x)
        parts = [*parts, matched_base(space, mean, variance, widen=3.0)]
        weights = np.append((1 - defensive) * weights, defensive)
    return parts[0] if len(parts) == 1 else Mixture(parts, weights)


@eqx.filter_jit
def _log_probs(part: AbstractNormalised, rows: Point):
    return batched(part, rows) - part.log_z


def _score(parts, weights: np.ndarray, rows: Point) -> float:
    """Mean log-probability of a row."""
    each = np.stack([np.asarray(_log_probs(part, rows), np.float64) for part in parts])
    return float(np.mean(np.logaddexp.reduce(each + np.log(weights)[:, None], axis=0)))


def _classified(fit, take, rows: Point, labels: np.ndarray):
    """(parts, weights): every row joins the part under which it is most probable, until none moves.

    A part of few rows is given up.
    """
    parts, weights = [], np.zeros(0)
    for _ in range(_ROUNDS):
        sizes = np.bincount(labels)
        large = np.flatnonzero(sizes >= _LEAST_ROWS)
        if len(large) == 0:
            return [fit(rows)], np.ones(1)
        parts = [fit(take(rows, labels == i)) for i in large]
        weights = sizes[large] / sizes[large].sum()
        each = np.stack([np.asarray(_log_probs(part, rows), np.float64) for part in parts])
        new = (each + np.log(weights)[:, None]).argmax(0)
        if len(large) == len(sizes) and (new == labels).mean() > 0.995:
            break
        labels = new
    return parts, weights


def _padded(parts: list, weights: np.ndarray) -> tuple[list, np.ndarray]:
    """The same mixture with a number of components that is a power of 2: the heaviest ones halved.

    What is compiled for one mixture then serves most others.
    """
    parts, shares = list(parts), list(weights)
    while len(parts) & (len(parts) - 1):
        i = int(np.argmax(shares))
        shares[i] /= 2
        parts.append(parts[i])
        shares.append(shares[i])
    return parts, np.asarray(shares)


def _features(space: AbstractSpace, rows: Point) -> np.ndarray:
    """Rows as numbers of comparable size, (num, features); categories one-hot."""
    spaces = space.parts if isinstance(space, Record) else {"": space}
    parts = rows if isinstance(space, Record) else {"": rows}
    columns = []
    for name, part in spaces.items():
        column = np.asarray(parts[name])
        if isinstance(part, Categorical) and part.encoding == "index":
            column = column[..., None] == np.arange(part.num_values)
        column = column.reshape(len(column), -1).astype(np.float64)
        low, middle, high = np.quantile(column, [0.05, 0.5, 0.95], axis=0)
        spread = np.where(high > low, high - low, 1.0)
        columns.append(np.clip((column - middle) / spread, -3, 3))
    return np.concatenate(columns, axis=1)


def k_means(rows: np.ndarray, k: int, rng: np.random.Generator, *, starts: int = 4) -> np.ndarray:
    """The cluster of each row: the best of some starts, each spread by squared distances (Arthur &
    Vassilvitskii 2007, section 2.2)."""
    best, least = np.zeros(len(rows), int), np.inf
    square = (rows**2).sum(1)
    for _ in range(starts):
        centres = rows[rng.integers(len(rows), size=1)]
        distance = np.full(len(rows), np.inf)
        while len(centres) < k:
            distance = np.minimum(distance, square_distances(rows, centres[-1:], square)[:, 0])
            total = distance.sum()
            if total <= 0:
                break
            chosen = rng.choice(len(rows), p=distance / total)
            centres = np.concatenate([centres, rows[chosen : chosen + 1]])
        labels = np.full(len(rows), -1)
        for _ in range(20):
            before = labels
            labels = square_distances(rows, centres, square).argmin(1)
            if (labels == before).all():
                break
            member = labels[:, None] == np.arange(len(centres))
            size = np.maximum(member.sum(0), 1)[:, None]
            means = member.T.astype(float) @ rows / size
            centres = np.where(member.any(0)[:, None], means, centres)
        loss = square_distances(rows, centres, square).min(1).sum()
        if loss < least:
            best, least = labels, loss
    return best


def square_distances(
    rows: np.ndarray, centres: np.ndarray, square: np.ndarray | None = None
) -> np.ndarray:
    """|x − c|², (rows, centres), `square` being |x|² where it is at hand."""
    own = (rows**2).sum(1) if square is None else square
    return np.maximum(own[:, None] + (centres**2).sum(1) - 2 * rows @ centres.T, 0)
