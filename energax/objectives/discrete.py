"""Objectives for sites of few values that see no Z: what changing one site would do is enough.

All of them are means over the rows of a sum over sites of a function of D_ij = E(x with site i ← j)
− E(x), where Z cancels: p(x_i = j | the others) = exp(−D_ij) / Σ_k exp(−D_ik). D comes at once from
an `AbstractLocalEnergy`, else from the energy of every change.
"""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from energax.energies._base import (
    AbstractColouredEnergy,
    AbstractEnergy,
    AbstractLocalEnergy,
    AbstractPairwise,
    batched,
    softplus,
)
from energax.energies.lattice import pair_matrix
from energax.objectives._base import AbstractObjective, energies_of_data
from energax.spaces import (
    AbstractArraySpace,
    Binary,
    Point,
    Spin,
    few_valued,
    num_rows,
    with_site_moved,
)

_CHUNK = 2**12
"""Changed points whose energies are computed at once where the energy does not know D."""
_MOST_SITES = 2048  # up to which the eigenvectors of a covariance are cheap
_LEAST = 1e-3  # eigenvalue of a correlation
_INSTEAD = "train with energax.objectives.PersistentCD()"


class _AbstractSiteObjective(AbstractObjective):
    """The mean over rows of a sum over sites of a function of D.

    **Arguments:** `weights`: of the rows, (rows,), where they should count differently; for fits
    that go over all rows at every step (optimizer="lbfgs").
    """

    weights: Float[Array, " rows"] | None = eqx.field(
        default=None, converter=lambda w: None if w is None else jnp.asarray(w, float)
    )

    def __check_init__(self):
        w = self.weights
        if w is not None and (w.ndim != 1 or not bool(jnp.all(w >= 0)) or not float(w.sum()) > 0):
            raise ValueError(
                f"{type(self).__name__}: expected weights (rows,) from 0, not all of them 0"
            )

    @abstractmethod
    def _of_two(self, d: Float[Array, "*sites"]) -> Float[Array, "*sites"]:
        """Each site's term from the D of its flip."""

    @abstractmethod
    def _of_many(self, d: Float[Array, "*sites k"]) -> Float[Array, "*sites"]:
        """Each site's term from the D of its k values, 0 at the value that it has."""

    @property
    def is_deterministic(self):
        return True

    def init(self, energy, data, *, key):
        """(None, None).

        **Raises:** TypeError on spaces whose sites have no few values.
        """
        few_valued(type(self).__name__, energy.space, _INSTEAD)
        return None, None

    def __call__(self, energy, params, batch, carry, *, key):
        d = site_differences(energy, batch)
        terms = (self._of_two if _is_two_valued(energy) else self._of_many)(d)
        if isinstance(energy, AbstractColouredEnergy):
            energies = -energy.ensemble_log_density(batch)
        else:
            energies = -batched(energy, batch)
        metrics = energies_of_data(energies)
        return jnp.sum(self._mean(terms)), None, metrics

    def _mean(self, terms: Float[Array, "rows ..."]) -> Float[Array, "..."]:
        if self.weights is None:
            return jnp.mean(terms, axis=0)
        if self.weights.shape != terms.shape[:1]:
            raise ValueError(
                f"{type(self).__name__}: {len(self.weights)} weights for {len(terms)} rows: with "
                "weights every step needs all rows: take optimizer='lbfgs'"
            )
        return jnp.tensordot(self.weights / jnp.sum(self.weights), terms, axes=1)

    def rough_inverse_hessian(self, energy, data):
        """Of pairwise models, by `PairwiseInverse`."""
        if isinstance(energy, AbstractPairwise) and energy.space.num_sites <= _MOST_SITES:
            return PairwiseInverse.of(energy, data)
        return None

    def evaluations_per_step(self, energy, batch_size):
        space = few_valued(type(self).__name__, energy.space, _INSTEAD)
        changes = 1 if _knows_changes(energy) else space.num_sites * (space.num_values - 1)
        return float(batch_size * (1 + changes))


