"""Random keys and the few draws that `jax.random` does not offer for them.

`key(seed)` makes a typed JAX key of the counter-based Philox2x32-10 generator (Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3"). It is accepted by every `jax.random` function but
`poisson`, gives the same numbers on every device and under `vmap` and sharding, and costs a
tenth of JAX's default key (see docs/decisions.md).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

IMPLEMENTATION = "philox2x32"


def key(seed: int) -> Key[Array, ""]:
    """A typed random key from an integer seed.

    **Arguments:** `seed`: any integer; equal seeds give equal streams.

    **Raises:** TypeError if `seed` is not an integer.
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise TypeError(
            f"a seed is an integer, got {type(seed).__name__}; write energax.random.key(0)"
        )
    return jax.random.key(int(seed) % 2**63, impl=IMPLEMENTATION)


def as_key(value) -> Key[Array, ""]:
    """`value` as one typed key: typed keys pass, an old-style `jax.random.PRNGKey` is wrapped.

    **Raises:** TypeError for anything that is not one key (an integer seed, a batch of keys).
    """
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ():
            return value
        if value.dtype == jnp.uint32 and value.shape == (2,):
            return jax.random.wrap_key_data(value, impl="threefry2x32")
    raise TypeError(
        "key= expects one random key such as energax.random.key(0), got "
        + (
            f"an array of shape {value.shape} and dtype {value.dtype}"
            if isinstance(value, jax.Array)
            else f"{type(value).__name__}"
        )
    )


def poisson(key: Key[Array, ""], rate, shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Poisson draws n ~ rateⁿ e^{−rate}/n! for any key.

    `jax.random.poisson` takes Threefry keys only, so a Threefry key is made from 64 bits of ours.

    **Arguments:** `rate`: broadcastable to `shape`. **Returns:** int32 array of `shape`.
    """
    bits = jax.random.bits(key, (2,), jnp.uint32)
    threefry = jax.random.wrap_key_data(bits, impl="threefry2x32")
    return jax.random.poisson(threefry, jnp.broadcast_to(rate, shape), shape, jnp.int32)
