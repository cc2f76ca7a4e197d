"""Score matching: the model's score ∇f against the data's, where Z is never asked for.

By a rule of partial integration the score of the data need not be known (Hyvärinen 2005), or it is
that of the data with noise added, which is (Vincent 2011). What the losses see is f near the data:
modes that the data do not join are not weighed against one another.
"""

import math
from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from energax import random
from energax.energies._base import AbstractSmoothed
from energax.objectives._base import (
    AbstractObjective,
    as_numbers,
    check_positive,
    check_whole,
    energies_of_data,
    flat_f,
    like_a_point,
    spreads,
)
from energax.spaces import AbstractSpace, Box, Point, Real, Record, flatten_points

_AT_ONCE = 2**12
"""Second derivatives computed at once, rows times coordinates."""
_OF_SD = 0.1
"""Noise in units of the data's standard deviation, where none is given."""
_PIECEWISE = "relu", "leaky_relu"
"""Activations whose second derivatives are 0."""


class _AbstractByParts(AbstractObjective):
    """E_data Σ_i [h_i (½ (∂_i f)² + ∂_i² f) + h_i' ∂_i f], with h = 1 on `Real`.

    On `Box` h_i is the distance to the nearer end in units of the data's sd, at most 1: partial
    integration then leaves nothing behind at the ends.
    """

    def init(self, energy, data, *, key):
        """(None, (low, high, sd of the data), each (coordinates,)).

        **Raises:** TypeError unless all coordinates are real, and for networks whose second
        derivatives are 0 everywhere; ValueError for a coordinate that never changes.
        """
        name = type(self).__name__
        low, high = _ends(name, energy.space)
        activation = getattr(energy, "activation", None)
        if activation in _PIECEWISE:
            raise TypeError(
                f"{name}: a network of {activation} is linear piece by piece, so that its "
                "second derivatives say nothing; take activation='silu', or "
                "DenoisingScoreMatching(), which needs none"
            )
        rows = flatten_points(jax.tree.map(lambda a: np.asarray(a)[None], data))[0]
        constant = np.flatnonzero(np.ptp(rows, axis=0) == 0)
        if len(constant):
            raise ValueError(
                f"{name}: {len(constant)} coordinate(s) never change in the data, the first is "
                f"number {constant[0]}: there the loss falls without end; leave them out, or take "
                "DenoisingScoreMatching(sigma)"
            )
        sd = np.std(rows, axis=0)
        return None, tuple(jnp.asarray(each, float) for each in (low, high, sd))

    @abstractmethod
    def _curvature(
        self, f: Any, rows: Float[Array, "rows d"], h: Float[Array, "rows d"], key: Key[Array, ""]
    ) -> Float[Array, " rows"]:
        """Σ_i h_i ∂_i² f of each row."""

    def __call__(self, energy, params, batch, carry, *, key):
        f, rows = flat_f(energy, batch)
        low, high, sd = carry
        h, slope = _weight(rows, low, high, sd)
        values, scores = jax.vmap(jax.value_and_grad(f))(rows)
        first = jnp.sum(h * scores**2 / 2 + slope * scores, axis=-1)
        loss = jnp.mean(first + self._curvature(f, rows, h, key))
        return loss, carry, energies_of_data(-values)


