"""The Potts model of tables against a plain loop over pairs, parameters off zero."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import energax as ex
from energax.energies import GeneralPotts, Potts
from energax.energies._base import batched
from energax.objectives import PseudoLikelihood
from energax.samplers import ColouredGibbs
from tests.exact import P_LIMIT, chi_square

RNG = np.random.default_rng(8)
TABLES = RNG.normal(0, 0.6, (6, 3, 3))
FIELDS = RNG.normal(0.2, 0.5, (4, 3))
STATES = np.array(list(itertools.product(range(3), repeat=4)))


def plain(tables=TABLES, fields=FIELDS, states=STATES):
    pairs = list(itertools.combinations(range(states.shape[1]), 2))
    f = np.zeros(len(states))
    for row, x in enumerate(states):
        f[row] = sum(fields[i, x[i]] for i in range(len(x)))
        f[row] += sum(tables[p][x[i], x[j]] for p, (i, j) in enumerate(pairs))
    return f


@pytest.mark.parametrize("encoding", ["index", "onehot"])
def test_energy_changes_and_log_z_are_those_of_a_loop_over_pairs(encoding):
    model = GeneralPotts(TABLES, FIELDS, encoding=encoding)
    x = model.space.encode(jnp.asarray(STATES))
    f = plain()
    np.testing.assert_allclose(batched(model, x), f, atol=1e-5)
    z = ex.log_z(model, key=ex.random.key(0))
    assert abs(z.value - np.logaddexp.reduce(f)) < 1e-5 and z.reliable
    d = np.asarray(model.ensemble_site_differences(x))
    number = STATES @ [27, 9, 3, 1]
    assert (number == np.arange(81)).all()
    for i, a in itertools.product(range(4), range(3)):
        moved = STATES.copy()
        moved[:, i] = a
        np.testing.assert_allclose(d[:, i, a], f - f[moved @ [27, 9, 3, 1]], atol=2e-5)


@pytest.mark.parametrize("encoding", ["index", "onehot"])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_sweep_leaves_exact_draws_as_they_are(encoding, backwards):
    model = GeneralPotts(TABLES, FIELDS, encoding=encoding)
    p = np.exp(plain() - np.logaddexp.reduce(plain()))
    chosen = np.random.default_rng(1).choice(81, 40_000, p=p / p.sum())
    sampler = ColouredGibbs(backwards=backwards)
    x = model.space.encode(jnp.asarray(STATES[chosen]))
    state, tuning = sampler.init(model, x, key=ex.random.key(2))
    for i in range(2):
        state, _ = sampler.step(model, state, tuning, key=ex.random.key(3 + i))
    index = np.asarray(model.space.decode(state.x)) @ [27, 9, 3, 1]
    assert chi_square(np.bincount(index, minlength=81), p) > P_LIMIT
    wrong = np.exp(0.9 * plain())
    assert chi_square(np.bincount(index, minlength=81), wrong / wrong.sum()) < 1e-9
    assert (np.asarray(state.x) != np.asarray(x)).any()


def test_the_zero_sum_gauge_is_the_same_distribution_by_the_smallest_tables():
    model = GeneralPotts(TABLES, FIELDS)
    gauged = model.zero_sum()
    shift = plain(np.asarray(gauged.couplings), np.asarray(gauged.fields)) - plain()
    np.testing.assert_allclose(shift, shift[0], atol=1e-5)
    tables = np.asarray(gauged.couplings)
    np.testing.assert_allclose(tables.sum(1), 0, atol=1e-5)
    np.testing.assert_allclose(tables.sum(2), 0, atol=1e-5)
    np.testing.assert_allclose(np.asarray(gauged.fields).sum(1), 0, atol=1e-5)
    assert (tables**2).sum() < (TABLES**2).sum()


def test_it_is_the_potts_model_where_tables_reward_equal_values():
    edges, j = list(itertools.combinations(range(4), 2)), RNG.normal(0, 0.5, 6)
    simple = Potts(edges, j, FIELDS, space=ex.Categorical(4, 3))
    general = GeneralPotts(j[:, None, None] * np.eye(3), FIELDS)
    x = jnp.asarray(STATES)
    np.testing.assert_allclose(batched(general, x), batched(simple, x), atol=1e-5)


def test_given_sites_tilts_and_powers():
    model = GeneralPotts(TABLES, FIELDS)
    rest = model.condition(x=[np.nan, 2, np.nan, 0])
    form = model.restrict(rest)
    assert isinstance(form, GeneralPotts)
    x = jnp.asarray(list(itertools.product(range(3), repeat=2)))
    shift = np.asarray(batched(form, x)) - np.asarray(batched(rest, x))
    np.testing.assert_allclose(shift, shift[0], atol=1e-5)
    field = RNG.normal(0, 1, (4, 3))
    all_x = jnp.asarray(STATES)
    added = np.asarray(batched(model.tilt(field), all_x)) - plain()
    np.testing.assert_allclose(added, field[np.arange(4), STATES].sum(1), atol=1e-5)
    np.testing.assert_allclose(batched(model.tempered(0.3), all_x), 0.3 * plain(), atol=1e-5)


def test_zeros_starts_at_the_base_rates_and_shapes_are_checked():
    rows = STATES[RNG.integers(0, 81, 200)]
    start = GeneralPotts.zeros(ex.Categorical(4, 3), rows)
    share = np.stack([(rows == a).sum(0) + 0.5 for a in range(3)], 1) / 201.5
    np.testing.assert_allclose(np.exp(np.asarray(start.fields)), share, rtol=1e-5)
    with pytest.raises(ValueError, match=r"\(6, 3, 3\)"):
        GeneralPotts(np.zeros((5, 3, 3)), FIELDS)
    with pytest.raises(ValueError, match="fields"):
        GeneralPotts(0.0, np.zeros(4))


def test_weighted_pseudo_likelihood_is_that_of_repeated_rows():
    rows = STATES[RNG.integers(0, 81, 60)]
    times = RNG.integers(1, 4, 60)
    start = GeneralPotts.zeros(ex.Categorical(4, 3), rows)
    fits = [
        ex.fit(start, data, objective, key=ex.random.key(0), optimizer="lbfgs").energy
        for data, objective in (
            (rows, ex.objectives.Penalised(PseudoLikelihood(weights=times), l2=0.01)),
            (np.repeat(rows, times, axis=0), ex.objectives.Penalised(PseudoLikelihood(), l2=0.01)),
        )
    ]
    a, b = (np.asarray(fit.zero_sum().couplings) for fit in fits)
    np.testing.assert_allclose(a, b, atol=5e-3)
    assert np.abs(a).max() > 0.1
    with pytest.raises(ValueError, match="lbfgs"):
        ex.fit(start, rows, PseudoLikelihood(weights=times), key=ex.random.key(0), batch_size=10)
    with pytest.raises(ValueError, match="from 0"):
        PseudoLikelihood(weights=-np.ones(3))
