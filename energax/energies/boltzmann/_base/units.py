"""Layers of units that are independent given the other layer, one number a unit.

An RBM's layers are two exponential families joined by a product of their features,
p(v, h) ∝ exp(own(v) + own(h) + φ(v)ᵀ W ψ(h)) (Welling, Rosen-Zvi & Hinton 2005, "Exponential
family harmoniums", eq. 3 to 5).
"""

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from energax import random
from energax.energies._base import Conditional, softplus
from energax.energies.boltzmann._base import numbers
from energax.spaces import AbstractArraySpace, AbstractSpace, Binary, Box, Count, Point, Real, Spin


class AbstractUnits(eqx.Module):
    """A layer: p(x) ∝ exp(own(x) + u·φ(x)) on `space`, for whatever u the other layer sends.

    `bias`, (features,), is the field where it sends nothing. `field` is always the whole of it,
    bias + u: log-densities are linear in it, but for what does not depend on it.
    """

    own_is_linear: ClassVar[bool] = False  # own(x) = bias·φ(x)

    if TYPE_CHECKING:  # properties to type checkers: as fields they would lead every constructor

        @property
        def space(self) -> AbstractSpace: ...
        @property
        def bias(self) -> Float[Array, " features"]: ...

    else:
        space: eqx.AbstractVar[AbstractSpace]
        bias: eqx.AbstractVar[Float[Array, " features"]]

    @abstractmethod
    def features(self, x: Point) -> Float[Array, "... features"]:
        """φ(x), what the other layer sees; a batch (leading axes) or one point."""

    @abstractmethod
    def own(self, x: Point) -> Float[Array, "..."]:
        """The part of log p(x) that the other layer has no hand in, unnormalised."""

    @abstractmethod
    def log_partition(self, field: Float[Array, "... features"]) -> Float[Array, "..."]:
        """log ∫ exp(own(x) + (field − bias)·φ(x)) dx."""

    @abstractmethod
    def draw(self, field: Float[Array, "... features"], *, key: Key[Array, ""]) -> Point:
        """x ~ exp(own(x) + (field − bias)·φ(x))."""

    @abstractmethod
    def start(self, parameters: Any) -> "AbstractUnits | None":
        """Units of this kind with the `site_parameters` of a base; None where there are none."""

    @abstractmethod
    def mixed(self, start: Any, beta) -> "AbstractUnits":
        """Units with (1 − β) own_start(x) + β own(x) and these features; `start` of this kind."""

    @abstractmethod
    def pulled(self, field: Float[Array, " features"]) -> "AbstractUnits":
        """Units with own(x) + field·φ(x), up to a constant."""

    def joined(self, other: "AbstractUnits") -> "AbstractUnits | None":
        """Units with own(x) + own_other(x) and the same features; None where there are none."""
        if not self.own_is_linear or type(other) is not type(self):
            return None
        return self.pulled(other.bias)

    @abstractmethod
    def field_of(self, slope: Any) -> Float[Array, " features"]:
        """The field with field·φ(x) = ⟨slope, x⟩ + constant, `slope` of the shape of x.

        **Raises:** TypeError where there is none.
        """

    @abstractmethod
    def restrict(
        self, conditional: Conditional
    ) -> tuple["AbstractUnits", np.ndarray, Float[Array, " features"]]:
        """(units of what is left free, the numbers of their features, φ of what is given)."""

    @abstractmethod
    def with_space(self, space: AbstractSpace) -> "AbstractUnits":
        """The same units on a space that they fit just as well; ValueError where they do not."""


def only_space(units: Any, space: AbstractSpace) -> Any:
    """`units`, whose number is fixed by their biases, if they live on `space`."""
    if space != units.space:
        raise ValueError(
            f"{type(units).__name__}: {units.bias.shape[0]} biases are for {units.space}, "
            f"got {space}"
        )
    return units


def site_part(
    conditional: Conditional, given: Float[Array, " features"], each: int = 1
) -> tuple[np.ndarray, Float[Array, " features"]]:
    """(numbers of the free features, features of what is given), `each` features a site."""
    free = np.asarray(conditional.free)
    index = (free[:, None] * each + np.arange(each)).reshape(-1)
    return index, given.at[index].set(0.0)


class AbstractScalarUnits(AbstractUnits):
    """Units of one number each; also as hidden units, whose features are their values, ψ(h) = h,
    or a multiple."""

    if TYPE_CHECKING:

        @property
        def space(self) -> AbstractArraySpace: ...

    @abstractmethod
    def scaled(self, factor) -> "AbstractScalarUnits":
        """The same `log_partition` as a function of the field, the bias `factor` times as large."""

    def beside(self, other: "AbstractScalarUnits") -> "AbstractScalarUnits | None":
        """These units and then the `other`, as one layer; None if they are of different kinds."""
        return None

    @abstractmethod
    def mean(self, field: Float[Array, "... units"]) -> Float[Array, "... units"]:
        """E[x] given the field."""

    @abstractmethod
    def growth(self, field: Float[Array, "... units"], b0, b1) -> Float[Array, "... units"]:
        """The change of each unit's part of `log_partition` from b0·field to b1·field.

        To float precision also where b0 and b1 are near each other, and b0, b1 ≥ 0.
        """

    def with_space(self, space):
        return only_space(self, space)


