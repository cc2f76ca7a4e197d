"""Random keys, and the draws that they are fastest at.

`key(seed)` makes a typed JAX key of Threefry-2x32-20 (Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3"): **the stream of JAX's default key, bit for bit**, and several times faster on
a CPU, where JAX keeps the rounds in a loop and here they are written out (docs/decisions.md has the
figures). It goes through JAX's public door for generators, so that `jax.random`, BlackJAX and
NumPyro take it as it is; only `jax.random.poisson` refuses any but its own keys, and `poisson` here
serves instead. A key has 64 bits: a million of them made by `split` agree nowhere, other than keys
of 32 bits, of which some do from 10⁵ on. Numbers are the same on every device, under `vmap` and
under sharding.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Float, Int, Key

TAG = "etf"
"""What checkpoints call the generator, and JAX shows in the dtype of a key, `key<etf>`."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # Salmon et al. 2011, table 2 of the code
_PARITY = np.uint32(0x1BD11BDA)  # of the key schedule (Skein)

# Giles 2012, "Approximating the erfinv function", table 5: for w < 5 in w − 2.5, else in √w − 3.
_CENTRAL = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087),
    *(-0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
)
_TAIL = (
    *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773),
    *(-0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
)


def _threefry(data: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Threefry-2x32-20 of the counters (x0, x1) under the key `data`, two words."""
    k0, k1 = data[0], data[1]
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0, x1 = x0 + k0, x1 + k1
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << rotation) | (x1 >> (32 - rotation)))
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def _counters(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The number of each element as (high, low) words."""
    size = math.prod(shape)
    low = jax.lax.iota(jnp.uint32, min(size, 2**32))
    if size <= 2**32:
        return jnp.zeros(shape, jnp.uint32), low.reshape(shape)
    raise ValueError(f"expected at most 2^32 random numbers at once, got shape {shape}")


def _seed(seed: Array) -> Array:
    wide = seed.dtype.itemsize > 4
    high = (seed >> 32).astype(jnp.uint32) if wide else jnp.zeros((), jnp.uint32)
    return jnp.stack([high, seed.astype(jnp.uint32)])


def _split(data: Array, shape: tuple[int, ...]) -> Array:
    return jnp.stack(_threefry(data, *_counters(shape)), -1)


def _fold_in(data: Array, number: Any) -> Array:
    return jnp.stack(_threefry(data, jnp.uint32(0), jnp.asarray(number).astype(jnp.uint32)))


def _random_bits(data: Array, width: int, shape: tuple[int, ...]) -> Array:
    """JAX's own layout: one block of two words an element, both used."""
    high, low = _threefry(data, *_counters(shape))
    if width == 64:
        return (high.astype(jnp.uint64) << 32) | low.astype(jnp.uint64)
    dtype = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[width]
    return (high ^ low).astype(dtype)


IMPLEMENTATION = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="energax_threefry2x32",
    tag=TAG,
)
"""What `jax.random.key(seed, impl=...)` and `wrap_key_data` take."""


