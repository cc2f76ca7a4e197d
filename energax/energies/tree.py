"""Tree-shaped distributions over bits: an exact likelihood that a model of bits must beat."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from energax.energies._base import AbstractNormalised
from energax.spaces import Binary


class ChowLiuTree(AbstractNormalised):
    """E(x) = −Σᵢ log p(xᵢ | x_parent(i)) on Binary, a directed tree; log Z = 0.

    Chow & Liu 1968, "Approximating discrete probability distributions with dependence trees": the
    tree of greatest likelihood is the maximum spanning tree of the mutual informations.

    **Arguments:** `space`: Binary of n sites, row-major. `order` (n,): the sites, parents before
    children. `parent` (n,): each site's parent, the site itself for a root. `logits` (n, 2): log
    odds of a 1 where the parent is 0 and 1; a root reads its first column.

    **Raises:** ValueError for wrong shapes, or where a child comes before its parent.
    """

    space: Binary
    order: Int[Array, " n"]
    parent: Int[Array, " n"]
    logits: Float[Array, "n 2"]

    def __init__(self, space: Binary, order: Any, parent: Any, logits: Any):
        n = space.num_sites
        order, parent = np.asarray(order), np.asarray(parent)
        place = np.full(n, -1)
        if order.shape == (n,) and np.array_equal(np.sort(order), np.arange(n)):
            place[order] = np.arange(n)
        if parent.shape != (n,) or place.min() < 0 or not set(parent.tolist()) <= set(range(n)):
            raise ValueError(f"order and parent: expected each a vector of the {n} site numbers")
        if np.any(place[parent] > place):
            raise ValueError("order: expected every parent before its children")
        if jnp.shape(logits) != (n, 2):
            raise ValueError(f"logits: expected shape {(n, 2)}, got {jnp.shape(logits)}")
        self.space = space
        self.order, self.parent = jnp.asarray(order, jnp.int32), jnp.asarray(parent, jnp.int32)
        self.logits = jnp.asarray(logits, float)

    @classmethod
    def fit(cls, data: Any, smoothing: float = 1.0) -> "ChowLiuTree":
        """The tree of greatest likelihood for rows of bits, with smoothed probabilities.

        **Arguments:** `data`: (rows, *event) of 0 and 1. `smoothing`: pseudo-rows spread evenly
        over the four values of every pair of sites; > 0 keeps all probabilities off 0.

        **Raises:** ValueError for data that are not rows of bits, or a smoothing ≤ 0.
        """
        if not smoothing > 0:
            raise ValueError(f"smoothing: expected a positive number of rows, got {smoothing}")
        space = Binary(np.shape(data)[1:])
        rows = space.validate(data, batch=True, name="data").reshape(-1, space.num_sites)
        rows = rows.astype(np.float64)
        total = len(rows) + smoothing
        both = (rows.T @ rows + smoothing / 4) / total  # P(xᵢ = 1, xⱼ = 1)
        one = (rows.sum(0) + smoothing / 2) / total
        order, parent = _maximum_spanning_tree(_mutual_information(both, one))
        sites = np.arange(space.num_sites)
        given_1 = both[sites, parent] / one[parent]
        given_0 = (one - both[sites, parent]) / (1 - one[parent])
        root = parent == sites
        given_0[root] = given_1[root] = one[root]
        p = np.stack([given_0, given_1], 1)
        return cls(space, order, parent, np.log(p) - np.log1p(-p))

    @property
    def edges(self) -> np.ndarray:
        """(parent, child) site numbers, (n − 1, 2) for a connected tree."""
        parent = np.asarray(self.parent)
        child = np.flatnonzero(parent != np.arange(len(parent)))
        return np.stack([parent[child], child], 1)

    def _is_root(self):
        return self.parent == jnp.arange(self.space.num_sites)

    def __call__(self, x):
        x = x.reshape(-1)
        above = jnp.where(self._is_root(), 0.0, x[self.parent])
        low, high = self.logits[:, 0], self.logits[:, 1]
        # linear in the parent's bit, so that gradients in x are the exact one-site differences
        logit = low + above * (high - low)
        log_total = jax.nn.softplus(low) + above * (jax.nn.softplus(high) - jax.nn.softplus(low))
        return jnp.sum(log_total - x * logit)

    @property
    def log_z(self):
        return jnp.zeros((), self.logits.dtype)

    def draw(self, num: int, *, key: Key[Array, ""]):
        """Ancestral draws: every site given its parent."""
        n = self.space.num_sites
        unit = jax.random.uniform(key, (n, num), self.logits.dtype)
        probs = jax.nn.sigmoid(self.logits)
        is_root = self._is_root()

        def visit(x, site):
            above = jnp.where(is_root[site], 0.0, x[self.parent[site]])
            up = unit[site] < jnp.where(above > 0, probs[site, 1], probs[site, 0])
            return x.at[site].set(up.astype(x.dtype)), None

        x, _ = jax.lax.scan(visit, jnp.zeros((n, num), self.logits.dtype), self.order)
        return x.T.reshape(num, *self.space.shape)


def _mutual_information(both: np.ndarray, one: np.ndarray) -> np.ndarray:
    """I(xᵢ; xⱼ) in nats for all pairs, from P(xᵢ = xⱼ = 1) and P(xᵢ = 1); all P are positive."""
    information = np.zeros_like(both)
    for joint, first, second in (
        (both, one, one),
        (one[:, None] - both, one, 1 - one),
        (one[None, :] - both, 1 - one, one),
        (1 - one[:, None] - one[None, :] + both, 1 - one, 1 - one),
    ):
        # the diagonal is no pair: there two of the four are 0
        log_joint = np.log(joint, where=joint > 0, out=np.zeros_like(joint))
        information += joint * (log_joint - np.log(first)[:, None] - np.log(second)[None, :])
    return information


def _maximum_spanning_tree(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order, parent) of the tree grown from site 0 by Prim's algorithm, greatest weight first."""
    n = len(weight)
    order, parent = [0], np.zeros(n, int)
    best = weight[0].copy()
    best[0] = -np.inf
    while len(order) < n:
        site = int(np.argmax(best))
        order.append(site)
        best[site] = -np.inf
        closer = (weight[site] > best) & (best > -np.inf)
        best = np.where(closer, weight[site], best)
        parent = np.where(closer, site, parent)
    return np.array(order), parent
