"""Whether an objective finds the truth from draws of it: Wald's statistic with sandwich errors.

An objective that is a mean over rows of ℓ(θ; row, chance) is minimised over all rows at once with
each row's chance held fixed. Where its population target is the truth, θ̂ − θ* is then normal with
covariance H⁻¹ V H⁻¹ / rows, H the mean Hessian and V the covariance of the rows' gradients (van der
Vaart 1998, theorem 5.23).
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy import stats

from energax import random
from energax.energies import from_log_density
from energax.energies._base import partition_trainable
from energax.spaces import Real
from tests.exact import P_LIMIT

_CHUNK = 1000

# Truths that can be drawn from, off the origin and with known Z

_BANANA = {"a": -0.2, "b": 0.3, "c": 0.4, "k": -1.0, "m": 0.7}


def banana():
    """x₀ ~ N(m, e^−2a), x₁ ~ N(c x₀² + k, e^−2b) as an energy of five parameters."""

    def f(p, x):
        first = jnp.exp(2 * p["a"]) * (x[0] - p["m"]) ** 2
        return -0.5 * (first + jnp.exp(2 * p["b"]) * (x[1] - p["c"] * x[0] ** 2 - p["k"]) ** 2)

    return from_log_density(f, Real((2,)), params=jax.tree.map(jnp.asarray, _BANANA))


def banana_draws(num, seed):
    rng, p = np.random.default_rng(seed), _BANANA
    first = p["m"] + np.exp(-p["a"]) * rng.normal(size=num)
    second = p["c"] * first**2 + p["k"] + np.exp(-p["b"]) * rng.normal(size=num)
    return np.stack([first, second], 1)


BANANA_LOG_Z = np.log(2 * np.pi) - _BANANA["a"] - _BANANA["b"]

_CHAIN = {
    "a": np.linspace(-0.4, 0.5, 10),
    "k": np.linspace(-1.0, 1.2, 10),
    "c": np.asarray(0.6),
}


def chain():
    """x_i ~ N(k_i + c sin x_{i−1}, e^−2a_i), ten coordinates and 21 parameters."""

    def f(p, x):
        before = jnp.concatenate([jnp.zeros(1), jnp.sin(x[:-1])])
        return -0.5 * jnp.sum(jnp.exp(2 * p["a"]) * (x - p["k"] - p["c"] * before) ** 2)

    return from_log_density(f, Real((10,)), params=jax.tree.map(jnp.asarray, _CHAIN))


def chain_draws(num, seed):
    rng, columns = np.random.default_rng(seed), [np.zeros(num)]
    for a, k in zip(_CHAIN["a"], _CHAIN["k"], strict=True):
        mean = k + _CHAIN["c"] * (np.sin(columns[-1]) if len(columns) > 1 else 0.0)
        columns.append(mean + np.exp(-a) * rng.normal(size=num))
    return np.stack(columns[1:], 1)


CHAIN_LOG_Z = 5 * np.log(2 * np.pi) - np.sum(_CHAIN["a"])


class Found(NamedTuple):
    """`z` of each parameter, `wald`: χ² of all together, `off`: estimate − what was due."""

    z: np.ndarray
    wald: float
    off: np.ndarray


def agrees(found: Found) -> bool:
    """Whether the estimate is where it should be: |z| < 4.5 each, and all together by χ²."""
    return np.abs(found.z).max() < 4.5 and stats.chi2.sf(found.wald, len(found.z)) > P_LIMIT


def errors(objective, energy, data, *, seed, own_truth=None, target=None, steps=8):
    """How far the minimum near the truth is from it, as `Found`.

    **Arguments:** `energy`: where the search starts, made within `jax.enable_x64`. `own_truth`:
    what the objective's own parameters should come to, None to leave them out. `target`: an energy
    with the parameters that are due, None for those of `energy`.
    """
    rows = len(jax.tree.leaves(data)[0])
    assert rows % _CHUNK == 0
    theta, fixed = partition_trainable(energy)
    params, carry = objective.init(energy, data, key=random.key(seed))
    keys = jax.random.split(random.key(seed + 1), rows)
    start, unravel = ravel_pytree((theta, params))
    due = ravel_pytree(partition_trainable(energy if target is None else target)[0])[0]
    num = len(due)

    def of_row(v, row, key):
        theta, params = unravel(v)
        batch = jax.tree.map(lambda a: a[None], row)
        return objective(eqx.combine(theta, fixed), params, batch, carry, key=key)[0]

    def chunks(a):
        return a.reshape(-1, _CHUNK, *a.shape[1:])

    pieces = jax.tree.map(lambda a: chunks(jnp.asarray(a)), data), chunks(keys)

    @jax.jit
    def newton(v):
        def one(piece):
            def mean(v):
                return jnp.mean(jax.vmap(of_row, (None, 0, 0))(v, *piece))

            return jax.grad(mean)(v), jax.hessian(mean)(v)

        return jax.tree.map(lambda a: jnp.mean(a, 0), jax.lax.map(one, pieces))

    @jax.jit
    def spread(v):
        def one(piece):
            g = jax.vmap(jax.grad(of_row), (None, 0, 0))(v, *piece)
            return g.T @ g / _CHUNK

        return jnp.mean(jax.lax.map(one, pieces), 0)

    v = start
    for _ in range(steps):
        gradient, hessian = newton(v)
        v = v - jnp.linalg.solve(hessian, gradient)
    assert float(jnp.max(jnp.abs(newton(v)[0]))) < 1e-8, "Newton's method has not come to rest"
    inverse = np.linalg.inv(np.asarray(newton(v)[1]))
    covariance = inverse @ np.asarray(spread(v)) @ inverse / rows
    wanted, keep = np.asarray(due), slice(num)
    if own_truth is not None:
        wanted, keep = np.append(wanted, own_truth), slice(None)
    off = np.asarray(v)[keep] - wanted
    covariance = covariance[keep, keep]
    wald = float(off @ np.linalg.solve(covariance, off))
    return Found(off / np.sqrt(np.diag(covariance)), wald, off)
