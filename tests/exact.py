"""Oracles: what is exactly true of a small energy, found without the library's own counting.

Everything is float64. `enumerated` and `integrated` list the points of a space by plain products of
values and weigh them with the energy itself (the sum or integral is independent, E is not; tests of
E compare it with a formula in NumPy). Write `from tests.exact import enumerated`.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from energax.energies._base import AbstractEnergy
from energax.samplers._base import AbstractSampler, run
from energax.spaces import Binary, Box, Categorical, Ordinal, Real, Record, Spin

P_LIMIT = 1e-6
"""Below this a statistical test fails; divide by the number of tests where there are many."""


@dataclasses.dataclass(frozen=True)
class Exact:
    """Points with weights that stand for the whole distribution p(x) = exp(f(x))/Z.

    `x`: every point (num, *event), a dict on `Record`; `log_density`: f there, float64;
    `log_volume`: log of the measure each point stands for (0 on discrete spaces).
    """

    x: Any
    log_density: np.ndarray
    log_volume: float = 0.0

    @property
    def log_z(self) -> float:
        top = self.log_density.max()
        return float(top + np.log(np.exp(self.log_density - top).sum()) + self.log_volume)

    @property
    def prob(self) -> np.ndarray:
        """Probability of each point (of its cell on continuous spaces), summing to 1."""
        weight = np.exp(self.log_density - self.log_density.max())
        return weight / weight.sum()

    def mean(self, function: Callable[[Any], Any] = lambda x: x) -> Any:
        """E[function(x)], function of the batch of all points -> (num, ...)."""
        return jax.tree.map(
            lambda a: np.tensordot(self.prob, np.asarray(a, np.float64), 1), function(self.x)
        )

    def index(self, x: Any) -> np.ndarray:
        """Number of each row of `x` (rows, *event) in the list of points (discrete spaces)."""
        known = {row.tobytes(): i for i, row in enumerate(_rows(self.x))}
        return np.array([known[row.tobytes()] for row in _rows(x)])

    def draw(self, num: int, seed: int) -> Any:
        """Exact draws (num, *event), NumPy's generator."""
        chosen = np.random.default_rng(seed).choice(len(self.prob), size=num, p=self.prob)
        return jax.tree.map(lambda a: a[chosen], self.x)

    def p_value(self, x: Any) -> float:
        """χ² p-value of independent draws `x` (rows, *event) against `prob` (discrete spaces)."""
        counts = np.bincount(self.index(x), minlength=len(self.prob))
        return chi_square(counts, self.prob)


def _rows(x: Any) -> np.ndarray:
    """A batch of discrete points as one small-integer row each."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    return np.concatenate([a.reshape(len(a), -1).astype(np.int32) for a in leaves], axis=1)


def all_points(space: Any) -> Any:
    """Every point of a finite space, (num_states, *event), by itertools.product over values."""
    if isinstance(space, Record):
        parts = {name: all_points(part) for name, part in space.parts.items()}
        numbers = [range(len(points)) for points in parts.values()]
        chosen = np.array(list(itertools.product(*numbers)))
        return {name: parts[name][chosen[:, i]] for i, name in enumerate(parts)}
    if isinstance(space, Binary):
        values = [0.0, 1.0]
    elif isinstance(space, Spin):
        values = [-1.0, 1.0]
    elif isinstance(space, Categorical | Ordinal):
        values = list(range(space.num_values))
    else:
        raise TypeError(f"{space} is not finite")
    points = np.array(list(itertools.product(values, repeat=space.num_sites)))
    if isinstance(space, Categorical):
        points = points.reshape(-1, *space.sites)
        if space.encoding == "index":
            return points.astype(np.int32)
        return (points[..., None] == np.arange(space.num_values)).astype(np.float64)
    return points.reshape(-1, *space.shape).astype(np.float64)


def log_density64(energy: AbstractEnergy, x: Any) -> np.ndarray:
    """f(x) of a batch of points, computed in float64 from the energy's parameters as they are."""
    with jax.enable_x64(True):
        wide = eqx.combine(
            jax.tree.map(lambda a: a.astype(jnp.float64), eqx.filter(energy, eqx.is_inexact_array)),
            eqx.filter(energy, eqx.is_inexact_array, inverse=True),
        )
        return np.asarray(jax.jit(jax.vmap(wide.log_density))(jax.tree.map(jnp.asarray, x)))


def enumerated(energy: AbstractEnergy) -> Exact:
    """The exact distribution of an energy on a finite space of up to some 2^16 points."""
    x = all_points(energy.space)
    return Exact(x, log_density64(energy, x))


def integrated(energy: AbstractEnergy, low: Any, high: Any, num: int | None = None) -> Exact:
    """The distribution of an energy of 1 or 2 coordinates (Real, Box) on a dense grid of midpoints.

    **Arguments:** `low`, `high`: ends of the grid, numbers or one a coordinate, that hold all the
    mass; `num`: cells a coordinate (default 200,000 in 1-d, 1,000 in 2-d). The error is of second
    order in the cell where the density ends in a jump, far smaller where it falls to 0 smoothly.
    """
    space = energy.space
    assert isinstance(space, Real | Box) and space.num_sites <= 2
    dim = space.num_sites
    num = num or (200_000 if dim == 1 else 1_000)
    low, high = np.broadcast_to(low, dim), np.broadcast_to(high, dim)
    width = (high - low) / num
    axes = [low[i] + width[i] * (np.arange(num) + 0.5) for i in range(dim)]
    x = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, *space.shape)
    return Exact(x, log_density64(energy, x), float(np.log(width).sum()))


