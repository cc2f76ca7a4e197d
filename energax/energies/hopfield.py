"""Networks that remember: patterns as valleys of a quadratic energy of spins.

E(s) = −½ Σ_{i≠j} W_ij s_i s_j − Σ_i h_i s_i (Hopfield 1982, "Neural networks and physical systems
with emergent collective computational abilities", eq. 7).
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from energax.energies._base import AbstractColouredEnergy, AbstractTiltable, broadcast
from energax.random import as_key
from energax.spaces import Point, Spin

RULES = ("hebb", "pseudo-inverse")


@dataclasses.dataclass(frozen=True)
class Recalled:
    """Where asynchronous updates at zero temperature have led.

    - `x`: of the shape that was given, one point or (rows, *event).
    - `energy`: E(x), () or (rows,). `is_fixed`: no flip of one spin lowers E, () or (rows,) bool.
    - `num_sweeps`: sweeps over all spins that were made, the last one without a flip if all rows
      are fixed.
    """

    x: np.ndarray
    energy: np.ndarray | np.float64
    is_fixed: np.ndarray | np.bool
    num_sweeps: int


class Hopfield(AbstractColouredEnergy, AbstractTiltable):
    """E(s) = −½ Σ_{i≠j} W_ij s_i s_j − Σ_i h_i s_i, W = AᵀA of a few rows A, its diagonal left out.

    By Hebb's rule A = ξ/√N, W_ij = (1/N) Σ_μ ξ_i^μ ξ_j^μ (Hopfield 1982, eq. 2). By the
    pseudo-inverse rule A = C^{−½} ξ/√N with the overlaps C = ξξᵀ/N, so that W projects on the
    patterns (Personnaz, Guyon & Dreyfus 1986, "Collective computational properties of neural
    networks", eq. 9). W is never formed: a sweep over N spins costs O(PN) for P patterns.

    Hebb's valleys lie near random patterns up to P ≈ 0.138 N, with some spins in a hundred wrong
    (Amit, Gutfreund & Sompolinsky 1985); all patterns are fixed points with high probability up to
    N/(4 ln N) (McEliece et al. 1987). The pseudo-inverse rule keeps any independent patterns fixed.
    There are others that nobody stored: −ξ of every pattern, and mixtures such as
    sign(ξ¹ + ξ² + ξ³), of overlap ½ with each of the three and of higher energy (Amit et al. 1985).

    The critical temperature of few patterns is 1 in these units: `tempered(beta)` with β < 1
    remembers nothing.

    **Arguments:** `patterns`: ξ, (P, *event), values −1 and +1. `fields`: h, (*event), (num_sites,)
    or a number. `rule`: "hebb" or "pseudo-inverse".

    **Raises:** ValueError for values that are not ±1, shapes that do not fit, another rule, or by
    the pseudo-inverse rule patterns that are linearly dependent.
    """

    weight: Float[Array, "patterns sites"]
    fields: Float[Array, " sites"]
    space: Spin

    def __init__(self, patterns: Any, fields: Any = 0.0, *, rule: str = "hebb"):
        xi = np.asarray(patterns)
        if xi.ndim < 2 or 0 in xi.shape:
            raise ValueError(
                "Hopfield: expected patterns of shape (patterns, *event), at least one, "
                f"got shape {xi.shape}"
            )
        self.space = Spin(xi.shape[1:])
        xi = np.asarray(self.space.validate(xi, batch=True, name="patterns"), np.float64)
        xi = xi.reshape(len(xi), -1)
        if rule not in RULES:
            raise ValueError(f"Hopfield: expected rule to be one of {RULES}, got {rule!r}")
        if rule == "pseudo-inverse":
            xi = _orthogonal(xi)
        self.weight = jnp.asarray(xi / np.sqrt(xi.shape[1]), float)
        fields = jnp.asarray(fields, float)
        fields = fields.reshape(-1) if fields.shape == self.space.shape else fields
        self.fields = broadcast("Hopfield", fields, (xi.shape[1],), "fields (one a spin)")

    @property
    def colours(self) -> tuple[Int[Array, " 1"], ...]:  # type: ignore[override]
        """Each spin by itself, as all are joined to all."""
        return tuple(jnp.arange(self.space.num_sites)[:, None])

    @property
    def _diagonal(self) -> Float[Array, " sites"]:
        """W_ii, to be taken off again."""
        return jnp.sum(self.weight**2, axis=0)

    def __call__(self, x):
        return -self._log_density(x.reshape(-1))

    def ensemble_log_density(self, x):
        return self._log_density(x.reshape(len(x), -1).T)

    def _log_density(self, sites: Float[Array, "sites ..."]) -> Float[Array, "..."]:
        overlaps = self.weight @ sites
        pairs = jnp.sum(overlaps**2, axis=0) - jnp.sum(self._diagonal)
        return 0.5 * pairs + self.fields @ sites

    def site_differences(self, x):
        s = x.reshape(-1)
        local = self.weight.T @ (self.weight @ s) - self._diagonal * s + self.fields
        return 2 * x * local.reshape(x.shape)

    def sweep(self, x, *, key, backwards=False):
        """Every spin in turn, from the first to the last, drawn from p(s_i | the others)."""
        sites = x.reshape(len(x), -1).T
        u = jax.random.uniform(key, sites.shape, sites.dtype)

        def decide(local, old, u):
            return jnp.where(u < jax.nn.sigmoid(2 * local), 1.0, -1.0).astype(old.dtype)

        new = self._in_turn(sites, jnp.arange(len(sites)), decide, u, backwards)
        return new.T.reshape(x.shape), self._log_density(new)

    def _in_turn(self, sites, order, decide, given, backwards=False):
        """`sites` (N, rows) after `decide(field, spin, given[i])` set each, overlaps kept along."""

        def visit(overlaps, scanned):
            column, diagonal, field, old, extra = scanned
            local = column @ overlaps - diagonal * old + field
            new = decide(local, old, extra)
            return overlaps + column[:, None] * (new - old), new

        scanned = self.weight.T, self._diagonal, self.fields, sites, given
        scanned = jax.tree.map(lambda a: a[order], scanned)
        _, new = jax.lax.scan(visit, self.weight @ sites, scanned, reverse=backwards)
        return jnp.zeros_like(sites).at[order].set(new, unique_indices=True)

    def recall(
        self, x: Point, *, key: Key[Array, ""] | None = None, num_sweeps: int = 100
    ) -> Recalled:
        """From `x` down to a fixed point: each spin in turn takes the sign of its local field.

        Hopfield 1982, eq. 1: the limit β → ∞ of heat bath, so that every flip lowers E. A spin
        whose field vanishes to rounding stays as it is.

        **Arguments:** `x`: one point or (rows, *event). `key`: draws a new order of the spins for
        each sweep; None goes from the first to the last. `num_sweeps`: the most sweeps.

        **Raises:** ValueError for values that are not ±1 or another shape.
        """
        points = self.space.validate(x, name="x")
        single = points.ndim == len(self.space.shape)
        rows = jnp.asarray(points[None] if single else points)
        if num_sweeps < 0:
            raise ValueError(f"num_sweeps: expected a whole number from 0, got {num_sweeps}")
        key = None if key is None else as_key(key)
        out, energy, fixed, done = _recall(self, rows, key, jnp.asarray(num_sweeps))
        out, energy, fixed = (
            np.asarray(a)[0] if single else np.asarray(a) for a in (out, energy, fixed)
        )
        return Recalled(out, np.float64(energy), fixed, int(done))

    def tilt(self, field) -> "Hopfield":
        """The network with f(s) + field·s: the exact posterior of s under independent flips.

        **Arguments:** `field`: (num_sites,), the shape of the space, or a number.
        """
        field = jnp.asarray(field)
        field = field.reshape(-1) if field.shape == self.space.shape else field
        return eqx.tree_at(lambda e: e.fields, self, self.fields + field)

    def tempered(self, beta):
        """βE: W times √β and fields times β; no such network if β is a negative number."""
        if isinstance(beta, int | float) and beta < 0:
            return super().tempered(beta)
        scaled = jnp.sqrt(beta) * self.weight, beta * self.fields
        return eqx.tree_at(lambda e: (e.weight, e.fields), self, scaled)

    def restrict(self, conditional) -> "Hopfield":
        """The network of the free spins; what the given ones say to them becomes fields."""
        free = jnp.asarray(conditional.free)
        given = jnp.asarray(conditional.given).reshape(-1).at[free].set(0.0)
        mine = self.weight[:, free]
        fields = self.fields[free] + mine.T @ (self.weight @ given)
        return eqx.tree_at(
            lambda e: (e.weight, e.fields, e.space),
            self,
            (mine, fields, Spin((len(free),))),
        )


def _orthogonal(xi: np.ndarray) -> np.ndarray:
    """C^{−½} ξ, C = ξξᵀ/N."""
    values, vectors = np.linalg.eigh(xi @ xi.T / xi.shape[1])
    if values[0] < 1e-9 * values[-1]:
        raise ValueError(
            f"Hopfield: the {len(xi)} patterns of {xi.shape[1]} spins are linearly dependent, so "
            'the pseudo-inverse rule has no answer; leave out the dependent ones, or take "hebb"'
        )
    return (vectors / np.sqrt(values)) @ vectors.T @ xi


@eqx.filter_jit
def _recall(energy: Hopfield, rows: Point, key, most: Int[Array, ""]):
    """(points, E, fixed, sweeps made)."""
    sites = rows.reshape(len(rows), -1).T
    size = jnp.abs(energy.weight)

    def rounding(sites):
        """What a local field may be off by: 16 units in the last place of its terms' sizes."""
        terms = size.T @ jnp.abs(energy.weight @ sites)
        terms = terms + (jnp.sum(size**2, axis=0) + jnp.abs(energy.fields))[:, None]
        return 16 * jnp.finfo(sites.dtype).eps * terms

    def decide(local, old, slack):
        return jnp.where(-old * local > slack, -old, old)

    def going(carry):
        _, changed, done = carry
        return jnp.any(changed) & (done < most)

    def sweep(carry):
        sites, _, done = carry
        order = jnp.arange(len(sites))
        if key is not None:
            order = jax.random.permutation(jax.random.fold_in(key, done), len(sites))
        new = energy._in_turn(sites, order, decide, rounding(sites))
        return new, jnp.any(new != sites, axis=0), done + 1

    start = sites, jnp.ones(len(rows), bool), jnp.asarray(0)
    sites, _, done = jax.lax.while_loop(going, sweep, start)
    points = sites.T.reshape(rows.shape)
    rises = jax.vmap(energy.site_differences)(points).reshape(len(rows), -1).T
    fixed: Bool[Array, " rows"] = jnp.all(rises >= -2 * rounding(sites), axis=0)
    return points, -energy.ensemble_log_density(points), fixed, done
