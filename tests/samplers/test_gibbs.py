"""Gibbs samplers: one step against the enumerated transition matrix, exact draws stay exact."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax.energies._base import AbstractColouredSpins, Tempered, batched
from energax.energies.boltzmann import BernoulliRBM
from energax.energies.function import from_log_density
from energax.energies.lattice import Ising, Potts
from energax.energies.lattice import _base as graph
from energax.energies.reference import IndependentBernoulli
from energax.random import key
from energax.samplers._base import State, run
from energax.samplers.gibbs import BipartiteState, BlockGibbs, ColouredGibbs, SiteGibbs
from energax.spaces import Binary, Categorical, Count, Ordinal, Spin
from tests.exact import (
    P_LIMIT,
    after_steps,
    all_points,
    chi_square,
    enumerated,
    one_step_matrix,
    transition_p_value,
)

RNG = np.random.default_rng(12)
WEIGHT = RNG.normal(0, 1.3, (4, 3))
VISIBLE = RNG.normal(0.4, 0.9, 4)
HIDDEN = RNG.normal(-0.6, 0.9, 3)
BASE = IndependentBernoulli(Binary(4), [0.7, -0.4, 1.1, -1.5])
EDGES = [(0, 1), (1, 2), (0, 2), (2, 3)]  # a triangle and a pendant site: three colours
COUPLINGS = [0.7, -0.5, 0.4, 0.9]
FIELDS = [0.3, -0.4, 0.2, 0.5]


def rbm(factor=1.0, sign=1.0):
    return BernoulliRBM(sign * factor * WEIGHT, factor * VISIBLE, factor * HIDDEN)


def ising(factor=1.0, sign=1.0):
    return Ising(
        EDGES, sign * factor * np.array(COUPLINGS), factor * np.array(FIELDS), space=Spin((2, 2))
    )


def potts(factor=1.0, sign=1.0, encoding="index"):
    edges = [(0, 1), (1, 2), (0, 2), (2, 3)]
    fields = np.random.default_rng(3).normal(0.2, 0.5, (4, 3))
    return Potts(
        edges,
        sign * factor * np.array(COUPLINGS),
        factor * fields,
        space=Categorical((2, 2), 3, encoding),
    )


def ring(factor=1.0, sign=1.0):
    """Uniform, five sites, three colours: its sweeps have 32 chains in a word."""
    return Ising.grid((5,), sign * factor * 0.6, factor * 0.3)


class Gas(AbstractColouredSpins):
    """E(x) = −Σ_i J_i x_i x_{i+1} − h·x on a chain of 0 and 1."""

    couplings: jax.Array
    fields: jax.Array
    space: Binary
    colours: tuple

    def __call__(self, x):
        return -self.log_density_from_sites(x)

    def log_density_from_sites(self, sites):
        return self.fields @ sites + self.couplings @ (sites[:-1] * sites[1:])

    def log_odds(self, sites, colour):
        tail = (1,) * (sites.ndim - 1)
        bonds = self.couplings.reshape(-1, *tail)
        nothing = jnp.zeros_like(sites[:1])
        odds = self.fields.reshape(-1, *tail)
        odds = odds + jnp.concatenate([nothing, bonds * sites[:-1]])
        odds = odds + jnp.concatenate([bonds * sites[1:], nothing])
        return odds[self.colours[colour]]

    def site_differences(self, x):
        raise AssertionError("Gibbs asks for the log-odds of one colour")


def gas(factor=1.0, sign=1.0):
    colours = jnp.array([0, 2]), jnp.array([1, 3])
    couplings = sign * factor * jnp.array([1.1, -0.8, 1.4])
    return Gas(couplings, factor * jnp.array([0.5, -0.7, 0.3, -0.9]), Binary(4), colours)


def block_matrix(weight, visible, hidden):
    """P(v → v') = Σ_h p(h | v) p(v' | h) in NumPy."""
    v, h = all_points(Binary(4)), all_points(Binary(3))

    def bernoulli(bits, logits):  # (rows of logits, rows of bits)
        p = 1 / (1 + np.exp(-logits))
        return np.where(bits[None] == 1, p[:, None], 1 - p[:, None]).prod(-1)

    return bernoulli(h, v @ weight + hidden) @ bernoulli(v, h @ weight.T + visible)


def sweep_matrix(energy, backwards=False):
    """The product over colours of P(x → x') ∝ p(x') where x' agrees with x off the colour."""
    exact = enumerated(energy)
    x = exact.x.reshape(len(exact.prob), energy.space.num_sites, -1)
    x = x.argmax(-1) if x.shape[-1] > 1 else x[..., 0]
    matrix = np.eye(len(x))
    for colour in energy.colours[::-1] if backwards else energy.colours:
        others = np.setdiff1d(np.arange(x.shape[1]), np.asarray(colour))
        agrees = (x[:, None, others] == x[None][:, :, others]).all(-1)
        block = agrees * exact.prob[None]
        matrix = matrix @ (block / block.sum(1, keepdims=True))
    return matrix


