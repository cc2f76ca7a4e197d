"""Keys: JAX's own Threefry, block for block, and a statistical battery of our own.

The battery's limits are Bonferroni over all that a test looks at: p > 10⁻⁶ for the worst of them.
"""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from energax import io, random

WORDS = 2**21


def worst(z: np.ndarray) -> float:
    """p-value of the largest of normal statistics, for as many as there are."""
    return min(1.0, float(2 * stats.norm.sf(np.abs(z).max()) * z.size))


def bits_of(words: np.ndarray) -> np.ndarray:
    """(n,) uint32 -> (n, 32) of 0 and 1."""
    return np.unpackbits(words.astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)


@pytest.fixture(scope="module")
def words() -> np.ndarray:
    return np.asarray(jax.jit(lambda k: jax.random.bits(k, (WORDS,)))(random.key(20_261_124)))


# The blocks are those that JAX hashes, whose generator has been tested at length; how their words
# lie in an array is written out by a loop.


def blocks(key, num: int) -> np.ndarray:
    """(num, 2): both words of the blocks (1, 0), (1, 1), … under `key`."""
    counters = np.stack([np.ones(num, np.uint32), np.arange(num, dtype=np.uint32)])
    words = jax.extend.random.threefry_2x32(jax.random.key_data(key), jnp.asarray(counters))
    return np.asarray(words).T


