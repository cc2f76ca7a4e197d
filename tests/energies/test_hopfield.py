"""Hopfield networks against W written out in NumPy, and what is known of their fixed points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import energax as ex
from energax.energies import Hopfield, Tempered
from energax.energies._base import batched
from energax.random import key
from energax.samplers import ColouredGibbs
from energax.samplers.choose import default_sampler
from energax.spaces import Spin
from tests.exact import P_LIMIT, all_points, enumerated, one_step_matrix, transition_p_value

RNG = np.random.default_rng(5)


def random_patterns(num, sites, seed=0):
    return np.random.default_rng(seed).choice([-1.0, 1.0], (num, sites))


def couplings(xi, rule):
    """W with zero diagonal, by the formulas of the two rules."""
    sites = xi.shape[1]
    if rule == "hebb":
        w = sum(np.outer(row, row) for row in xi) / sites
    else:
        w = xi.T @ np.linalg.inv(xi @ xi.T) @ xi  # the projector on the patterns
    return w - np.diag(np.diag(w))


def energies(xi, fields, rule, s):
    return -0.5 * np.einsum("ri,ij,rj->r", s, couplings(xi, rule), s) - s @ fields


XI = random_patterns(3, 8, 1)
FIELDS = RNG.normal(0.1, 0.4, 8)
S = all_points(Spin(8))


@pytest.mark.parametrize("rule", ["hebb", "pseudo-inverse"])
def test_energy_and_its_site_differences(rule):
    net = Hopfield(XI, FIELDS, rule=rule)
    e = energies(XI, FIELDS, rule, S)
    np.testing.assert_allclose(-batched(net, jnp.asarray(S, float)), e, atol=1e-5)
    np.testing.assert_allclose(net.ensemble_log_density(jnp.asarray(S, float)), -e, atol=1e-5)
    found = np.asarray(jax.vmap(net.site_differences)(jnp.asarray(S, float)))
    for site in range(8):
        flipped = S.copy()
        flipped[:, site] *= -1
        np.testing.assert_allclose(
            found[:, site], energies(XI, FIELDS, rule, flipped) - e, atol=1e-5
        )


def test_points_of_any_shape():
    picture = Hopfield(XI.reshape(3, 2, 4), FIELDS.reshape(2, 4))
    flat = Hopfield(XI, FIELDS)
    assert picture.space == Spin((2, 4))
    point = jnp.asarray(S[77], float)
    assert float(picture(point.reshape(2, 4))) == pytest.approx(float(flat(point)), abs=1e-6)
    np.testing.assert_allclose(
        picture.site_differences(point.reshape(2, 4)).ravel(), flat.site_differences(point)
    )
    assert picture.recall(S[:5].reshape(5, 2, 4)).x.shape == (5, 2, 4)


def test_tilted_tempered_and_held():
    net = Hopfield(XI, FIELDS)
    seen, rate = S[77], 0.15
    posterior = enumerated(net.tilt(seen * np.log((1 - rate) / rate) / 2))
    flips = (seen != S).sum(1)
    expected = enumerated(net).prob * rate**flips * (1 - rate) ** (8 - flips)
    np.testing.assert_allclose(posterior.prob, expected / expected.sum(), rtol=1e-4)
    np.testing.assert_allclose(
        enumerated(net.tempered(0.37)).log_density, enumerated(Tempered(net, 0.37)).log_density,
        atol=1e-5,
    )  # fmt: skip
    held = np.full(8, np.nan)
    held[[1, 4, 6]] = [1, -1, -1]
    conditional = net.condition(x=held)
    restricted = net.restrict(conditional)
    assert isinstance(restricted, Hopfield)
    np.testing.assert_allclose(enumerated(restricted).prob, enumerated(conditional).prob, rtol=1e-4)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_sweep_leaves_the_distribution_as_it_is(backwards):
    net = Hopfield(XI, FIELDS).tempered(1.3)
    exact = enumerated(net)
    start = jnp.asarray(exact.draw(40_000, seed=3), float)
    x, f = jax.jit(lambda x: net.sweep(x, key=key(4), backwards=backwards))(start)
    assert exact.p_value(np.asarray(x)) > P_LIMIT
    np.testing.assert_allclose(f, exact.log_density[exact.index(np.asarray(x))], atol=1e-4)
    wrong = enumerated(Hopfield(XI, FIELDS).tempered(1.17))  # 0.9 β
    assert wrong.p_value(np.asarray(x)) < 1e-9


@pytest.mark.parametrize("backwards", [False, True])
def test_a_sweep_draws_each_spin_in_turn(backwards):
    """One step from every state, against the product of the heat baths of the single spins."""
    net = Hopfield(random_patterns(2, 3, 2), [0.3, -0.2, 0.5]).tempered(0.8)
    exact = enumerated(net)
    whole = np.eye(8)
    for site in range(3)[:: -1 if backwards else 1]:
        flipped = exact.x * np.where(np.arange(3) == site, -1, 1)
        other = exact.index(flipped)
        move = exact.prob[other] / (exact.prob + exact.prob[other])
        matrix = np.diag(1 - move)
        matrix[np.arange(8), other] = move
        whole = whole @ matrix
    counts = one_step_matrix(ColouredGibbs(backwards=backwards), net, key=key(6), num=5_000)
    assert transition_p_value(counts, whole) > P_LIMIT
    reversed_order = whole.T * exact.prob / exact.prob[:, None]
    assert transition_p_value(counts, reversed_order) < 1e-9


def test_the_default_sampler_sweeps_and_agrees_with_the_sum():
    net = Hopfield(XI, FIELDS).tempered(0.8)
    assert isinstance(default_sampler(net), ColouredGibbs)
    draws = ex.sample(net, 1_000, key=key(8))
    exact = enumerated(net)
    assert draws.reliable, draws.reasons
    assert np.all(np.abs(draws.mean - exact.mean()) < 5 * draws.mcse_mean + 1e-3)


# Recall


@pytest.mark.parametrize(("rule", "load"), [("hebb", 0.03), ("pseudo-inverse", 0.5)])
def test_stored_patterns_are_fixed_points_and_are_found_again(rule, load):
    sites = 400
    xi = random_patterns(int(load * sites), sites, 7)
    net = Hopfield(xi, rule=rule)
    here = net.recall(xi)
    assert here.is_fixed.all() and here.num_sweeps == 1
    np.testing.assert_array_equal(here.x, xi)
    np.testing.assert_array_equal(net.recall(-xi).x, -xi)
    flips = np.random.default_rng(1).random(xi.shape) < (0.15 if rule == "hebb" else 0.02)
    for order in (None, key(3)):
        found = net.recall(np.where(flips, -xi, xi), key=order)
        assert found.is_fixed.all() and found.num_sweeps >= 2
        assert (found.x * xi).mean(1).min() > 0.99


def test_above_capacity_patterns_are_lost():
    """Amit, Gutfreund & Sompolinsky 1985: beyond P = 0.138 N no valley lies near a pattern."""
    overlap = {}
    for load in (0.1, 0.25):
        xi = random_patterns(int(load * 1_000), 1_000, 9)
        found = Hopfield(xi).recall(xi[:40])
        assert found.is_fixed.all()
        overlap[load] = (found.x * xi[:40]).mean()
    assert overlap[0.1] > 0.98 and overlap[0.25] < 0.7


@pytest.mark.parametrize("rule", ["hebb", "pseudo-inverse"])
@pytest.mark.parametrize("order", [None, 5])
def test_energy_falls_sweep_by_sweep_to_a_fixed_point(rule, order):
    xi, fields = random_patterns(20, 60, 3), np.random.default_rng(4).normal(0, 0.2, 60)
    net = Hopfield(xi, fields, rule=rule)
    x = np.random.default_rng(6).choice([-1.0, 1.0], (30, 60))
    e = energies(xi, fields, rule, x)
    for number in range(50):
        found = net.recall(x, num_sweeps=1, key=None if order is None else key(order + number))
        new = energies(xi, fields, rule, found.x)
        np.testing.assert_allclose(found.energy, new, atol=1e-4)
        moved = (found.x != x).any(1)
        assert np.all(new[moved] < e[moved]) and np.all(new[~moved] == e[~moved])
        assert found.num_sweeps == 1
        x, e = found.x, new
        if not moved.any():
            break
    assert found.is_fixed.all()
    for i in range(60):
        flipped = x.copy()
        flipped[:, i] *= -1
        assert np.all(energies(xi, fields, rule, flipped) > e - 1e-9)
    assert not net.recall(-np.sign(fields) * np.ones(60), num_sweeps=0).is_fixed


def test_mixtures_of_three_are_fixed_but_higher():
    """Amit, Gutfreund & Sompolinsky 1985: spurious states of overlap ½ with each of three."""
    xi = random_patterns(3, 2_001, 12)
    net = Hopfield(xi)
    mixture = np.sign(xi.sum(0))
    found = net.recall(mixture)
    assert found.is_fixed and (found.x == mixture).mean() > 0.99
    np.testing.assert_allclose(xi @ found.x / 2_001, 0.5, atol=0.05)
    assert float(found.energy) > max(net.recall(row).energy for row in xi) + 0.1 * 2_001 * 0.25


def test_what_is_given_holds_the_rest_together():
    xi = random_patterns(4, 200, 15)
    cue = np.full(200, np.nan)
    cue[:60] = xi[2, :60]
    net = Hopfield(xi)
    rest = net.restrict(net.condition(x=cue))
    found = rest.recall(np.random.default_rng(0).choice([-1.0, 1.0], 140))
    assert (found.x * xi[2, 60:]).mean() > 0.97


def test_a_vanishing_field_leaves_a_spin_alone():
    """With two patterns that differ in half of their spins the fields of many states are 0."""
    net = Hopfield([[1, 1, 1, 1], [1, 1, -1, -1]])
    found = net.recall(S[:, :4])
    assert found.is_fixed.all() and found.num_sweeps <= 4


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="only -1 and"):
        Hopfield([[0, 1, 1]])
    with pytest.raises(ValueError, match=r"shape \(patterns, \*event\)"):
        Hopfield([1, -1, 1])
    with pytest.raises(ValueError, match="one of"):
        Hopfield(XI, rule="storkey")
    with pytest.raises(ValueError, match="linearly dependent"):
        Hopfield([XI[0], -XI[0]], rule="pseudo-inverse")
    with pytest.raises(ValueError, match=r"fields \(one a spin\)"):
        Hopfield(XI, FIELDS[:3])
    with pytest.raises(ValueError, match="shape"):
        Hopfield(XI).recall(np.ones(7))
    with pytest.raises(ValueError, match="num_sweeps"):
        Hopfield(XI).recall(S[0], num_sweeps=-1)