RUNG = 0.6
CASES = {
    "RBM": (BlockGibbs(), rbm),
    "rung of an RBM's path": (BlockGibbs(), lambda f=1.0, s=1.0: rbm(f, s).path(BASE).at(RUNG)),
    "Ising": (ColouredGibbs(), ising),
    "bits in two colours": (ColouredGibbs(), gas),
    "a uniform ring": (ColouredGibbs(), ring),
    "a uniform ring backwards": (ColouredGibbs(backwards=True), ring),
    "Potts": (ColouredGibbs(), potts),
    "Potts backwards": (
        ColouredGibbs(backwards=True),
        lambda f=1.0, s=1.0: potts(f, s, "onehot"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_step_has_the_enumerated_transition_probabilities(case):
    sampler, make = CASES[case]
    if case == "RBM":
        matrix = block_matrix(WEIGHT, VISIBLE, HIDDEN)
    elif case.startswith("rung"):
        bias = (1 - RUNG) * np.asarray(BASE.logits) + RUNG * VISIBLE
        matrix = block_matrix(RUNG * WEIGHT, bias, RUNG * HIDDEN)
    else:
        matrix = sweep_matrix(make(), sampler.backwards)
    num = 128_000 // len(matrix)
    counts = one_step_matrix(sampler, make(), key=key(1), num=num)
    assert transition_p_value(counts, matrix) > P_LIMIT
    for mutant in (make(0.7), make(1.0, -1.0)):
        wrong = one_step_matrix(sampler, mutant, key=key(1), num=num)
        assert transition_p_value(wrong, matrix) < 1e-9


@pytest.mark.parametrize("case", CASES)
def test_exact_draws_stay_exact(case):
    sampler, make = CASES[case]
    exact = enumerated(make())
    x = exact.draw(100_000, seed=5).astype(make().space.dtype)
    assert exact.p_value(after_steps(sampler, make(), x, key=key(2), num_steps=5)) > P_LIMIT
    for mutant in (make(0.9), make(1.0, -1.0)):
        assert exact.p_value(after_steps(sampler, mutant, x, key=key(2), num_steps=5)) < 1e-9


@pytest.mark.parametrize("case", ["RBM", "Ising"])
def test_the_state_belongs_to_its_energy(case):
    """f(x) is kept along the run; a refresh recomputes all that is cached, for new parameters."""
    sampler, make = CASES[case]
    x = jnp.asarray(enumerated(make()).draw(50, seed=6), float)
    state, tuning = sampler.init(make(), x, key=key(3))
    state, _, trace = run(sampler, make(), state, tuning, key=key(4), num_steps=6, thin=2)
    np.testing.assert_allclose(state.log_density, batched(make(), state.x), atol=1e-5)
    np.testing.assert_allclose(trace.log_density[-1], state.log_density)
    assert np.all(trace.acceptance == 1) and not np.any(trace.num_divergent)
    changed = sampler.refresh(make(0.5, -1.0), state)
    if isinstance(changed, BipartiteState):
        expected = 0.5 * (HIDDEN - np.asarray(state.x) @ WEIGHT)
        np.testing.assert_allclose(changed.hidden_input, expected, atol=1e-5)
    np.testing.assert_allclose(changed.log_density, batched(make(0.5, -1.0), state.x), atol=1e-5)


def test_chains_in_words_have_their_own_spins_and_energies():
    """64 chains on a torus: f is theirs, pairs of chains are independent, other ends stay."""
    torus = Ising.grid((6, 4), 0.3, 0.2)
    x = 2.0 * jax.random.bernoulli(key(0), 0.5, (64, 6, 4)) - 1
    new, f = jax.jit(lambda x, k: torus.sweep(x, key=k))(x, key(1))
    np.testing.assert_allclose(f, batched(torus, new), rtol=1e-5)
    assert set(np.unique(new)) == {-1.0, 1.0}
    sweep = jax.jit(lambda x, k: torus.sweep(x, key=k)[0])
    means = []
    for i in range(300):
        x = sweep(x, key(10 + i))
        means.append(np.asarray(x).mean((1, 2)))
    correlation = np.corrcoef(np.array(means).T) - np.eye(64)
    assert np.abs(correlation).max() < 6 / np.sqrt(150)
    words = np.random.default_rng(0).integers(0, 2**32, (70, 2), dtype=np.uint32)
    found = np.asarray(graph.count_lanes(jnp.asarray(words))).reshape(2, 32)
    expected = (words.T[:, None] >> np.arange(32, dtype=np.uint32)[:, None] & 1).sum(-1)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("case", ["RBM", "Ising"])
def test_parameters_that_are_not_finite_are_reported(case):
    sampler, make = CASES[case]
    x = jnp.asarray(all_points(make().space), float)
    broken = make(np.nan)
    state = eqx.filter_jit(sampler.refresh)(broken, State(x, jnp.zeros(len(x))))
    _, info = eqx.filter_jit(sampler.step)(broken, state, None, key=key(4))
    assert np.all(info.divergent)


def test_neighbours_on_a_graph_keep_their_correlation():
    """Two spins, J = 0.5: E[s₀s₁] = tanh 0.5 = 0.462, where thrml 0.1.4 can be led to give 0.02."""
    pair = Ising([(0, 1)], 0.5, num_sites=2)
    x = after_steps(
        ColouredGibbs(), pair, np.ones((40_000, 2), np.float32), key=key(7), num_steps=8
    )
    equal = int((x[:, 0] == x[:, 1]).sum())
    share = (1 + np.tanh(0.5)) / 2
    assert chi_square([equal, len(x) - equal], [share, 1 - share]) > P_LIMIT


def test_energies_without_the_structure_are_refused():
    x = jnp.zeros((3, 4))
    for sampler, wrong, name in (
        (BlockGibbs(), ising(), "Ising"),
        (BlockGibbs(), Tempered(rbm(), 0.5), "Tempered"),
        (ColouredGibbs(), rbm(), "BernoulliRBM"),
        (ColouredGibbs(), Tempered(ising(), 0.5), "Tempered"),
    ):
        for call in (
            lambda s=sampler, e=wrong: s.init(e, x, key=key(0)),
            lambda s=sampler, e=wrong: s.refresh(e, State(x, jnp.zeros(3))),
        ):
            with pytest.raises(TypeError, match=f"got {name}. Use Metropolis"):
                call()


# Single sites of any energy

PAIRS = RNG.normal(0, 0.6, (9, 9))


def curved(factor, x):
    flat = jnp.asarray(x, float).reshape(-1)
    return factor * (flat @ PAIRS[: flat.size, : flat.size] @ flat + 0.4 * flat[0] - 0.7 * flat[1])


SPACES = [
    Binary((2, 2)),
    Spin(3),
    Categorical(2, 3),
    Categorical((2, 1), 4, "onehot"),
    Ordinal(2, 3),
]


def site_matrix(space, prob):
    """Liu's modified Gibbs sampler on a random site of n, or on none, one time in n + 1."""
    x = all_points(space).reshape(space.num_states, space.num_sites, -1)
    n = space.num_sites
    matrix = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        for j in range(len(x)):
            differ = np.flatnonzero((x[i] != x[j]).any(-1))
            if len(differ) == 1:
                others = np.delete(np.arange(n), differ[0])
                line = (x[:, others] == x[i][others]).all((1, 2))
                a, b = prob[i] / prob[line].sum(), prob[j] / prob[line].sum()
                matrix[i, j] = b / (1 - a) * min(1, (1 - a) / (1 - b)) / (n + 1)
    return matrix + np.diag(1 - matrix.sum(1))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_single_sites_have_the_enumerated_transition_probabilities(space):
    def make(factor):
        return from_log_density(curved, space, params=jnp.asarray(factor, float))

    matrix = site_matrix(space, enumerated(make(1.0)).prob)
    counts = one_step_matrix(SiteGibbs(), make(1.0), key=key(1), num=6_000)
    assert transition_p_value(counts, matrix) > P_LIMIT
    mutant = one_step_matrix(SiteGibbs(), make(0.7), key=key(1), num=6_000)
    assert transition_p_value(mutant, matrix) < 1e-9
    twice = one_step_matrix(SiteGibbs(num_updates=2), make(1.0), key=key(2), num=6_000)
    assert transition_p_value(twice, matrix @ matrix) > P_LIMIT


def test_single_sites_keep_out_of_walls_and_have_no_memory_of_odd_and_even():
    flat = from_log_density(lambda x: 0.0 * jnp.sum(x), Binary(3))
    x = after_steps(SiteGibbs(), flat, np.zeros((20_000, 3), np.float32), key=key(3), num_steps=40)
    assert enumerated(flat).p_value(x) > P_LIMIT
    walled = from_log_density(
        lambda x: jnp.where(x[0] + x[1] == 3, -jnp.inf, 0.3 * x[0] - 0.5 * x[2]), Ordinal(3, 3)
    )
    exact = enumerated(walled)
    x = exact.draw(20_000, seed=3).astype(np.float32)
    assert exact.p_value(after_steps(SiteGibbs(), walled, x, key=key(4), num_steps=9)) > P_LIMIT


def test_single_sites_need_few_values():
    counts = from_log_density(lambda x: -1.0 * jnp.sum(x), Count(3))
    with pytest.raises(TypeError, match="use Metropolis"):
        SiteGibbs().init(counts, jnp.zeros((2, 3), jnp.int32), key=key(0))
    with pytest.raises(ValueError, match="num_updates"):
        SiteGibbs(num_updates=0)
