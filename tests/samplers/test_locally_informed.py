"""Locally informed kernels against transition matrices made in NumPy, and from exact starts."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax.energies._base import AbstractLocalEnergy
from energax.energies.boltzmann import BernoulliRBM
from energax.energies.function import from_log_density
from energax.energies.lattice import Ising
from energax.random import key
from energax.samplers import locally_informed
from energax.samplers._base import DualAveraging, run
from energax.samplers.locally_informed import DiscreteLangevin, GibbsWithGradients
from energax.spaces import Binary, Categorical, Count, Ordinal, Spin
from tests.exact import P_LIMIT, after_steps, enumerated, one_step_matrix, transition_p_value

RNG = np.random.default_rng(4)
PAIRS = RNG.normal(0, 0.8, (12, 12))
LINEAR = RNG.normal(0.3, 0.7, 12)


@functools.cache  # one function a case, so that mutants compile nothing anew
def quadratic(scale=1.0):
    def f(factor, x):
        flat = x.reshape(-1) / scale
        pairs, linear = PAIRS[: flat.size, : flat.size], LINEAR[: flat.size]
        return factor * (flat @ pairs @ flat + linear @ flat)

    return f


def curved(space, factor=1.0, scale=1.0):
    """f = factor · (xᵀAx + b·x) of the flattened x/scale: not linear, so guesses are off."""
    return from_log_density(quadratic(scale), space, params=jnp.asarray(factor, float))


def ising(factor=1.0):
    edges = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)]
    couplings, fields = np.array([0.5, -0.4, 0.7, 0.3, -0.6]), np.array([0.3, -0.5, 0.2, 0.4])
    return Ising(edges, factor * couplings, factor * fields, num_sites=4)


class Ladder(AbstractLocalEnergy):
    """E(x) = −factor (c x₀x₁ + d·x) on whole numbers 0 to 3, with its one-site changes."""

    factor: jax.Array
    space: Ordinal

    def __call__(self, x):
        return -self.factor * (0.3 * x[0] * x[1] + 0.4 * x[0] - 0.7 * x[1])

    def site_differences(self, x):
        slope = self.factor * jnp.array([0.3 * x[1] + 0.4, 0.3 * x[0] - 0.7])
        return -(jnp.arange(4) - x[:, None]) * slope[:, None]


CASES = {
    "binary": lambda factor=1.0: curved(Binary((2, 2)), factor),
    "spin": lambda factor=1.0: curved(Spin(4), factor, 2.0),
    "exact spin": ising,
    "onehot": lambda factor=1.0: curved(Categorical(2, 3, "onehot"), factor),
    "ordinal": lambda factor=1.0: curved(Ordinal(2, 4), factor, 1.5),
    "exact ordinal": lambda factor=1.0: Ladder(jnp.asarray(factor, float), Ordinal(2, 4)),
}


def differences(energy):
    """(codes, D): the values' numbers of each state, and D by formula or by finite changes of f."""
    exact, space = enumerated(energy), energy.space
    x = exact.x.reshape(len(exact.x), space.num_sites, -1)
    codes = x.argmax(-1) if isinstance(space, Categorical) else x[..., 0].astype(int)
    codes = (codes + 1) // 2 if isinstance(space, Spin) else codes
    k = space.num_values
    d = np.zeros((*codes.shape, k))
    if isinstance(energy, AbstractLocalEnergy):
        number = {tuple(row): i for i, row in enumerate(codes.tolist())}
        for (s, i), j in itertools.product(np.ndindex(codes.shape), range(k)):
            row = codes[s].copy()
            row[i] = j
            d[s, i, j] = exact.log_density[number[tuple(row)]] - exact.log_density[s]
        return codes, d
    slope = np.asarray(jax.vmap(jax.grad(energy.log_density))(jnp.asarray(exact.x, float)), float)
    slope = slope.reshape(x.shape)
    for j in range(k):
        if isinstance(space, Categorical):
            d[:, :, j] = slope[..., j] - (slope * x).sum(-1)
        else:
            value = 2 * j - 1 if isinstance(space, Spin) else j
            d[:, :, j] = (value - x[..., 0]) * slope[..., 0]
    return codes, d


