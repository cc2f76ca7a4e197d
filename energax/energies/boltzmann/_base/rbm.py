"""Restricted Boltzmann machines: two layers of units, joined only to each other.

E(v, h) = −own(v) − own(h) − φ(v)ᵀ W ψ(h); of binary units E(v, h) = −b·v − c·h − vᵀWh (Smolensky
1986; Hinton 2012, eq. 1). Summing the hidden layer out leaves the free energy E(v), which
`energy(v)` gives.
"""

import math
from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from energax.energies._base import (
    AbstractBipartiteEnergy,
    AbstractNormalised,
    AbstractPath,
    AbstractTiltable,
    GeometricPath,
)
from energax.energies.boltzmann._base.fitted import fitted_units
from energax.energies.boltzmann._base.units import (
    AbstractScalarUnits,
    AbstractUnits,
    BernoulliUnits,
    GaussianUnits,
    RectifiedUnits,
    SpinUnits,
)
from energax.spaces import AbstractSpace, Point


class AbstractRBM(AbstractBipartiteEnergy, AbstractTiltable):
    """A layer of visible units and one of hidden units, E(v) = −own(v) − A(c + φ(v) W) with A the
    hidden layer's log partition and c its bias (Welling, Rosen-Zvi & Hinton 2005, eq. 5)."""

    weight: eqx.AbstractVar[Float[Array, "features hidden"]]

    visible: eqx.AbstractVar[AbstractUnits]
    hidden: eqx.AbstractVar[AbstractScalarUnits]

    @abstractmethod
    def replaced(
        self, weight, visible: AbstractUnits, hidden: AbstractScalarUnits
    ) -> "AbstractRBM":
        """An RBM of the same kinds of units."""

    def __call__(self, x):
        return -self.log_density_from(x, self.hidden_input(x))

    def joint_energy(self, v: Point, h: Float[Array, "... hidden"]) -> Float[Array, "..."]:
        """E(v, h) = −own(v) − own(h) − φ(v)ᵀ W ψ(h) for a batch or one pair."""
        pull = self.visible.features(v) @ self.weight
        joined = jnp.sum(pull * self.hidden.features(h), axis=-1)
        return -(self.visible.own(v) + self.hidden.own(h) + joined)

    def hidden_input(self, x):
        return self.visible.features(x) @ self.weight + self.hidden.bias

    def log_density_from(self, x, hidden_input):
        return self.visible.own(x) + self.hidden.log_partition(hidden_input)

    def draw_hidden(self, hidden_input, *, key):
        return self.hidden.draw(hidden_input, key=key)

    def hidden_mean(self, x):
        return self.hidden.mean(self.hidden_input(x))

    def sample_visible(self, hidden, *, key):
        pull = self.hidden.features(hidden) @ self.weight.T
        return self.visible.draw(pull + self.visible.bias, key=key)

    @property
    def num_summed_states(self):
        sides = self.visible.space.num_states, self.hidden.space.num_states
        finite = [num for num in sides if num is not None]
        if not finite:
            return 1 if self._is_gaussian else None
        return min(finite)

    def log_z_by_sum(self):
        """log Z, exact, by a sum over the smaller layer; differentiable.

        Of two Gaussian layers it is a determinant, +∞ where W is too large for Z to exist.

        **Raises:** ValueError where the smaller layer has over 2³⁰ states, or both have infinitely
        many.
        """
        visible, hidden = self.visible, self.hidden
        if self._is_gaussian:
            return _gaussian_log_z(visible, hidden, self.weight)  # type: ignore[arg-type]
        num, other = hidden.space.num_states, visible.space.num_states
        if num is None and other is None:
            raise ValueError(
                "neither layer of this RBM has finitely many states to sum; estimate log Z by "
                "annealed importance sampling"
            )
        if num is not None and (other is None or num <= other):
            return _log_sum(hidden, visible, self.weight.T)
        return _log_sum(visible, hidden, self.weight)

    @property
    def _is_gaussian(self) -> bool:
        return isinstance(self.visible, GaussianUnits) and isinstance(self.hidden, GaussianUnits)

    def tilt(self, field):
        """The RBM with f(v) + ⟨field, v⟩, up to a constant: of bits or spins the exact posterior
        under independent flips.

        **Arguments:** `field`: of the shape of v, or a number.
        """
        visible = self.visible.pulled(self.visible.field_of(field))
        return self.replaced(self.weight, visible, self.hidden)

    def merged(self, other):
        """The RBM of all hidden units of both, where the layers are of the same kinds and own(v) is
        linear in the features: bits, spins, categories and documents."""
        if not isinstance(other, AbstractRBM) or other.space != self.space:
            return None
        visible, hidden = self.visible.joined(other.visible), self.hidden.beside(other.hidden)
        if visible is None or hidden is None:
            return None
        weight = jnp.concatenate([self.weight, other.weight], axis=1)
        return self.replaced(weight, visible, hidden)

    def restrict(self, conditional):
        """The RBM of the free units; what the given ones tell the hidden units joins their bias."""
        visible, index, given = self.visible.restrict(conditional)
        hidden: Any = self.hidden.pulled(given @ self.weight)
        return self.replaced(self.weight[index], visible, hidden)

    def path(self, base: AbstractNormalised) -> AbstractPath:
        """RBMs all the way where `base` has independent sites, else the geometric path."""
        parameters = base.site_parameters
        if parameters is not None and _alike(base.space, self.space):
            start = self.visible.start(parameters)
            if start is not None:
                return RBMPath(self, start)
        return GeometricPath(base, self)