def laid_out(key, shape: tuple[int, ...]) -> np.ndarray:
    """What `jax.random.bits(key, shape)` should be."""
    size = int(np.prod(shape))
    if size < 128:
        return blocks(key, size)[:, 0].reshape(shape)
    rows = shape[0] if len(shape) > 1 else size
    run = size // rows  # numbers that lie together: whole rows, 64 or more
    while run < 64 or run % (size // rows):
        run *= 2
    if size % (2 * run):
        run = (size + 1) // 2
    words, out = blocks(key, (size + 1) // (2 * run) * run), []
    for start in range(0, len(words), run):
        out += [words[start : start + run, 0], words[start : start + run, 1]]
    return np.concatenate(out)[:size].reshape(shape)


SHAPES = [
    (),
    (5, 3),
    (127,),
    (128,),
    (129,),
    (5, 0),
    (64, 2),
    (100, 784),
    (7, 31),
    (2, 3, 64),
    (4096,),
]


def test_numbers_are_the_words_of_threefry():
    key = jax.random.fold_in(random.key(2**31 + 5), 2)
    for wide in (False, True):
        with jax.enable_x64(wide):
            for shape in SHAPES:
                expected = laid_out(key, shape)
                for width in (8, 16, 32):
                    dtype = jnp.dtype(f"uint{width}")
                    got = jax.random.bits(key, shape, dtype)
                    np.testing.assert_array_equal(got, expected.astype(dtype))
                keys = jax.random.split(key, 3)
                each = jax.vmap(partial(jax.random.bits, shape=shape, dtype=jnp.uint32))(keys)
                np.testing.assert_array_equal(each[1], laid_out(keys[1], shape))
    with jax.enable_x64(True):
        both = blocks(key, 200).astype(np.uint64)
        np.testing.assert_array_equal(
            jax.random.bits(key, (200,), jnp.uint64), (both[:, 0] << np.uint64(32)) | both[:, 1]
        )


def test_keys_at_hand_give_the_same_words_as_in_a_program():
    """NumPy makes what is asked for outside of `jit`."""
    key = random.key(-12_345_678_912_345)
    data = jax.random.key_data
    looks = [
        partial(lambda shape, k: data(jax.random.split(k, shape)), n) for n in (1, (2, 5), 127)
    ]
    numbers = (0, 1, 2**32 - 1, np.int32(-3), jnp.int32(-3), jnp.uint32(4))
    looks += [partial(lambda n, k: data(jax.random.fold_in(k, n)), n) for n in numbers]
    kinds = (jnp.uint8, jnp.uint16, jnp.uint32)
    looks += [partial(lambda kind, k: jax.random.bits(k, (4,), kind), kind) for kind in kinds]
    looks += [lambda k: jax.random.normal(k), lambda k: jax.random.uniform(k, (3,))]
    for look in looks:
        here, there = look(key), jax.jit(look)(key)
        np.testing.assert_array_equal(here, there)
        assert here.dtype == there.dtype
    apart = [data(k) for k in random.split(key, 3)]
    np.testing.assert_array_equal(np.stack(apart), data(jax.random.split(key, 3)))


def test_keys_split_and_fold_as_default_ones():
    for seed in (0, 7, 2**31 + 5):
        ours, theirs = random.key(seed), jax.random.key(seed, impl="threefry2x32")
        for look in (
            lambda key: jax.random.split(key, (3, 2)),
            lambda key: jax.random.fold_in(key, 2**31 + 9),
        ):
            a, b = jax.random.key_data(look(ours)), jax.random.key_data(look(theirs))
            np.testing.assert_array_equal(a, b)


def test_a_default_key_becomes_ours_and_keeps_its_bits():
    for given in (jax.random.key(3, impl="threefry2x32"), jax.random.PRNGKey(3)):
        mine = random.as_key(given)
        assert random.TAG in str(mine.dtype)
        np.testing.assert_array_equal(jax.random.key_data(mine), jax.random.key_data(given))
    other = jax.random.key(3, impl="philox2x32")
    assert random.as_key(other).dtype == other.dtype
    assert random.normal(other, (3,)).shape == (3,)


def test_a_saved_key_of_the_earlier_stream_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    io.write_archive(path, {"key": random.key(3)}, registry={}, info={})
    monkeypatch.setattr(random, "OLD_TAG", random.TAG)
    monkeypatch.setattr(random, "TAG", "another")
    with pytest.raises(ValueError, match="start it anew"):
        io.read_archive(path).build("key", {})


def test_seeds_of_any_size_and_sign_differ():
    seeds = [0, 1, -1, 2**32, 2**32 + 1, 2**63, 2**64 - 2]
    data = {tuple(np.asarray(jax.random.key_data(random.key(s)))) for s in seeds}
    assert len(data) == len(seeds)
    with pytest.raises(TypeError, match="integer"):
        random.key(True)


def test_a_million_split_keys_are_all_different():
    data = np.asarray(jax.random.key_data(jax.random.split(random.key(1), 2**20)))
    assert len(np.unique(data.astype(np.uint64) @ np.array([2**32, 1], np.uint64))) == 2**20


def test_the_same_numbers_under_jit_vmap_and_on_eight_devices():
    code = """
import jax, numpy as np, hashlib
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from energax import random
mesh = Mesh(np.array(jax.devices()), ("chains",))
draw = lambda key: random.normal(key, (64, 3)) + jax.random.uniform(key, (64, 3))
plain = draw(random.key(5))
spread = jax.jit(draw, out_shardings=NamedSharding(mesh, P("chains")))(random.key(5))
assert len(spread.sharding.device_set) == len(jax.devices())
words = lambda key: jax.random.bits(key, (64, 3))
bits = jax.jit(words, out_shardings=NamedSharding(mesh, P("chains")))(random.key(5))
for a in (spread, bits):
    print(hashlib.sha256(np.asarray(a)).hexdigest())
assert np.allclose(plain, spread, atol=1e-6)
"""
    seen = set()
    for count in (1, 8):
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "JAX_PLATFORMS": "cpu",
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        seen.add(done.stdout)
    assert len(seen) == 1


# The battery


def test_each_bit_is_fair_and_no_two_go_together(words):
    bits = bits_of(words[: 2**19]).astype(np.float32)
    num = len(bits)
    assert worst((bits.sum(0) - num / 2) / np.sqrt(num / 4)) > 1e-6
    centred = 2 * bits - 1
    together = (centred.T @ centred)[np.triu_indices(32, 1)] / np.sqrt(num)
    assert worst(together) > 1e-6


def test_bytes_and_pairs_of_bytes_are_uniform(words):
    raw = words.view(np.uint8)
    counts = np.bincount(raw, minlength=256)
    assert 1e-6 < stats.chisquare(counts).pvalue < 1 - 1e-6
    pairs = raw.view(np.uint16)
    counts = np.bincount(pairs, minlength=2**16)
    assert 1e-6 < stats.chisquare(counts).pvalue < 1 - 1e-6


def test_uniforms_are_uniform_and_do_not_follow_each_other(words):
    u = np.asarray(jax.random.uniform(random.key(31), (2**20,)), np.float64)
    assert stats.kstest(u, "uniform").pvalue > 1e-6
    centred = (u - 0.5) * np.sqrt(12)
    lags = [1, 2, 3, 5, 8, 16, 32, 100, 1_024, 4_096, 2**16]
    serial = np.array([centred[:-lag] @ centred[lag:] / np.sqrt(len(u) - lag) for lag in lags])
    assert worst(serial) > 1e-6
    # Marsaglia & Zaman's gaps: the distance between visits to [0, 0.1) is geometric.
    gaps = np.diff(np.flatnonzero(u < 0.1))
    expected = len(gaps) * 0.1 * 0.9 ** np.arange(60)
    counts = np.bincount(np.minimum(gaps - 1, 60), minlength=61)
    expected = np.append(expected, len(gaps) - expected.sum())
    assert stats.chisquare(counts, expected).pvalue > 1e-6
    runs = np.sum(np.diff(u > 0.5)) + 1  # Wald & Wolfowitz 1940
    assert abs(runs - len(u) / 2) / np.sqrt(len(u) / 4) < 6


def test_nearby_keys_share_nothing():
    """Seeds next to each other, keys of one split, numbers folded in: 512 streams of 2,048 words,
    every pair of neighbours and of those that differ in one bit of the seed."""
    seeds = np.arange(512)
    data = jnp.asarray(np.stack([np.zeros_like(seeds), seeds], -1), jnp.uint32)
    families = {
        "seeds": random.wrap(data),
        "split": jax.random.split(random.key(3), 512),
        "folded": jax.vmap(lambda i: jax.random.fold_in(random.key(3), i))(jnp.arange(512)),
    }
    draw = jax.jit(jax.vmap(lambda key: jax.random.bits(key, (2_048,))))
    for keys in families.values():
        streams = np.asarray(draw(keys))
        statistics = []
        for distance in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            other = streams[seeds ^ distance]
            differ = np.bitwise_count(streams ^ other).sum(1, dtype=np.int64)
            statistics.append((differ - 2_048 * 16) / np.sqrt(2_048 * 8))
        assert worst(np.concatenate(statistics)) > 1e-6
        # nor does one stream hold what another had a step before
        late = np.bitwise_count(streams[:-1, :-1] ^ streams[1:, 1:]).sum(1, dtype=np.int64)
        assert worst((late - 2_047 * 16) / np.sqrt(2_047 * 8)) > 1e-6
        assert len(np.unique(streams[:, :2].view(np.uint64))) == 512


def test_avalanche_each_bit_of_the_key_flips_half_of_the_output():
    num = 4_096
    rng = np.random.default_rng(0)
    data = rng.integers(0, 2**32, (num, 2), dtype=np.uint32)
    first = jax.jit(jax.vmap(lambda d: jax.random.bits(random.wrap(d), (2,))[1]))
    plain = np.asarray(first(jnp.asarray(data)))
    statistics = []
    for word in range(2):
        for bit in range(32):
            flipped = data.copy()
            flipped[:, word] ^= np.uint32(1 << bit)
            changed = bits_of(plain ^ np.asarray(first(jnp.asarray(flipped))))
            statistics.append((changed.sum(0, dtype=np.int64) - num / 2) / np.sqrt(num / 4))
    assert worst(np.stack(statistics)) > 1e-6


@pytest.mark.parametrize("mutant", ["counter", "weak"])
def test_the_battery_sees_a_poor_generator(mutant):
    """A counter times a constant, and Threefry after 4 of its 20 rounds, fail."""
    i = np.arange(2**19, dtype=np.uint32)
    if mutant == "counter":
        words = i * np.uint32(0x9E3779B9)
        bits = bits_of(words).astype(np.float32)
        assert worst((bits.sum(0) - len(i) / 2) / np.sqrt(len(i) / 4)) > 1e-6  # each bit is fair
        counts = np.bincount(words.view(np.uint16), minlength=2**16)
        p = stats.chisquare(counts).pvalue
        assert min(p, 1 - p) < 1e-9
    else:
        x0, x1 = np.zeros_like(i) + np.uint32(3), i + np.uint32(5)
        for rotation in (13, 15, 26, 6):
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation)))
        differ = np.bitwise_count((x0 ^ x1)[:-1] ^ (x0 ^ x1)[1:]).astype(float)
        assert abs(differ.mean() - 16) / np.sqrt(8 / len(differ)) > 7