def key(seed: int) -> Key[Array, ""]:
    """A typed random key from an integer seed.

    **Arguments:** `seed`: any integer; equal seeds (modulo 2⁶⁴) give equal streams.

    **Raises:** TypeError if `seed` is not an integer.
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(
            f"a seed is an integer, got {type(seed).__name__}; write energax.random.key(0)"
        )
    high, low = divmod(int(seed) % 2**64, 2**32)
    return wrap(np.array([high, low], np.uint32))


def wrap(data) -> Key[Array, "..."]:
    """Keys from their raw words (..., 2) uint32, as `jax.random.key_data` gives them."""
    return jax.random.wrap_key_data(jnp.asarray(data), impl=IMPLEMENTATION)


def as_key(value) -> Key[Array, ""]:
    """`value` as one typed key; Threefry's (JAX's default, and `PRNGKey`) become ours.

    The stream stays what it was, and comes faster.

    **Raises:** TypeError for anything that is not one key (an integer seed, a batch of keys).
    """
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ():
            default = str(jax.random.key_impl(value)) == "threefry2x32"
            return wrap(jax.random.key_data(value)) if default else value
        if value.dtype == jnp.uint32 and value.shape == (2,):
            return wrap(value)
    raise TypeError(
        "key= expects one random key such as energax.random.key(0), got "
        + (
            f"an array of shape {value.shape} and dtype {value.dtype}"
            if isinstance(value, jax.Array)
            else f"{type(value).__name__}"
        )
    )


def normal(key: Key[Array, ""], shape: tuple[int, ...] = (), dtype=None) -> Float[Array, "..."]:
    """Standard normal draws, z = √2 erf⁻¹(u).

    In float32 u lies on the odd multiples of 2⁻²⁴ in (−1, 1), so that |z| ≤ 5.4, and erf⁻¹ is by
    Giles 2012 (relative error 4·10⁻⁷), at three fifths of the price of `jax.random.normal`; which
    serves every other dtype.

    **Returns:** an array of `shape`.
    """
    dtype = jnp.dtype(float if dtype is None else dtype)
    if jax.dtypes.canonicalize_dtype(dtype) != jnp.float32:
        return jax.random.normal(key, shape, dtype)
    steps = (jax.random.bits(key, shape) >> 8).astype(jnp.int32) - 2**23
    u = (steps.astype(jnp.float32) + np.float32(0.5)) * np.float32(2.0**-23)
    w = -jnp.log((1 - u) * (1 + u))
    near, far = w - np.float32(2.5), jnp.sqrt(w) - np.float32(3)
    central, tail = np.float32(_CENTRAL[0]), np.float32(_TAIL[0])
    for a, b in zip(_CENTRAL[1:], _TAIL[1:], strict=True):
        central, tail = np.float32(a) + central * near, np.float32(b) + tail * far
    return np.float32(math.sqrt(2)) * u * jnp.where(w < 5, central, tail)


def categorical(
    key: Key[Array, ""], logits: Float[Array, "... k"], shape: tuple[int, ...] | None = None
) -> Int[Array, "..."]:
    """Draws of p(j) ∝ e^{logits_j} by inversion: one uniform number each, not k as by Gumbel's.

    Probabilities are exact to 2⁻²⁴ (in float32).

    **Arguments:** `shape`: of the result, to which `logits.shape[:-1]` is broadcast; None is that.

    **Returns:** int32 in 0 … k−1.
    """
    shape = logits.shape[:-1] if shape is None else shape
    prob = jnp.exp(logits - jnp.max(logits, -1, keepdims=True))
    upper = jnp.cumsum(prob, -1)
    u = jax.random.uniform(key, shape, prob.dtype) * upper[..., -1]
    below = sum((upper[..., j] <= u).astype(jnp.int32) for j in range(logits.shape[-1] - 1))
    # Rounding at the end of the sums must not lead to a value of probability 0.
    last = logits.shape[-1] - 1 - jnp.argmax(prob[..., ::-1] > 0, -1).astype(jnp.int32)
    return jnp.minimum(jnp.broadcast_to(jnp.asarray(below, jnp.int32), shape), last)


def poisson(key: Key[Array, ""], rate, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Poisson draws n ~ rateⁿ e^{−rate}/n! for any key.

    `jax.random.poisson` takes JAX's own Threefry keys only: ours is one, under another name.

    **Arguments:** `rate`: broadcastable to `shape`. **Returns:** int32 array of `shape`.
    """
    data = jax.random.key_data(key)
    data = data if data.shape == (2,) else jax.random.bits(key, (2,), jnp.uint32)
    threefry = jax.random.wrap_key_data(data, impl="threefry2x32")
    return jax.random.poisson(threefry, jnp.broadcast_to(rate, shape), shape, jnp.int32)
