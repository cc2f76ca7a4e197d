"""log Z a second time, from the energy as energax sees it (in float64) and other arithmetic."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp


def evaluate(energy, points) -> np.ndarray:
    """f of a batch, float64."""
    points = jax.tree.map(jnp.asarray, points)
    num = len(jax.tree.leaves(points)[0])
    size = sum(np.prod(a.shape[1:]) for a in jax.tree.leaves(points))
    chunk = int(max(1, min(2**16, 2**24 // size)))
    f = jax.jit(jax.vmap(energy.log_density))
    return np.concatenate(
        [
            np.asarray(f(jax.tree.map(lambda a, i=i: a[i : i + chunk], points)), np.float64)
            for i in range(0, num, chunk)
        ]
    )


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A normalised distribution outside energax: draws, and their log-density."""

    draw: Callable[[np.random.Generator, int], Any]
    log_p: Callable[[Any], np.ndarray]


def scipy(dist, shape) -> Proposal:
    """Independent coordinates from a distribution of scipy.stats."""
    log_p = dist.logpdf if hasattr(dist.dist, "pdf") else dist.logpmf
    return Proposal(
        lambda rng, num: dist.rvs((num, *shape), random_state=rng),
        lambda x: log_p(x).reshape(len(x), -1).sum(1),
    )


def joint(dist) -> Proposal:
    """A multivariate distribution of scipy.stats."""
    return Proposal(
        lambda rng, num: dist.rvs(num, random_state=rng).reshape(num, -1),
        lambda x: np.asarray(dist.logpdf(x)).reshape(len(x)),
    )


def parts(**proposals: Proposal) -> Proposal:
    return Proposal(
        lambda rng, num: {name: p.draw(rng, num) for name, p in proposals.items()},
        lambda x: sum(p.log_p(x[name]) for name, p in proposals.items()),  # type: ignore[return-value]
    )


def importance(proposal: Proposal, num: int = 200_000):
    """log mean of exp f / q over draws of q; where q is the target itself all terms are equal."""

    def check(energy):
        x = proposal.draw(np.random.default_rng(0), num)
        w = evaluate(energy, x) - proposal.log_p(x)
        value = float(logsumexp(w) - math.log(num))
        error = float(np.exp(w - value).std() / math.sqrt(num))
        return value, 5 * error + 1e-7 * abs(value) + 1e-6

    return check


def enumeration(energy):
    """log Σ exp f over every state the space lists."""
    num = energy.space.num_states
    assert num <= 2**21, num
    parts = [
        logsumexp(evaluate(energy, energy.space.states(jnp.arange(i, min(i + 2**16, num)))))
        for i in range(0, num, 2**16)
    ]
    return float(logsumexp(parts)), 1e-6


def grid(low, high, num: int, error: float = 1e-4):
    """The midpoint rule over a box in up to three dimensions, `num` cells a side."""

    def check(energy):
        low_, high_ = np.atleast_1d(np.asarray(low, float)), np.atleast_1d(np.asarray(high, float))
        side = (high_ - low_) / num
        axes = [a + w * (np.arange(num) + 0.5) for a, w in zip(low_, side, strict=True)]
        parts = []
        for first in np.array_split(axes[0], max(1, num ** len(axes) // 2**22)):
            x = np.stack(np.meshgrid(first, *axes[1:], indexing="ij"), -1)
            parts.append(logsumexp(evaluate(energy, x.reshape(-1, *energy.space.shape))))
        return float(logsumexp(parts) + np.log(side).sum()), error

    return check


def counted(limit: int, error: float = 1e-6):
    """log Σ exp f over the counts below `limit` in every coordinate."""

    def check(energy):
        num = energy.space.num_sites
        x = np.stack(np.meshgrid(*[np.arange(limit)] * num, indexing="ij"), -1)
        x = x.reshape(-1, *energy.space.shape).astype(np.int32)
        return float(logsumexp(evaluate(energy, x))), error

    return check


def recomputed(f, values, second: float):
    """`second`, a sum done otherwise, after f in NumPy has agreed with the energy at random points.

    `f` takes a batch (rows, *event) of points whose sites take `values`.
    """

    def check(energy):
        rng = np.random.default_rng(1)
        x = rng.choice(np.asarray(values), (64, *energy.space.shape))
        ours, theirs = f(x.astype(float)), evaluate(energy, x.astype(energy.space.dtype))
        gap = np.abs(ours - theirs) / (1 + np.abs(ours))
        if not gap.max() < 1e-5:
            return math.nan, 0.0
        return second, 1e-6 + 1e-9 * abs(second)

    return check
