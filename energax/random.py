"""Random keys, and the draws that they are fastest at.

`key(seed)` makes a typed JAX key of Threefry-2x32-20 (Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3"), with the rounds written out, which JAX keeps in a loop on a CPU, and with both
words of a block used, where JAX's own key gives their xor (docs/decisions.md has the figures).
Keys split and fold as JAX's default ones do, to the same words; the numbers drawn from them are
others. It goes through JAX's public door for generators, so that `jax.random`, BlackJAX and NumPyro
take it as it is; only `jax.random.poisson` refuses any but its own keys, and `poisson` here serves
instead. A key has 64 bits: a million of them made by `split` agree nowhere, other than keys of 32
bits, of which some do from 10⁵ on. Numbers are the same on every device, under `vmap` and under
sharding.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Float, Int, Key

TAG = "etf2"
"""What checkpoints call the generator, and JAX shows in the dtype of a key, `key<etf2>`."""
OLD_TAG = "etf"
"""Their name of the one before, the xor of a block's words, whose keys `read_archive` refuses."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # Salmon et al. 2011, table 2 of the code
_PARITY = np.uint32(0x1BD11BDA)  # of the key schedule (Skein)

_DRAWS = 1  # the high word of a draw's counters, which split and fold_in count from 0 under 0
_SMALL = 128  # below so many numbers a block for each is cheaper than sharing blocks
_LARGE = 2**20  # from so many on a copy leaves the cache

# Least relative error by Lawson's iteration: log(1 + t)/t for 1 + t in [√½, √2], sin(πs/2)/s and
# cos(πs/2) in s² for |s| ≤ ½. They are off by at most 3·10⁻⁸, 4·10⁻⁹ and 4·10⁻⁸.
_LOG = (
    *(0.0872234926, -0.143668398, 0.149522677, -0.165623933, 0.199568331),
    *(-0.250020742, 0.333341867, -0.499999881, 1.0),
)
_SIN = (-0.00460165786, 0.079680033, -0.64596349, 1.57079637)
_COS = (-0.0203985814, 0.253594935, -1.2336967, 0.99999994)


class _Terms(NamedTuple):
    """What the generator is written in."""

    add: Callable
    shift_left: Callable
    shift_right: Callable
    bitwise_or: Callable
    bitwise_xor: Callable
    full: Callable  # (shape, a number)


# `jax.numpy` takes several times as long as `jax.lax` to trace: over a hundred operations for each
# shape that a program draws.
_LAX = _Terms(
    jax.lax.add,
    jax.lax.shift_left,
    jax.lax.shift_right_logical,
    jax.lax.bitwise_or,
    jax.lax.bitwise_xor,
    lambda shape, number: jax.lax.full(shape, number, jnp.uint32),
)
_NUMPY = _Terms(
    np.add,
    np.left_shift,
    np.right_shift,
    np.bitwise_or,
    np.bitwise_xor,
    lambda shape, number: np.full(shape, number, np.uint32),
)


def _rounds(terms: _Terms, data: Any, x0: Any, x1: Any) -> tuple[Any, Any]:
    """Threefry-2x32-20 of the counters (x0, x1) under the key `data`, two words."""
    add, shape = terms.add, x0.shape
    k0, k1 = data[0], data[1]
    k2 = k0 ^ k1 ^ _PARITY
    schedule = (k0, k1, k2)
    wide = [terms.full(shape, k) for k in schedule]
    x0, x1 = add(x0, wide[0]), add(x1, wide[1])
    by = {r: terms.full(shape, r) for group in _ROTATIONS for q in group for r in (q, 32 - q)}
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = add(x0, x1)
            left = terms.shift_left(x1, by[rotation])
            x1 = terms.bitwise_or(left, terms.shift_right(x1, by[32 - rotation]))
            x1 = terms.bitwise_xor(x0, x1)
        x0 = add(x0, wide[(group + 1) % 3])
        x1 = add(x1, terms.full(shape, schedule[(group + 2) % 3] + np.uint32(group + 1)))
    return x0, x1


