"""Bernoulli, categorical and Poisson families."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, Key

from energax import random
from energax.energies._base import AbstractBernoulli
from energax.energies.exponential_family._base import (
    CONSTANT,
    AbstractExponentialFamily,
    parameters,
    positive,
    refuse,
)
from energax.spaces import Binary, Categorical, Count


class Bernoulli(AbstractExponentialFamily, AbstractBernoulli):
    """Independent bits: T(x) = x, η = log p/(1 − p), A(η) = Σ log(1 + e^η).

    Wainwright & Jordan 2008, table 3.1. **Arguments:** `probs`, 0 < p < 1, of the shape of x.
    """

    space: Binary
    eta: Float[Array, "..."]

    def __init__(self, probs: Any):
        (probs,) = parameters(probs=probs)
        if not isinstance(probs, Tracer) and not bool(jnp.all((probs > 0) & (probs < 1))):
            raise ValueError(f"probs: expected numbers strictly between 0 and 1, got {probs}")
        self.space = Binary(probs.shape)
        self.eta = jnp.log(probs) - jnp.log1p(-probs)

    @property
    def logits(self):  # type: ignore[override]
        return self.eta

    @property
    def probs(self) -> Float[Array, "..."]:
        return jax.nn.sigmoid(self.eta)

    def sufficient_statistics(self, x):
        return x

    def log_partition(self, eta):
        return jnp.sum(jax.nn.softplus(eta))

    def draw(self, num: int, *, key: Key[Array, ""]):
        up = jax.random.bernoulli(key, self.probs, (num, *self.space.shape))
        return up.astype(self.eta.dtype)

    @classmethod
    def _space_of(cls, shape, given):
        return Binary(shape)

    @classmethod
    def _fit(cls, rows, space):
        mean = rows.mean(0)
        refuse((mean == 0) | (mean == 1), CONSTANT)
        return cls(mean)


class CategoricalFamily(AbstractExponentialFamily):
    """Independent categories: T(x) one-hot, η logits (*sites, k), A(η) = Σ log Σⱼ exp ηⱼ.

    Wainwright & Jordan 2008, section 3.2; overcomplete, so a constant may be added to the logits of
    a site. Named apart from the space `Categorical`. **Arguments:** `probs` > 0, (*sites, k),
    summing to 1 over k; `encoding`: "index" or "onehot", as in the space.
    """

    space: Categorical
    eta: Float[Array, "... k"]

    def __init__(self, probs: Any, *, encoding: Any = "index"):
        (probs,) = positive(probs=probs)
        if not isinstance(probs, Tracer) and not np.allclose(
            np.asarray(probs).sum(-1), 1, atol=1e-5
        ):
            raise ValueError(f"probs: expected a sum of 1 over the last axis, got {probs.sum(-1)}")
        self.space = Categorical(probs.shape[:-1], probs.shape[-1], encoding)
        self.eta = jnp.log(probs)

    @property
    def probs(self) -> Float[Array, "... k"]:
        return jax.nn.softmax(self.eta)

    def sufficient_statistics(self, x):
        if self.space.encoding == "onehot":
            return x
        return jax.nn.one_hot(x, self.space.num_values, dtype=self.eta.dtype)

    def log_partition(self, eta):
        return jnp.sum(jax.nn.logsumexp(eta, axis=-1))

    def draw(self, num: int, *, key: Key[Array, ""]):
        index = random.categorical(key, self.eta, (num, *self.space.sites))
        return self.space.encode(index)

    @classmethod
    def _space_of(cls, shape, given):
        if isinstance(given, Categorical):
            return given
        raise TypeError(
            "the number of categories cannot be read off data: "
            "CategoricalFamily.fit_moments(data, space=Categorical(sites, k))"
        )

    @classmethod
    def _fit(cls, rows, space):
        index = np.asarray(space.decode(jnp.asarray(rows, space.dtype)))
        probs = np.stack([(index == j).mean(0) for j in range(space.num_values)], -1)
        refuse(
            probs == 0,
            "no finite maximum with a category never seen; use fitted_base",
        )
        return cls(probs, encoding=space.encoding)


class Poisson(AbstractExponentialFamily):
    """Independent counts: T(x) = x, η = log rate, h(x) = 1/x!, A(η) = Σ e^η.

    Wainwright & Jordan 2008, table 3.1. **Arguments:** `rate` > 0, of the shape of x. In float32
    log p of a count n carries an error of some 1e-7 · n log n.
    """

    space: Count
    eta: Float[Array, "..."]

    def __init__(self, rate: Any):
        (rate,) = positive(rate=rate)
        self.space = Count(rate.shape)
        self.eta = jnp.log(rate)

    @property
    def rate(self) -> Float[Array, "..."]:
        return jnp.exp(self.eta)

    def sufficient_statistics(self, x):
        return x.astype(self.eta.dtype)

    def log_base_measure(self, x):
        return -jnp.sum(gammaln(x.astype(self.eta.dtype) + 1))

    def log_partition(self, eta):
        return jnp.sum(jnp.exp(eta))

    def draw(self, num: int, *, key: Key[Array, ""]):
        return random.poisson(key, self.rate, (num, *self.space.shape))

    @classmethod
    def _space_of(cls, shape, given):
        return Count(shape)

    @classmethod
    def _fit(cls, rows, space):
        mean = rows.mean(0)
        refuse(
            mean == 0,
            "no finite maximum for a count that is always 0; remove it",
        )
        return cls(mean)
