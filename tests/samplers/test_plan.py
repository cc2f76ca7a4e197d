"""Plain chains, then tempering: modes are found, weighed rightly, and not forgotten in silence."""

import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln

import energax as ex
from energax.results import UnreliableResult
from energax.samplers.driver._base import Kept
from energax.samplers.driver.ascent import ascend
from energax.samplers.driver.starts import share_out
from energax.samplers.driver.verdict import assess, forgotten, left_behind


def mixture(centres, scales, weights):
    m, s, w = (jnp.asarray(a, float) for a in (centres, scales, weights))
    d = m.shape[1]

    def f(x):
        return jax.nn.logsumexp(
            jnp.log(w) - d * jnp.log(s) - 0.5 * jnp.sum((x - m) ** 2, -1) / s**2
        )

    return ex.from_log_density(f, ex.Real((d,)))


def quietly(energy, seed, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableResult)
        return ex.sample(energy, 800, key=ex.random.key(seed), **options)


@pytest.mark.slow
def test_far_modes_come_out_with_their_weights():
    centres = np.array([[-9.0, 2.0], [7.0, -3.0], [1.0, 9.0]])
    energy = mixture(centres, [1.0, 0.7, 0.5], [0.2, 0.5, 0.3])
    for seed in range(2):
        draws = quietly(energy, seed)
        assert draws.reliable and draws.sampler == "ParallelTempering(MALA)"
        assert draws.details["round_trip_rate"] > 0 and draws.details["swap_rate"].shape == (12,)
        mean = np.array([0.2, 0.5, 0.3]) @ centres
        assert np.all(abs(draws.mean - mean) < 4.5 * draws.mcse_mean)
        near = ((draws.flat()[:, None] - centres) ** 2).sum(-1).argmin(1)
        share = np.bincount(near, minlength=3) / len(near)
        assert np.all(abs(share - [0.2, 0.5, 0.3]) < 4.5 * np.sqrt(0.25 / 300))


def test_chains_that_cross_too_seldom_give_way():
    """Their R-hat falls, but would not have fallen enough when the budget ends."""
    centres = np.stack(np.meshgrid([-4.0, 0.0, 4.0], [-4.0, 0.0, 4.0]), -1).reshape(9, 2)
    weights = np.arange(1, 10) / 45
    draws = quietly(mixture(centres, np.full(9, 0.5), weights), 0)
    assert draws.reliable and draws.sampler == "ParallelTempering(MALA)"
    assert draws.num_evaluations < 4_000_000
    assert np.all(abs(draws.mean - weights @ centres) < 4.5 * draws.mcse_mean)


@pytest.mark.slow
def test_modes_apart_by_little_in_each_of_many_coordinates_are_never_a_silent_error():
    step = np.full(50, 5 / np.sqrt(50))
    energy = mixture([1 - step, 1 + step], [1.0, 1.0], [0.65, 0.35])
    mean = 1 - 0.3 * step
    for seed in range(2):
        draws = quietly(energy, seed, max_evaluations=1_000_000)
        right = np.all(abs(draws.mean - mean) < 5 * draws.mcse_mean)
        assert right or not draws.reliable


def test_the_ascent_reaches_every_mode():
    rng = np.random.default_rng(0)
    centres = rng.uniform(-6, 6, (6, 10))
    energy = mixture(centres, np.full(6, 0.8), np.full(6, 1 / 6))
    x, f = ascend(energy, 5 * rng.normal(size=(256, 10)).astype(np.float32))
    distance = np.sqrt(((x[:, None] - centres) ** 2).sum(-1))
    assert set(distance.argmin(1)) == set(range(6))
    assert np.median(distance.min(1)) < 1e-3 and np.isfinite(f).all()


def test_the_ascent_does_not_mind_scales_nor_walls_of_the_density():
    scale = jnp.array([1e-3, 1.0, 1e3])
    energy = ex.from_log_density(lambda x: -jnp.sum((x / scale - 1) ** 2), ex.Real((3,)))
    x, _ = ascend(energy, np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32))
    assert np.median(abs(x / np.asarray(scale) - 1).max(1)) < 0.05
    half = ex.from_log_density(
        lambda x: jnp.where(x[0] < 0, -jnp.inf, -((x[0] - 2) ** 2)), ex.Real((1,))
    )
    x, _ = ascend(half, np.array([[-1.0], [0.5]], np.float32))
    assert x[0] == -1 and abs(x[1] - 2) < 1e-3


def kept(x):
    """A history of unit normals around x, (steps, chains, d) centres."""
    noise = np.random.default_rng(2).normal(size=x.shape)
    return Kept([x + noise], -0.5 * (noise**2).sum(-1), jax.tree.structure(0))


@pytest.mark.parametrize("d", [1, 3, 50])
def test_a_mode_that_was_left_for_good_is_told(d):
    steps = np.zeros((400, 8, d))
    early = steps.copy()
    early[:, 2] += 8 / np.sqrt(d)
    assert forgotten(kept(steps), kept(early)) == 1
    assert forgotten(kept(early), kept(early)) == 0
    assert forgotten(kept(steps), kept(steps)) == 0
    now = steps.copy()
    now[::8, 2] += 8 / np.sqrt(d)  # seldom, but it is still visited
    assert forgotten(kept(now), kept(early)) == 0