@partial(jax.jit, inline=True)
def _threefry(data: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """`_rounds`, with the counter hidden from the compiler by an xor with 0.

    LLVM takes a sum that begins with the index of a loop for an address and tries to simplify it,
    which for the sums of twenty rounds was most of the time that a sampler took to compile. The 0
    is one that it does not see through: no square is 5 modulo 16.
    """
    five = (data[0] * data[0] & np.uint32(15)) == 5
    nought = jax.lax.broadcast(five.astype(jnp.uint32), x1.shape)
    return _rounds(_LAX, data, x0, jax.lax.bitwise_xor(x1, nought))


def _at_hand(data: Any) -> np.ndarray | None:
    """The words of a key that is no part of a program being traced, else None.

    What is made of few numbers NumPy makes at once; for JAX each of some ten operations would be a
    program of its own, to be compiled or read back when a process first splits a key.
    """
    if isinstance(data, Tracer) or (isinstance(data, jax.Array) and data.committed):
        return None
    return np.asarray(data)


def _few(data: np.ndarray, shape: tuple[int, ...], high: int) -> np.ndarray:
    """`_threefry` of `_counters` by NumPy, (*shape, 2)."""
    low = np.arange(math.prod(shape), dtype=np.uint32).reshape(shape)
    with np.errstate(over="ignore"):
        return np.stack(_rounds(_NUMPY, data, np.full(shape, high, np.uint32), low), -1)


def _counters(shape: tuple[int, ...], high: int = 0) -> tuple[Array, Array]:
    """`high` and the number of each element, two words."""
    size = math.prod(shape)
    low = jax.lax.iota(jnp.uint32, min(size, 2**32))
    if size <= 2**32:
        return jnp.full(shape, high, jnp.uint32), low.reshape(shape)
    raise ValueError(f"expected at most 2^32 random numbers at once, got shape {shape}")


def _seed(seed: Array) -> Array:
    wide = seed.dtype.itemsize > 4
    high = (seed >> 32).astype(jnp.uint32) if wide else jnp.zeros((), jnp.uint32)
    return jnp.stack([high, seed.astype(jnp.uint32)])


def _split(data: Array, shape: tuple[int, ...]) -> Array:
    here = _at_hand(data) if math.prod(shape) < _SMALL else None
    if here is not None:
        return jax.device_put(_few(here, shape, 0))
    return jnp.stack(_threefry(data, *_counters(shape)), -1)


def _fold_in(data: Array, number: Any) -> Array:
    here = None if isinstance(number, Tracer) else _at_hand(data)
    if here is not None:
        low = np.asarray(number).astype(np.uint32)
        with np.errstate(over="ignore"):
            return jax.device_put(np.stack(_rounds(_NUMPY, here, np.zeros_like(low), low)))
    return jnp.stack(_threefry(data, jnp.uint32(0), jnp.asarray(number).astype(jnp.uint32)))


def _random_bits(data: Array, width: int, shape: tuple[int, ...]) -> Array:
    """Blocks 0, 1, … of the key, two words of 32 bits each; narrower numbers are their low bits."""
    if width == 64:
        high, low = _threefry(data, *_counters(shape, _DRAWS))
        return (high.astype(jnp.uint64) << 32) | low.astype(jnp.uint64)
    dtype = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[width]
    here = _at_hand(data) if math.prod(shape) < _SMALL else None
    if here is not None:
        return jax.device_put(_few(here, shape, _DRAWS)[..., 0].astype(dtype))
    words = _from_pairs(data, shape, lambda a, b: (_as_float(a), _as_float(b)))
    return jax.lax.bitcast_convert_type(words, jnp.uint32).astype(dtype)


def _from_pairs(data: Array, shape: tuple[int, ...], make: Callable) -> Array:
    """float32 numbers of `shape`, two by two from a block: `make` takes its words to two arrays.

    A pair travels as one complex number, since XLA on the CPU hashes a block once for each array
    made of it, and for a 64-bit integer with half the lanes of a vector. Few numbers are the first
    ones of a block each.
    """
    size = math.prod(shape)
    if size < _SMALL:
        return make(*_threefry(data, *_counters(shape, _DRAWS)))[0]
    half = _pairs_shape(shape)

    def pairs(data):
        return jax.lax.complex(*make(*_threefry(data, *_counters(half, _DRAWS))))

    def numbers(data):
        both = _apart(pairs, data)
        flat = jnp.stack([both.real, both.imag], 1).reshape(-1)
        return (flat if flat.size == size else flat[:size]).reshape(shape)

    # What reads them is simpler code if they lie in order, worth a copy as long as it is in cache
    return _apart(numbers, data) if size < _LARGE else numbers(data)


def _apart(function: Callable, data: Array) -> Array:
    """function(data), its value unchanged, but not computed anew for every use.

    On the CPU XLA fuses it into whatever reads it, optimisation barrier or not, so that a block is
    hashed for each word of it and for each reader. It does not look into a branch; this one is
    always taken.
    """
    if jax.default_backend() != "cpu":
        return function(data)
    out = jax.eval_shape(function, data)
    always = (data[0] | np.uint32(1)) > 0
    return jax.lax.cond(always, function, lambda _: jnp.zeros(out.shape, out.dtype), data)


def _pairs_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(n, m): of each m blocks the first words come first, then the second ones.

    m is 64 or more, so that they are copied in bulk, and a whole number of rows, so that each
    device of several draws the rows that it holds.
    """
    rows = shape[0] if len(shape) > 1 else math.prod(shape)
    width = math.prod(shape) // rows
    together = 1
    while together * width < 64:
        together *= 2
    if rows % (2 * together) == 0:
        return rows // (2 * together), together * width
    return 1, (rows * width + 1) // 2


def _as_float(words: Array) -> Array:
    return jax.lax.bitcast_convert_type(words, jnp.float32)


def _as_word(numbers: Array) -> Array:
    return jax.lax.bitcast_convert_type(numbers, jnp.int32)


IMPLEMENTATION = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="energax_threefry2x32_pairs",
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
    data = jax.device_put(data) if isinstance(data, np.ndarray) else jnp.asarray(data)
    return jax.random.wrap_key_data(data, impl=IMPLEMENTATION)


def split(key: Key[Array, ""], num: int = 2) -> list[Key[Array, ""]]:
    """The keys of `jax.random.split`, one by one; outside of `jit` with no program to take them
    apart."""
    keys = jax.random.split(key, num)
    if isinstance(keys, Tracer) or TAG not in str(key.dtype):
        return list(keys)
    return [wrap(words) for words in np.asarray(jax.random.key_data(keys))]


def as_key(value) -> Key[Array, ""]:
    """`value` as one typed key; Threefry's (JAX's default, and `PRNGKey`) become ours.

    The 64 bits of the key stay what they are; what is drawn from it is another stream, and faster.

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
    """Standard normal draws, in float32 two by two: z = r cos θ and r sin θ, r² = −2 log u.

    Box & Muller 1958. u has 31 bits and is at least 2⁻³², so that |z| ≤ 6.7, and θ has 32; the
    three functions are polynomials (relative error of r 2·10⁻⁷). Any other dtype, and keys other
    than those of `key`, are served by `jax.random.normal`.

    **Returns:** an array of `shape`.
    """
    dtype = jax.dtypes.canonicalize_dtype(float if dtype is None else dtype)
    if dtype != jnp.float32 or TAG not in str(key.dtype):
        return jax.random.normal(key, shape, dtype)
    return _normal(jax.random.key_data(key), tuple(shape))


