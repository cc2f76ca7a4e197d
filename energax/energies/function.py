"""Energies from a function: any f(x) = log density + constant, or any density g(x) ≥ 0."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractEnergy, check_scalar
from energax.spaces import AbstractSpace


class FunctionEnergy(AbstractEnergy):
    """E(x) = −f(x), or −f(params, x) where the function takes its parameters beside the point.

    `function` is any callable that JAX traces: a Python function, an Equinox module (its arrays are
    trained), or with `params` a Flax module's `apply`.
    """

    function: Callable[..., Any]
    space: AbstractSpace
    params: Any = None

    def __call__(self, x):
        value = self.function(x) if self.params is None else self.function(self.params, x)
        return -_as_float(value)


class PositiveEnergy(AbstractEnergy):
    """E(x) = −log link(h(x)), +∞ where the density is 0; a negative density gives NaN."""

    function: Callable[..., Any]
    space: AbstractSpace
    params: Any = None
    link: str = eqx.field(static=True, default="identity")

    def __call__(self, x):
        value = self.function(x) if self.params is None else self.function(self.params, x)
        return -_LOG_LINKS[self.link](_as_float(value))


def _as_float(value):
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.inexact) else value.astype(float)


def _safe_log(g):
    """log g with −∞ at 0 (and gradient 0 there), NaN below 0."""
    positive = jnp.where(g > 0, g, 1.0)
    return jnp.where(g > 0, jnp.log(positive), jnp.where(g == 0, -jnp.inf, jnp.nan))


_LOG_LINKS: dict[str, Callable[[Any], Any]] = {
    "identity": _safe_log,
    "exp": lambda h: h,
    "square": lambda h: 2 * _safe_log(jnp.abs(h)),
    "abs": lambda h: _safe_log(jnp.abs(h)),
    "softplus": lambda h: _safe_log(jax.nn.softplus(h)),
}


def _as_params(params):
    """Array-like leaves as JAX arrays, so that they are traced and can be trained."""
    return jax.tree.map(
        lambda a: jnp.asarray(a) if isinstance(a, (np.ndarray, float)) else a, params
    )


def from_log_density(f: Callable[..., Any], space: AbstractSpace, *, params=None) -> FunctionEnergy:
    """The distribution p(x) = exp(f(x))/Z from its log-density up to a constant.

    **Arguments:** `f`: maps ONE point of `space` to a scalar; any JAX-traceable function or Equinox
    module. `params`: where given, f is called as f(params, x), as a Flax module's `apply` is, and
    the arrays in `params` are what `fit` trains.

    **Raises:** ValueError if f does not give a real scalar for one point.
    """
    _check_arguments(f, space, "from_log_density(f, space)")
    energy = FunctionEnergy(f, space, _as_params(params))
    check_scalar(energy)
    return energy


def from_positive(
    g: Callable[..., Any], space: AbstractSpace, *, params=None, link: str = "identity"
) -> PositiveEnergy:
    """The distribution p(x) = g(x)/∫g from any g ≥ 0; its log-density is log g, −∞ where g = 0.

    **Arguments:** `g`: maps ONE point to a scalar ≥ 0. `link`: makes any real h(x) = g(x)
    non-negative: "exp", "square", "abs" or "softplus" of it; "identity" leaves it. `params`: as in
    `from_log_density`.

    **Raises:** ValueError if g does not give a real scalar, or the link is unknown. A g that turns
    out negative somewhere gives NaN there, which every answer reports.
    """
    if link not in _LOG_LINKS:
        raise ValueError(f"link is one of {sorted(_LOG_LINKS)}, got {link!r}")
    _check_arguments(g, space, "from_positive(g, space)")
    energy = PositiveEnergy(g, space, _as_params(params), link)
    check_scalar(energy)
    return energy


def _check_arguments(function, space, call: str) -> None:
    if not callable(function):
        raise TypeError(f"{call} expects a function of one point, got {type(function).__name__}")
    if not isinstance(space, AbstractSpace):
        raise TypeError(
            f"{call} expects a space such as energax.Real((2,)), got {type(space).__name__}"
        )
