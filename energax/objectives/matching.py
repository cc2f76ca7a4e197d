"""Regression of ∇f on the way from noise to the rows: f for sampling downhill, not a likelihood."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from energax import random
from energax.objectives._base import (
    AbstractObjective,
    check_positive,
    energies_of_data,
    flat_f,
    spreads,
)
from energax.samplers._base import is_real
from energax.spaces import flatten_points, num_rows


class _AbstractMatching(AbstractObjective):
    """Rows x₁ and noise x₀ of their mean and spread."""

    def init(self, energy, data, *, key):
        """(None, (mean, sd) of the noise, the data's own).

        **Raises:** TypeError unless all coordinates are on `Real`.
        """
        if not is_real(energy.space):
            raise TypeError(
                f"{type(self).__name__} goes straight from noise to rows, which takes Real "
                f"coordinates, got {energy.space}; take PersistentCD() or ConditionalNCE()"
            )
        rows = flatten_points(jax.tree.map(lambda a: np.asarray(a)[None], data))[0]
        sd = flatten_points(jax.tree.map(lambda a: np.asarray(a)[None, None], spreads(data)))[0, 0]
        return None, (jnp.asarray(rows.mean(0), float), jnp.asarray(sd, float))

    @abstractmethod
    def _wanted(self, path: Float[Array, "rows n"], t: Float[Array, "rows 1"]) -> Any:
        """∇f that is wanted at t of the way, `path` = x₁ − x₀."""

    @abstractmethod
    def _paired(self, x0: Float[Array, "rows n"], x1: Float[Array, "rows n"]) -> Any:
        """x₀ in the order in which it goes to x₁."""

    def _matched(self, energy, batch, noise, key):
        """(the mean over rows of ½|∇f(x_t) − wanted|² in units of the noise, metrics)."""
        mean, sd = noise
        f, rows = flat_f(energy, batch)
        key_noise, key_time = jax.random.split(key)
        x1 = (rows - mean) / sd
        x0 = self._paired(random.normal(key_noise, rows.shape, rows.dtype), x1)
        t = jax.random.uniform(key_time, (num_rows(batch), 1), rows.dtype)
        at = mean + sd * ((1 - t) * x0 + t * x1)
        values, scores = jax.vmap(jax.value_and_grad(f))(at)
        wanted = self._wanted(x1 - x0, t)
        loss = jnp.mean(jnp.sum((sd * scores - wanted) ** 2, axis=1)) / 2
        return loss, energies_of_data(-values)

    def evaluations_per_step(self, energy, batch_size):
        return 2.0 * batch_size


class EquilibriumMatching(_AbstractMatching):
    """The mean of ½|∇f(x_t) − λ c(t)(x₁ − x₀)|², x_t = (1 − t) x₀ + t x₁, t uniform.

    Wang & Du 2025, "Equilibrium matching: generative modeling with implicit energy-based models",
    section 3, with its truncated decay: c = 1 up to t = `decay_from`, then falling in a straight
    line to 0 at the rows, which are then at rest: hills of f that chains climb from noise. x₀ is
    normal noise with the data's mean and spread, and lengths are in units of it. Population target:
    ∇f(x) = E[λ c(t)(x₁ − x₀) | x_t = x] where that is a gradient, else the nearest one in mean
    square. That is no density of the rows: f is for climbing (`energax.mode`, Langevin steps with
    little noise), not for likelihoods.

    Spaces: `Real` and records of it. A row costs two gradients in x.

    **Arguments:** `steepness` λ. `decay_from`: from 0 to 1, without 1.

    **Raises:** ValueError for numbers out of range.
    """

    steepness: Float[Array, ""] = eqx.field(default=4.0, converter=lambda v: jnp.asarray(v, float))
    decay_from: Float[Array, ""] = eqx.field(default=0.8, converter=lambda v: jnp.asarray(v, float))

    def __check_init__(self):
        check_positive("steepness", self.steepness)
        if not 0 <= float(self.decay_from) < 1:
            raise ValueError(
                f"decay_from: expected a number from 0, below 1, got {float(self.decay_from):g}"
            )

    def __call__(self, energy, params, batch, carry, *, key):
        loss, metrics = self._matched(energy, batch, carry, key)
        return loss, carry, metrics

    def _wanted(self, path, t):
        return self.steepness * jnp.minimum(1.0, (1 - t) / (1 - self.decay_from)) * path

    def _paired(self, x0, x1):
        return x0


class EnergyMatching(_AbstractMatching):
    """The mean of ½|T∇f(x_t) − (x₁ − x₀)|², x₀ and x₁ paired by optimal transport in the minibatch.

    Balcerak, Amiranashvili, Terpin, Shit, Bogensperger, Kaltenbach, Koumoutsakos & Menze 2025,
    "Energy matching: unifying flow matching and energy-based models for generative modeling",
    section 3, V = −Tf. x₀ is normal noise with the data's mean and spread, and lengths are in units
    of it: away from the rows f carries noise to them along straight lines. It says nothing of the
    density at the rows: `contrast`, an objective such as `PersistentCD()`, makes it p there, in a
    second training that starts from the first. Population target: ∇f(x) = E[x₁ − x₀ | x_t = x] / T
    where that is a gradient, else the nearest in mean square, plus that of `contrast`: with both
    the fit lies between the two.

    Spaces: `Real` and records of it. A row costs two gradients in x and a share of the pairing,
    which grows as the cube of the minibatch (a tenth of a second at 1000 rows); and what `contrast`
    costs.

    **Arguments:** `temperature` T. `contrast`: None, or an objective. `share`: of the transport in
    the loss when there is a `contrast`.

    **Raises:** ValueError for numbers out of range; TypeError for a `contrast` that is none.
    """

    temperature: Float[Array, ""] = eqx.field(
        default=0.1, converter=lambda v: jnp.asarray(v, float)
    )
    contrast: AbstractObjective | None = None
    share: Float[Array, ""] = eqx.field(default=0.5, converter=lambda v: jnp.asarray(v, float))

    def __check_init__(self):
        check_positive("temperature", self.temperature)
        if not 0 < float(self.share) < 1:
            raise ValueError(f"share: expected a number between 0 and 1, got {float(self.share):g}")
        if self.contrast is not None and not isinstance(self.contrast, AbstractObjective):
            raise TypeError(
                "contrast: expected an objective such as PersistentCD(), got "
                f"{type(self.contrast).__name__}"
            )

    def init(self, energy, data, *, key):
        """(Params of the contrast, ((mean, sd) of the noise, its Carry)).

        **Raises:** TypeError unless all coordinates are on `Real`.
        """
        _, noise = super().init(energy, data, key=key)
        params, carry = None, None
        if self.contrast is not None:
            params, carry = self.contrast.init(energy, data, key=key)
        return params, (noise, carry)

    def __call__(self, energy, params, batch, carry, *, key):
        noise, other = carry
        key_own, key_other = jax.random.split(key)
        loss, metrics = self._matched(energy, batch, noise, key_own)
        loss = self.temperature**2 * loss
        metrics["transport"] = loss
        if self.contrast is not None:
            added, other, metrics_of = self.contrast(energy, params, batch, other, key=key_other)
            loss, metrics = self.share * loss + (1 - self.share) * added, metrics | metrics_of
        return loss, (noise, other), metrics

    def _wanted(self, path, t):
        return path / self.temperature

    def _paired(self, x0, x1):
        shape = jax.ShapeDtypeStruct((len(x0),), np.int32)
        order = jax.pure_callback(_assigned, shape, x0, jax.lax.stop_gradient(x1))
        return x0[order]

    def evaluations_per_step(self, energy, batch_size):
        own = super().evaluations_per_step(energy, batch_size)
        more = 0.0
        if self.contrast is not None:
            more = self.contrast.evaluations_per_step(energy, batch_size)
        return own + more


def _assigned(x0, x1) -> np.ndarray:
    """Which x₀ goes to each x₁, so that the sum of squared distances is least."""
    from scipy.optimize import linear_sum_assignment

    x0, x1 = np.asarray(x0, np.float64), np.asarray(x1, np.float64)
    square = (x1**2).sum(1)[:, None] + (x0**2).sum(1) - 2 * x1 @ x0.T
    return linear_sum_assignment(square)[1].astype(np.int32)