def test_the_places_that_were_left_are_found():
    early = np.zeros((400, 8, 5))
    early[:300, 2] += 4.0
    points = left_behind(kept(early[300:]), kept(early))
    assert len(points) > 50 and np.all(points.mean(1) > 2)
    assert left_behind(kept(early), kept(early)) is None


def test_many_chains_take_no_longer():
    steps = np.zeros((128, 1_000, 2))
    early = steps.copy()
    early[:, 3::10] += 6.0
    now, then = kept(steps), kept(early)
    began = time.process_time()
    assert forgotten(now, then) == 100
    assert len(left_behind(now, then)) > 500
    assert time.process_time() - began < 20  # it took minutes, all with all


def test_a_rare_mode_far_off_counts_where_the_early_part_was_dropped():
    """Two short visits: ranks, and so R-hat and bulk and tail ESS, hardly know of them."""
    steps = np.zeros((4_000, 8, 1))
    steps[1_000:1_100, 2], steps[3_000:3_100, 5] = 30.0, 30.0
    found = assess(kept(steps), ex.Real((1,)), None, None)
    assert found.ess > 400 and found.reasons == []
    late = assess(kept(steps), ex.Real((1,)), None, None, is_late=True)
    assert len(late.reasons) == 1 and "0.05 is allowed" in late.reasons[0]


@pytest.mark.slow
def test_a_lesser_mode_that_warm_up_left_comes_back():
    """100 spins that all attract each other, two magnetised modes of 95 and 5 %.

    Warm-up ends when the last chain has left the lesser one, which they enter some once in 600,000
    sweeps.
    """

    def f(x):
        return 1.3 * jnp.sum(x) ** 2 / 200 + 0.02 * jnp.sum(x)

    energy = ex.from_log_density(f, ex.Spin((100,)))
    up = np.arange(101)
    log_p = gammaln(101) - gammaln(up + 1) - gammaln(101 - up)
    log_p += 1.3 * (2 * up - 100) ** 2 / 200 + 0.02 * (2 * up - 100)
    p = np.exp(log_p - log_p.max())
    mean = p @ (2 * up - 100) / (100 * p.sum())
    num_reliable = 0
    for seed in range(4):
        draws = quietly(energy, seed)
        error = draws.mcse_mean.mean()  # of sites that go together
        num_reliable += draws.reliable
        assert not draws.reliable or abs(draws.mean.mean() - mean) < 4.5 * error
    assert num_reliable >= 2


def test_what_was_burn_in_is_not_told():
    """Early points of low density do not count, however far they are."""
    early = kept(np.zeros((400, 8, 3)))
    early.leaves[0][:, 1] += 50.0
    early.log_density[:, 1] -= 1_000.0
    assert forgotten(kept(np.zeros((400, 8, 3))), early) == 0


def test_the_principal_direction_shows_what_no_coordinate_does():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 8, 100))
    x[:, :4] += 0.6  # four chains a little off in each of many coordinates: 6 sd in all
    along = Kept([x], np.zeros((500, 8)), jax.tree.structure(0)).principal()
    assert along.shape == (8, 500, 2)
    first = along[..., 0]
    gap = abs(first[:4].mean() - first[4:].mean()) / first[:4].std()
    assert gap > 5 > 3 * abs(x[:, :4].mean((0, 1)) - x[:, 4:].mean((0, 1))).max()


def test_every_peak_gets_as_many_chains():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(500, 30))
    climbed = 1e-4 * rng.normal(size=(60, 30))
    assert share_out(climbed, draws, 8) is None
    climbed[::20] += 2.0  # 3 of 60
    starts = share_out(climbed, draws, 8)
    assert starts is not None and starts.shape == (8, 30)
    assert int((np.asarray(starts)[:, 0] > 1.0).sum()) == 4
    climbed[::3] += 5 * rng.normal(size=(20, 1))  # more peaks than pairs of chains
    assert share_out(climbed, draws, 8) is None


@pytest.mark.slow
def test_a_neck_that_paths_diverge_in_is_told():
    """Neal's funnel in 20-d, v of sd 2. For an sd of 1.7 MALA after ChEES was sure of 1.51."""

    def f(x):
        return -0.5 * (x[0] / 2.0) ** 2 - 0.5 * jnp.sum(x[1:] ** 2) * jnp.exp(-x[0]) - 9.5 * x[0]

    energy = ex.from_log_density(f, ex.Real((20,)))
    options = dict(key=ex.random.key(3), max_evaluations=1_000_000)
    with pytest.warns(UnreliableResult, match="of the steps met"):
        ex.sample(energy, 100, sampler=ex.samplers.ChEES(), **options)
    with pytest.warns(UnreliableResult):  # whichever sampler the budget ends with
        ex.sample(energy, 100, **options)


def test_a_sampler_of_your_own_is_the_only_one_tried():
    energy = mixture([[-9.0], [9.0]], [1.0, 1.0], [0.5, 0.5])
    draws = quietly(energy, 0, sampler=ex.samplers.MALA(), max_evaluations=100_000)
    assert not draws.reliable and draws.sampler == "MALA"