class RBM(AbstractRBM):
    """RBM of any two kinds of units, E(v) = −own(v) − A(c + φ(v) W).

    Welling, Rosen-Zvi & Hinton 2005, "Exponential family harmoniums with an application to
    information retrieval", eq. 5. `own`, φ and A are the layers'; see `BernoulliUnits`,
    `SpinUnits`, `GaussianUnits`, `SoftmaxUnits`, `CountUnits`, `ReplicatedSoftmaxUnits`,
    `RecordUnits` (a table of mixed columns) and `RectifiedUnits`.

    Z exists whatever W is where the hidden units are bits or spins, or the visible ones have
    finitely many states; else W may be too large for it (and `log_z` then says so).

    **Arguments:** `weight`: W, (features of the visible layer, hidden). `visible`: a layer.
    `hidden`: a layer of one number a unit.

    **Raises:** ValueError if the shapes do not fit each other.
    """

    weight: Float[Array, "features hidden"]
    visible: AbstractUnits
    hidden: AbstractScalarUnits
    space: AbstractSpace

    def __init__(self, weight: Any, visible: AbstractUnits, hidden: AbstractScalarUnits):
        weight = jnp.asarray(weight, float)
        wanted = (*visible.bias.shape, *hidden.bias.shape)
        if weight.shape != wanted:
            raise ValueError(
                f"RBM: expected weight of shape {wanted}, a row for each feature of "
                f"{type(visible).__name__} and a column for each hidden unit, got {weight.shape}"
            )
        self.weight, self.visible, self.hidden = weight, visible, hidden
        self.space = visible.space

    @staticmethod
    def random(
        space: AbstractSpace,
        num_hidden: int,
        *,
        key: Key[Array, ""],
        data: Point | None = None,
        hidden: str = "bernoulli",
        scale: float = 0.01,
    ) -> "RBM":
        """An RBM to start training from: W ~ N(0, scale²), visible units that match `data`.

        Bernoulli units on Binary, spins on Spin, Gaussian on Real, softmax on Categorical, Poisson
        on Count, parts by their own on Record. Their biases, and of Gaussian units the sd, are
        those of independent columns (Hinton 2012, section 8.1). Standardise real columns first: one
        learning rate then suits the locations of all.

        **Arguments:** `data`: (rows, *event); None leaves the biases 0. `hidden`: "bernoulli",
        "spin", "gaussian" or "rectified".

        **Raises:** ValueError for data that do not suit the space, or another word for `hidden`;
        TypeError for a space without units of its kind.
        """
        kinds = {
            "bernoulli": BernoulliUnits,
            "spin": SpinUnits,
            "gaussian": GaussianUnits,
            "rectified": RectifiedUnits,
        }
        if hidden not in kinds:
            raise ValueError(f"hidden: expected one of {', '.join(kinds)}, got {hidden!r}")
        visible = fitted_units(space, data)
        weight = scale * jax.random.normal(key, (*visible.bias.shape, num_hidden))
        return RBM(weight, visible, kinds[hidden](jnp.zeros(num_hidden)))

    def replaced(self, weight, visible, hidden):
        return RBM(weight, visible, hidden)

    def with_space(self, space):
        return RBM(self.weight, self.visible.with_space(space), self.hidden)