class AbstractBiasedUnits(AbstractScalarUnits):
    """Units whose own(x) is b·x and what no parameter enters; the features are their values."""

    bias: Float[Array, " units"] = eqx.field(converter=lambda b: jnp.asarray(b, float))

    def features(self, x):
        return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(self.bias.dtype)

    def scaled(self, factor):
        return type(self)(factor * self.bias)

    def mixed(self, start, beta):
        return type(self)((1 - beta) * start.bias + beta * self.bias)

    def pulled(self, field):
        return type(self)(self.bias + field)

    def beside(self, other):
        if type(other) is not type(self):
            return None
        return type(self)(jnp.concatenate([self.bias, other.bias]))

    def field_of(self, slope):
        return jnp.broadcast_to(slope, self.bias.shape)

    def restrict(self, conditional):
        index, given = site_part(conditional, self.features(conditional.given))
        return type(self)(self.bias[index]), index, given


class BernoulliUnits(AbstractBiasedUnits):
    """x ∈ {0, 1}: own(x) = b·x, log partition Σ log(1 + e^field) (Hinton 2012, eq. 1).

    **Arguments:** `bias` b: (units,).
    """

    own_is_linear = True

    @property
    def space(self):  # type: ignore[override]
        return Binary(self.bias.shape)

    def own(self, x):
        return x @ self.bias

    def log_partition(self, field):
        return jnp.sum(softplus(field), axis=-1)

    def draw(self, field, *, key):
        return numbers.bernoulli(field, key)

    def mean(self, field):
        return jax.nn.sigmoid(field)

    def growth(self, field, b0, b1):
        size = jnp.abs(field)
        tail = numbers.tail_change(jnp.minimum(b0, b1) * size, (b1 - b0) * size)
        return (b1 - b0) * jnp.maximum(field, 0) + tail

    def start(self, parameters):
        return BernoulliUnits(parameters)


class SpinUnits(AbstractBiasedUnits):
    """x = ±1: own(x) = b·x, log partition Σ log 2 cosh field (Barra et al. 2012, section 2).

    **Arguments:** `bias` b: (units,).
    """

    own_is_linear = True

    @property
    def space(self):  # type: ignore[override]
        return Spin(self.bias.shape)

    def own(self, x):
        return x @ self.bias

    def log_partition(self, field):
        return jnp.sum(softplus(2 * field) - field, axis=-1)

    def draw(self, field, *, key):
        return 2 * numbers.bernoulli(2 * field, key) - 1

    def mean(self, field):
        return jnp.tanh(field)

    def growth(self, field, b0, b1):
        size = jnp.abs(field)
        tail = numbers.tail_change(2 * jnp.minimum(b0, b1) * size, 2 * (b1 - b0) * size)
        return (b1 - b0) * size + tail

    def start(self, parameters):
        return SpinUnits(parameters / 2)