def corrected(there, back, energy):
    """The Metropolis-Hastings matrix of proposals in ways m: there[m, x, y], and back[m, x, y] for
    the same way backwards from y to x."""
    p = enumerated(energy).prob
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = p[None, None] * back / (p[None, :, None] * there)
        matrix = np.where(there > 0, there * np.minimum(1, ratio), 0).sum(0)
    return matrix + np.diag(1 - matrix.sum(1))


def gwg_matrix(energy, length):
    codes, d = differences(energy)
    size, sites, k = d.shape
    values = np.arange(k)
    distance = abs(values - codes[..., None])
    local = isinstance(energy, AbstractLocalEnergy)
    if isinstance(energy.space, Ordinal) and not local:
        allowed = distance == 1
    else:
        allowed = distance > 0
    w = np.where(allowed, np.exp(d / 2), 0.0)
    paths = list(itertools.permutations(range(sites), length))

    def probability(order, s, target):
        left, q = w[s].sum(), 1.0
        for i in order:
            q *= w[s, i, codes[target, i]] / left
            left -= w[s, i].sum()
        return q

    there = np.zeros((len(paths), size, size))
    back = np.zeros_like(there)
    for (m, path), s, t in itertools.product(enumerate(paths), range(size), range(size)):
        if set(np.flatnonzero(codes[s] != codes[t])) == set(path):
            there[m, s, t] = probability(path, s, t)
            back[m, s, t] = probability(path[::-1], t, s)
    return corrected(there, back, energy)


def langevin_matrix(energy, step_size):
    codes, d = differences(energy)
    space = energy.space
    distance = abs(np.arange(d.shape[-1]) - codes[..., None])
    square = {Binary: distance, Spin: 4 * distance, Ordinal: distance**2}.get(
        type(space), 2 * (distance > 0)
    )
    w = np.exp(d / 2 - square / (2 * step_size))
    w /= w.sum(-1, keepdims=True)
    site = np.arange(codes.shape[1])
    q = np.array([[w[s, site, codes[t]].prod() for t in range(len(d))] for s in range(len(d))])
    return corrected(q[None], q.T[None], energy)


@pytest.mark.parametrize("case", CASES)
def test_one_step_has_the_enumerated_transition_probabilities(case):
    energy = CASES[case]()
    for sampler, matrix in (
        (GibbsWithGradients(max_flips=1), gwg_matrix(energy, 1)),
        (DiscreteLangevin(0.9), langevin_matrix(energy, 0.9)),
    ):
        counts = one_step_matrix(sampler, energy, key=key(1), num=8_000)
        assert transition_p_value(counts, matrix) > P_LIMIT
        mutant = one_step_matrix(sampler, CASES[case](0.7), key=key(1), num=8_000)
        assert transition_p_value(mutant, matrix) < 1e-9


@pytest.mark.parametrize("case", ["binary", "exact spin", "onehot"])
def test_paths_of_two_flips_have_the_enumerated_transition_probabilities(case):
    energy = CASES[case]()
    sampler = GibbsWithGradients(max_flips=2)
    for length in (1.0, 2.0):
        counts = one_step_matrix(
            sampler, energy, key=key(2), num=8_000, tuning=DualAveraging.start(length)
        )
        assert transition_p_value(counts, gwg_matrix(energy, int(length))) > P_LIMIT


@pytest.mark.parametrize("sampler", [GibbsWithGradients(max_flips=3), DiscreteLangevin(1.5)])
def test_exact_draws_stay_exact_and_mutants_do_not(sampler, monkeypatch):
    make = CASES["onehot" if isinstance(sampler, DiscreteLangevin) else "binary"]
    exact = enumerated(make())
    x = exact.draw(60_000, seed=5).astype(np.float32)

    def p_value(energy):
        return exact.p_value(after_steps(sampler, energy, x, key=key(3), num_steps=8))

    assert p_value(make()) > P_LIMIT
    assert p_value(make(0.9)) < 1e-9
    assert p_value(make(-1.0)) < 1e-9
    jax.clear_caches()
    monkeypatch.setattr(
        locally_informed, "metropolis_probability", lambda ratio, old, usable: jnp.ones_like(ratio)
    )
    assert p_value(make()) < 1e-9  # without the correction
    jax.clear_caches()


