"""Cluster moves against enumerated transition matrices, exact starts, and Onsager's energies."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from scipy.sparse import csgraph

from energax.energies._base import Tempered, batched
from energax.energies.lattice import Ising, Potts
from energax.random import key
from energax.samplers._base import State, run
from energax.samplers.cluster import SwendsenWang, Wolff, connected_components
from energax.spaces import Categorical, Spin
from tests.exact import (
    P_LIMIT,
    after_steps,
    enumerated,
    one_step_matrix,
    transition_p_value,
)

EDGES = [(0, 1), (1, 2), (0, 2), (2, 3)]
COUPLINGS = np.array([0.8, -0.5, 0.4, 1.1])  # of both signs around a triangle
RNG = np.random.default_rng(2)
FIELDS, LEVELS = RNG.normal(0.2, 0.5, 4), RNG.normal(0.1, 0.6, (4, 3))


def ising(factor=1.0, sign=1.0):
    return Ising(EDGES, sign * factor * COUPLINGS, factor * FIELDS, space=Spin((2, 2)))


def potts(factor=1.0, sign=1.0):
    space = Categorical((2, 2), 3)
    return Potts(EDGES, sign * factor * COUPLINGS, factor * LEVELS, space=space)


def cluster_matrix(energy, single):
    """Σ over bonds of p(bonds | x) p(x' | bonds, x), every subset of edges and shift by itself."""
    exact = enumerated(energy)
    spins = isinstance(energy.space, Spin)
    x = exact.x.reshape(len(exact.prob), -1).astype(int)
    x = (x + 1) // 2 if spins else x
    k = 2 if spins else 3
    w = (2 if spins else 1) * np.asarray(energy.couplings, float)
    h = np.asarray(energy.fields, float)
    h = np.stack([-h, h], 1) if spins else h
    sites = x.shape[1]
    number = {tuple(row): i for i, row in enumerate(x.tolist())}
    matrix = np.zeros((len(x), len(x)))
    for i, row in enumerate(x):
        alike = np.array([row[a] == row[b] for a, b in EDGES])
        p = np.where(alike == (w > 0), 1 - np.exp(-abs(w)), 0.0)
        for bonds in itertools.product([0, 1], repeat=len(EDGES)):
            weight = np.prod(np.where(bonds, p, 1 - p))
            if weight == 0:
                continue
            joined = [edge for edge, bond in zip(EDGES, bonds, strict=True) if bond]
            graph = np.zeros((sites, sites))
            for a, b in joined:
                graph[a, b] = 1
            num, labels = csgraph.connected_components(sparse.csr_matrix(graph), directed=False)

            def gain(c, r, labels=labels, row=row):
                members = np.flatnonzero(labels == c)
                return h[members, (row[members] + r) % k].sum() - h[members, row[members]].sum()

            if single:
                matrix[i, i] += weight / (sites + 1)
                for site, r in itertools.product(range(sites), range(1, k)):
                    share = weight / (sites + 1) / (k - 1)
                    accept = min(1.0, np.exp(gain(labels[site], r)))
                    to = np.where(labels == labels[site], (row + r) % k, row)
                    matrix[i, number[tuple(to.tolist())]] += share * accept
                    matrix[i, i] += share * (1 - accept)
                continue
            q = np.exp([[gain(c, r) for r in range(k)] for c in range(num)])
            q /= q.sum(1, keepdims=True)
            for shifts in itertools.product(range(k), repeat=num):
                to = (row + np.array(shifts)[labels]) % k
                matrix[i, number[tuple(to.tolist())]] += weight * q[np.arange(num), shifts].prod()
    return matrix


@pytest.mark.parametrize("sampler", [SwendsenWang(), Wolff()], ids=["SwendsenWang", "Wolff"])
@pytest.mark.parametrize("make", [ising, potts])
def test_one_step_has_the_enumerated_transition_probabilities(sampler, make):
    matrix = cluster_matrix(make(), isinstance(sampler, Wolff))
    prob = enumerated(make()).prob
    np.testing.assert_allclose(prob @ matrix, prob, atol=1e-6)
    num = 130_000 // len(matrix)
    counts = one_step_matrix(sampler, make(), key=key(1), num=num)
    assert transition_p_value(counts, matrix) > P_LIMIT
    for mutant in (make(0.7), make(1.0, -1.0)):
        wrong = one_step_matrix(sampler, mutant, key=key(1), num=num)
        assert transition_p_value(wrong, matrix) < 1e-9


@pytest.mark.parametrize("sampler", [SwendsenWang(), Wolff()], ids=["SwendsenWang", "Wolff"])
def test_exact_draws_stay_exact_and_mutants_do_not(sampler):
    exact = enumerated(ising())
    x = exact.draw(100_000, seed=5).astype(np.float32)

    def p_value(energy):
        return exact.p_value(after_steps(sampler, energy, x, key=key(2), num_steps=6))

    assert p_value(ising()) > P_LIMIT
    assert p_value(ising(0.9)) < 1e-9
    assert p_value(Ising(EDGES, COUPLINGS / 2, FIELDS, space=Spin((2, 2)))) < 1e-9  # 1 − e^{−J}
    assert p_value(Ising(EDGES, COUPLINGS, 0.0, space=Spin((2, 2)))) < 1e-9  # fields forgotten


def test_components_are_those_of_the_graph():
    """Random bonds on a torus near the percolation threshold, long paths, beside SciPy's."""
    model = Ising.grid((12, 12), 1.0)
    first, second = model.edges[:, 0], model.edges[:, 1]
    chains = 20
    bonds = np.random.default_rng(3).random((len(first), chains)) < np.linspace(0.2, 0.8, chains)
    labels = np.asarray(
        jax.jit(connected_components, static_argnums=3)(
            jnp.asarray(bonds), first, second, (144, chains)
        )
    )
    for c in range(chains):
        ends = np.asarray(model.edges)[bonds[:, c]]
        graph = sparse.csr_matrix((np.ones(len(ends)), ends.T), shape=(144, 144))
        num, expected = csgraph.connected_components(graph, directed=False)
        assert (labels[:, c] % chains == c).all()
        assert len(set(zip(labels[:, c].tolist(), expected.tolist(), strict=True))) == num
        assert len(set(labels[:, c].tolist())) == num
        named = labels[:, c] // chains
        assert (expected[named] == expected).all()  # each label is a site of its cluster


# Onsager 1944 (energy per spin in units of J) and Yang 1952 (magnetisation), infinite lattice; on
# 64×64 they differ by less than the errors here, as the correlation length is at most 6.
ENERGY = {0.2: -0.42822883, 0.4: -1.10607920, 0.5: -1.74556458}
MAGNETISATION = 0.91131938
START = 2.0 * jax.random.bernoulli(key(0), 0.5, (16, 64, 64)) - 1


@pytest.mark.parametrize("sampler", [SwendsenWang(), Wolff()], ids=["SwendsenWang", "Wolff"])
def test_the_exact_energies_of_the_square_lattice(sampler):
    chains = 16
    for coupling, energy in ENERGY.items():
        if isinstance(sampler, Wolff) and coupling < 0.5:
            continue  # its clusters are small there, and 4096 sites need many of them
        model = Ising.grid((64, 64), coupling)
        x = jnp.ones((chains, 64, 64)) if coupling == 0.5 else START
        state, tuning = sampler.init(model, x, key=key(1))
        state, _, _ = run(sampler, model, state, tuning, key=key(2), num_steps=60, keep=False)
        state, _, trace = run(sampler, model, state, tuning, key=key(3), num_steps=200, thin=4)
        per_chain = -np.asarray(trace.log_density, float).mean(0) / (coupling * 64**2)
        error = per_chain.std(ddof=1) / np.sqrt(chains)  # t of 15 degrees: 7.5 is p = 2e-6
        assert error < 0.004 and abs(per_chain.mean() - energy) < 7.5 * error + 2e-5
        if coupling == 0.5:
            size = abs(np.asarray(trace.x, float).mean((2, 3))).mean(0)
            error = size.std(ddof=1) / np.sqrt(chains)
            assert error < 0.002 and abs(size.mean() - MAGNETISATION) < 7.5 * error + 1e-5


def test_the_state_belongs_to_its_energy_and_others_are_refused():
    x = jnp.asarray(enumerated(potts()).draw(30, seed=1), jnp.int32)
    state, _ = SwendsenWang().init(potts(), x, key=key(0))
    state, info = SwendsenWang().step(potts(), state, None, key=key(1))
    np.testing.assert_allclose(state.log_density, batched(potts(), state.x), atol=1e-5)
    assert not np.any(info.divergent)
    for sampler in (SwendsenWang(), Wolff()):
        with pytest.raises(TypeError, match=r"got Tempered\. Use Metropolis"):
            sampler.init(Tempered(ising(), 0.5), jnp.ones((3, 2, 2)), key=key(0))
        with pytest.raises(TypeError, match="AbstractBondEnergy"):
            sampler.refresh(Tempered(ising(), 0.5), State(jnp.ones((3, 2, 2)), jnp.zeros(3)))


def test_the_model_of_two_values_is_recovered_by_any_encoding():
    """One-hot Potts with w > 0 only: the stationary law of many steps from one point."""
    model = Potts(EDGES, abs(COUPLINGS), LEVELS, space=Categorical(4, 3, "onehot"))
    start = np.repeat(np.asarray(model.space.example())[None], 30_000, 0)
    after = after_steps(SwendsenWang(), model, start, key=key(4), num_steps=25)
    assert enumerated(model).p_value(after) > P_LIMIT
