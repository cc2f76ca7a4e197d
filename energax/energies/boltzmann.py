"""Restricted Boltzmann machines: two layers of units, joined only to each other.

E(v, h) = −b·v − c·h − vᵀWh (Smolensky 1986; Hinton 2012, eq. 1). Summing the hidden layer out
leaves the free energy E(v) = −b·v − Σ_j log(1 + exp(c_j + (vW)_j)), which `energy(v)` gives.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from energax.energies._base import (
    AbstractBernoulli,
    AbstractBipartiteEnergy,
    AbstractLocalEnergy,
    AbstractNormalised,
    AbstractPath,
    AbstractTiltable,
    GeometricPath,
)
from energax.spaces import Binary


class BernoulliRBM(AbstractBipartiteEnergy, AbstractLocalEnergy, AbstractTiltable):
    """RBM of binary units, E(v) = −b·v − Σ_j softplus(c_j + (vW)_j) on `Binary((visible,))`.

    Hinton 2012, "A practical guide to training restricted Boltzmann machines", section 16.1. v is a
    flat vector: reshape images to rows first.

    **Arguments:** `weight`: W, (visible, hidden). `visible_bias`: b, (visible,) or a number.
    `hidden_bias`: c, (hidden,) or a number.

    **Raises:** ValueError if the shapes do not fit each other.
    """

    weight: Float[Array, "visible hidden"]
    visible_bias: Float[Array, " visible"]
    hidden_bias: Float[Array, " hidden"]
    space: Binary

    def __init__(self, weight: Any, visible_bias: Any = 0.0, hidden_bias: Any = 0.0):
        weight = jnp.asarray(weight, float)
        if weight.ndim != 2 or 0 in weight.shape:
            raise ValueError(
                f"BernoulliRBM: expected weight of shape (visible, hidden), got {weight.shape}"
            )
        self.weight = weight
        self.visible_bias = _as_bias(visible_bias, weight.shape[0], "visible_bias")
        self.hidden_bias = _as_bias(hidden_bias, weight.shape[1], "hidden_bias")
        self.space = Binary((weight.shape[0],))

    @staticmethod
    def random(
        num_visible: int,
        num_hidden: int,
        *,
        key: Key[Array, ""],
        data=None,
        scale: float = 0.01,
    ) -> "BernoulliRBM":
        """An RBM to start training from: W ~ N(0, scale²), c = 0, b from the base rates of `data`.

        Hinton 2012, section 8.1: b_i = log(p_i/(1 − p_i)) with p_i the share of rows where v_i = 1,
        half a row of each value added so that b is finite.

        **Arguments:** `data`: (rows, visible) of 0 and 1; None leaves b = 0.

        **Raises:** ValueError if `data` does not suit the space.
        """
        visible_bias = np.zeros(num_visible)
        if data is not None:
            rows = Binary((num_visible,)).validate(data, batch=True, name="data")
            ones = rows.sum(axis=0, dtype=np.float64)
            visible_bias = np.log(ones + 0.5) - np.log(len(rows) - ones + 0.5)
        weight = scale * jax.random.normal(key, (num_visible, num_hidden))
        return BernoulliRBM(weight, visible_bias)

    def __call__(self, x):
        return -self.log_density_from(x, self.hidden_input(x))

    def joint_energy(
        self, v: Float[Array, "... visible"], h: Float[Array, "... hidden"]
    ) -> Float[Array, "..."]:
        """E(v, h) = −b·v − c·h − vᵀWh for a batch or one pair."""
        return -(v @ self.visible_bias) - jnp.sum(self.hidden_input(v) * h, axis=-1)

    def hidden_input(self, x):
        return x @ self.weight + self.hidden_bias

    def log_density_from(self, x, hidden_input):
        return x @ self.visible_bias + jnp.sum(_softplus(hidden_input), axis=-1)

    def draw_hidden(self, hidden_input, *, key):
        return _bernoulli(hidden_input, key)

    def hidden_mean(self, x):
        return jax.nn.sigmoid(self.hidden_input(x))

    def sample_visible(self, hidden, *, key):
        return _bernoulli(hidden @ self.weight.T + self.visible_bias, key)

    def site_differences(self, x):
        flip = 1 - 2 * x
        change = flip[:, None] * self.weight
        units = _softplus_change(self.hidden_input(x), change)
        return -flip * self.visible_bias - jnp.sum(units, axis=-1)

    @property
    def num_summed_states(self):
        return 2 ** min(self.weight.shape)

    def log_z_by_sum(self):
        """log Z, exact, by a sum over the smaller layer; differentiable.

        **Raises:** ValueError where the smaller layer has over 30 units.
        """
        visible, hidden = self.weight.shape
        if hidden <= visible:
            return _log_sum(self.hidden_bias, self.weight.T, self.visible_bias)
        return _log_sum(self.visible_bias, self.weight, self.hidden_bias)

    def tilt(self, field) -> "BernoulliRBM":
        """The RBM with f(v) + field·v: the exact posterior of v under independent bit flips.

        **Arguments:** `field`: (visible,) or a number.
        """
        return BernoulliRBM(self.weight, self.visible_bias + field, self.hidden_bias)

    def restrict(self, conditional) -> "BernoulliRBM":
        """The RBM of the free bits; what the given ones tell the hidden units joins their bias."""
        free = np.asarray(conditional.free)
        given = jnp.asarray(conditional.given).at[free].set(0.0)
        hidden_bias = self.hidden_bias + given @ self.weight
        return BernoulliRBM(self.weight[free], self.visible_bias[free], hidden_bias)

    def path(self, base: AbstractNormalised) -> AbstractPath:
        """RBMs all the way where `base` has independent bits, else the geometric path."""
        if (
            isinstance(base, AbstractBernoulli)
            and isinstance(base.space, Binary)
            and base.space.shape == self.space.shape
        ):
            return RBMPath(self, base)
        return GeometricPath(base, self)


class AnnealedRBM(AbstractBipartiteEnergy, AbstractLocalEnergy):
    """The RBM with weights βW and biases (1 − β)b₀ + βb, βc: one rung of `RBMPath`.

    Salakhutdinov & Murray 2008, section 4.1. βW is never formed, so that every β shares the product
    vW.
    """

    rbm: BernoulliRBM
    base_logits: Float[Array, " visible"]
    beta: Float[Array, ""]

    @property
    def space(self):  # type: ignore[override]
        return self.rbm.space

    @property
    def visible_bias(self) -> Float[Array, " visible"]:
        return (1 - self.beta) * self.base_logits + self.beta * self.rbm.visible_bias

    def as_rbm(self) -> BernoulliRBM:
        """The same energy as a plain RBM."""
        return BernoulliRBM(
            self.beta * self.rbm.weight, self.visible_bias, self.beta * self.rbm.hidden_bias
        )

    def __call__(self, x):
        return -self.log_density_from(x, self.hidden_input(x))

    def hidden_input(self, x):
        """c + xW, before β."""
        return self.rbm.hidden_input(x)

    def log_density_from(self, x, hidden_input):
        units = _softplus(self.beta * hidden_input)
        return x @ self.visible_bias + jnp.sum(units, axis=-1)

    def draw_hidden(self, hidden_input, *, key):
        return _bernoulli(self.beta * hidden_input, key)

    def hidden_mean(self, x):
        return jax.nn.sigmoid(self.beta * self.hidden_input(x))

    def sample_visible(self, hidden, *, key):
        return _bernoulli(self.beta * (hidden @ self.rbm.weight.T) + self.visible_bias, key)

    def site_differences(self, x):
        return self.as_rbm().site_differences(x)

    @property
    def num_summed_states(self):
        return self.rbm.num_summed_states

    def log_z_by_sum(self):
        return self.as_rbm().log_z_by_sum()


class RBMPath(AbstractPath):
    """RBMs from independent bits to an RBM (Salakhutdinov & Murray 2008, section 4.1).

    f_β(v) = ((1 − β)b₀ + βb)·v + Σ_j softplus(β(c_j + (vW)_j)); at β = 0 the hidden units are there
    but see nothing, so Z₀ = 2^hidden Π_i (1 + exp(b₀_i)).
    """

    rbm: BernoulliRBM
    base: AbstractBernoulli

    @property
    def log_z0(self):
        hidden = self.rbm.weight.shape[1]
        return hidden * jnp.log(2.0) + jnp.sum(_softplus(self.base.logits))

    def at(self, beta):
        return AnnealedRBM(self.rbm, self.base.logits, jnp.asarray(beta, float))

    def increment(self, x, b0, b1):
        u = self.rbm.hidden_input(x)
        size = jnp.abs(u)
        units = (b1 - b0) * jnp.maximum(u, 0) + _tail_change(
            jnp.minimum(b0, b1) * size, (b1 - b0) * size
        )
        biases = (b1 - b0) * (x @ (self.rbm.visible_bias - self.base.logits))
        return biases + jnp.sum(units, axis=-1)

    def draw(self, num, *, key):
        return self.base.draw(num, key=key)


def _as_bias(value, size: int, name: str) -> Float[Array, " units"]:
    value = jnp.asarray(value, float)
    if value.shape not in ((), (size,)):
        raise ValueError(
            f"BernoulliRBM: expected {name} of shape ({size},) beside a weight (visible, hidden), "
            f"got {value.shape}"
        )
    return jnp.broadcast_to(value, (size,))


@jax.custom_jvp
def _softplus(u):
    """log(1 + eᵘ), at half the cost of `jax.nn.softplus`, which asks about NaN and infinities."""
    return jnp.maximum(u, 0) + jnp.log1p(jnp.exp(-jnp.abs(u)))


_softplus.defjvps(lambda tangent, _, u: tangent * jax.nn.sigmoid(u))


def _bernoulli(logits: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
    """1.0 with probability sigmoid(logits), else 0.0."""
    u = jax.random.uniform(key, logits.shape, logits.dtype)
    return (u < jax.nn.sigmoid(logits)).astype(logits.dtype)


def _softplus_change(a: Float[Array, "*a"], d: Float[Array, "*d"]) -> Float[Array, "..."]:
    """softplus(a + d) − softplus(a), to float precision also where d is small or a is large."""
    b = a + d
    ramp = jnp.where(a > 0, jnp.maximum(d, -a), jnp.maximum(b, 0))
    growth = jnp.where((a > 0) == (b > 0), jnp.where(a > 0, d, -d), jnp.abs(b) - jnp.abs(a))
    return ramp + _tail_change(jnp.minimum(jnp.abs(a), jnp.abs(b)), growth)


def _tail_change(nearer: Float[Array, "..."], growth: Float[Array, "..."]) -> Float[Array, "..."]:
    """Change of log(1 + e^{−|u|}), what softplus(u) has beyond max(u, 0), as |u| grows by `growth`.

    `nearer` is the smaller |u| of the two; the argument of log1p then stays in [−1/2, 0].
    """
    loss = jnp.log1p(jax.nn.sigmoid(-nearer) * jnp.expm1(-jnp.abs(growth)))
    return jnp.where(growth < 0, -loss, loss)


_CHUNK = 2**21  # numbers held at once by `_log_sum`


def _log_sum(
    bias: Float[Array, " n"], weight: Float[Array, "n m"], other_bias: Float[Array, " m"]
) -> Float[Array, ""]:
    """log Σ_{s ∈ {0,1}ⁿ} exp(s·bias + Σ_j softplus(other_bias_j + (s weight)_j)).

    States are numbered high bits × low bits: the low bits' products are made once, each chunk adds
    one row for its high bits.
    """
    n, m = weight.shape
    if n > 30:
        raise ValueError(
            f"an RBM whose smaller layer has {n} units has too many states to sum (limit 30); "
            "estimate log Z by annealed importance sampling"
        )
    num_low = min(n, max(0, int(np.log2(_CHUNK / m))))

    def bits(index, count):
        return ((index[..., None] >> jnp.arange(count)) & 1).astype(weight.dtype)

    low = bits(jnp.arange(2**num_low), num_low)
    low_input, low_bias = low @ weight[:num_low] + other_bias, low @ bias[:num_low]

    @jax.checkpoint  # else the gradient would keep every chunk
    def chunk(index):
        high = bits(index, n - num_low)
        f = low_bias + high @ bias[num_low:]
        f = f + jnp.sum(_softplus(low_input + high @ weight[num_low:]), axis=-1)
        return jax.nn.logsumexp(f)

    return jax.nn.logsumexp(jax.lax.map(chunk, jnp.arange(2 ** (n - num_low))))
