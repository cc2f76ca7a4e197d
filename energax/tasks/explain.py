"""Which columns make a row unusual? What E would fall by if one column alone were mended."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from energax.energies._base import AbstractEnergy, AbstractLocalEnergy
from energax.spaces import (
    AbstractArraySpace,
    Binary,
    Categorical,
    Count,
    Ordinal,
    Point,
    Record,
    Spin,
    num_rows,
)
from energax.tasks._base import in_blocks, is_single, log_density_rows

_AT_ONCE = 2**22  # numbers in the points whose energies are taken side by side


@dataclasses.dataclass(frozen=True)
class Explanation:
    """How much of each row's energy each of its columns answers for.

    On a `Record` `contributions` and `best` are dicts with the record's names.

    - `energies`: E(x), (rows,), float64.
    - `contributions`: (rows, *sites), float64, in nats, 0 or more. One site is one column: a
      number, or a category however it is coded.
    - `best`: (rows, *sites), the value of that column that E falls most by; a category's number.
      Where nothing is gained it is the row's own.
    """

    energies: np.ndarray
    contributions: Any
    best: Any

    def top(self, row: int, num: int = 3) -> list[tuple[tuple[Any, ...], float]]:
        """The `num` largest contributions in a row, largest first, those of 0 left out.

        Each comes with the place of its column: (3,), or (2, 5) in an image, and on a `Record`
        ("age",) or ("age", 3).
        """
        whole = self.contributions
        parts = whole if isinstance(whole, dict) else {None: whole}
        found = [
            ((*(() if name is None else (name,)), *map(int, place)), float(value))
            for name, part in parts.items()
            for place, value in np.ndenumerate(part[row])
            if value > 0
        ]
        return sorted(found, key=lambda each: -each[1])[:num]


def explain(
    energy: AbstractEnergy, X: Point, *, reference: Point | None = None, num_values: int = 32
) -> Explanation:
    """c_j(x) = E(x) − min over v of E(x with column j ← v): the nats that column j alone costs.

    As Z cancels, c_j = log p(v* | the other columns) − log p(x_j | the other columns), v* being the
    best of the values tried. Where columns are independent, E(x) = Σ E_j(x_j), it is
    E_j(x_j) − min E_j. Contributions do not add up to anything: where two columns fit badly with
    one another, mending either mends both, and both get the whole. Robnik-Šikonja & Kononenko 2008
    replace one column by its values in the data too, for classifiers, and take the mean over them;
    the lowest energy does not depend on how bad the worst of them are.

    The values v are the row's own, and all that a site has on Binary, Spin, Categorical and Ordinal
    spaces. Of a real number or a count they are `num_values` rows' of the reference, at evenly
    spaced ranks of that column, its (i + ½)/num_values quantiles: typical values, nothing beyond
    the data. Nothing is random.

    **Arguments:** `X`: one point or rows of them, (rows, *event), on a `Record` a dict.
    `reference`: rows to take values from, such as the training rows; needed only where columns are
    real numbers or counts.

    **Returns:** Explanation, with rows also where `X` is one point.

    **Raises:** ValueError for rows outside the space, without a reference where one is needed, or
    where f is NaN or +∞ at a row, or +∞ at a value tried.
    """
    if isinstance(num_values, bool) or not isinstance(num_values, (int, np.integer)):
        raise ValueError(f"num_values: expected a whole number from 1, got {num_values!r}")
    if num_values < 1:
        raise ValueError(f"num_values: expected a whole number from 1, got {num_values}")
    values, _ = log_density_rows(energy, X, "X")
    space = energy.space
    points = space.validate(X, name="X")
    if is_single(space, points):
        points = jax.tree.map(lambda a: a[None], points)
    if reference is not None:
        reference = space.validate(reference, batch=True, name="reference")
    parts: dict[Any, Any] = space.parts if isinstance(space, Record) else {None: space}
    found = {
        name: _part(energy, points, -values, name, part, reference, int(num_values))
        for name, part in parts.items()
    }
    if not isinstance(space, Record):
        return Explanation(-values, *found[None])
    contributions, best = ({name: pair[i] for name, pair in found.items()} for i in (0, 1))
    return Explanation(-values, contributions, best)


def _part(
    energy: AbstractEnergy,
    points: Point,
    own: np.ndarray,
    name: str | None,
    part: AbstractArraySpace,
    reference: Point | None,
    num_values: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(contributions, best) of one part of a record, or of an array (`name` None)."""
    rows = points if name is None else points[name]
    if name is None and isinstance(energy, AbstractLocalEnergy):
        lowest, best = _by_differences(energy, rows, part, own)
    else:
        tried = _values_to_try(part, name, reference, num_values)
        lowest, best = _by_trying(energy, points, name, part, tried)
    if np.any(lowest == -np.inf):
        row, site = np.argwhere(lowest == -np.inf)[0]
        raise ValueError(
            f"the energy gives f = inf where column {site} of row {row} of X is replaced by "
            f"{best[row, site]}; a log-density is a finite number or -inf: mend the energy there"
        )
    above = own[:, None] > lowest  # not of the difference: ∞ − ∞ is no number
    gained = np.where(above, own[:, None] - np.where(above, lowest, 0.0), 0.0)
    decoded = np.asarray(part.decode(rows)) if isinstance(part, Categorical) else np.asarray(rows)
    kept = np.where(above, best, decoded.reshape(best.shape))
    sites = _sites(part)
    return gained.reshape(-1, *sites), kept.astype(decoded.dtype).reshape(-1, *sites)