class PseudoLikelihood(_AbstractSiteObjective):
    """The mean over rows of −Σ_i log p(x_i | the other sites), in nats.

    Besag 1975, "Statistical analysis of non-lattice data", section 3. Population target: the truth
    where the family holds it (Hyvärinen 2006, "Consistency of pseudolikelihood estimation of fully
    visible Boltzmann machines"), else the parameters whose conditionals are nearest in
    Kullback-Leibler divergence, summed over sites. In energies that are linear in θ (Ising, Potts,
    Boltzmann machines) it is convex. Errors are a little larger than those of maximum likelihood;
    modes that no one-site change joins are not weighed against one another.

    Spaces: `Binary`, `Spin`, `Categorical` (either encoding), `Ordinal`. It costs about a gradient
    of the energy a row where the energy knows its one-site changes, else sites · (k − 1) of them.

    **Arguments:** `weights`: of the rows, (rows,), where they should count differently; for fits
    that go over all rows at every step (optimizer="lbfgs").
    """

    def _of_two(self, d):
        return softplus(-d)

    def _of_many(self, d):
        return jax.nn.logsumexp(-d, axis=-1)


class MinimumProbabilityFlow(_AbstractSiteObjective):
    """The mean over rows of Σ exp((E(x) − E(x'))/2), over all x' that differ from x in one site.

    Sohl-Dickstein, Battaglino & DeWeese 2011, "New method for parameter estimation in probabilistic
    models: minimum probability flow", K(θ) with one-site neighbours, in units of ε. Flow to x' that
    are rows themselves counts too: else nothing is left on spaces so small that all states are
    seen; the truth is stationary with it and without. Population target: the truth where the family
    holds it. In energies that are linear in θ it is convex. Improbable rows weigh exponentially,
    so that it errs more than `PseudoLikelihood` and bears outliers worse.

    Spaces and cost: those of `PseudoLikelihood`.
    """

    def _of_two(self, d):
        return jnp.exp(-d / 2)

    def _of_many(self, d):
        return jnp.sum(jnp.exp(-d / 2), axis=-1) - 1  # the 1 is of the value that it has


class RatioMatching(_AbstractSiteObjective):
    """The mean over rows of Σ_i (1 − p(x_i | the other sites))² on two-valued sites.

    Hyvärinen 2007, "Some extensions of score matching", ratio matching: Σ_i g(p(x)/p(x̄_i))² with
    g(u) = 1/(1 + u) and x̄_i the flip of site i. It is the Brier score of the conditionals; on sites
    of k values that score is ½ Σ_j ([x_i = j] − p(j | the others))², the same for k = 2. Population
    target: the truth where the family holds it, as the score is proper (Gneiting & Raftery 2007,
    section 3.1). It is bounded, bears outliers and is not convex.

    Spaces and cost: those of `PseudoLikelihood`.
    """

    def _of_two(self, d):
        return jax.nn.sigmoid(-d) ** 2

    def _of_many(self, d):
        p = jax.nn.softmax(-d, axis=-1)
        here = jnp.exp(-jax.nn.logsumexp(-d, axis=-1))
        return (1 - 2 * here + jnp.sum(p * p, axis=-1)) / 2


class ConcreteScoreMatching(_AbstractSiteObjective):
    """The mean over rows of Σ ½ r(x → x')² − r(x' → x), over all x' that differ from x in one site,
    r(x → y) = exp(E(x) − E(y)).

    Meng, Choi, Song & Ermon 2022, "Concrete score matching: generalized score matching for discrete
    data", theorem 2, with all one-site changes as neighbours. Up to a constant it is the squared
    error of the ratios p(x')/p(x), the score of discrete points, so that the truth is its minimum
    where the family holds it. Ratios above 1 enter by their squares: improbable rows weigh
    more than in any other objective here, and errors are large (docs/choose.md has them measured).
    It is not convex and, on few rows, not bounded from below.

    Spaces and cost: those of `PseudoLikelihood`.
    """

    def _of_two(self, d):
        return jnp.exp(-2 * d) / 2 - jnp.exp(d)

    def _of_many(self, d):
        each = jnp.exp(-2 * d) / 2 - jnp.exp(d)
        return jnp.sum(each, axis=-1) + 0.5  # the value that it has adds −1/2