@partial(jax.jit, static_argnames="shape")
def _normal(data: Array, shape: tuple[int, ...]) -> Array:
    return _from_pairs(data, shape, _box_muller)


def _box_muller(a: Array, b: Array) -> tuple[Array, Array]:
    """Two words of random bits as two standard normal numbers."""
    u = (a >> 1).astype(jnp.int32).astype(jnp.float32) + np.float32(0.5)  # in units of 2⁻³¹
    bits = _as_word(u)
    exponent = (bits - np.int32(0x3F3504F3)) >> 23  # u = 2^exponent (1 + t), √½ ≤ 1 + t < √2
    t = _as_float(bits - (exponent << 23)) - 1
    log = (exponent - 31).astype(jnp.float32) * np.float32(math.log(2)) + t * _poly(_LOG, t)
    r = jnp.sqrt(np.float32(-2) * log)
    # Two bits of the angle choose a quarter of the circle: by a swap of the axes and by a sign.
    s = (b << 2).astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-32)
    square = s * s
    sine, cosine = s * _poly(_SIN, square), _poly(_COS, square)
    swap = (b & np.uint32(2**30)) != 0
    r = _as_float(_as_word(r) ^ (b & np.uint32(2**31)).astype(jnp.int32))
    return r * jnp.where(swap, sine, cosine), r * jnp.where(swap, cosine, sine)


def _poly(coefficients: tuple[float, ...], x: Array) -> Array:
    out = jnp.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        out = out * x + np.float32(c)
    return out


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

    `jax.random.poisson` takes JAX's own Threefry keys only: it gets one of the same 64 bits.

    **Arguments:** `rate`: broadcastable to `shape`. **Returns:** int32 array of `shape`.
    """
    data = jax.random.key_data(key)
    data = data if data.shape == (2,) else jax.random.bits(key, (2,), jnp.uint32)
    threefry = jax.random.wrap_key_data(data, impl="threefry2x32")
    return jax.random.poisson(threefry, jnp.broadcast_to(rate, shape), shape, jnp.int32)
