"""Many chains in one word: bit c of a site's word is the spin of chain c.

Creutz 1981's multi-spin coding, each bit with its own random numbers: 32 chains cost as many
operations as one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

LANES = 32
_PLANES = 24  # random bits a spin, so that flips have their probability to 2⁻²⁴


def pack(sites: Float[Array, "chains sites"]) -> UInt32[Array, "sites words"]:
    """Words of 32 chains each: bit 1 where a spin is up."""
    up = (sites > 0).astype(jnp.uint32).reshape(-1, LANES, sites.shape[1])
    return jnp.sum(up << _lanes(), axis=1, dtype=jnp.uint32).T


def unpack(words: UInt32[Array, "sites words"], dtype) -> Float[Array, "chains sites"]:
    """Spins −1 and +1 of packed words."""
    bits = (words.T[:, None] >> _lanes()) & 1
    return (2 * bits.astype(jnp.int32) - 1).astype(dtype).reshape(-1, len(words))


def _lanes() -> UInt32[Array, "32 1"]:
    return jnp.arange(LANES, dtype=jnp.uint32)[:, None]


def draw_packed(
    neighbours: list[UInt32[Array, "sites words"]],
    probability: Float[Array, " counts"],
    key: Key[Array, ""],
) -> UInt32[Array, "sites words"]:
    """A word of new spins a site, each up with `probability[number of its neighbours up]`.

    24 random bits a spin are compared with the threshold, from the lowest bit to the highest: a
    spin is up where its random number is below.
    """
    counts = [~jnp.zeros_like(neighbours[0])]  # where 0, 1, ... of the neighbours so far are up
    for up in neighbours:
        padded = [jnp.zeros_like(up), *counts, jnp.zeros_like(up)]
        counts = [(padded[i + 1] & ~up) | (padded[i] & up) for i in range(len(padded) - 1)]
    top = 2**_PLANES
    threshold = jnp.clip(jnp.round(probability * top), 0, top - 1).astype(jnp.uint32)
    ones = jnp.uint32(0) - ((threshold[:, None] >> jnp.arange(_PLANES, dtype=jnp.uint32)) & 1)
    # The threshold of no neighbour up, but where another number of them is up that one's.
    planes = jnp.broadcast_to(ones[0][:, None, None], (_PLANES, *neighbours[0].shape))
    for where, bit in zip(counts[1:], ones[1:], strict=True):
        planes = planes ^ (where & (bit ^ ones[0])[:, None, None])
    random = jax.random.bits(key, planes.shape, jnp.uint32)
    below = jnp.zeros_like(neighbours[0])
    for t, r in zip(planes, random, strict=True):  # lowest bit first
        below = (t & ~r) | (below & ~(r ^ t))
    return below


def count_lanes(words: UInt32[Array, "n words"]) -> Int[Array, " chains"]:
    """How many of the words have each chain's bit set.

    31 words at a time are added bit by bit (carry-save) to 5 before any bit is looked at.
    """
    rows = 31
    padding = jnp.zeros((-len(words) % rows, words.shape[1]), jnp.uint32)
    rest = list(jnp.concatenate([words, padding]).reshape(rows, -1, words.shape[1]))
    planes = []
    while rest:  # all of one weight, 2^len(planes)
        carries = []
        while len(rest) > 1:
            a, b, *rest = rest
            c, rest = (rest[0], rest[1:]) if rest else (jnp.zeros_like(a), rest)
            rest.append(a ^ b ^ c)
            carries.append((a & b) | ((a ^ b) & c))
        planes.append(rest[0])
        rest = carries
    total = jnp.zeros((), jnp.int32)
    for weight, plane in enumerate(jnp.stack(planes)):
        bits = (plane.T[:, None] >> _lanes()) & 1  # (words, 32, groups)
        total = total + (bits.astype(jnp.int32) << weight)
    return jnp.sum(total, axis=-1).reshape(-1)