def finite_difference(function: Callable[[Any], Any], at: Any, step: float = 1e-5) -> Any:
    """Gradient of a scalar `function` of a pytree, by central differences in float64.

    Float arrays of `at` are widened to float64 and moved one number at a time; other leaves stay,
    and are None in the result. Float32 constants inside `function` do no harm.
    """
    leaves, structure = jax.tree.flatten(at)
    with jax.enable_x64(True):
        wide = [
            np.asarray(leaf, np.float64) if eqx.is_inexact_array_like(leaf) else leaf
            for leaf in leaves
        ]

        def value(which, new):
            moved = [new if i == which else leaf for i, leaf in enumerate(wide)]
            return float(function(jax.tree.unflatten(structure, jax.tree.map(jnp.asarray, moved))))

        out = []
        for i, leaf in enumerate(wide):
            if not eqx.is_inexact_array_like(leaf):
                out.append(None)
                continue
            gradient = np.empty(leaf.shape)
            for place in np.ndindex(leaf.shape):
                up, down = leaf.copy(), leaf.copy()
                up[place] += step
                down[place] -= step
                gradient[place] = (value(i, up) - value(i, down)) / (2 * step)
            out.append(gradient)
    return jax.tree.unflatten(structure, out)


def chi_square(counts: Any, prob: Any, *, least: float = 5.0) -> float:
    """p-value of `counts` against the probabilities `prob`; rare cells are pooled to ≥ `least`.

    A count where the probability is 0 gives 0.
    """
    counts, prob = np.asarray(counts, float).ravel(), np.asarray(prob, float).ravel()
    if counts[prob == 0].any():
        return 0.0
    order = np.argsort(prob)
    expected = prob[order] / prob.sum() * counts.sum()
    first = int(np.searchsorted(np.cumsum(expected), least))  # cells 0..first are pooled
    counts = np.concatenate([[counts[order][: first + 1].sum()], counts[order][first + 1 :]])
    expected = np.concatenate([[expected[: first + 1].sum()], expected[first + 1 :]])
    if len(expected) < 2:
        return 1.0
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(stats.chi2.sf(statistic, len(expected) - 1))


def ks(x: Any, cdf: Callable[[np.ndarray], Any]) -> float:
    """Kolmogorov-Smirnov p-value of independent numbers `x` against a continuous CDF."""
    return float(stats.kstest(np.asarray(x, np.float64).ravel(), cdf).pvalue)


def ks_two_sample(x: Any, y: Any) -> float:
    """Kolmogorov-Smirnov p-value that two sets of independent numbers share one distribution."""
    x, y = (np.asarray(a, np.float64).ravel() for a in (x, y))
    return float(stats.ks_2samp(x, y, method="asymp").pvalue)


def after_steps(
    sampler: AbstractSampler, energy: AbstractEnergy, x: Any, *, key, num_steps: int, tuning=None
) -> Any:
    """The ensemble `x` (num_chains, *event) after `num_steps` frozen steps of every chain.

    Started at exact draws, it must still be exact draws. `tuning`: None takes `init`'s.
    """
    key_init, key_run = jax.random.split(key)
    state, initial = sampler.init(energy, jax.tree.map(jnp.asarray, x), key=key_init)
    tuning = initial if tuning is None else tuning
    state, _, _ = run(sampler, energy, state, tuning, key=key_run, num_steps=num_steps, keep=False)
    return jax.tree.map(np.asarray, state.x)


def one_step_matrix(
    sampler: AbstractSampler, energy: AbstractEnergy, *, key, num: int = 2_000, tuning=None
) -> np.ndarray:
    """How often one frozen step goes from each state of a small discrete space to each other.

    **Returns:** counts (num_states, num_states), each row summing to `num`, states in the order of
    `all_points`. Compare with `transition_p_value`.
    """
    exact = enumerated(energy)
    size = len(exact.prob)
    narrow = jax.tree.map(lambda a, d: a.astype(d), exact.x, energy.space.dtype)
    x = jax.tree.map(lambda a: np.repeat(a, num, axis=0), narrow)
    after = after_steps(sampler, energy, x, key=key, num_steps=1, tuning=tuning)
    counts = np.zeros((size, size), int)
    np.add.at(counts, (np.repeat(np.arange(size), num), exact.index(after)), 1)
    return counts


def transition_p_value(counts: np.ndarray, matrix: np.ndarray) -> float:
    """One p-value for all rows of `counts` against the transition matrix (least row × rows)."""
    least = min(chi_square(row, prob) for row, prob in zip(counts, matrix, strict=True))
    return min(1.0, len(counts) * least)