class ScoreMatching(_AbstractByParts):
    """The mean over rows of Σ_i ½ (∂_i f)² + ∂_i² f, up to a constant ½ E|∇f − ∇log p_data|², for
    f with two derivatives.

    Hyvärinen 2005, "Estimation of non-normalized statistical models by score matching", eq. 4, the
    second derivatives exact (forward over reverse). On `Box` each term is weighted by the distance
    to the nearer end (Yu, Drton & Shojaie 2022, "Generalized score matching for general domains").
    Population target: the truth where the family holds it, else the f of the nearest score
    in mean square. In energies that are linear in θ it is a quadratic.

    Spaces: `Real`, `Box` and records of them, n coordinates in all. A row costs n products with the
    Hessian of f, each about two gradients.
    """

    @property
    def is_deterministic(self):
        return True

    def _curvature(self, f, rows, h, key):
        d = rows.shape[1]

        @jax.checkpoint  # else the gradient would keep what every coordinate computed
        def along(i):
            direction = jnp.zeros(d, rows.dtype).at[i].set(1.0)
            return jax.vmap(lambda row: _hessian_product(f, row, direction)[i])(rows)

        at_once = max(1, min(d, _AT_ONCE // len(rows)))
        each = jax.lax.map(along, jnp.arange(d), batch_size=at_once)
        return jnp.sum(h * each.T, axis=-1)

    def evaluations_per_step(self, energy, batch_size):
        return float(batch_size * (1 + 2 * energy.space.num_sites))


class SlicedScoreMatching(_AbstractByParts):
    """`ScoreMatching` with the second derivatives along random directions: E ½|∇f|² + vᵀ∇²f v.

    Song, Garg, Shi & Ermon 2019, "Sliced score matching", with variance reduction (SSM-VR), v of
    random signs (Hutchinson 1989), which has the trace as its mean. Population target: that of
    `ScoreMatching`. A row costs `num_slices` products with the Hessian of f instead of one a
    coordinate, and the gradient is noisier.

    **Arguments:** `num_slices`: directions a row.

    Spaces: those of `ScoreMatching`.
    """

    num_slices: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        check_whole("num_slices", self.num_slices)

    def _curvature(self, f, rows, h, key):
        signs = jax.random.rademacher(key, (self.num_slices, *rows.shape), rows.dtype)

        def along(row, direction):
            return _hessian_product(f, row, direction) @ direction

        each = jax.vmap(jax.vmap(along), (None, 0))(rows, jnp.sqrt(h) * signs)
        return jnp.mean(each, axis=0)

    def evaluations_per_step(self, energy, batch_size):
        return float(batch_size * (1 + 2 * self.num_slices))


class _AbstractDenoising(AbstractObjective):
    """Rows with noise of σ on each coordinate, of both signs; Carry is σ."""

    sigma: Any = eqx.field(default=None, converter=as_numbers)

    def __check_init__(self):
        check_positive("sigma", self.sigma)

    def init(self, energy, data, *, key):
        """(None, σ of each coordinate).

        **Raises:** TypeError unless the space is `Real` or a record of it; ValueError for a σ of
        another shape, or another than an `AbstractSmoothed` energy states.
        """
        name, sigma = type(self).__name__, self.sigma
        if isinstance(energy, AbstractSmoothed):
            if sigma is not None and not bool(jnp.allclose(sigma, energy.sigma, rtol=1e-3)):
                raise ValueError(
                    f"{name}: sigma={sigma}, but the energy is of points with noise of sd "
                    f"{energy.sigma:g}: leave sigma out, or make the energy with that sigma"
                )
            sigma = jnp.asarray(energy.sigma)
        return None, _noise(name, energy.space, sigma, data)

    def evaluations_per_step(self, energy, batch_size):
        return 2.0 * batch_size


class DenoisingScoreMatching(_AbstractDenoising):
    """The mean over rows of ½|σ∇f(x + σε) + ε|², ε standard normal.

    Vincent 2011, "A connection between score matching and denoising autoencoders", section 4.3,
    times σ². Each ε is taken with both signs: the part of the gradient's noise that grows as 1/σ
    cancels. Population target: the truth convolved with the noise, p ∗ N(0, σ²), where the family
    holds it. ε has mean −σ∇f(x̃) given x̃, so that x̃ + σ²∇f(x̃) is the best guess of the row behind
    x̃ (Tweedie's formula; Robbins 1956).

    Spaces: `Real` and records of it. A row costs two gradients in x.

    **Arguments:** `sigma` σ: a number, or of the shape of a point; None takes that of an energy
    which states one (`Smoothed`, `GradientStepDenoiser`), else a tenth of each coordinate's
    standard deviation in the data (`init(energy, data, key=key)[1]` tells it).

    **Raises:** ValueError for a σ that is not positive.
    """

    def __call__(self, energy, params, batch, carry, *, key):
        f, rows = flat_f(energy, batch)
        noise = random.normal(key, rows.shape, rows.dtype)
        sigma = jnp.broadcast_to(carry, rows.shape)
        loss, values = _denoising(f, rows, noise, sigma, sigma)  # values: f with the noise on
        return jnp.mean(loss), carry, energies_of_data(-values)


class MultiscaleDenoising(_AbstractDenoising):
    """Denoising score matching with noise of many sizes s and one target σ: the mean over rows and
    sizes of ½|(σ²/s) ∇f(x + sε) + ε|².

    Li, Chen & Sommer 2019, "Learning energy-based models in high-dimensional spaces with multi-
    scale denoising score matching", with l(s) = 1/s². In many dimensions noise of one size
    teaches f about a thin shell around the data alone; large s tell it where the data are from far
    away. Population target: σ²∇f(x̃) = E[x | x̃] − x̃, the mean over rows and sizes weighted by
    1/s². That is p ∗ N(0, σ²) only with the single size σ: with larger ones f is steeper. On data
    of variance v its own precision, 1/(v + σ²), comes out as 1/(σ² · mean of (1 + v/s²)).

    Spaces: `Real` and records of it. A row costs two gradients in x.

    **Arguments:** `sigma` σ: a number, or of the shape of a point; None takes a tenth of each
    coordinate's standard deviation in the data. `largest`: the largest s in units of σ. `num_sizes`
    of s, geometric from σ on.

    **Raises:** ValueError for a σ that is not positive, or `largest` below 1.
    """

    largest: Float[Array, ""] = eqx.field(default=10.0, converter=lambda v: jnp.asarray(v, float))
    num_sizes: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        check_whole("num_sizes", self.num_sizes)
        if not 1 <= float(self.largest) < math.inf:
            raise ValueError(
                f"MultiscaleDenoising: expected largest from 1, in units of sigma, got "
                f"{float(self.largest):g}"
            )

    def sizes(self) -> Float[Array, " num_sizes"]:
        """s in units of σ."""
        return self.largest ** jnp.linspace(0.0, 1.0, self.num_sizes)

    def __call__(self, energy, params, batch, carry, *, key):
        f, rows = flat_f(energy, batch)
        key_noise, key_size = jax.random.split(key)
        noise = random.normal(key_noise, rows.shape, rows.dtype)
        chosen = jax.random.randint(key_size, (len(rows), 1), 0, self.num_sizes)
        size = self.sizes()[chosen]
        loss, values = _denoising(f, rows, noise, size * carry, carry / size)
        return jnp.mean(loss), carry, energies_of_data(-values)


def _hessian_product(f: Any, row: Float[Array, " d"], direction: Float[Array, " d"]):
    return jax.jvp(jax.grad(f), (row,), (direction,))[1]


def _denoising(f, rows, noise, moved, pull):
    """(½|pull ∇f(x ± moved ε) ± ε|², f there), means over both signs, (rows,)."""

    def one(row, noise, moved, pull, sign):
        value, score = jax.value_and_grad(f)(row + sign * moved * noise)
        return jnp.sum((pull * score + sign * noise) ** 2) / 2, value

    both = [jax.vmap(one, (0, 0, 0, 0, None))(rows, noise, moved, pull, s) for s in (1.0, -1.0)]
    return jax.tree.map(lambda a, b: (a + b) / 2, *both)


def _ends(name: str, space: AbstractSpace) -> tuple[np.ndarray, np.ndarray]:
    """Ends of every coordinate, infinite on `Real`; NumPy, as what is known is asked of them."""
    parts = list(space.parts.values()) if isinstance(space, Record) else [space]
    ends = []
    for part in parts:
        if not isinstance(part, (Real, Box)):
            raise TypeError(
                f"{name} differentiates f in x, which takes real coordinates (Real, Box, or a "
                f"Record of them), got {space}; train with energax.objectives.PseudoLikelihood() "
                "on few-valued sites, else PersistentCD() or ConditionalNCE()"
            )
        if isinstance(part, Box):
            ends.append((np.ravel(part.low), np.ravel(part.high)))
        else:
            ends.append((np.full(part.num_sites, -np.inf), np.full(part.num_sites, np.inf)))
    low, high = zip(*ends, strict=True)
    return np.concatenate(low), np.concatenate(high)


def _weight(rows, low, high, sd) -> tuple[Float[Array, "rows d"], Float[Array, "rows d"]]:
    """(h, h'), 1 and 0 away from ends."""
    to_low, to_high = rows - low, high - rows
    nearest = jnp.minimum(to_low, to_high)
    near = nearest < sd
    slope = jnp.where(to_low < to_high, 1.0, -1.0) / sd
    return jnp.where(near, nearest / sd, 1.0), jnp.where(near, slope, 0.0)


def _noise(name: str, space: AbstractSpace, sigma: Any, data: Point) -> Float[Array, " d"]:
    low, high = _ends(name, space)
    if np.isfinite(low).any() or np.isfinite(high).any():
        raise TypeError(
            f"{name}: noise would carry points out of {space}; take ScoreMatching() or "
            "SlicedScoreMatching(), which know about ends"
        )
    if sigma is None:
        sigma = jax.tree.map(lambda sd: _OF_SD * sd, spreads(data))
    sigma = like_a_point("sigma", sigma, space.shape)
    shapes = space.shape
    if isinstance(shapes, dict):
        parts = sigma if isinstance(sigma, dict) else dict.fromkeys(shapes, sigma)
        each = [jnp.broadcast_to(parts[k], shapes[k]).reshape(-1) for k in sorted(shapes)]
        return jnp.concatenate(each).astype(float)
    return jnp.broadcast_to(sigma, shapes).reshape(-1).astype(float)
