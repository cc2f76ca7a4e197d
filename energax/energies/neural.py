"""Neural networks as energies: E(x) = network(x) + E_base(x).

Weights are plain arrays and the activation is a name, so that a network is saved without pickle.
LeCun et al. 2006, "A tutorial on energy-based learning"; on unbounded spaces the base keeps Z
finite, as the reference q in p = q exp(f)/Z of Xie et al. 2016, "A theory of generative ConvNet".
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from energax.energies._base import (
    AbstractEnergy,
    AbstractSmoothed,
    FrozenEnergy,
    correlate,
    frozen,
)
from energax.spaces import AbstractArraySpace, AbstractSpace, Box, Categorical, Count, Real

# All grow at most linearly, so that a quadratic base term keeps Z finite whatever the weights are.
_ACTIVATIONS = {
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "leaky_relu": jax.nn.leaky_relu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
}


class MLP(AbstractEnergy):
    """E(x) = w·h_depth + E_base(x), h_l = activation(h_{l−1} W_l + b_l), h_0 = x as a flat vector.

    Categorical sites enter one-hot. Weights start as N(0, 1/fan-in) (LeCun et al. 1998, section
    4.6), biases at 0; an output bias would only shift E.

    **Arguments:** `depth`: hidden layers, at least 1, of `width_size` units. `activation`: a name:
    elu, gelu, leaky_relu, relu, silu, softplus or tanh. `base`: an energy that is added and not
    trained; "wide" adds ½Σ(x/10)² on unbounded coordinates (100 on `Count`) and nothing elsewhere,
    which suits data of about unit scale; None adds nothing, and then Z may be infinite.

    **Raises:** TypeError on a `Record` (concatenate its parts into one array), ValueError for an
    unknown activation or a depth or width below 1.
    """

    weights: tuple[Float[Array, "_ width"], ...]
    biases: tuple[Float[Array, " width"], ...]
    readout: Float[Array, " width"]
    base: FrozenEnergy | None
    space: AbstractArraySpace
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        space: AbstractSpace,
        width_size: int = 128,
        depth: int = 2,
        activation: str = "silu",
        *,
        key: Key[Array, ""],
        base: AbstractEnergy | str | None = "wide",
    ):
        self.space = space = _as_array_space(space, "MLP")
        self.activation = _as_activation(activation)
        if depth < 1 or width_size < 1:
            raise ValueError(
                f"MLP: expected depth and width_size of at least 1, got {depth} and {width_size}"
            )
        sizes = [_inputs(space, space.example()).size] + [width_size] * depth
        *keys, last = jax.random.split(key, depth + 1)
        self.weights = tuple(
            _normal(k, shape, shape[0]) for k, shape in zip(keys, pairwise(sizes), strict=True)
        )
        self.biases = tuple(jnp.zeros(width_size) for _ in range(depth))
        self.readout = _normal(last, (width_size,), width_size)
        self.base = _as_base(base, space)

    def __call__(self, x):
        h = _inputs(self.space, x).reshape(-1)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = _ACTIVATIONS[self.activation](h @ weight + bias)
        network = h @ self.readout
        return network if self.base is None else network + self.base(x)


class ConvNet(AbstractEnergy):
    """E(x) = Σ_positions w·h + E_base(x): convolutions with 2×2 average pooling between them.

    Images are (height, width) or (height, width, channels); categorical pixels enter one-hot as
    channels. The weights fix no size: `with_space` reads the same network on larger or smaller
    images. Weights start as N(0, 1/fan-in) (LeCun et al. 1998, section 4.6).

    **Arguments:** `channels`: of each layer; the image is halved between layers. `kernel_size`:
    pixels a side. `pooling`: over the last layer's positions, "sum" (E grows with the image, so
    that local statistics keep when the size changes) or "mean". `activation`, `base`: as in `MLP`.

    **Raises:** TypeError on a `Record`, ValueError where the space holds no images, for an unknown
    activation or pooling, or no layers.
    """

    kernels: tuple[Float[Array, "side side _ _"], ...]
    biases: tuple[Float[Array, " _"], ...]
    readout: Float[Array, " _"]
    base: FrozenEnergy | None
    space: AbstractArraySpace
    activation: str = eqx.field(static=True)
    pooling: str = eqx.field(static=True)

    def __init__(
        self,
        space: AbstractSpace,
        channels: Sequence[int] = (32, 64, 64),
        kernel_size: int = 3,
        activation: str = "silu",
        pooling: str = "sum",
        *,
        key: Key[Array, ""],
        base: AbstractEnergy | str | None = "wide",
    ):
        self.space = space = _as_array_space(space, "ConvNet")
        self.activation = _as_activation(activation)
        if pooling not in ("sum", "mean"):
            raise ValueError(f"ConvNet: expected pooling 'sum' or 'mean', got {pooling!r}")
        if not channels or min(channels) < 1 or kernel_size < 1:
            raise ValueError(
                "ConvNet: expected at least one layer of at least one channel and a kernel_size of "
                f"at least 1, got channels={channels}, kernel_size={kernel_size}"
            )
        self.pooling = pooling
        sizes = [_image(space, space.example()).shape[-1], *channels]
        *keys, last = jax.random.split(key, len(channels) + 1)
        self.kernels = tuple(
            _normal(k, (kernel_size, kernel_size, *sizes[i : i + 2]), kernel_size**2 * sizes[i])
            for i, k in enumerate(keys)
        )
        self.biases = tuple(jnp.zeros(n) for n in channels)
        self.readout = _normal(last, (channels[-1],), channels[-1])
        if pooling == "sum":  # E starts of order 1 at the size that the net is made for
            height, width = space.shape[:2]
            halvings = 2 ** (len(channels) - 1)
            self.readout = self.readout / (-(-height // halvings) * -(-width // halvings))
        self.base = _as_base(base, space)

    def __call__(self, x):
        h = _image(self.space, x)
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            h = _halve(h) if layer else h
            h = _ACTIVATIONS[self.activation](correlate(h, kernel) + bias)
        pooled = jnp.sum(h, (0, 1)) if self.pooling == "sum" else jnp.mean(h, (0, 1))
        network = pooled @ self.readout
        return network if self.base is None else network + self.base(x)

    def with_space(self, space: AbstractSpace) -> "ConvNet":
        return _moved(self, _as_array_space(space, "ConvNet"), self.kernels[0].shape[2])


class GradientStepDenoiser(AbstractSmoothed):
    """E(x) = ½|r((x − ½)/σ)|² + E_base(x), r a convolutional network with one output a pixel.

    x − σ²∇E(x) is then the gradient-step denoiser of Hurault, Leclaire & Papadakis 2022, "Gradient
    step denoiser for convergent plug-and-play", eq. 4 and 6, σr being their x − N(x): a denoiser
    that is the gradient of one scalar, and so has a symmetric Jacobian. The network works on blocks
    of 2 × 2 pixels as channels, at half the resolution (as FFDNet, Zhang, Zuo & Zhang 2018).

    Images are (height, width) or (height, width, channels) of any size, values about 0 to 1. The
    weights fix no size: `energy.with_space(Real(shape))` reads the same network on other images;
    odd sides are lengthened by their last row. Weights start as N(0, 2/fan-in), the last layer's
    halved, biases at 0. Train it by `objectives.DenoisingScoreMatching()`.

    **Arguments:** `sigma` σ: standard deviation of the noise on the images, in units of x.
    `channels`: of every layer between. `depth`: convolutions, at least 2, of 3 × 3 blocks.
    `activation`, `base`: as in `MLP`.

    **Raises:** TypeError unless the space is `Real`; ValueError where it holds no images, for an
    unknown activation, a σ that is not positive, or too few layers.
    """

    kernels: tuple[Float[Array, "3 3 _ _"], ...]
    biases: tuple[Float[Array, " _"], ...]
    base: FrozenEnergy | None
    space: AbstractArraySpace
    sigma: float = eqx.field(static=True)
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        space: AbstractSpace,
        sigma: float,
        channels: int = 48,
        depth: int = 6,
        activation: str = "elu",
        *,
        key: Key[Array, ""],
        base: AbstractEnergy | str | None = "wide",
    ):
        if not isinstance(space, Real):
            raise TypeError(
                "GradientStepDenoiser: expected images on Real(shape), where Gaussian noise keeps "
                f"them, got {space}"
            )
        if depth < 2 or channels < 1:
            raise ValueError(
                "GradientStepDenoiser: expected a depth of at least 2 and at least one channel, "
                f"got depth={depth} and channels={channels}"
            )
        self.space, self.sigma = space, float(sigma)
        self.activation = _as_activation(activation)
        ends = 4 * _image(space, space.example(), "GradientStepDenoiser").shape[-1]
        sizes = [ends, *[channels] * (depth - 1), ends]
        kernels = [
            jnp.sqrt(2.0) * _normal(k, (3, 3, *pair), 9 * pair[0])
            for k, pair in zip(jax.random.split(key, depth), pairwise(sizes), strict=True)
        ]
        self.kernels = (*kernels[:-1], kernels[-1] / 2)
        self.biases = tuple(jnp.zeros(n) for n in sizes[1:])
        self.base = _as_base(base, space)

    def __call__(self, x):
        h = _blocks((_image(self.space, x, "GradientStepDenoiser") - 0.5) / self.sigma)
        last = len(self.kernels) - 1
        for layer, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            h = correlate(h, kernel) + bias
            h = h if layer == last else _ACTIVATIONS[self.activation](h)
        network = 0.5 * jnp.sum(h**2)
        return network if self.base is None else network + self.base(x)

    def with_space(self, space: AbstractSpace) -> "GradientStepDenoiser":
        if not isinstance(space, Real):
            raise TypeError(f"GradientStepDenoiser: expected Real(shape), got {space}")
        return _moved(self, space, self.kernels[0].shape[2] // 4)


class _Confinement(AbstractEnergy):
    """½ Σ ((x − c)/width)² over the unbounded coordinates, c their finite end or 0."""

    space: AbstractArraySpace
    width: Float[Array, ""]

    def __call__(self, x):
        if isinstance(self.space, Box):
            low, high = self.space.low, self.space.high
            centre = jnp.where(jnp.isfinite(low), low, jnp.where(jnp.isfinite(high), high, 0.0))
            bounded = jnp.isfinite(low) & jnp.isfinite(high)
            x = jnp.where(bounded, 0.0, x - centre)
        return 0.5 * jnp.sum((x / self.width) ** 2)


def _moved(network: Any, space: AbstractArraySpace, num_channels: int) -> Any:
    """The network on images of another size, which have as many channels."""
    name = type(network).__name__
    found = _image(space, space.example(), name).shape[-1]
    if found != num_channels:
        raise ValueError(
            f"{name}: this one reads images of {num_channels} channel(s), got {found} on {space}"
        )
    base = None if network.base is None else network.base.with_space(space)
    return eqx.tree_at(
        lambda e: (e.space, e.base), network, (space, base), is_leaf=lambda node: node is None
    )


def _is_bounded(space: AbstractArraySpace) -> bool:
    if isinstance(space, Box):
        return bool(jnp.all(jnp.isfinite(space.low) & jnp.isfinite(space.high)))
    return not isinstance(space, (Real, Count))


def _as_base(base: Any, space: AbstractArraySpace) -> FrozenEnergy | None:
    if isinstance(base, str) and base == "wide":
        if _is_bounded(space):
            return None
        width = 100.0 if isinstance(space, Count) else 10.0
        return frozen(_Confinement(space, jnp.asarray(width, float)))
    if base is None:
        return None
    if not isinstance(base, AbstractEnergy) or base.space.shape != space.shape:
        got = f"one on {base.space}" if isinstance(base, AbstractEnergy) else repr(base)
        raise ValueError(f"base: expected 'wide', None or an energy on {space}, got {got}")
    return frozen(base)


def _as_array_space(space: Any, who: str) -> AbstractArraySpace:
    if isinstance(space, AbstractArraySpace):
        return space
    raise TypeError(
        f"{who} reads one array a point, got {space}. Concatenate the parts of a Record into one "
        "array on one space, such as Real((n,)), or write f(x) of the dict with "
        "energax.from_log_density"
    )


def _as_activation(name: str) -> str:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation: expected one of {sorted(_ACTIVATIONS)}, got {name!r}")
    return name


@eqx.filter_jit
def _normal(key, shape: tuple[int, ...], fan_in: int) -> Float[Array, "..."]:
    return jax.random.normal(key, shape) / jnp.sqrt(fan_in)


def _inputs(space: AbstractArraySpace, x) -> Float[Array, "..."]:
    """x as floats, categories one-hot along a new last axis."""
    if isinstance(space, Categorical) and space.encoding == "index":
        return jax.nn.one_hot(x, space.num_values, dtype=float)
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(float)


def _image(
    space: AbstractArraySpace, x, who: str = "ConvNet"
) -> Float[Array, "height width channels"]:
    image = _inputs(space, x)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3:
        raise ValueError(
            f"{who}: expected images, a space of shape (height, width) or (height, width, "
            f"channels), got {space}; use MLP for vectors"
        )
    return image


def _evened(h: Float[Array, "height width c"]) -> Float[Array, "_ _ c"]:
    """An odd side's last row twice."""
    if h.shape[0] % 2 or h.shape[1] % 2:  # a pad by nothing would still keep XLA from fusing
        h = jnp.pad(h, ((0, h.shape[0] % 2), (0, h.shape[1] % 2), (0, 0)), mode="edge")
    return h


def _blocks(h: Float[Array, "height width c"]) -> Float[Array, "_ _ 4*c"]:
    """2×2 blocks as channels at half the resolution."""
    h = _evened(h)
    height, width, num = h.shape
    blocks = h.reshape(height // 2, 2, width // 2, 2, num).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(height // 2, width // 2, 4 * num)


def _halve(h: Float[Array, "height width c"]) -> Float[Array, "_ _ c"]:
    """Means of 2×2 blocks; an odd side's last row counts twice."""
    h = _evened(h)
    h = h.reshape(h.shape[0] // 2, 2, h.shape[1] // 2, 2, h.shape[2])
    # On CPUs a mean over two axes of five takes as long as the convolutions.
    return (h[:, 0, :, 0] + h[:, 0, :, 1] + h[:, 1, :, 0] + h[:, 1, :, 1]) / 4
