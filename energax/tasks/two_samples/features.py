"""Rows of any space as numbers, and what an energy of them sees: φ(x), whatever the labels."""

import math
from typing import Any

import numpy as np

from energax.spaces import AbstractArraySpace, AbstractSpace, Categorical, Point, Real, Record
from energax.tasks.two_samples._base import Part
from energax.training import Columns, fit_components

_MOST_PAIRED = 70  # columns, of which every pair is a feature
_MOST_NUMBERS = 2**25  # in the features of pairs
_CLUSTERS, _ROWS_A_CLUSTER = 8, 20
_CLUSTER_COLUMNS, _CLUSTER_ROWS = 8, 20_000


def common_space(
    X: Point, Y: Point, space: AbstractSpace | None
) -> tuple[AbstractSpace, list[Any] | None]:
    """(the space of both, the names of a data frame's columns)."""
    names, others = (
        None if isinstance(rows, dict) else getattr(rows, "columns", None) for rows in (X, Y)
    )
    if names is not None and others is not None and list(names) != list(others):
        raise ValueError(
            f"X and Y: expected the same columns in the same order, got {list(names)} and "
            f"{list(others)}"
        )
    if space is None:
        shapes = [
            {k: np.shape(v)[1:] for k, v in rows.items()}
            if isinstance(rows, dict)
            else np.shape(rows)[1:]
            for rows in (X, Y)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"X and Y: expected rows of the same columns, got {shapes[0]} and {shapes[1]}"
            )
        whole = shapes[0]
        space = (
            Record(**{k: Real(shape) for k, shape in whole.items()})
            if isinstance(whole, dict)
            else Real(whole)
        )
    return space, None if names is None else list(names)


def table_of(
    space: AbstractSpace, rows: Point, name: str
) -> tuple[np.ndarray, np.ndarray, list[tuple[Any, ...]]]:
    """(rows as numbers (rows, m) in float64 with their gaps, which place each is of, places)."""
    if isinstance(space, Record):
        if not isinstance(rows, dict) or set(rows) != set(space.parts):
            space.validate(rows, batch=True, name=name)  # says what is wrong
        tables, owners, places = [], [], []
        for part_name, part in space.parts.items():
            table, owner, own = _array_table(part, rows[part_name], f"{name}[{part_name!r}]")
            owners.append(owner + len(places))
            places += [(part_name, *place) for place in own]
            tables.append(table)
        if len({len(table) for table in tables}) > 1:
            raise ValueError(f"{name}: expected as many rows in each part of the record")
        return np.concatenate(tables, 1), np.concatenate(owners), places
    if not isinstance(space, AbstractArraySpace):
        raise TypeError(f"space: expected one of energax.spaces, got {space!r}")
    return _array_table(space, rows, name)


def _array_table(
    space: AbstractArraySpace, rows: Any, name: str
) -> tuple[np.ndarray, np.ndarray, list[tuple[Any, ...]]]:
    if isinstance(space, Categorical):
        index = np.asarray(space.decode(space.validate(rows, batch=True, name=name)))
        sites = space.sites
        table = np.eye(space.num_values)[index.reshape(len(index), -1)].reshape(len(index), -1)
        owner = np.repeat(np.arange(space.num_sites), space.num_values)
        return table, owner, list(np.ndindex(sites))
    values = np.asarray(rows)
    gaps = np.isnan(values) if isinstance(space, Real) and values.dtype.kind == "f" else False
    space.validate(np.where(gaps, 0.0, values) if np.any(gaps) else values, batch=True, name=name)
    table = values.reshape(len(values), -1).astype(np.float64)
    return table, np.arange(space.num_sites), list(np.ndindex(space.shape))


def with_gaps(rows: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and, behind them, a column of 1 where there is a gap for each that has gaps."""
    gaps = np.isnan(rows)
    have = gaps.any(0)
    return np.concatenate([rows, gaps[:, have]], 1), np.concatenate([owner, owner[have]])


def features_of(rows: np.ndarray, owner: np.ndarray, rng: np.random.Generator) -> dict[str, Part]:
    """φ of all rows by part; parts without a feature that varies are left out."""
    u, keep = _standard(np.stack([_normal_scores(column) for column in rows.T], 1))
    owner = owner[keep]
    many = np.array([len(np.unique(column)) > 2 for column in u.T], bool)
    if not u.shape[1]:
        return {}
    found: dict[str, Part] = {"columns": (u, [owner])}
    most = max(1, min(_MOST_PAIRED, math.isqrt(2 * _MOST_NUMBERS // len(u))))
    if u.shape[1] <= most:
        i, j = np.triu_indices(u.shape[1])
        wanted = (owner[i] != owner[j]) | ((i == j) & many[i])
        i, j = i[wanted], j[wanted]
        pairs, keep = _standard(u[:, i] * u[:, j])
        found["pairs"] = pairs, [owner[i][keep], owner[j][keep]]
    else:
        z = _principal(u, most)
        i, j = np.triu_indices(z.shape[1])
        found["pairs"] = _standard(z[:, i] * z[:, j])[0], []
    bent = u[:, many]
    bent = np.concatenate([bent**3 - 3 * bent, bent**4 - 6 * bent**2 + 3], 1)
    shapes, keep = _standard(bent)
    found["shapes"] = shapes, [np.tile(owner[many], 2)[keep]]
    found["clusters"] = _standard(_clusters(u, rng))[0], []
    return {name: part for name, part in found.items() if part[0].shape[1]}


def _normal_scores(column: np.ndarray) -> np.ndarray:
    """Φ⁻¹((rank − ½)/n) among what is there, ties at their mean rank, 0 where there is a gap."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    here = ~np.isnan(column)
    out = np.zeros(len(column))
    if here.any():
        scores = ndtri((rankdata(column[here]) - 0.5) / here.sum())
        out[here] = scores - scores.mean()
    return out


def _standard(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(columns brought to mean 0 and sd 1, those that do not vary left out; which are kept)."""
    centred = values - values.mean(0)
    sd = centred.std(0)
    keep = sd > 1e-9
    return centred[:, keep] / sd[keep], keep


def _principal(u: np.ndarray, most: int) -> np.ndarray:
    """The first principal components of all rows, at most `most`, each with sd 1."""
    value, vector = np.linalg.eigh(u.T @ u / len(u))
    leading = np.flatnonzero(value > 1e-9 * value[-1])[-most:]
    return u @ (vector[:, leading] / np.sqrt(value[leading]))


def _clusters(u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """p(cluster | row) under a mixture of normals fitted to all rows, (rows, clusters)."""
    count = min(_CLUSTERS, len(u) // _ROWS_A_CLUSTER)
    if count < 2:
        return np.zeros((len(u), 0))
    z = u if u.shape[1] <= _CLUSTER_COLUMNS else _principal(u, _CLUSTER_COLUMNS)
    some = Columns.of_numbers(z[:_CLUSTER_ROWS])
    return fit_components(some, count, rng).normals.responsibilities(z)