class PairwiseInverse(eqx.Module):
    """(δJ, δh) that solve W δJ C + C δJ W = G_J − G_h mᵀ − m G_hᵀ and W (δh + δJ m) = G_h.

    Row i of the Hessian of a pairwise model's conditionals is E[v_i(x) x xᵀ], with v_i the variance
    of x_i given the others. Here v_i is a number w_i for all x, the variance of x_i in the data,
    which leaves W δJ C + C δJ W with W = diag(w) and C the covariance of the data, once x is
    measured from its mean m (as Montavon & Müller 2012 centre a Boltzmann machine). A with AᵀCA =
    diag(λ), AᵀWA = 1 solves it: δJ = A [(AᵀGA)_ab / (λ_a + λ_b)] Aᵀ. What is no edge is left out of
    G and of δJ, which keeps the map symmetric and positive.
    """

    edges: Int[Array, "edges 2"]
    mean: Float[Array, " sites"]
    variance: Float[Array, " sites"]
    basis: Float[Array, "sites sites"]
    values: Float[Array, " sites"]

    @staticmethod
    def of(energy: AbstractPairwise, data: Point) -> "PairwiseInverse":
        x = np.asarray(data).reshape(len(data), -1)
        mean = np.mean(x, axis=0, dtype=np.float64)
        covariance = np.asarray(x.T @ x, np.float64) / len(x) - np.outer(mean, mean)
        variance = np.maximum(np.diag(covariance), _LEAST)  # of a site that never changes it is 0
        scale = 1 / np.sqrt(variance)
        correlation = scale[:, None] * covariance * scale + _LEAST * np.eye(x.shape[1])
        values, vectors = np.linalg.eigh(correlation)
        return PairwiseInverse(
            jnp.asarray(energy.edges),
            jnp.asarray(mean, float),
            jnp.asarray(variance, float),
            jnp.asarray(scale[:, None] * vectors, float),
            jnp.asarray(np.maximum(values, _LEAST), float),
        )

    def __call__(self, theta: PyTree) -> PyTree:
        (i, j), mean, basis = self.edges.T, self.mean, self.basis
        slope = theta.couplings - theta.fields[i] * mean[j] - theta.fields[j] * mean[i]
        inner = basis.T @ pair_matrix(self.edges, slope, len(mean)) @ basis
        step = basis @ (inner / (self.values[:, None] + self.values)) @ basis.T
        couplings = step[i, j]
        fields = theta.fields / self.variance
        fields = fields - pair_matrix(self.edges, couplings, len(mean)) @ mean
        return eqx.tree_at(lambda e: (e.couplings, e.fields), theta, (couplings, fields))


def site_differences(energy: AbstractEnergy, x: Point) -> Float[Array, "rows ..."]:
    """D of a batch (rows, *event): (rows, *shape) for flips on two-valued spaces, else (…, k).

    By the energy itself where it knows its changes: entry j is then site ← j. Else by the energies
    of all changed points, and the k entries are the values from the site's own one onwards.
    """
    if _knows_changes(energy):
        assert isinstance(energy, AbstractLocalEnergy)
        return energy.ensemble_site_differences(x)
    space = energy.space
    assert isinstance(space, AbstractArraySpace)
    rows, num_values = num_rows(x), space.num_values  # type: ignore[attr-defined]
    here, shift = batched(energy, x), jnp.arange(1, num_values)

    @jax.checkpoint  # else the gradient would keep every changed point
    def change(site):
        moved = with_site_moved(space, x, jnp.full(rows, site), shift)
        return here - jax.vmap(batched, (None, 0))(energy, moved)  # (k − 1, rows)

    at_once = max(1, min(space.num_sites, _CHUNK // (rows * (num_values - 1))))
    d = jax.lax.map(change, jnp.arange(space.num_sites), batch_size=at_once)
    d = jnp.moveaxis(d, -1, 0)  # (rows, sites, k − 1)
    if _is_two_valued(energy):
        return d.reshape(rows, *space.shape)
    return jnp.pad(d, ((0, 0), (0, 0), (1, 0)))


def _knows_changes(energy: AbstractEnergy) -> bool:
    return isinstance(energy, AbstractLocalEnergy)


def _is_two_valued(energy: AbstractEnergy) -> bool:
    return isinstance(energy.space, (Binary, Spin))