# Draws


def test_normals_are_normal_to_the_tails():
    z = np.asarray(random.normal(random.key(2), (2**21,)), np.float64)
    assert stats.kstest(z[: 2**19], "norm").pvalue > 1e-6
    edges = np.array([-np.inf, -4, -3.5, -3, -2, -1, 0, 1, 2, 3, 3.5, 4, np.inf])
    counts, _ = np.histogram(z, edges)
    assert stats.chisquare(counts, len(z) * np.diff(stats.norm.cdf(edges))).pvalue > 1e-6
    assert 4.9 < np.abs(z).max() < 6.5
    scores = np.array([z.mean(), (z**2).mean() - 1, (z**3).mean(), (z**4).mean() - 3])
    assert worst(scores * np.sqrt(len(z) / np.array([1, 2, 15, 96]))) > 1e-6


def test_pairs_of_normals_are_independent():
    z = np.asarray(random.normal(random.key(3), (2**20,)), np.float64).reshape(-1, 2, 64)
    x, y = z[:, 0].ravel(), z[:, 1].ravel()
    powers = [(1, 1), (2, 2), (1, 2), (2, 1), (3, 1), (1, 3)]
    centre = {1: 0, 2: 1, 3: 0}
    variance = {1: 1, 2: 2, 3: 15}
    statistics = [
        np.mean((x**i - centre[i]) * (y**j - centre[j]))
        * np.sqrt(len(x) / (variance[i] * variance[j]))
        for i, j in powers
    ]
    assert worst(np.array(statistics)) > 1e-6
    angle = np.arctan2(y, x) / (2 * np.pi) + 0.5
    assert stats.kstest(angle, "uniform").pvalue > 1e-6
    square = x**2 + y**2
    assert stats.kstest(square, "expon", args=(0, 2)).pvalue > 1e-6
    assert worst(np.array([np.corrcoef(angle, square)[0, 1] * np.sqrt(len(x))])) > 1e-6


