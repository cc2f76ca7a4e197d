"""RBMs of every kind of units, against sums and integrals in NumPy, parameters off zero."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import energax as ex
from energax.energies import RBM, default_base, fitted_base
from energax.energies._base import GeometricPath, batched
from energax.energies.boltzmann import (
    BernoulliUnits,
    GaussianUnits,
    RBMPath,
    RectifiedUnits,
    ReplicatedSoftmaxUnits,
)
from energax.energies.boltzmann._base import numbers
from energax.samplers import BlockGibbs
from tests.energies.rbm_kinds import (
    HIDDEN,
    PAIRS,
    SUMMED,
    VISIBLE,
    brute_log_z,
    exact_draws,
    features,
    log_density,
    make,
    own,
    points,
    some_points,
)
from tests.exact import P_LIMIT, chi_square


@pytest.mark.parametrize(("visible", "hidden"), PAIRS)
def test_free_energy_is_the_hidden_layer_summed_out(visible, hidden):
    model = make(visible, hidden)
    x = some_points(model)
    expected = log_density(model, jax.tree.map(np.asarray, x))
    np.testing.assert_allclose(batched(model, x), expected, rtol=1e-5, atol=2e-5)
    one = jax.tree.map(lambda a: a[2], x)
    assert abs(float(-model(one)) - expected[2]) < 2e-5 * (1 + abs(expected[2]))


@pytest.mark.parametrize(("visible", "hidden"), SUMMED)
def test_log_z_by_sum_over_the_smaller_layer(visible, hidden):
    model = make(visible, hidden)
    sides = model.visible.space.num_states, model.hidden.space.num_states
    assert model.num_summed_states == min(s for s in sides if s is not None)
    truth = brute_log_z(model)
    assert abs(float(model.log_z_by_sum()) - truth) < 1e-5 * (1 + abs(truth))
    z = ex.log_z(model, key=ex.random.key(0))
    assert z.reliable and abs(z.value - truth) < 1e-6 * (1 + abs(truth))


def test_log_z_by_sum_over_the_visible_layer():
    model = make("softmax", "gaussian")
    assert model.num_summed_states == 9
    truth = np.logaddexp.reduce(log_density(model, points(model.space)))
    assert abs(float(model.log_z_by_sum()) - truth) < 2e-5


def test_two_gaussian_layers_have_a_closed_form_or_no_z():
    model = make("gaussian", "gaussian", 0.3)
    weight = np.asarray(model.weight, np.float64)
    joint = np.block([[np.eye(2), -weight], [-weight.T, np.eye(2)]])  # of units in their sd
    sign, log_det = np.linalg.slogdet(joint)
    assert sign > 0 and np.linalg.eigvalsh(joint)[0] > 0
    sds = np.concatenate([model.visible.log_sd, model.hidden.log_sd])
    truth = 2 * np.log(2 * np.pi) - 0.5 * log_det + sds.sum()
    assert model.num_summed_states == 1
    assert abs(float(model.log_z_by_sum()) - truth) < 1e-5
    exploding = make("gaussian", "gaussian", 5.0)
    z = ex.log_z(exploding, key=ex.random.key(0), method="summed side")
    assert z.value == np.inf or not z.reliable


def test_layers_of_infinitely_many_states_are_not_summed():
    model = make("gaussian", "rectified")
    assert model.num_summed_states is None
    with pytest.raises(ValueError, match="neither layer"):
        model.log_z_by_sum()


# Conditionals


@pytest.mark.parametrize("visible", ["bernoulli", "spin", "softmax", "onehot", "words"])
def test_visible_draws_have_the_conditional_probabilities(visible):
    model = make(visible)
    h, other = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    x = model.space.enumerate()
    pull = features(model.visible, np.asarray(x)) @ np.asarray(model.weight, np.float64)
    draws = np.asarray(model.sample_visible(jnp.tile(h, (20_000, 1)), key=ex.random.key(0)))
    rows = {np.asarray(row).tobytes(): i for i, row in enumerate(np.asarray(x))}
    counts = np.bincount([rows[d.tobytes()] for d in draws], minlength=len(rows))
    prob = np.exp(own(model.visible, np.asarray(x)) + pull @ np.asarray(h))
    wrong = np.exp(own(model.visible, np.asarray(x)) + pull @ np.asarray(other))
    assert chi_square(counts, prob) > P_LIMIT
    assert chi_square(counts, wrong) < 1e-9


def test_real_and_count_draws_have_the_conditional_distribution():
    h = jnp.tile(jnp.array([1.0, 0.0]), (20_000, 1))
    model = make("gaussian")
    x = np.asarray(model.sample_visible(h, key=ex.random.key(0)))
    sds = np.exp(np.asarray(model.visible.log_sd, float))
    mean = np.asarray(model.visible.location) + sds * np.asarray(model.weight)[:, 0]
    for i in range(2):
        sd = np.exp(float(model.visible.log_sd[i]))
        assert stats.kstest(x[:, i], stats.norm(mean[i], sd).cdf).pvalue > P_LIMIT
        assert stats.kstest(x[:, i], stats.norm(mean[i], 1.2 * sd).cdf).pvalue < 1e-9
    counts = make("count")
    n = np.asarray(counts.sample_visible(h, key=ex.random.key(1)))
    for i in range(2):
        rate = np.exp(float(counts.visible.bias[i] + counts.weight[i, 0]))
        seen = np.bincount(np.minimum(n[:, i], 7), minlength=8)
        prob = stats.poisson(rate).pmf(np.arange(8))
        prob[7] = stats.poisson(rate).sf(6)
        assert chi_square(seen, prob) > P_LIMIT


@pytest.mark.parametrize("field", [-40.0, -12.0, -8.0, -3.0, 0.0, 2.5, 9.0])
def test_rectified_units(field):
    """Mean, log partition and draws of exp(−h²/2 + uh) on h ≥ 0, far out as well."""
    u = jnp.full((20_000,), field)
    law = stats.truncnorm(-field, np.inf, field, 1.0)
    h = np.asarray(numbers.draw_half_normal(u, ex.random.key(2)), np.float64)
    assert (h >= 0).all() and stats.kstest(h, law.cdf).pvalue > P_LIMIT
    assert stats.kstest(1.1 * h, law.cdf).pvalue < 1e-9 or field > 5
    nodes = np.linspace(0, 60, 2_000_001)
    exponent = -0.5 * nodes**2 + field * nodes
    top = exponent.max()
    mass = integrate.simpson(np.exp(exponent - top), x=nodes)
    mean = integrate.simpson(nodes * np.exp(exponent - top), x=nodes) / mass
    np.testing.assert_allclose(numbers.half_normal_mean(u[:1]), mean, rtol=2e-4, atol=2e-6)
    log_mass = np.log(mass) + top
    np.testing.assert_allclose(numbers.log_half_normal(u[:1]), log_mass, rtol=1e-5, atol=2e-5)
    slope = jax.grad(lambda t: numbers.log_half_normal(t))(u[0])
    np.testing.assert_allclose(slope, mean, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_hidden_means_are_slopes_of_the_log_partition_and_what_draws_average(hidden):
    units = HIDDEN[hidden]()
    field = jnp.array([0.7, -1.3])
    slope = jax.grad(lambda f: units.log_partition(f))(field)
    np.testing.assert_allclose(units.features(units.mean(field)), slope, rtol=1e-4)
    draws = np.asarray(units.draw(jnp.tile(field, (40_000, 1)), key=ex.random.key(4)))
    error = draws.std(0) / 200
    assert (np.abs(draws.mean(0) - np.asarray(units.mean(field))) < 5 * error).all()


def test_block_gibbs_leaves_a_mixed_table_as_it_is():
    """Exact draws, that three steps must not change."""
    model = make("record", scale=1.0)
    x = exact_draws(model, 20_000)
    sampler = BlockGibbs()
    state, tuning = sampler.init(model, x, key=ex.random.key(7))
    for i in range(3):
        state, _ = sampler.step(model, state, tuning, key=ex.random.key(8 + i))
    for name in ("kind", "flag"):
        before, after = (np.asarray(a[name])[:, 0].astype(int) for a in (x, state.x))
        table = np.stack(
            [np.bincount(a, minlength=3)[: 3 if name == "kind" else 2] for a in (before, after)]
        )
        assert stats.chi2_contingency(table).pvalue > P_LIMIT
    sizes = [np.asarray(a["size"])[:, 0] for a in (x, state.x)]
    assert stats.ks_2samp(*sizes).pvalue > P_LIMIT
    assert stats.ks_2samp(sizes[0], sizes[1] + 0.15).pvalue < 1e-9


# Paths


def base_of(model: RBM):
    """A base off the target."""
    rng = np.random.default_rng(2)
    space = model.space
    if isinstance(space, ex.Record):
        return default_base(space)
    if isinstance(space, ex.Real):
        return ex.energies.Gaussian(space, [-0.5, 0.3], [1.5, 0.9])
    if isinstance(space, ex.Count):
        return ex.energies.NegativeBinomial(space, [1.3, 0.6], 2.0)
    if isinstance(space, ex.Categorical):
        shape = (*space.sites, space.num_values)
        logits = rng.normal(0, 0.5, shape)
        if isinstance(model.visible, ReplicatedSoftmaxUnits):
            logits = np.tile(logits[:1], (len(logits), 1))
        return ex.energies.IndependentCategorical(space, logits)
    return ex.energies.IndependentBernoulli(space, rng.normal(0, 0.7, space.shape))


@pytest.mark.parametrize(("visible", "hidden"), SUMMED)
def test_path_from_a_base_to_the_rbm(visible, hidden):
    model = make(visible, hidden)
    base = base_of(model)
    path = model.path(base)
    assert isinstance(path, RBMPath)
    np.testing.assert_allclose(path.at(0.0).log_z_by_sum(), path.log_z0, rtol=1e-5, atol=1e-5)
    if visible != "count":  # there a Poisson of the base's mean is the start
        expected = float(base.log_z) + 2 * np.log(2)
        x = base.draw(5, key=ex.random.key(1))
        f = np.asarray(batched(path.at(0.0), x)) - np.asarray(batched(base, x))
        np.testing.assert_allclose(f, f[0], atol=1e-4)
        assert abs(float(path.log_z0) - float(base.log_z) - f[0]) < 1e-4
        if visible not in ("gaussian", "record", "spin"):
            assert abs(float(path.log_z0) - expected) < 1e-4
    x = some_points(model)
    np.testing.assert_allclose(batched(path.at(1.0), x), batched(model, x), rtol=1e-5, atol=1e-5)
    increments = jax.jit(jax.vmap(path.increment, (0, None, None)))
    betas = (0.0, 0.2, 0.7, 1.0)
    f = {beta: np.asarray(batched(path.at(beta), x)) for beta in betas}
    for b0, b1 in pairwise(betas):
        np.testing.assert_allclose(increments(x, b0, b1), f[b1] - f[b0], atol=2e-4, rtol=1e-4)
    rung = path.at(0.6)
    np.testing.assert_allclose(batched(rung, x), batched(rung.as_rbm(), x), rtol=1e-5, atol=2e-5)
    truth = brute_log_z(rung.as_rbm()) if visible != "gaussian" else None
    if truth is not None and visible != "record":
        assert abs(float(rung.log_z_by_sum()) - truth) < 2e-5 * (1 + abs(truth))


@pytest.mark.parametrize("hidden", HIDDEN)
def test_growth_of_the_log_partition(hidden):
    units = HIDDEN[hidden]()
    field = jnp.array([[3.0, -4.0], [0.2, -0.1], [-9.0, 30.0]])
    for b0, b1 in ((0.3, 0.3001), (0.0, 1.0), (0.9, 0.4), (0.5, 0.5 + 2**-12)):
        with jax.enable_x64(True):
            wide = HIDDEN[hidden]()
            f = np.asarray(field, np.float64)
            each = [
                [float(wide.log_partition(jnp.eye(2)[j] * (b * row[j]))) for j in range(2)]
                for b in (b1, b0)
                for row in f
            ]
        exact = np.array(each[:3]) - np.array(each[3:])
        found = np.asarray(units.growth(field, b0, b1), np.float64)
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=3e-6)


def test_other_bases_get_the_geometric_path():
    rectified = RBM(0.3 * np.ones((2, 2)), RectifiedUnits([0.1, 0.2]), BernoulliUnits([0.1, 0.2]))
    assert isinstance(rectified.path(default_base(rectified.space)), GeometricPath)
    whole = ex.energies.Gaussian(ex.Real(2), cholesky=[[1.0, 0.0], [0.5, 1.0]])
    assert isinstance(make("gaussian").path(whole), GeometricPath)


@pytest.mark.slow
@pytest.mark.parametrize("visible", ["gaussian", "softmax", "count", "record"])
def test_estimates_agree_with_the_sum(visible):
    model = make(visible, scale=1.0)
    truth = float(model.log_z_by_sum())
    z = ex.log_z(model, key=ex.random.key(11), method="ais")
    assert z.reliable, z.reasons
    assert abs(z.value - truth) < max(4 * z.std_err, 0.02)
    assert z.bracket[0] <= truth <= z.bracket[1]


# Made and changed


@pytest.mark.parametrize(("visible", "hidden"), [p for p in PAIRS if p[0] != "record"])
def test_what_is_left_of_it_when_some_units_are_given(visible, hidden):
    model = make(visible, hidden)
    point = np.array(jax.tree.map(lambda a: a[0], some_points(model)), float)
    point[0] = np.nan
    rest = model.condition(x=point)
    form = model.restrict(rest)
    assert isinstance(form, RBM)
    x = some_points(form)
    difference = np.asarray(batched(form, x)) - np.asarray(batched(rest, x))
    np.testing.assert_allclose(difference, difference[0], atol=3e-5)


def test_a_record_given_some_parts():
    model = make("record")
    rest = model.condition(kind=[2], flag=[1.0])
    form = model.restrict(rest)
    x = some_points(form)
    difference = np.asarray(batched(form, x)) - np.asarray(batched(rest, x))
    np.testing.assert_allclose(difference, difference[0], atol=3e-5)
    assert list(form.space.parts) == ["size"]


@pytest.mark.parametrize("visible", ["bernoulli", "spin", "gaussian", "onehot", "count"])
def test_tilt_adds_a_field(visible):
    model = make(visible)
    x = some_points(model)
    field = np.random.default_rng(9).normal(0, 0.5, model.space.shape)
    added = np.asarray(batched(model.tilt(field), x)) - np.asarray(batched(model, x))
    expected = (np.asarray(x) * field).reshape(len(added), -1).sum(1)
    np.testing.assert_allclose(added - added[0], expected - expected[0], atol=3e-5)


def test_words_of_another_length():
    model = make("words")
    longer = model.with_space(ex.Categorical(6, 3))
    x = jnp.array([[0, 2, 1, 1, 0, 2]])
    np.testing.assert_allclose(batched(longer, x), log_density(longer, np.asarray(x)), rtol=1e-5)
    with pytest.raises(ValueError, match="biases"):
        model.with_space(ex.Categorical(6, 4))


@pytest.mark.parametrize(
    "space",
    [
        ex.Binary(3),
        ex.Spin(3),
        ex.Real(3),
        ex.Categorical(3, 4),
        ex.Count(3),
        ex.Record(a=ex.Real(2), b=ex.Spin(1), c=ex.Categorical(1, 3, "onehot")),
    ],
    ids=str,
)
def test_random_starts_at_independent_columns(space):
    """With W = 0 the model has the columns' means, whatever the hidden units are."""
    hidden = "rectified" if isinstance(space, ex.Spin) else "bernoulli"
    rows = default_base(space).draw(2_000, key=ex.random.key(3))
    model = RBM.random(space, 4, key=ex.random.key(4), data=rows, hidden=hidden, scale=0.0)
    h = jnp.zeros((20_000, 4))
    drawn = model.sample_visible(h, key=ex.random.key(5))
    for a, b in zip(jax.tree.leaves(drawn), jax.tree.leaves(rows), strict=True):
        a, b = np.asarray(a, float), np.asarray(b, float)
        error = np.sqrt(a.var(0) / len(a) + b.var(0) / len(b)) + 1e-3
        assert (np.abs(a.mean(0) - b.mean(0)) < 5 * error).all()
    assert 0 < float(jnp.std(RBM.random(space, 50, key=ex.random.key(4)).weight)) < 0.02


