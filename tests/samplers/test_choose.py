"""`sample`: right where it says reliable, unreliable with the right reason where it can't be."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats

import energax.random as random
from energax import energies
from energax.energies.function import from_log_density, from_positive
from energax.results import UnreliableResult
from energax.samplers import (
    MALA,
    BlockGibbs,
    ColouredGibbs,
    Metropolis,
    Mixed,
    SiteGibbs,
    Transformed,
    default_sampler,
    initial_points,
    sample,
)
from energax.samplers.driver._base import History
from energax.samplers.driver.answer import _thin
from energax.samplers.driver.tails import tail_reason
from energax.spaces import Binary, Box, Categorical, Count, Ordinal, Real, Record, Spin
from tests.exact import enumerated

FIELDS = ("mean", "sd", "mcse_mean", "mcse_sd", "rhat", "ess_bulk", "ess_tail", "constant")
NORMAL = from_log_density(
    lambda x: -0.5 * jnp.sum(((x - 1) / jnp.array([1.0, 0.2])) ** 2), Real((2,))
)


def two_modes(params, x):
    """A mixture of unit normals at a and b with log weights."""
    a, b, log_w, log_v = params
    return jnp.logaddexp(log_w - 0.5 * jnp.sum((x - a) ** 2), log_v - 0.5 * jnp.sum((x - b) ** 2))


def mixture(a, b, weight, dim=1):
    first = jnp.zeros(dim).at[0].set
    params = (first(a), first(b), jnp.log(weight), jnp.log1p(-weight))
    return from_log_density(two_modes, Real((dim,)), params=params)


def rbm():
    rng = np.random.default_rng(0)
    return energies.BernoulliRBM(
        rng.normal(0, 0.8, (4, 3)), rng.normal(0.3, 1, 4), rng.normal(0, 1, 3)
    )


def quiet(*args, **options):
    """`sample` of an energy that is expected to be unreliable."""
    with pytest.warns(UnreliableResult):
        draws = sample(*args, **options)
    assert not draws.reliable and draws.reasons
    assert_no_nan(draws)
    return draws


def assert_no_nan(draws):
    for name in FIELDS:
        for leaf in jax.tree.leaves(getattr(draws, name)):
            assert not np.isnan(leaf).any(), name
            assert leaf.dtype == (bool if name == "constant" else np.float64)
    assert np.isfinite([draws.rhat_limit, draws.acceptance, draws.ess_log_density]).all()


# What is sampled with what, and from where


@pytest.mark.parametrize(
    ("energy", "kind"),
    [
        (rbm(), BlockGibbs),
        (energies.Ising([(0, 1)], [0.3], [0.1, 0.2], num_sites=2), ColouredGibbs),
        (NORMAL, MALA),
        (from_log_density(lambda x: -(x["a"] ** 2), Record(a=Real(()), b=Real(()))), MALA),
        (from_log_density(lambda x: -(x["a"] ** 2), Record(a=Real(()), b=Spin(()))), Mixed),
        (from_log_density(lambda x: -jnp.sum(x), Box(0.0, 1.0, shape=(2,))), Transformed),
        (from_log_density(lambda x: -jnp.sum(x), Spin((2,))), SiteGibbs),
        (from_log_density(lambda x: -jnp.sum(x) * 1.0, Count((2,))), Metropolis),
        (
            from_log_density(
                lambda x: -jax.lax.while_loop(lambda y: y < 1, lambda y: y + 1, x * x), Real(())
            ),
            Metropolis,  # a while loop has no reverse-mode gradient
        ),
    ],
)
def test_default_sampler(energy, kind):
    assert type(default_sampler(energy)) is kind


@pytest.mark.parametrize(
    "space",
    [
        Real((2,)),
        Box([0.0, -np.inf, 1.0, -np.inf], [np.inf, 2.0, 3.0, np.inf]),
        Binary((3,)),
        Spin((2, 2)),
        Ordinal((2,), 5),
        Categorical((2,), 3),
        Categorical((2,), 3, "onehot"),
        Count((2,)),
        Record(a=Real(()), b=Categorical((2,), 3), c=Box(0.0, 1.0)),
    ],
    ids=lambda space: type(space).__name__,
)
def test_starts_lie_in_the_space_where_f_is_finite(space):
    def f(x):
        first = jax.tree.leaves(x)[0].reshape(-1)[0]
        return jnp.where(first >= 0, -1.0 * first, -jnp.inf)

    energy = from_log_density(f, space)
    x = initial_points(energy, 12, key=random.key(0), num_superchains=6)
    space.validate(x, batch=True)
    assert np.isfinite(jax.vmap(energy.log_density)(x)).all()
    for leaf in jax.tree.leaves(x):
        np.testing.assert_array_equal(leaf[::2], leaf[1::2])  # two chains share each start
        assert len(np.unique(np.asarray(leaf), axis=0)) > 1


def test_starts_are_wide_mirror_pairs_and_points_in_every_mode():
    for seed in range(20):
        x = np.asarray(initial_points(mixture(-5.0, 20.0, 0.9), 8, key=random.key(seed)))[:, 0]
        np.testing.assert_allclose(x[[0, 2]], -x[[1, 3]])
        assert (abs(x[4:] + 5) < 5).any() and (abs(x[4:] - 20) < 5).any()
    wide = [initial_points(NORMAL, 8, key=random.key(seed))[:4] for seed in range(20)]
    assert np.std(wide) > 3


def test_no_start_is_an_error_that_says_what_to_do():
    energy = from_log_density(lambda x: jnp.where(x[0] > 1e6, -x[0], -jnp.inf), Real((1,)))
    with pytest.raises(ValueError, match="initial="):
        initial_points(energy, 8, key=random.key(0))
    with pytest.raises(ValueError, match="divide"):
        initial_points(NORMAL, 8, key=random.key(0), num_superchains=3)


# Right where it says so


def moments(energy):
    """(mean, sd) of each part by enumeration."""
    exact = enumerated(energy)
    mean, square = exact.mean(), exact.mean(np.square)
    return {"": (mean, np.sqrt(square - mean**2))}


def small_energies():
    ising = energies.Ising(
        [(0, 1), (1, 2), (0, 2)], [0.5, -0.4, 0.3], [0.3, 0.1, -0.5], num_sites=3
    )
    p = np.exp([0, 0.4, 0.8]) / np.exp([0, 0.4, 0.8]).sum()
    mean, variance = p @ [0, 1, 2], p @ [0, 1, 4] - (p @ [0, 1, 2]) ** 2
    return {
        "normal": (NORMAL, {"": ([1, 1], [1, 0.2])}),
        "far": (
            from_log_density(lambda x: -0.5 * jnp.sum((x - 20) ** 2), Real((5,))),
            {"": (np.full(5, 20.0), np.ones(5))},
        ),
        "gamma": (
            from_positive(lambda x: x[0] ** 2 * jnp.exp(-x[0] / 3), Box([0.0], [np.inf])),
            {"": ([9.0], [27**0.5])},
        ),
        "uniform": (
            from_log_density(lambda x: 0.0 * jnp.sum(x), Box([-1.0, 5.0], [3.0, 6.0])),
            {"": ([1.0, 5.5], [4 / 12**0.5, 1 / 12**0.5])},
        ),
        "poisson": (
            from_log_density(
                lambda x: jnp.sum(x * jnp.log(jnp.array([0.5, 20.0])) - jax.lax.lgamma(x + 1.0)),
                Count((2,)),
            ),
            {"": ([0.5, 20.0], [0.5**0.5, 20**0.5])},
        ),
        "rbm": (rbm(), moments(rbm())),
        "ising": (ising, moments(ising)),
        "mix": (
            from_log_density(
                lambda x: -0.5 * (x["a"] - 2 * x["b"][0]) ** 2 + 0.4 * x["b"][0],
                Record(a=Real(()), b=Ordinal((1,), 3)),
            ),
            {"a": (2 * mean, (1 + 4 * variance) ** 0.5), "b": ([mean], [variance**0.5])},
        ),
        "image": (
            from_log_density(lambda x: -jnp.sum((x - 0.5) ** 2), Real((4, 4, 1))),
            {"": (np.full((4, 4, 1), 0.5), np.full((4, 4, 1), 0.5**0.5))},
        ),
    }


@pytest.mark.parametrize("name", small_energies())
def test_small_energies_come_out_right_and_reliable(name):
    energy, truth = small_energies()[name]
    for seed in range(4):
        draws = sample(energy, 100, key=random.key(seed))
        assert draws.reliable, draws.reasons
        assert_no_nan(draws)
        for part, (mean, sd) in truth.items():
            got = {k: getattr(draws, k)[part] if part else getattr(draws, k) for k in FIELDS}
            assert np.all(abs(got["mean"] - mean) < 5 * got["mcse_mean"]), (seed, part)
            assert np.all(abs(got["sd"] - sd) < 6 * got["mcse_sd"]), (seed, part)
            assert got["mean"].shape == np.shape(mean)


def test_the_diagnostics_are_those_of_arviz():
    draws = sample(NORMAL, 2_000, key=random.key(3), num_chains=4, num_warmup=200, num_steps=500)
    x = draws.to_arviz()["posterior"]["x"].values.astype(float)
    assert x.shape == (4, 500, 2)  # the whole run, so that ArviZ sees what the verdict saw
    x = np.moveaxis(x, -1, 0)
    np.testing.assert_allclose(array_stats.ess(x, method="bulk"), draws.ess_bulk, rtol=1e-3)
    np.testing.assert_allclose(array_stats.rhat(x), draws.rhat, rtol=1e-4)
    np.testing.assert_allclose(array_stats.mcse(x), draws.mcse_mean, rtol=1e-3)
    np.testing.assert_allclose(x.mean((1, 2)), draws.mean, rtol=1e-4)


def test_exact_draws_of_a_normalised_energy():
    energy = energies.Gaussian(Real((2,)), [3.0, -1.0], [2.0, 0.5])
    draws = sample(energy, 1_001, key=random.key(0))
    assert draws.x.shape == (1, 1001, 2) and draws.log_density.shape == (1, 1001)
    assert draws.reliable and draws.acceptance == 1.0 and "exact" in draws.sampler
    assert np.all(abs(draws.mean - [3, -1]) < 5 * draws.mcse_mean)
    assert np.all(abs(draws.sd - [2, 0.5]) < 5 * draws.mcse_sd)
    assert sample(energy, 10, key=random.key(0), sampler=MALA()).sampler == "MALA"


# How the draws are kept and thinned


@pytest.mark.parametrize(
    ("num", "chains"), [(1000, 8), (100, 8), (7, 8), (13, 8), (1001, 8), (9, 6)]
)
def test_thinning_is_even_over_chains_and_time(num, chains):
    history = History(10_000)
    steps = np.arange(500)
    history.add({"n": steps[:, None] * 100 + np.arange(chains)}, np.zeros((500, chains)))
    x, f = _thin(history.since(0), num, chains)
    assert x["n"].size == f.size == num
    chain, step = x["n"] % 100, x["n"] // 100
    counts = np.bincount(chain.ravel(), minlength=chains)
    assert counts.max() - counts.min() <= 1
    for c in range(chains):
        gaps = np.diff(step[chain == c])
        assert len(gaps) == 0 or (gaps.min() > 0 and gaps.max() - gaps.min() <= 1)
    rows = np.arange(len(chain))[:, None]  # a row pools neighbouring chains
    assert np.all(chain // (chains // len(rows)) == rows)


def test_a_thinned_history_lets_go_of_the_blocks_it_came_from():
    history = History(64)
    for _ in range(40):
        history.add(jnp.zeros((32, 4, 50)), jnp.zeros((32, 4)))
    assert history.thin == 32 and history.num_kept <= 64
    for leaves, log_density in history._blocks:
        for a in (*leaves, log_density):
            owner = a if a.base is None else a.base
            assert owner.nbytes <= 2 * a.nbytes


def test_a_long_history_is_thinned_by_two_again_and_again():
    history = History(100)
    for start in range(0, 1_024, 64):
        steps = np.arange(start, start + 64)[:, None]
        history.add(steps, steps * 1.0)
        assert history.num_kept <= 100
    kept = history.since(0).leaves[0][:, 0]
    np.testing.assert_array_equal(kept, np.arange(history.thin - 1, 1_024, history.thin))
    assert history.thin == 16 and history.num_steps == 1_024


def test_fixed_lengths_are_kept_to():
    draws = sample(NORMAL, 50, key=random.key(0), num_warmup=150, num_steps=777)
    assert draws.num_warmup == 150 and draws.num_steps == 777 and draws.num_chains == 8


def test_a_second_call_compiles_nothing():
    traced = []

    def f(params, x):
        traced.append(1)
        return -params * jnp.sum(x**2)

    sample(from_log_density(f, Real((2,)), params=jnp.array(1.0)), 10, key=random.key(0))
    other = from_log_density(f, Real((2,)), params=jnp.array(2.0))
    first = len(traced)
    sample(other, 10, key=random.key(1))
    assert len(traced) - first <= 3 < first  # the checks of shape and of differentiability alone


# Unreliable, and why


@pytest.mark.parametrize(("a", "b"), [(-5.0, 5.0), (-20.0, 20.0), (-5.0, 20.0), (30.0, 40.0)])
def test_modes_that_chains_do_not_cross_are_never_called_reliable(a, b):
    for seed in range(9):
        energy = mixture(a, b, [0.5, 0.8, 0.95][seed % 3])
        draws = quiet(energy, 100, key=random.key(seed), sampler=MALA(), max_evaluations=120_000)
        assert any("disagree" in r or "miss a part" in r for r in draws.reasons)


def test_modes_that_chains_do_cross_come_out_right():
    reliable = 0
    for seed in range(12):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnreliableResult)
            draws = sample(
                mixture(-3.0, 3.0, 0.8),
                100,
                key=random.key(seed),
                sampler=MALA(),
                max_evaluations=400_000,
            )
        reliable += draws.reliable
        if draws.reliable:
            assert abs(draws.mean[0] + 1.8) < 5 * draws.mcse_mean[0]
    assert reliable >= 8


def test_many_chains_stuck_in_two_modes_are_seen_by_nested_rhat():
    energy = mixture(-5.0, 5.0, 0.8, dim=10)
    draws = quiet(
        energy, 100, key=random.key(0), sampler=MALA(), num_chains=128, max_evaluations=300_000
    )
    assert draws.ess_bulk.min() > 100 and draws.rhat[0] > 1.3
    assert sample(NORMAL, 100, key=random.key(0), num_chains=128).reliable


@pytest.mark.parametrize(
    "f",
    [
        lambda x: jnp.sum(x**2),
        lambda x: 0.0 * jnp.sum(x),
        lambda x: -0.5 * jnp.log1p(jnp.sum(x**2)),
        lambda x: jnp.tanh(x[0] + 0.3 * x[1]),
        lambda x: -jnp.abs(x[0]),
    ],
    ids=["sign", "flat", "slow", "bounded", "one"],
)
@pytest.mark.parametrize("sampler", [None, Metropolis()], ids=["MALA", "Metropolis"])
def test_an_energy_without_finite_z_is_told(f, sampler):
    energy = from_log_density(f, Real((2,)))
    draws = quiet(energy, 100, key=random.key(0), sampler=sampler, max_evaluations=200_000)
    assert any("no finite integral" in r for r in draws.reasons)
    assert np.isfinite(draws.x).all()


@pytest.mark.parametrize(
    ("power", "told"),
    [(1.0, "finite integral"), (2.0, "no mean"), (3.0, "no variance"), (4.0, None)],
)
@pytest.mark.parametrize("dim", [1, 3])
def test_heavy_tails_are_told_by_their_power(power, told, dim):
    # independent coordinates, each with a density that falls as |x|^−power
    x = np.random.default_rng(0).standard_t(5, size=(500, dim)).astype(np.float32)
    energy = from_log_density(lambda x: -0.5 * power * jnp.sum(jnp.log1p(x**2)), Real((dim,)))
    reason = tail_reason(energy, x)
    assert (reason is None) if told is None else (told in reason)


@pytest.mark.parametrize(
    "energy",
    [
        from_log_density(lambda x: -jnp.sum(jnp.abs(x)), Real((3,))),
        from_log_density(lambda x: -jnp.sum(x), Box(0.0, np.inf, shape=(2,))),
        from_log_density(lambda x: jnp.sum(x * 0.5 - jax.lax.lgamma(x + 1.0)), Count((2,))),
        from_positive(lambda x: jnp.all(jnp.abs(x) < 1).astype(float), Real((2,))),
        from_log_density(lambda x: jnp.sum(x), Box(0.0, 1.0, shape=(2,))),
        from_log_density(lambda x: jnp.sum(x), Binary((2,))),
    ],
    ids=["laplace", "exponential", "poisson", "compact", "box", "binary"],
)
def test_light_tails_are_not_taken_for_heavy_ones(energy):
    for seed in range(5):
        x = initial_points(energy, 100, key=random.key(seed))
        assert tail_reason(energy, jax.tree.map(np.asarray, x)) is None


def test_a_stuck_chain_is_named():
    def f(x):  # a needle at 100 beside a normal
        return jnp.where(x[0] > 50, -1e14 * (x[0] - 100) ** 2, -0.5 * x[0] ** 2)

    initial = np.zeros((8, 1))
    initial[5] = 100.0
    draws = quiet(
        from_log_density(f, Real((1,))),
        100,
        key=random.key(0),
        sampler=Metropolis(1.0),
        initial=initial,
        max_evaluations=50_000,
    )
    assert any("1 of 8 chains never moved (chain 5)" in r for r in draws.reasons)
    assert draws.rhat[0] > 1.1


def test_chains_that_never_move_are_told():
    energy = from_log_density(lambda x: -1e8 * jnp.sum((x - 1) ** 2), Real((3,)))
    draws = quiet(
        energy,
        100,
        key=random.key(0),
        sampler=Metropolis(1e4),
        initial=np.ones((8, 3)),
        max_evaluations=20_000,
    )
    assert any("no chain ever moved" in r for r in draws.reasons)
    assert draws.constant.all()


def test_a_start_without_finite_density_is_told():
    energy = from_log_density(lambda x: jnp.where(x[0] > 1e4, -x[0], -jnp.inf), Real((1,)))
    draws = quiet(energy, 10, key=random.key(0), initial=np.zeros((8, 1)), max_evaluations=20_000)
    assert any("not finite" in r for r in draws.reasons)


def test_divergences_are_told():
    energy = from_log_density(lambda x: jnp.log(x[0]) - x[0], Real((1,)))  # NaN below 0
    draws = quiet(energy, 100, key=random.key(0), max_evaluations=100_000)
    assert draws.num_divergent > 100 and any("NaN" in r for r in draws.reasons)


def test_one_chain_cannot_be_reliable():
    draws = quiet(NORMAL, 100, key=random.key(0), num_chains=1)
    assert any("only one chain" in r for r in draws.reasons)
    assert draws.num_evaluations < 500_000  # no waste: most of it is the search for starts


def test_budget_and_time_are_kept_and_told():
    energy = mixture(-5.0, 5.0, 0.5)
    local = MALA()
    draws = quiet(energy, 100, key=random.key(0), sampler=local, max_evaluations=60_000)
    assert draws.num_evaluations < 90_000 and not draws.time_limited
    assert any("max_evaluations=60,000" in r for r in draws.reasons)
    draws = quiet(energy, 20_000, key=random.key(0), max_seconds=0.0)
    assert draws.time_limited and draws.flat().shape == (20_000, 1)
    assert any("max_seconds" in r for r in draws.reasons)
    assert any("repeated" in r for r in draws.reasons)


def test_a_slow_burn_in_is_cut_off():
    # from far off, without warm-up: the first part of the run cannot be used, the rest can
    energy = from_log_density(lambda x: -0.5 * jnp.sum(x**2), Real((2,)))
    draws = sample(
        energy,
        100,
        key=random.key(0),
        sampler=MALA(0.5),
        initial=np.full((8, 2), 400.0),
        num_warmup=0,
    )
    assert draws.reliable and draws.num_warmup >= draws.num_steps / 2
    assert np.all(abs(draws.mean) < 5 * draws.mcse_mean)


# Bad input


def test_bad_arguments_are_errors():
    key = random.key(0)
    for bad in ({"num_chains": 0}, {"num_steps": 0}, {"max_evaluations": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            sample(NORMAL, key=key, **bad)
    with pytest.raises(ValueError, match="num_warmup"):
        sample(NORMAL, key=key, num_warmup=-1)
    with pytest.raises(ValueError, match="num_chains=5"):
        sample(NORMAL, key=key, initial=np.zeros((5, 2)))
    with pytest.raises(ValueError, match="NaN"):
        sample(NORMAL, key=key, initial=np.full((8, 2), np.nan))
    with pytest.raises(TypeError, match="Metropolis"):
        sample(from_log_density(lambda x: jnp.sum(x), Binary((2,))), key=key, sampler=MALA())


def test_progress_goes_to_stderr(capsys):
    sample(NORMAL, 10, key=random.key(0), progress=True)
    captured = capsys.readouterr()
    assert captured.out == "" and "sampling" in captured.err