def _sites(part: AbstractArraySpace) -> tuple[int, ...]:
    return part.sites if isinstance(part, Categorical) else part.shape


def _values_to_try(
    part: AbstractArraySpace, name: str | None, reference: Point | None, num_values: int
) -> np.ndarray:
    """(sites, values): a category is its number."""
    match part:
        case Binary():
            every = np.array([0.0, 1.0])
        case Spin():
            every = np.array([-1.0, 1.0])
        case Categorical() | Ordinal():
            every = np.arange(part.num_values)
        case _:
            if reference is None:
                kind = "counts" if isinstance(part, Count) else "real numbers"
                where = "" if name is None else f" in {name!r}"
                raise ValueError(
                    f"reference: columns of {kind}{where} need rows to take typical values from: "
                    "pass reference=, such as the training rows"
                )
            rows = np.asarray(reference if name is None else reference[name])
            ranked = np.sort(rows.reshape(len(rows), part.num_sites), axis=0)
            num = min(num_values, len(ranked))
            return ranked[((np.arange(num) + 0.5) / num * len(ranked)).astype(int)].T
    return np.tile(every, (part.num_sites, 1))


def _by_differences(
    energy: AbstractLocalEnergy, rows: np.ndarray, part: AbstractArraySpace, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(lowest energies, the values that give them), (rows, sites), of all changes at once."""
    two_valued = isinstance(part, (Binary, Spin))
    num_values = 1 if two_valued else part.num_values  # type: ignore[attr-defined]
    most = max(1, _AT_ONCE // (part.num_sites * num_values))
    blocks = in_blocks(lambda x: _differences(energy, x), rows, most)
    change = np.concatenate(blocks).astype(np.float64)
    change = change.reshape(len(rows), part.num_sites, num_values)
    change = np.where(np.isnan(change), np.inf, change)
    best = change.argmin(-1)
    if two_valued:
        flat = rows.reshape(best.shape)
        best = 1 - flat if isinstance(part, Binary) else -flat
    return own[:, None] + change.min(-1), best


@eqx.filter_jit
def _differences(energy: AbstractLocalEnergy, x: Point) -> Float[Array, "rows ..."]:
    return energy.ensemble_site_differences(x)


def _by_trying(
    energy: AbstractEnergy,
    points: Point,
    name: str | None,
    part: AbstractArraySpace,
    tried: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """As `_by_differences`, by the energy itself with every value in every column."""
    values = jnp.asarray(tried)
    if isinstance(part, Categorical):
        values = part.encode(values)
    values = values.astype(part.dtype)
    size = sum(leaf[0].size for leaf in jax.tree.leaves(points))
    at_once = max(1, _AT_ONCE // (size * tried.shape[1]))
    blocks = in_blocks(
        lambda x: _lowest(energy, x, values, name, part.num_sites, at_once),
        points,
        max(1, _AT_ONCE // part.num_sites),
    )
    lowest, index = (np.concatenate(both) for both in zip(*blocks, strict=True))
    return lowest.astype(np.float64), tried[np.arange(part.num_sites), index]


@eqx.filter_jit
def _lowest(
    energy: AbstractEnergy,
    points: Point,
    values: Array,
    name: str | None,
    num_sites: int,
    at_once: int,
) -> tuple[Float[Array, "rows sites"], Int[Array, "rows sites"]]:
    """The lowest energy of each row with each column replaced, and the number of that value."""

    def of_pair(pair: Int[Array, ""]):
        x = jax.tree.map(lambda a: a[pair // num_sites], points)
        site = pair % num_sites

        def with_value(value):
            leaf = x if name is None else x[name]
            flat = leaf.reshape(num_sites, *value.shape).at[site].set(value)
            changed = flat.reshape(leaf.shape)
            return energy(changed if name is None else {**x, name: changed})

        found = jax.vmap(with_value)(values[site])
        found = jnp.where(jnp.isnan(found), jnp.inf, found)
        return jnp.min(found), jnp.argmin(found)

    rows = num_rows(points)
    pairs = jnp.arange(rows * num_sites)
    lowest, index = jax.lax.map(of_pair, pairs, batch_size=min(at_once, len(pairs)))
    return lowest.reshape(rows, num_sites), index.reshape(rows, num_sites)