class GaussianUnits(AbstractScalarUnits):
    """Real x: own(x) = −Σ (x − μ)²/2σ², features φ(x) = (x − μ)/σ, so that given the other layer
    x is normal of mean μ + σ field and sd σ (Hinton 2012, section 13.2, with x measured from μ).

    Where x comes from does then not matter to the other layer, nor in what unit it is measured.
    The bias is 0: μ does its work.

    **Arguments:** `location` μ: (units,). `log_sd`: log σ, (units,) or a number. `seen`: (μ, σ) of
    the features where they are others than those of own(x). `constant`: a number, added to own(x).

    **Raises:** ValueError if the shapes do not fit each other.
    """

    location: Float[Array, " units"]
    log_sd: Float[Array, " units"]
    seen: tuple[Float[Array, " units"], Float[Array, " units"]] | None
    constant: Float[Array, ""] | None

    def __init__(self, location: Any, log_sd: Any = 0.0, *, seen: Any = None, constant: Any = None):
        self.location = jnp.asarray(location, float)
        log_sd = jnp.asarray(log_sd, float)
        if self.location.ndim != 1 or log_sd.shape not in ((), self.location.shape):
            raise ValueError(
                "GaussianUnits: expected location (units,) and log_sd (units,) or a number, got "
                f"{self.location.shape} and {log_sd.shape}"
            )
        self.log_sd = jnp.broadcast_to(log_sd, self.location.shape)
        self.seen, self.constant = seen, constant

    @property
    def space(self):  # type: ignore[override]
        return Real(self.location.shape)

    @property
    def bias(self):
        return jnp.zeros_like(self.location)

    @property
    def sd(self) -> Float[Array, " units"]:
        """σ."""
        return jnp.exp(self.log_sd)

    @property
    def _seen(self) -> tuple[Float[Array, " units"], Float[Array, " units"]]:
        return (self.location, self.sd) if self.seen is None else self.seen

    @property
    def _constant(self):
        return 0.0 if self.constant is None else self.constant

    def features(self, x):
        centre, scale = self._seen
        return (x - centre) / scale

    def own(self, x):
        return -0.5 * jnp.sum(((x - self.location) / self.sd) ** 2, axis=-1) + self._constant

    def log_partition(self, field):
        pull = field * self.sd / self._seen[1]
        each = field * self.features(self.location) + 0.5 * pull**2 + self.log_sd
        return jnp.sum(each + 0.5 * math.log(2 * math.pi), axis=-1) + self._constant

    def draw(self, field, *, key):
        return self.mean(field) + self.sd * random.normal(key, field.shape, field.dtype)

    def mean(self, field):
        return self.location + self.sd**2 / self._seen[1] * field

    def growth(self, field, b0, b1):
        ratio = (self.sd / self._seen[1]) ** 2
        middle = 0.5 * (b0 + b1) * field
        return (b1 - b0) * field * (self.features(self.location) + ratio * middle)

    def scaled(self, factor):
        return self  # the bias is 0

    def start(self, parameters):
        location, sd = parameters
        return GaussianUnits(location, jnp.log(sd))

    def mixed(self, start, beta):
        before, after = (1 - beta) * start.sd**-2, beta * self.sd**-2
        location = (before * start.location + after * self.location) / (before + after)
        squares = before * (start.location - location) ** 2
        squares += after * (self.location - location) ** 2
        constant = (1 - beta) * start._constant + beta * self._constant - 0.5 * jnp.sum(squares)
        log_sd = -0.5 * jnp.log(before + after)
        return GaussianUnits(location, log_sd, seen=self._seen, constant=constant)

    def pulled(self, field):
        return GaussianUnits(self.mean(field), self.log_sd, seen=self._seen, constant=self.constant)

    def field_of(self, slope):
        return slope * self._seen[1]

    def restrict(self, conditional):
        index, given = site_part(conditional, self.features(conditional.given))
        seen = None if self.seen is None else (self.seen[0][index], self.seen[1][index])
        units = GaussianUnits(
            self.location[index], self.log_sd[index], seen=seen, constant=self.constant
        )
        return units, index, given


class RectifiedUnits(AbstractBiasedUnits):
    """x ≥ 0: own(x) = Σ −x²/2 + b x, a normal of mean `field` and sd 1 cut off at 0.

    log partition Σ ½ field² + log Φ(field) + ½ log 2π (Hinton & Ghahramani 1997; as hidden units
    Tubiana & Monasson 2017, "Emergence of compositional representations in restricted Boltzmann
    machines", where x² has the same factor for all). The features are x.

    **Arguments:** `bias` b: (units,).
    """

    @property
    def space(self):  # type: ignore[override]
        return Box(0.0, np.inf, self.bias.shape)

    def own(self, x):
        return jnp.sum(x * (self.bias - 0.5 * x), axis=-1)

    def log_partition(self, field):
        return jnp.sum(numbers.log_half_normal(field), axis=-1)

    def draw(self, field, *, key):
        return numbers.draw_half_normal(field, key)

    def mean(self, field):
        return numbers.half_normal_mean(field)

    def growth(self, field, b0, b1):
        # ∫ mean by Gauss and Legendre's rule with 3 points, exact to float32 for changes up to 0.5
        change = (b1 - b0) * field
        middle = 0.5 * (b0 + b1) * field
        away = math.sqrt(0.15) * change
        small = change * (
            (8 / 18) * self.mean(middle)
            + (5 / 18) * (self.mean(middle - away) + self.mean(middle + away))
        )
        large = numbers.log_half_normal(b1 * field) - numbers.log_half_normal(b0 * field)
        return jnp.where(jnp.abs(change) < 0.5, small, large)

    def start(self, parameters):
        return None


class CountUnits(AbstractBiasedUnits):
    """x = 0, 1, 2, …: own(x) = Σ b x − log x!, a Poisson of mean e^field (Gehler, Holub & Welling
    2006, "The rate adapting Poisson model", eq. 3).

    **Arguments:** `bias` b: (units,), the log of the mean where the other layer sends nothing.
    """

    @property
    def space(self):  # type: ignore[override]
        return Count(self.bias.shape)

    def own(self, x):
        x = self.features(x)
        return x @ self.bias - jnp.sum(jax.scipy.special.gammaln(x + 1), axis=-1)

    def log_partition(self, field):
        return jnp.sum(jnp.exp(field), axis=-1)

    def draw(self, field, *, key):
        return random.poisson(key, jnp.exp(field), field.shape)

    def mean(self, field):
        return jnp.exp(field)

    def growth(self, field, b0, b1):
        return jnp.exp(b0 * field) * jnp.expm1((b1 - b0) * field)

    def start(self, parameters):
        return CountUnits(jnp.log(parameters))