def test_walls_are_kept_and_left():
    """f = −∞ on half of the states: chains leave it from the start and never come back."""

    def f(x):
        return jnp.where(x[0] * x[1] == 1, -jnp.inf, 0.6 * x[1] - x[2] + 0.8 * x[2] * x[3])

    energy = from_log_density(f, Binary(4))
    exact = enumerated(energy)
    x = exact.draw(40_000, seed=1).astype(np.float32)
    for sampler in (GibbsWithGradients(), DiscreteLangevin(1.0)):
        assert exact.p_value(after_steps(sampler, energy, x, key=key(4), num_steps=6)) > P_LIMIT
        stuck = np.ones((100, 4), np.float32)
        left = after_steps(sampler, energy, stuck, key=key(5), num_steps=50)
        assert not np.any(left[:, 0] * left[:, 1])


def test_warm_up_reaches_its_acceptance_with_more_flips():
    """200 weakly joined bits: many of them change at once, and the tuning says how many."""
    weight = jnp.asarray(np.random.default_rng(1).normal(0, 0.1, (200, 200)), float)
    energy = from_log_density(lambda x: x @ weight @ x, Binary(200))
    x = jnp.zeros((16, 200))
    for sampler in (GibbsWithGradients(), DiscreteLangevin()):
        state, tuning = sampler.init(energy, x, key=key(0))
        state, tuning, _ = run(
            sampler, energy, state, tuning, key=key(1), num_steps=300, adapt=True, keep=False
        )
        after, _, trace = run(sampler, energy, state, tuning, key=key(2), num_steps=300, keep=False)
        found = sampler.describe(after, tuning)
        if isinstance(sampler, GibbsWithGradients):
            assert 4 < float(found["flips"]) <= 16
        else:
            assert 0.01 < float(found["flip_rate"]) <= 1
            assert abs(float(jnp.mean(trace.acceptance)) - 0.574) < 0.1


def test_an_rbm_is_guided_by_gradients_unless_told_otherwise():
    """Both differences leave it invariant; by default one product with W makes all of D."""
    rbm = BernoulliRBM(RNG.normal(0, 1.2, (4, 3)), RNG.normal(0, 1, 4), RNG.normal(0, 1, 3))
    exact = enumerated(rbm)
    x = exact.draw(40_000, seed=2).astype(np.float32)
    for differences in (None, "exact"):
        for sampler in (
            GibbsWithGradients(differences=differences),
            DiscreteLangevin(2.0, differences=differences),
        ):
            assert sampler.evaluations_per_step(rbm) == (1 if differences is None else 2)
            after = after_steps(sampler, rbm, x, key=key(6), num_steps=5)
            assert exact.p_value(after) > P_LIMIT


def test_spaces_that_gradients_cannot_guide_are_refused():
    index = from_log_density(lambda x: -1.0 * jnp.sum(x), Categorical(3, 4))
    counts = from_log_density(lambda x: -1.0 * jnp.sum(x), Count(3))
    bits = from_log_density(lambda x: -1.0 * jnp.sum(x), Binary(3))
    for make in (GibbsWithGradients, DiscreteLangevin):
        with pytest.raises(TypeError, match='encoding="onehot"'):
            make().init(index, jnp.zeros((2, 3), jnp.int32), key=key(0))
        with pytest.raises(TypeError, match="use Metropolis"):
            make().init(counts, jnp.zeros((2, 3), jnp.int32), key=key(0))
        with pytest.raises(TypeError, match="AbstractLocalEnergy"):
            make(differences="exact").init(bits, jnp.zeros((2, 3)), key=key(0))
        with pytest.raises(ValueError, match="'exact', 'gradient' or None"):
            make(differences="guess")
    with pytest.raises(ValueError, match="max_flips"):
        GibbsWithGradients(max_flips=0)
