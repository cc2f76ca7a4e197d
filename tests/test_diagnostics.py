"""energax.diagnostics against ArviZ, SciPy, simulation, and the cases where others give NaN."""

import warnings

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import stats
from scipy.signal import lfilter

from energax import diagnostics as dg

NAMES = ("ess_bulk", "ess_tail", "ess_mean", "ess_sd")


def ar1(rng, shape, rho):
    """Stationary AR(1) along the draws with standard normal margins; ESS a draw (1 − ρ)/(1 + ρ)."""
    noise = rng.normal(size=shape) * np.sqrt(1 - rho**2)
    noise[:, 0] /= np.sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], noise, axis=1)


def last(x):
    """(chains, draws, quantities) in ArviZ's order of axes."""
    return np.moveaxis(x, 2, 0)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@pytest.mark.parametrize(
    "chains, draws, rho",
    [(4, 500, 0.5), (8, 1001, 0.9), (2, 64, 0.99), (1, 300, -0.5), (3, 900, 1)],
)
def test_ess_and_errors_agree_with_arviz(chains, draws, rho):
    rng = np.random.default_rng(draws)
    x = ar1(rng, (chains, draws, 12), rho) if rho < 1 else rng.normal(size=(3, 900, 12)).cumsum(1)
    x[..., 8:] = np.round(2 * x[..., 8:])  # ties
    x[..., 11] = x[..., 11] > 0.0
    for name in NAMES:
        prob = 0.05 if name == "ess_tail" else None
        theirs = array_stats.ess(last(x), method=name[4:], prob=prob)
        # Where an indicator never moves ours leaves it out; ArviZ counts it as all draws.
        both = np.minimum(theirs, x[..., 0].size) if name == "ess_tail" else theirs
        ours = getattr(dg, name)(x)
        ours = np.minimum(ours, x[..., 0].size) if name == "ess_tail" else ours
        np.testing.assert_allclose(ours, both, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(dg.mcse_mean(x), array_stats.mcse(last(x)), rtol=1e-6)


def plain_rhat(x):
    """R-hat of one quantity (chains, draws), straight from the paper, in exact ties."""

    def once(a):
        ranks = stats.rankdata(np.round(a, 11))
        z = stats.norm.ppf((ranks - 0.375) / (a.size + 0.25)).reshape(a.shape)
        n = a.shape[1]
        between, within = n * z.mean(1).var(ddof=1), z.var(axis=1, ddof=1).mean()
        return np.sqrt(((n - 1) / n * within + between / n) / within)

    half = x.shape[1] // 2
    split = np.concatenate([x[:, :half], x[:, -half:]])
    return max(once(split), once(abs(split - np.median(split))))


def test_rhat_agrees_with_the_formula_and_arviz():
    x = ar1(np.random.default_rng(1), (4, 1001, 12), 0.8)
    x[0, :, 3] += 1.0
    x[1, :, 4] *= 3.0
    x[..., 5] = np.round(x[..., 5])
    x[..., 6] = x[..., 6] > 1.0
    ours = dg.rhat(x)
    expected = [plain_rhat(x[..., i]) for i in range(12)]
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    # ArviZ lets rounding break the tie of the two draws beside the median: half a rank.
    np.testing.assert_allclose(ours, array_stats.rhat(last(x)), rtol=1e-5)


def test_nested_rhat_agrees_with_arviz_and_sees_superchains_apart():
    x = ar1(np.random.default_rng(2), (32, 100, 6), 0.3)
    x[8:16, :, 1] += 1.0  # one of four superchains
    x[:, :, 2] += np.random.default_rng(3).normal(size=(32, 1))  # every chain by itself
    ours = dg.nested_rhat(x, 4)
    theirs = array_stats.rhat_nested(last(x), np.repeat(np.arange(4), 8))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    np.testing.assert_array_equal(ours, dg.summarise(x, num_superchains=4).rhat)
    assert ours[1] > 1.05 > max(ours[0], *ours[3:])


def test_the_summary_is_what_the_functions_say():
    rng = np.random.default_rng(4)
    x = ar1(rng, (4, 203, 40), 0.7).astype(np.float32)
    x[..., 10:20] = x[..., 10:20] > 0.5
    x[..., 20:25] = 3.0
    x[2, 7, 25:28] = (np.nan, np.inf, -np.inf)
    s = dg.summarise(x)
    for name in ("rhat", "mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "is_constant"):
        np.testing.assert_array_equal(getattr(s, name), getattr(dg, name)(x), err_msg=name)
    good = np.r_[0:25, 28:40]
    flat = x[..., good].reshape(-1, len(good)).astype(float)
    np.testing.assert_allclose(s.mean[good], flat.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(s.sd[good], flat.std(0, ddof=1), rtol=1e-9, atol=1e-12)
    assert np.flatnonzero(s.is_constant).tolist() == list(range(20, 25))


def test_neighbours_and_blocks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(5)
    x = ar1(rng, (2, 150, 9), 0.5)
    x[..., 1] = x[..., 1] > 0
    x[..., 2] = np.round(x[..., 2])
    x[..., 3] = 7.0
    x[0, 3, 4] = np.nan
    together = dg.summarise(x)
    monkeypatch.setattr(dg.chains, "_BLOCK", 1)  # a quantity a block
    alone = dg.summarise(x)
    for field in vars(together):
        np.testing.assert_allclose(
            getattr(together, field), getattr(alone, field), rtol=1e-12, err_msg=field
        )


def test_units_do_not_matter():
    x = ar1(np.random.default_rng(6), (4, 400, 5), 0.6)
    x[..., 4] = np.round(x[..., 4])
    reference = dg.summarise(x)
    for scale, shift in ((1e-200, 0.0), (1e250, 0.0), (-(2.0**-20), 0.0), (1.0, 2.0**20)):
        s = dg.summarise(x * scale + shift)
        for name in ("rhat", "ess_bulk"):
            np.testing.assert_allclose(
                getattr(s, name), getattr(reference, name), rtol=1e-6, err_msg=f"{name} {scale}"
            )
        for name in ("sd", "mcse_mean", "mcse_sd"):
            np.testing.assert_allclose(
                getattr(s, name) / abs(scale), getattr(reference, name), rtol=1e-6
            )


def test_standard_errors_are_what_repetition_shows():
    """400 independent repetitions as quantities; Gaussian, skew, and two spins.

    That of the sd of a spin of nearly even odds, where the first order vanishes, is wide on
    purpose: V is off by the mean's error squared, whose spread is √2 mcse² where 4 mcse² is said.
    """
    rng = np.random.default_rng(7)
    x = ar1(rng, (4, 1000, 1600), 0.8)
    x[..., 400:800] = np.exp(x[..., 400:800] / 2)
    x[..., 800:1200] = np.where(x[..., 800:1200] > 0.05, 1.0, -1.0)
    x[..., 1200:] = np.where(x[..., 1200:] > 1.0, 1.0, -1.0)
    s = dg.summarise(x)
    for start in range(0, 1600, 400):
        part = slice(start, start + 400)
        for value, error in ((s.mean, s.mcse_mean), (s.sd, s.mcse_sd)):
            ratio = np.sqrt(np.mean(error[part] ** 2)) / value[part].std()
            even_spin = value is s.sd and start == 800
            assert 0.82 < ratio < (2.1 if even_spin else 1.2), (start, ratio)


def test_ess_of_an_autoregression_is_the_known_one():
    rng = np.random.default_rng(8)
    for rho in (-0.3, 0.0, 0.9):
        x = ar1(rng, (4, 2000, 100), rho)
        for power, name in ((1, "ess_mean"), (1, "ess_bulk"), (2, "ess_sd")):
            known = 8000 * (1 - rho**power) / (1 + rho**power)
            assert np.mean(getattr(dg, name)(x)) == pytest.approx(known, rel=0.06), (rho, name)


def test_what_has_no_answer_is_never_nan():
    rng = np.random.default_rng(9)
    moving = rng.normal(size=(4, 200))
    even = np.sign(moving - np.median(moving, axis=1, keepdims=True))  # ±1, as many of each
    cases = {
        "constant": np.full((4, 200), 0.1),
        "zero": np.zeros((4, 200)),
        "stuck": np.repeat([[0.1], [0.1], [0.3], [0.7]], 200, axis=1),
        "two stuck at either end": np.repeat([[0.0], [1.0], [1.0], [0.0]], 200, axis=1),
        "jumps in the middle": np.where(np.arange(200) < 100, moving[:, :1], moving[:, 1:2]),
        "one chain stuck": np.concatenate([moving[:3], np.ones((1, 200))]),
        "one draw apart": np.where(np.arange(800).reshape(4, 200) == 333, 1e9, 0.1),
        "scales apart": even * np.array([[1], [2], [1], [1]]),
        "nan": np.where(np.arange(200) == 5, np.nan, moving),
        "inf": np.where(np.arange(200) == 5, np.inf, moving),
        "both infinities": np.where(np.arange(200) < 5, np.inf, -np.inf) * np.ones((4, 1)),
        "near the largest float": moving / abs(moving).max() * 1.7e308,
    }
    s = dg.summarise(np.stack(list(cases.values()), axis=2))
    at = {name: i for i, name in enumerate(cases)}
    for name in ("rhat", "ess_bulk", "ess_tail", "mcse_mean", "mcse_sd"):
        assert not np.isnan(getattr(s, name)).any(), name
    for name in ("constant", "zero"):
        i = at[name]
        assert s.is_constant[i] and s.rhat[i] == 1.0
        assert s.ess_bulk[i] == s.ess_tail[i] == 800
        assert s.sd[i] == s.mcse_mean[i] == s.mcse_sd[i] == 0.0
    for name in ("stuck", "two stuck at either end", "jumps in the middle"):
        i = at[name]
        assert not s.is_constant[i] and s.rhat[i] == np.inf, name
        assert s.ess_bulk[i] <= 4 and s.ess_tail[i] <= 4, name
        assert s.mcse_mean[i] == pytest.approx(s.sd[i] / 2)
    assert s.rhat[at["scales apart"]] == np.inf
    assert 1.1 < s.rhat[at["one chain stuck"]] < np.inf
    assert s.rhat[at["one draw apart"]] < 1.01 and s.ess_bulk[at["one draw apart"]] > 700
    for name in ("nan", "inf", "both infinities"):
        i = at[name]
        assert s.rhat[i] == s.mcse_mean[i] == s.mcse_sd[i] == np.inf, name
        assert s.ess_bulk[i] == s.ess_tail[i] == 0, name
        assert np.isnan(s.mean[i]) and np.isnan(s.sd[i]) and not s.is_constant[i]
    assert s.rhat[at["near the largest float"]] < 1.05
    assert np.isfinite(s.sd[at["near the largest float"]])
    nested = dg.nested_rhat(np.stack(list(cases.values()), axis=2), 2)
    assert not np.isnan(nested).any()
    assert nested[at["constant"]] == 1.0 and nested[at["stuck"]] == np.inf


@pytest.mark.parametrize("chains", [1, 4])
@pytest.mark.parametrize("draws", [1, 2, 3])
def test_few_draws_tell_nothing(chains, draws):
    x = np.random.default_rng(10).normal(size=(chains, draws, 3))
    x[..., 2] = 5.0
    s = dg.summarise(x)
    assert np.all(s.rhat == np.inf) and np.all(s.ess_bulk == 0) and np.all(s.ess_tail == 0)
    assert np.all(s.mcse_mean == np.inf) and np.all(s.mcse_sd == np.inf)
    assert s.is_constant[2]


def test_a_rare_value_does_not_spoil_a_run():
    """A binary coordinate's tail is its bulk; rare ones pass, by R-hat and both ESS."""
    rng = np.random.default_rng(11)
    probability = np.repeat([3e-5, 1e-4, 1e-3, 0.03, 0.3, 0.97, 0.999], 50)
    # Each draw is kept on average for five steps, as a Gibbs sampler's pixel is.
    fresh, keep = rng.random((8, 4000, 350)) < probability, rng.random((8, 4000, 350)) < 0.8
    x = np.where(keep, 0, np.arange(4000)[None, :, None])
    x = np.take_along_axis(fresh, np.maximum.accumulate(x, axis=1), axis=1)
    s = dg.summarise(x)
    np.testing.assert_array_equal(s.ess_tail, s.ess_bulk)
    limit = dg.rhat_limit(350, 8, ess=np.maximum(400, s.ess_bulk))
    assert np.all(s.rhat <= limit)
    assert np.all(s.ess_bulk > 400)
    common = s.ess_bulk[150:300]
    assert np.mean(common) == pytest.approx(32000 / 9, rel=0.05)


def test_tail_ess_of_few_values_leaves_a_dead_indicator_out():
    rng = np.random.default_rng(12)
    u = stats.norm.cdf(ar1(rng, (4, 1000, 3), 0.9))
    low = np.select([u < 0.02, u < 0.04], [2.0, 1.0], 0.0)  # x ≤ q₉₅% = 0 alone moves
    high = np.select([u < 0.02, u < 0.04], [-2.0, -1.0], 0.0)  # neither moves: q₅% = 0 = max
    moving = dg.ess_mean((low <= 0).astype(float))
    np.testing.assert_allclose(dg.ess_tail(low), moving, rtol=1e-9)
    np.testing.assert_array_equal(dg.ess_tail(high), dg.ess_bulk(high))


@pytest.mark.parametrize("rho, draws", [(0.0, 50), (0.9, 950)])
def test_the_limit_on_rhat_holds_its_false_alarm_rate(rho, draws):
    """40 converged runs of 50 quantities, 8 chains, total ESS 400."""
    x = ar1(np.random.default_rng(13), (8, draws, 2000), rho)
    highest = dg.rhat(x).reshape(40, 50).max(1)
    limit = dg.rhat_limit(50, 8, alpha=0.05)
    alarms = int(np.sum(highest > limit))
    assert stats.binom.sf(alarms - 1, 40, 0.05) > 1e-6
    if rho:  # nor is it idle: it lies where the largest of 50 does, not far above
        assert np.median(highest) > 1 + 0.6 * (limit - 1)


def test_the_limit_on_nested_rhat_holds_its_false_alarm_rate():
    x = ar1(np.random.default_rng(14), (32, 38, 2000), 0.5)
    highest = dg.nested_rhat(x, 8).reshape(40, 50).max(1)
    limit = dg.rhat_limit(50, 32, alpha=0.05, num_superchains=8)
    assert stats.binom.sf(int(np.sum(highest > limit)) - 1, 40, 0.05) > 1e-6
    assert np.median(highest) > 1 + 0.5 * (limit - 1)


@pytest.mark.parametrize("change", ["shift by 1 sd", "scale 2", "scale 1/2"])
@pytest.mark.parametrize("rho, draws", [(0.0, 500), (0.9, 9500)])
def test_one_chain_of_eight_that_disagrees_is_caught(change, rho, draws):
    x = ar1(np.random.default_rng(15), (8, draws, 20), rho)
    s = dg.summarise(x)
    ess = np.minimum(s.ess_bulk, s.ess_tail)
    assert np.all(s.rhat <= dg.rhat_limit(20, 8, np.maximum(400, ess))) and np.all(ess >= 400)
    x[3] = {"shift by 1 sd": x[3] + 1, "scale 2": 2 * x[3], "scale 1/2": x[3] / 2}[change]
    s = dg.summarise(x)
    ess = np.minimum(s.ess_bulk, s.ess_tail)
    passed = (s.rhat <= dg.rhat_limit(20, 8, np.maximum(400, ess))) & (ess >= 400)
    assert passed.mean() <= (0.1 if change == "scale 2" else 0.0)


def test_the_limit_on_rhat_grows_with_quantities_and_falls_with_draws():
    limits = [dg.rhat_limit(k, 8) for k in (1, 10, 784)]
    assert all(isinstance(value, float) for value in limits)
    assert 1.01 < limits[0] < limits[1] < limits[2] < 1.1
    falling = dg.rhat_limit(784, 8, np.array([0.0, 400.0, 1000.0, 1e5]))
    assert np.all(np.diff(falling) < 0) and np.isfinite(falling[0]) and falling[-1] == 1.01


def test_wrong_input_gets_a_clear_error():
    with pytest.raises(ValueError, match=r"num_chains, num_draws, num_quantities.*\(5, 7\)"):
        dg.rhat(np.zeros((5, 7)))
    with pytest.raises(ValueError, match="at least one chain and draw"):
        dg.summarise(np.zeros((4, 0, 2)))
    for wrong in (1, 3, 16):
        with pytest.raises(ValueError, match="divide the 8 chains"):
            dg.nested_rhat(np.zeros((8, 10, 1)), wrong)
    assert dg.rhat(np.zeros((4, 10, 0))).shape == (0,)


def test_chi_square_is_scipys_and_merges_small_cells():
    rng = np.random.default_rng(16)
    p = np.array([0.4, 0.35, 0.2, 0.05])
    counts = rng.multinomial(500, p)
    theirs = stats.chisquare(counts, 500 * p)
    np.testing.assert_allclose(dg.chi_square(counts, p), theirs, rtol=1e-9)
    # 0.002, 0.004 and 0.006 of 500 expect 1 + 2 + 3 ≥ 5: one cell.
    p = np.array([0.006, 0.5, 0.002, 0.488, 0.004])
    counts = np.array([4, 240, 2, 253, 1])
    theirs = stats.chisquare([7, 240, 253], [6, 250, 244])
    np.testing.assert_allclose(dg.chi_square(counts, p), theirs, rtol=1e-9)
    assert dg.chi_square([3, 2], [0.5, 0.5]) == (0.0, 1.0)  # all in one cell
    assert dg.chi_square([3, 0, 1], [0.5, 0.5, 0.0]) == (np.inf, 0.0)
    with pytest.raises(ValueError, match="add up to 1"):
        dg.chi_square([1, 2], [0.5, 0.6])
    with pytest.raises(ValueError, match="one probability a cell"):
        dg.chi_square([1, 2, 3], [0.5, 0.5])


def test_chi_square_and_ks_hold_their_level_and_see_a_wrong_law():
    rng = np.random.default_rng(17)
    p = rng.dirichlet(np.ones(30))
    fits = [dg.chi_square(rng.multinomial(2000, p), p)[1] for _ in range(500)]
    draws = rng.normal(size=(500, 200))
    smooth = [dg.ks_one_sample(row, stats.norm.cdf)[1] for row in draws]
    for values in (fits, smooth):
        assert stats.kstest(values, "uniform").pvalue > 1e-6
    wrong = p.copy()
    wrong[:2] += (0.03, -0.03) if p[1] > 0.03 else (-p[0] / 2, p[0] / 2)
    assert dg.chi_square(rng.multinomial(20000, p), wrong)[1] < 1e-9
    assert dg.ks_one_sample(1.1 * rng.normal(size=20000), stats.norm.cdf)[1] < 1e-9
    theirs = stats.kstest(draws[0], "norm")
    np.testing.assert_allclose(dg.ks_one_sample(draws[0], stats.norm.cdf), theirs[:2], rtol=1e-9)
    assert dg.ks_one_sample([0.0, np.nan], stats.norm.cdf) == (1.0, 0.0)
    with pytest.raises(ValueError, match="at least one draw"):
        dg.ks_one_sample([], stats.norm.cdf)


@pytest.mark.parametrize("size", [100, 1000, 30000])
@pytest.mark.parametrize("k", [-0.3, 0.2, 0.7, 1.5])
def test_pareto_k_agrees_with_arviz(k, size):
    rng = np.random.default_rng(size)
    log_weights = k * rng.exponential(size=size)  # exactly Pareto for k > 0, bounded for k < 0
    assert dg.pareto_k(log_weights + 800) == pytest.approx(
        array_stats.psislw(-log_weights)[1], rel=1e-6
    )


def test_weights_at_the_extremes():
    same = np.full(1000, -3e5)
    assert dg.pareto_k(same) == 0.0 and dg.weights_ess(same) == pytest.approx(1000)
    assert dg.pareto_k(np.zeros(3)) == 0.0
    one = np.where(np.arange(1000) == 77, 5e4, -5e4)
    assert dg.pareto_k(one) == np.inf and dg.weights_ess(one) == 1.0
    few = np.where(np.arange(1000) < 300, 0.0, -np.inf)  # the rest have no weight
    assert dg.weights_ess(few) == pytest.approx(300)
    for broken in ([np.nan, 0.0], [np.inf, 0.0], [-np.inf] * 9, []):
        assert dg.pareto_k(broken) == np.inf and dg.weights_ess(broken) == 0.0
    assert dg.pareto_k([0.0, 1.0, 2.0]) == np.inf  # too few to tell
    x = np.random.default_rng(18).normal(size=2000)
    assert dg.weights_ess(x) == pytest.approx(np.exp(x).sum() ** 2 / np.exp(2 * x).sum())
    assert dg.pareto_k(1000.0 * x) > 1
