"""Differences of likelihoods against closed forms and enumeration; bits and perplexities too."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from energax import energies, random, spaces, tasks
from energax.partition import log_z
from energax.results import LogZ, Scores, UnreliableResult

KEY = random.key(7)


def coins(p):
    return energies.Bernoulli(p)


def loaded(num=200, seed=0, p=(0.2, 0.5, 0.7)):
    return (np.random.default_rng(seed).random((num, len(p))) < np.asarray(p)).astype(float)


def bernoulli_log_prob(rows, p):
    return (rows * np.log(p) + (1 - rows) * np.log1p(-np.asarray(p))).sum(1)


def known(value, std_err, **changes):
    width = 1.959964 * std_err
    z = LogZ(
        np.float64(value), std_err, value - width, value + width, (None, None), "told", 1.0, 0, 0.0,
        False, True, (),
    )  # fmt: skip
    return dataclasses.replace(z, **changes)


# ---- compare ---------------------------------------------------------------------------------


def test_differences_are_paired_over_rows():
    rows, p, q = loaded(), (0.2, 0.5, 0.7), (0.25, 0.5, 0.6)
    found = tasks.compare({"p": coins(p), "q": coins(q)}, rows, key=KEY)
    d = bernoulli_log_prob(rows, p) - bernoulli_log_prob(rows, q)
    assert found.difference[0, 1] == pytest.approx(d.mean(), abs=1e-5)
    assert found.difference[1, 0] == -found.difference[0, 1]
    assert found.std_err[0, 1] == pytest.approx(d.std(ddof=1) / np.sqrt(200), rel=1e-4)
    t = 1.97196  # Student's 97.5 % quantile at 199 degrees of freedom, from a table
    assert found.upper[0, 1] - found.difference[0, 1] == pytest.approx(
        t * found.std_err[0, 1], rel=1e-5
    )
    assert found.lower[1, 0] == -found.upper[0, 1]
    each = found.mean_std_err
    assert found.std_err[0, 1] < 0.5 * np.hypot(*each)  # what pairing is for
    assert (found.names, found.num_rows) == (("p", "q"), 200)
    np.testing.assert_array_equal(np.diag(found.difference), 0)
    np.testing.assert_array_equal(np.diag(found.std_err), 0)


def test_the_right_model_is_found_and_the_interval_covers():
    """300 data sets: the 95 % interval holds the expected difference about as often."""
    p, q = np.array([0.2, 0.5, 0.7]), np.array([0.3, 0.45, 0.6])
    truth = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum()
    a, b = coins(p), coins(q)
    z = {"p": known(log_z(a, key=KEY).value, 0.0), "q": known(log_z(b, key=KEY).value, 0.0)}
    covered = wrong = 0
    for seed in range(300):
        found = tasks.compare({"p": a, "q": b}, loaded(60, seed, p), key=KEY, log_z=z)
        covered += found.lower[0, 1] <= truth <= found.upper[0, 1]
        wrong += "p" not in found.candidates
    assert 270 <= covered <= 298  # 285 expected; binomial limits at 10⁻⁴ each way
    assert wrong <= 3


def test_log_z_errors_add_up_where_independent_and_cancel_where_shared():
    rows = loaded()
    models = {"a": coins((0.2, 0.5, 0.7)), "b": coins((0.3, 0.5, 0.6))}
    exact = tasks.compare(models, rows, key=KEY)
    z = {name: dataclasses.replace(exact.log_z[name], std_err=0.3) for name in models}
    apart = tasks.compare(models, rows, key=KEY, log_z=z)
    assert apart.std_err[0, 1] == pytest.approx(np.hypot(exact.std_err[0, 1], 0.3 * np.sqrt(2)))
    shared = tasks.compare(models, rows, key=KEY, log_z={"a": z["a"], "b": z["a"]})
    assert shared.std_err[0, 1] == pytest.approx(exact.std_err[0, 1])
    # an interval of log Z that is wider than its standard error is believed
    wide = {n: known(v.value, 0.3, lower=v.value - 3, upper=v.value + 3) for n, v in z.items()}
    wider = tasks.compare(models, rows, key=KEY, log_z=wide)
    assert wider.upper[0, 1] - wider.difference[0, 1] > 3 * np.sqrt(2)


def test_a_model_beside_itself_differs_by_exactly_nothing():
    model, twin = coins((0.2, 0.5, 0.7)), coins((0.2, 0.5, 0.7))
    uncertain = known(2.0, 0.4)
    found = tasks.compare([model, twin], loaded(), key=KEY, log_z={"Bernoulli": uncertain})
    assert found.names == ("Bernoulli", "Bernoulli 2")
    assert found.log_z["Bernoulli 2"] is uncertain
    assert found.difference[0, 1] == found.std_err[0, 1] == 0
    assert found.lower[0, 1] == found.upper[0, 1] == 0
    assert found.candidates == found.names


def test_three_kinds_of_model_on_enumerated_states():
    rng = np.random.default_rng(3)
    rbm = energies.BernoulliRBM(rng.normal(0, 2.0, (6, 4)), rng.normal(0, 1, 6), 0.3)
    states = np.asarray(rbm.space.enumerate())
    f = -np.array([float(rbm(x)) for x in states])
    p = np.exp(f - f.max())
    seen, rows = np.split(states[rng.choice(len(p), 2000, p=p / p.sum())], [500])
    models = {
        "independent": energies.Bernoulli.fit_moments(seen, rbm.space),
        "truth": rbm,
        "tree": energies.ChowLiuTree.fit(seen),
    }
    found = tasks.compare(models, rows, key=KEY, baseline="independent")
    exact = f - f.max() - np.log(p.sum())
    index = (rows @ 2 ** np.arange(6)).astype(int)
    by_code = dict(zip((states @ 2 ** np.arange(6)).astype(int), exact, strict=True))
    assert found.mean_log_prob[1] == pytest.approx(np.mean([by_code[i] for i in index]), abs=1e-4)
    assert found.ranking == ("truth", "tree", "independent") and found.best == "truth"
    assert found.candidates == ("truth",) and found.reliable
    text = str(found)
    assert text.splitlines()[1].startswith("truth") and "minus independent" in text
    assert "may be the best" in text.splitlines()[1]
    back = json.loads(found.to_json())
    assert back["best"] == "truth" and len(back["difference"]) == 3
    assert back["log_z"]["truth"]["method"] and back["reliable"] is True


def test_many_equal_models_are_all_candidates():
    """Ten models as good as one another: the best by chance is not called the only candidate."""
    errors = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        flips = rng.permutation(20)
        rows = loaded(100, seed, np.full(20, 0.5))
        models = {}
        for i in range(10):  # each is wrong about two of the twenty fair coins, by as much
            p = np.full(20, 0.5)
            p[flips[2 * i : 2 * i + 2]] = 0.62
            models[f"m{i}"] = coins(p)
        z = {name: known(float(model.log_z), 0.0) for name, model in models.items()}
        found = tasks.compare(models, rows, key=KEY, log_z=z)
        errors += len(found.candidates) < 10
    assert errors <= 8  # at most 5 % expected: P(more than 8 of 40) < 10⁻³


def test_rows_of_density_zero():
    a, b = (
        energies.from_log_density(f, spaces.Box(0.0, 1.0, (1,)))
        for f in (lambda x: 0.0 * x[0], lambda x: jnp.where(x[0] < 0.5, 0.0, -jnp.inf))
    )
    z = {"a": known(0.0, 0.0), "b": known(np.log(0.5), 0.0)}
    found = tasks.compare({"a": a, "b": b}, [[0.2], [0.7]], key=KEY, log_z=z)
    assert found.difference[0, 1] == np.inf and found.candidates == ("a",)
    assert found.mean_log_prob[1] == -np.inf and found.reliable
    with pytest.warns(UnreliableResult, match="density 0 under both"):
        again = tasks.compare({"b": b, "c": Shifted()}, [[0.2], [0.7]], key=KEY, log_z={
            "b": z["b"], "c": z["b"]})  # fmt: skip
    assert np.isnan(again.difference[0, 1]) and not again.reliable


def Shifted():
    return energies.from_log_density(
        lambda x: jnp.where(x[0] < 0.6, 0.0, -jnp.inf), spaces.Box(0.0, 1.0, (1,))
    )


def test_what_cannot_be_compared_is_refused():
    rows = loaded()
    normal = energies.Normal(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match=r"no common measure.*a is relative to counting"):
        tasks.compare({"a": coins((0.2, 0.5, 0.7)), "b": normal}, rows, key=KEY)
    with pytest.raises(ValueError, match=r"data \(for Normal\)"):
        tasks.compare([normal], rows[:, :2], key=KEY)
    with pytest.raises(ValueError, match="baseline: no model is called 'x'"):
        tasks.compare({"a": normal}, rows, key=KEY, baseline="x")
    with pytest.raises(ValueError, match="log_z: no model is called 'x'"):
        tasks.compare({"a": normal}, rows, key=KEY, log_z={"x": known(0.0, 0.0)})
    with pytest.raises(ValueError, match="at least one"):
        tasks.compare([], rows, key=KEY)
    with pytest.raises(TypeError, match="from_log_density"):
        tasks.compare([lambda x: x], rows, key=KEY)


def test_doubts_are_passed_on():
    a, b = coins((0.2, 0.5, 0.7)), coins((0.3, 0.5, 0.6))
    doubtful = known(2.0, 0.1, reliable=False, reasons=("made up",))
    with pytest.warns(UnreliableResult, match="a: made up"):
        found = tasks.compare({"a": a, "b": b}, loaded(), key=KEY, log_z={"a": doubtful})
    assert not found.reliable and "NOT RELIABLE: a: made up" in str(found)
    with pytest.warns(UnreliableResult, match="one row has no spread"):
        one = tasks.compare({"a": a, "b": b}, loaded(1), key=KEY)
    assert one.std_err[0, 1] == np.inf and one.candidates == one.ranking
    rare = np.array([[0.0, 1.0, 0.0]] * 30 + [[1.0, 1.0, 1.0]])
    with pytest.warns(UnreliableResult, match="row 30 makes up most of the spread"):
        tasks.compare({"a": coins((0.001, 0.5, 0.5)), "b": coins((0.1, 0.5, 0.5))}, rare, key=KEY)


# ---- means, bits, perplexities ---------------------------------------------------------------


def scores(log_prob, z=None, **options):
    z = known(0.0, 0.0) if z is None else z
    log_prob = np.asarray(log_prob, float)
    return Scores(log_prob, np.full(len(log_prob), z.std_err), z.std_err, z, True, (), **options)


def test_the_interval_of_a_mean_covers_with_few_rows():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        mean = scores(rng.normal(-3.0, 2.0, 4)).mean()
        covered += mean.lower <= -3.0 <= mean.upper
    assert 1860 <= covered <= 1938  # 1900 expected; ±1.96 standard errors would cover 1713


def test_the_interval_is_as_lopsided_as_that_of_log_z():
    z = known(1.0, 0.5, lower=0.9, upper=4.0)
    mean = scores(np.full(50, -2.0), z).mean()
    assert mean.value - mean.lower == pytest.approx(3.0, rel=1e-5)
    assert mean.upper - mean.value == pytest.approx(0.1, rel=1e-4)


def test_a_row_of_density_zero_makes_the_mean_minus_infinity_for_sure():
    mean = scores([-1.0, -np.inf, -2.0]).mean()
    assert mean.value == mean.lower == mean.upper == -np.inf and mean.std_err == 0
    assert scores([-1.0, -np.inf], num_sites=3).perplexity().value == np.inf


def test_a_fair_die_has_perplexity_six_and_its_bits():
    die = energies.CategoricalFamily(np.full((3, 6), 1 / 6))
    rows = np.random.default_rng(0).integers(0, 6, (50, 3))
    rows = np.asarray(die.space.encode(jnp.asarray(rows))) if die.space.shape != (3,) else rows
    found = tasks.score_samples(die, rows, key=KEY)
    assert found.num_sites == 3 and found.measure == "counting"
    assert found.perplexity().value == pytest.approx(6, rel=1e-5)
    assert found.bits_per_dim().value == pytest.approx(np.log2(6), rel=1e-5)


def test_errors_and_ends_go_through_the_transformations():
    rng = np.random.default_rng(1)
    found = scores(rng.normal(-8.0, 1.0, 100), known(0.0, 0.2), num_sites=4)
    mean, bits, perplexity = found.mean(), found.bits_per_dim(), found.perplexity()
    assert bits.value == pytest.approx(-mean.value / 4 / np.log(2))
    assert bits.lower == pytest.approx(-mean.upper / 4 / np.log(2)) and bits.lower < bits.upper
    assert bits.std_err == pytest.approx(mean.std_err / 4 / np.log(2))
    assert bits.log_z_std_err == pytest.approx(0.2 / 4 / np.log(2))
    assert perplexity.value == pytest.approx(np.exp(-mean.value / 4))
    assert perplexity.lower == pytest.approx(np.exp(-mean.upper / 4))
    nudge = 1e-6
    slope = (np.exp(-(mean.value - nudge) / 4) - perplexity.value) / nudge
    assert perplexity.std_err == pytest.approx(slope * mean.std_err, rel=1e-4)
    assert all(m.reliable and isinstance(m.value, np.float64) for m in (mean, bits, perplexity))
    json.loads(bits.to_json()), json.loads(found.to_json())


def test_bins_of_dequantised_numbers():
    """A uniform density on 256 grey levels a bin wide: eight bits, in any unit of x."""
    for width in (1.0, 1 / 256):
        flat = energies.from_log_density(
            lambda x: 0.0 * jnp.sum(x), spaces.Box(0.0, 256 * width, (2,))
        )
        rows = np.random.default_rng(0).random((20, 2)) * 256 * width
        found = tasks.score_samples(flat, rows, key=KEY, log_z=known(2 * np.log(256 * width), 0.0))
        assert found.measure == "lebesgue"
        assert found.bits_per_dim(bin_width=width).value == pytest.approx(8, abs=1e-5)
        assert found.bits_per_dim().value == pytest.approx(np.log2(256 * width), abs=1e-5)
        with pytest.raises(ValueError, match=r"densities do not have.*bits_per_dim"):
            found.perplexity()
        with pytest.raises(ValueError, match="positive"):
            found.bits_per_dim(bin_width=0.0)
    with pytest.raises(ValueError, match="bins have no volume"):
        scores([-1.0, -2.0]).bits_per_dim(bin_width=1.0)
    record = spaces.Record(a=spaces.Real((2,)), b=spaces.Spin((3,)))
    mixed = energies.from_log_density(lambda x: -jnp.sum(x["a"] ** 2), record)
    rows = {"a": np.zeros((2, 2)), "b": np.ones((2, 3))}
    found = tasks.score_samples(mixed, rows, key=KEY, log_z=known(1.0, 0.0))
    assert found.measure == "mixed" and found.num_sites == 5
    with pytest.raises(ValueError, match="mixed measure"):
        found.perplexity()