def test_normals_are_those_of_box_and_muller():
    """In float64 from the words themselves, and at the ends of their range."""
    words = np.concatenate(
        [
            blocks(random.key(9), 4_096),
            np.array(
                [
                    [0, 0],
                    [1, 2**30 - 1],
                    [2**32 - 1, 2**30],
                    [2**31, 2**31],
                    [2**32 - 2**9, 3 * 2**30],
                ],
                np.uint32,
            ),
        ]
    )
    z = np.stack(random._box_muller(*jnp.asarray(words.T)), -1).astype(np.float64)
    assert np.isfinite(z).all()
    assert 6.6 < np.abs(z).max() < 6.7
    u = (words[:, 0] >> 1).astype(np.float32) + np.float32(0.5)
    u = u.astype(np.float64) / 2**31
    r = np.sqrt(-2 * np.log(u))
    np.testing.assert_allclose(np.hypot(*z.T), r, rtol=5e-7, atol=1e-30)
    low = (words[:, 1] << np.uint32(2)).view(np.int32).astype(np.float64) / 2**32 * np.pi / 2
    swap, sign = (words[:, 1] >> 30) & 1, 1 - 2.0 * (words[:, 1] >> 31)
    x = sign * r * np.where(swap, np.sin(low), np.cos(low))
    y = sign * r * np.where(swap, np.cos(low), np.sin(low))
    np.testing.assert_allclose(z, np.stack([x, y], -1), rtol=1e-6, atol=1e-6)
    few = random.normal(random.key(9), (100,))
    np.testing.assert_allclose(few, z[:100, 0], rtol=1e-6, atol=1e-6)
    many = random.normal(random.key(9), (2, 4_096))
    np.testing.assert_allclose(many, z[:4_096].T, rtol=1e-6, atol=1e-6)
    with jax.enable_x64(True):
        assert random.normal(random.key(9), (3,)).dtype == jnp.float64
        assert random.normal(random.key(9), (3,), jnp.float32).dtype == jnp.float32


def test_categories_come_with_their_probabilities():
    prob = np.array([[0.5, 0.0, 0.2, 0.3, 0.0], [1e-3, 0.9, 0.0, 0.0, 0.099]])
    draws = np.asarray(random.categorical(random.key(4), jnp.log(jnp.asarray(prob)), (200_000, 2)))
    assert draws.dtype == np.int32
    for row in range(2):
        counts = np.bincount(draws[:, row], minlength=5)
        some = prob[row] > 0
        assert counts[~some].sum() == 0
        assert stats.chisquare(counts[some], 200_000 * prob[row][some]).pvalue > 1e-6
    shifted = random.categorical(random.key(4), jnp.log(jnp.asarray(prob)) + 300.0)
    assert shifted.shape == (2,)


@pytest.mark.parametrize("rate", [0.3, 4.0, 60.0])
def test_counts_are_poisson(rate):
    n = np.asarray(random.poisson(random.key(6), rate, (100_000,)))
    top = int(stats.poisson.ppf(1 - 1e-4, rate))
    counts = np.bincount(np.minimum(n, top), minlength=top + 1)
    expected = 100_000 * np.append(stats.poisson.pmf(np.arange(top), rate), 0)
    expected[-1] = 100_000 - expected.sum()
    many = expected >= 5
    counts = np.append(counts[many], counts[~many].sum())
    expected = np.append(expected[many], expected[~many].sum())
    keep = expected > 0
    assert stats.chisquare(counts[keep], expected[keep]).pvalue > 1e-6


def test_blackjax_takes_the_key():
    blackjax = pytest.importorskip("blackjax")
    walk = blackjax.additive_step_random_walk(
        lambda x: -0.5 * jnp.sum(x**2), blackjax.mcmc.random_walk.normal(jnp.ones(2))
    )
    state, _ = walk.step(random.key(0), walk.init(jnp.ones(2)))
    assert np.isfinite(np.asarray(state.position)).all()