def test_a_table_of_mixed_columns_is_learned_and_kept(tmp_path):
    """PCD reaches nearly the likelihood that exact maximum likelihood reaches."""
    visible, weight = VISIBLE["record"](), jnp.array([[-3.0], [2.0], [-3.0], [0.0], [2.5]])
    # Both values of the hidden unit are as probable.
    field = jnp.stack([visible.bias, visible.bias + weight[:, 0]])
    low, high = visible.log_partition(field)
    truth = RBM(weight, visible, BernoulliUnits([low - high]))
    x = exact_draws(truth, 3_000)
    start = RBM.random(truth.space, 3, key=ex.random.key(2), data=x, scale=0.1)
    found = {}
    for name, objective in (
        ("exact", ex.objectives.MaximumLikelihood()),
        ("pcd", ex.objectives.PersistentCD(num_steps=3)),
    ):
        fit = ex.fit(start, x, objective, key=ex.random.key(3), num_steps=1000, learning_rate=0.02)
        found[name] = float(jnp.mean(batched(fit.energy, x)) - fit.energy.log_z_by_sum())
    before = float(jnp.mean(batched(start, x)) - start.log_z_by_sum())
    best = float(jnp.mean(batched(truth, x)) - truth.log_z_by_sum())
    assert found["exact"] > best - 0.01 > before + 0.1
    assert found["pcd"] > found["exact"] - 0.03
    fit.save(tmp_path)
    back = ex.load(tmp_path).energy
    assert eqx.tree_equal(back, fit.energy)