class AnnealedRBM(AbstractBipartiteEnergy):
    """The RBM with own(v) mixed with that of the start, weights βW and hidden biases βc: one rung
    of `RBMPath`.

    Salakhutdinov & Murray 2008, section 4.1. βW is never formed, so that every β shares the product
    φ(v)W.
    """

    rbm: AbstractRBM
    start: AbstractUnits
    beta: Float[Array, ""]

    @property
    def space(self):  # type: ignore[override]
        return self.rbm.space

    @property
    def visible(self) -> AbstractUnits:
        """The visible layer at β."""
        return self.rbm.visible.mixed(self.start, self.beta)

    def as_rbm(self) -> AbstractRBM:
        """The same energy as a plain RBM."""
        weight = self.beta * self.rbm.weight
        return self.rbm.replaced(weight, self.visible, self.rbm.hidden.scaled(self.beta))

    def __call__(self, x):
        return -self.log_density_from(x, self.hidden_input(x))

    def hidden_input(self, x):
        """c + φ(x)W, before β."""
        return self.rbm.hidden_input(x)

    def log_density_from(self, x, hidden_input):
        units = self.rbm.hidden.log_partition(self.beta * hidden_input)
        return self.visible.own(x) + units

    def draw_hidden(self, hidden_input, *, key):
        return self.rbm.hidden.draw(self.beta * hidden_input, key=key)

    def hidden_mean(self, x):
        return self.rbm.hidden.mean(self.beta * self.hidden_input(x))

    def sample_visible(self, hidden, *, key):
        visible = self.visible
        pull = self.rbm.hidden.features(hidden) @ self.rbm.weight.T
        return visible.draw(self.beta * pull + visible.bias, key=key)

    @property
    def num_summed_states(self):
        return self.rbm.num_summed_states

    def log_z_by_sum(self):
        return self.as_rbm().log_z_by_sum()


class RBMPath(AbstractPath):
    """RBMs from independent sites to an RBM (Salakhutdinov & Murray 2008, section 4.1).

    f_β(v) = (1 − β) own₀(v) + β own(v) + A(β(c + φ(v) W)); at β = 0 the hidden units are there but
    see nothing, so that Z₀ counts them: 2^hidden Π_i (1 + exp(b₀_i)) of bits.
    """

    rbm: AbstractRBM
    start: AbstractUnits

    @property
    def log_z0(self):
        nothing = jnp.zeros_like(self.rbm.hidden.bias)
        return self.start.log_partition(self.start.bias) + self.rbm.hidden.log_partition(nothing)

    def at(self, beta):
        return AnnealedRBM(self.rbm, self.start, jnp.asarray(beta, float))

    def increment(self, x, b0, b1):
        units = self.rbm.hidden.growth(self.rbm.hidden_input(x), b0, b1)
        own = (b1 - b0) * (self.rbm.visible.own(x) - self.start.own(x))
        return own + jnp.sum(units, axis=-1)

    def draw(self, num, *, key):
        field = jnp.broadcast_to(self.start.bias, (num, *self.start.bias.shape))
        return self.start.draw(field, key=key)


def _alike(a: AbstractSpace, b: AbstractSpace) -> bool:
    return type(a) is type(b) and a.shape == b.shape


_CHUNK = 2**21  # numbers held at once by `_log_sum`
_MOST_STATES = 2**30


def _log_sum(
    summed: AbstractUnits, other: AbstractUnits, weight: Float[Array, "n m"]
) -> Float[Array, ""]:
    """log Σ_s exp(own(s) + A(bias + φ(s) weight)), s the states of one layer, A of the other."""
    num = summed.space.num_states
    assert num is not None
    if num > _MOST_STATES:
        raise ValueError(
            f"an RBM whose smaller layer has {num:.2g} states ({summed.space}) has too many to sum "
            "(limit 2^30); estimate log Z by annealed importance sampling"
        )
    size = min(num, 2 ** max(0, int(math.log2(_CHUNK / max(weight.shape)))))

    @jax.checkpoint  # else the gradient would keep every chunk
    def chunk(start):
        index = start + jnp.arange(size)
        s = summed.space.states(jnp.minimum(index, num - 1))
        f = summed.own(s) + other.log_partition(summed.features(s) @ weight + other.bias)
        return jax.nn.logsumexp(jnp.where(index < num, f, -jnp.inf))

    return jax.nn.logsumexp(jax.lax.map(chunk, jnp.arange(0, num, size)))


def _gaussian_log_z(
    visible: GaussianUnits, hidden: GaussianUnits, weight: Float[Array, "n m"]
) -> Float[Array, ""]:
    """log ∫ exp(own(h) + A(bias + W ψ(h))) dh of two Gaussian layers, where the exponent is a
    quadratic in h (Bishop 2006, eq. 2.43): +∞ unless it falls in every direction."""
    origin = hidden.location

    def f(h):
        return hidden.own(h) + visible.log_partition(hidden.features(h) @ weight.T + visible.bias)

    precision, slope = -jax.hessian(f)(origin), jax.grad(f)(origin)
    factor = jnp.linalg.cholesky(precision)
    square = jax.scipy.linalg.solve_triangular(factor, slope, lower=True) ** 2
    half_det = jnp.sum(jnp.log(jnp.diag(factor)))
    n = len(origin)
    log_z = f(origin) + 0.5 * jnp.sum(square) - half_det + 0.5 * n * math.log(2 * math.pi)
    return jnp.where(jnp.isfinite(half_det), log_z, jnp.inf)