def test_a_gaussian_layer_far_from_the_origin_keeps_its_digits():
    units = GaussianUnits([1000.0, -3000.0], jnp.log(jnp.array([0.5, 2.0])))
    model = RBM([[0.3, -0.2], [0.4, 0.1]], units, BernoulliUnits([0.0, 0.0]))
    x = jnp.array([[1000.25, -2999.0]])
    with jax.enable_x64(True):
        expected = float(-model_in_64(model)(jnp.asarray([1000.25, -2999.0])))
    assert abs(float(batched(model, x)[0]) - expected) < 1e-3


def model_in_64(model):
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), model)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"weight of shape \(6, 2\)"):
        RBM(np.zeros((2, 2)), VISIBLE["softmax"](), HIDDEN["spin"]())
    with pytest.raises(ValueError, match="hidden: expected one of"):
        RBM.random(ex.Real(2), 3, key=ex.random.key(0), hidden="softmax")
    with pytest.raises(TypeError, match="flat Binary"):
        RBM.random(ex.Binary((2, 2)), 3, key=ex.random.key(0))
    with pytest.raises(TypeError, match="onehot"):
        make("softmax").tilt(0.3)
    assert isinstance(fitted_base(ex.Count(2), np.ones((3, 2), int)).site_parameters, jax.Array)
