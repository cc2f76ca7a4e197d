"""Sums over pairs of sites against enumeration, dense transfer matrices and published figures."""

import itertools
import time

import jax
import numpy as np
import pytest

import energax as ex
from energax.energies import ChowLiuTree, IndependentBernoulli, Ising, Potts, Tempered, frozen
from energax.partition.choose import default_method
from energax.partition.exact import Elimination, Enumeration, Kaufman, TransferMatrix
from energax.spaces import Binary, Categorical, Spin
from tests.exact import enumerated

KEY = ex.random.key(0)
RNG = np.random.default_rng(4)
CRITICAL = 0.4406867935


def value(method, energy):
    z = method.run(energy, key=KEY)
    assert z.reliable and z.std_err == 0, z.reasons
    return z.value


def torus(rows, columns, down, across):
    """Ising couplings `down` (rows, columns) from each site to the next row, `across` to the next
    column, both round the edge; numbers are the same everywhere. Sites in row-major order."""
    down, across = (np.broadcast_to(a, (rows, columns)) for a in (down, across))
    bonds = {}
    for i, j in np.ndindex(rows, columns):
        here = i * columns + j
        for other, coupling in (
            ((i + 1) % rows * columns + j, down[i, j]),
            (i * columns + (j + 1) % columns, across[i, j]),
        ):
            pair = (min(here, other), max(here, other))
            bonds[pair] = bonds.get(pair, 0.0) + coupling
    return np.array(list(bonds)), np.array(list(bonds.values()))


def on_torus(rows, columns, down, across, fields=0.0):
    with jax.enable_x64(True):
        edges, couplings = torus(rows, columns, down, across)
        return Ising(edges, couplings, fields, space=Spin((rows, columns)))


def dense(rows, columns, down, across, fields):
    """log Z of the same torus by 2^columns × 2^columns matrices, one a row."""
    down, across = (np.broadcast_to(a, (rows, columns)) for a in (down, across))
    fields = np.broadcast_to(fields, (rows, columns))
    spins = np.array(list(itertools.product([-1, 1], repeat=columns)))
    total, log_scale = np.eye(len(spins)), 0.0
    for i in range(rows):
        within = (spins * np.roll(spins, -1, 1)) @ across[i] + spins @ fields[i]
        total = total @ np.exp(within[:, None] + (spins * down[i]) @ spins.T)
        top = np.abs(total).max()
        total, log_scale = total / top, log_scale + np.log(top)
    return np.log(np.trace(total)) + log_scale


# Any graph ---------------------------------------------------------------------------------------


def random_ising(num_sites=11, num_edges=22):
    pairs = np.array(list(itertools.combinations(range(num_sites), 2)))
    edges = pairs[RNG.choice(len(pairs), num_edges, replace=False)]
    edges = np.where(RNG.random((num_edges, 1)) < 0.5, edges, edges[:, ::-1])
    return Ising(
        edges, RNG.normal(0, 1, num_edges), RNG.normal(0.3, 1, num_sites), num_sites=num_sites
    )


def random_potts():
    pairs = np.array(list(itertools.combinations(range(7), 2)))
    edges = pairs[RNG.choice(len(pairs), 12, replace=False)]
    space = Categorical((7,), 3, "onehot")
    return Potts(edges, RNG.normal(0, 1, 12), RNG.normal(0.3, 1, (7, 3)), space=space)


def bits():
    rows = (RNG.random((60, 9)) < RNG.random(9)).astype(float)
    return ChowLiuTree.fit(rows)


PAIRWISE = {
    "ising": random_ising,
    "potts": random_potts,
    "tempered": lambda: Tempered(random_ising(), 0.37),
    "infinite temperature": lambda: Tempered(random_ising(), 0.0),
    "product": lambda: random_ising() + Tempered(frozen(random_ising()), -0.4),
    "tree times sites": lambda: (
        bits() + IndependentBernoulli(Binary((9,)), RNG.normal(0, 1, 9)) + Tempered(bits(), 0.7)
    ),
    "some held": lambda: random_ising().condition(
        x=[np.nan, 1, np.nan, np.nan, -1, np.nan, -1, np.nan, np.nan, np.nan, 1]
    ),
    "some of Potts held": lambda: Tempered(
        random_potts().condition(x=np.where(np.arange(7)[:, None] % 3, np.nan, [[0, 1, 0]])), 1.3
    ),
    "path": lambda: (
        random_ising().path(IndependentBernoulli(Spin((11,)), RNG.normal(0, 1, 11))).at(0.3)
    ),
    "no edges": lambda: Ising([], 1.0, RNG.normal(0, 1, 9), num_sites=9),
    "grid": lambda: Ising.grid((3, 4), 0.4, RNG.normal(0, 1, (3, 4))),
}


@pytest.mark.parametrize("name", PAIRWISE)
def test_elimination_and_enumeration_agree_with_a_plain_sum(name):
    energy = PAIRWISE[name]()
    truth = enumerated(energy).log_z
    assert value(Elimination(), energy) == pytest.approx(truth, abs=1e-6)
    assert value(Enumeration(), energy) == pytest.approx(truth, abs=1e-6)
    assert value(Enumeration(chunk_size=8), energy) == pytest.approx(truth, abs=1e-6)


def test_a_wrong_bond_would_show():
    """A lost, turned or doubled bond changes log Z by a thousand times the tolerance above."""
    energy = random_ising()
    truth = enumerated(energy).log_z
    edges, couplings = np.asarray(energy.edges), np.asarray(energy.couplings)
    for e in range(len(edges)):
        for factor in (0.0, -1.0, 2.0):
            wrong = np.where(np.arange(len(edges)) == e, factor * couplings, couplings)
            mutant = Ising(edges, wrong, energy.fields, num_sites=11)
            assert abs(value(Elimination(), mutant) - truth) > 1e-3 * abs(couplings[e])


def test_a_long_chain_is_a_product_of_matrices():
    n = 1000
    couplings, fields = RNG.normal(0, 1, n), RNG.normal(0.2, 1, n)
    ring = Ising([(i, (i + 1) % n) for i in range(n)], couplings, fields, num_sites=n)
    couplings, fields = (np.asarray(a, np.float64) for a in (ring.couplings, ring.fields))
    total, log_scale, s = np.eye(2), 0.0, np.array([-1, 1])
    for i in range(n):
        total = total @ np.exp(fields[i] * s[:, None] + couplings[i] * np.outer(s, s))
        top = total.max()
        total, log_scale = total / top, log_scale + np.log(top)
    truth = np.log(np.trace(total)) + log_scale
    assert isinstance(default_method(ring), Elimination)
    start = time.perf_counter()
    assert value(Elimination(), ring) == pytest.approx(truth, abs=1e-8)
    assert time.perf_counter() - start < 20  # 0.3 s, on a machine of its own


def test_tables_hold_what_floats_cannot():
    """Weights of e^±900 that only together make up the sum, and states that are forbidden."""
    edges = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)]
    couplings, fields = [900.0, -900.0, 900.0, 850.0, -3.0], [-500.0, 700.0, 1.0, -0.5]
    energy = Ising(edges, couplings, fields, num_sites=4)
    assert value(Elimination(), energy) == pytest.approx(enumerated(energy).log_z, rel=1e-6)
    space = Categorical((3,), 3)
    walls = np.where(np.eye(3) > 0, -np.inf, RNG.normal(0, 1, (3, 3)))
    fenced = ex.energies.IndependentCategorical(space, RNG.normal(0, 1, (3, 3)))
    potts = Potts([(0, 1), (1, 2)], [0.7, -0.4], walls, space=space)
    energy = potts + fenced
    truth = enumerated(energy).log_z
    assert value(Elimination(), energy) == pytest.approx(truth, abs=1e-6)
    assert value(Enumeration(), energy) == pytest.approx(truth, abs=1e-5)


def test_parameters_that_are_no_numbers_are_told():
    with pytest.warns(ex.UnreliableResult):
        z = ex.log_z(Ising([(0, 1)], np.nan, num_sites=3), key=KEY, method="elimination")
    assert not z.reliable and z.reasons


# Lattices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (4, 3), (2, 5), (5, 2), (2, 2), (6, 6)])
def test_transfer_matrix_and_elimination_on_a_torus_of_any_couplings(rows, columns):
    down, across = RNG.normal(0, 0.7, (2, rows, columns))
    fields = RNG.normal(0.2, 0.5, (rows, columns))
    truth = dense(rows, columns, down, across, fields)
    energy = on_torus(rows, columns, down, across, fields)
    flat = Ising(energy.edges, energy.couplings, energy.fields, num_sites=rows * columns)
    assert value(TransferMatrix(), energy) == pytest.approx(truth, abs=2e-5)
    assert value(Elimination(), energy) == pytest.approx(truth, abs=2e-5)
    if min(rows, columns) > 2:  # else a ring or a ladder, no lattice of its own
        assert value(TransferMatrix(), flat) == pytest.approx(truth, abs=2e-5)
    with jax.enable_x64(True):
        lost = Ising(energy.edges[:-1], energy.couplings[:-1], fields, space=energy.space)
    assert abs(value(TransferMatrix(), lost) - truth) > 1e-4  # a bond that closes the torus


@pytest.mark.parametrize("sizes", [(7, 5, "open"), (7, 5, "cylinder")])
def test_open_lattices_and_cylinders(sizes):
    rows, columns, kind = sizes
    down, across = RNG.normal(0, 0.7, (2, rows, columns))
    down[-1] = 0
    if kind == "open":
        across[:, -1] = 0
    fields = RNG.normal(0.2, 0.5, (rows, columns))
    truth = dense(rows, columns, down, across, fields)
    assert value(TransferMatrix(), on_torus(rows, columns, down, across, fields)) == pytest.approx(
        truth, abs=2e-5
    )
    turned = on_torus(columns, rows, across.T, down.T, fields.T)
    assert value(TransferMatrix(), turned) == pytest.approx(truth, abs=2e-5)


def test_potts_lattices_and_three_dimensions():
    potts = Potts.grid((3, 3), 3, 0.8, RNG.normal(0, 1, (3, 3, 3)))
    assert value(TransferMatrix(), potts) == pytest.approx(enumerated(potts).log_z, abs=1e-5)
    cube = Ising.grid((2, 3, 2), 0.3, RNG.normal(0, 1, (2, 3, 2)))
    assert value(TransferMatrix(), cube) == pytest.approx(enumerated(cube).log_z, abs=1e-5)


def test_width_16_open_or_a_cylinder_and_tori_to_width_10_fit():
    edges, couplings = torus(40, 16, 0.4, -0.3)
    open_ends = np.abs(edges[:, 0] - edges[:, 1]) != 39 * 16
    cylinder = Ising(edges[open_ends], couplings[open_ends], 0.1, space=Spin((40, 16)))
    assert TransferMatrix().quote(cylinder).fits
    assert TransferMatrix().quote(Ising.grid((16, 40), 0.4, 0.1, periodic=False)).fits
    assert TransferMatrix().quote(Ising.grid((10, 10), 0.4, 0.1)).fits
    assert not TransferMatrix().quote(Ising.grid((24, 24), 0.4, 0.1)).fits


# Kaufman's formula -------------------------------------------------------------------------------

KNOWN = {4: 15.52191546, 8: 60.14178079, 16: 238.64225664, 32: 952.64807955}


@pytest.mark.parametrize("side", KNOWN)
def test_the_critical_torus_has_its_known_log_z(side):
    energy = on_torus(side, side, CRITICAL, CRITICAL)
    assert isinstance(default_method(energy), Kaufman)
    assert value(Kaufman(), energy) == pytest.approx(KNOWN[side], abs=5e-8)
    flat = Ising(energy.edges, energy.couplings, num_sites=side**2)
    assert value(Kaufman(), flat) == pytest.approx(KNOWN[side], abs=1e-4)
    if side <= 8:
        assert value(TransferMatrix(), energy) == pytest.approx(KNOWN[side], abs=5e-8)
        assert value(Elimination(), energy) == pytest.approx(KNOWN[side], abs=5e-8)


@pytest.mark.parametrize("sides", [(2, 2), (2, 3), (3, 2), (3, 4), (4, 3), (4, 4)])
@pytest.mark.parametrize("couplings", [(0.7, 0.2), (0.2, 0.7), (-0.3, 0.5), (0.4, -1.1), (-2, -3)])
def test_kaufman_at_any_couplings_and_signs(sides, couplings):
    energy = on_torus(*sides, *couplings)
    frustrated = any(c < 0 and side % 2 for side, c in zip(sides, couplings, strict=True))
    assert Kaufman().quote(energy).fits is not frustrated
    truth = dense(*sides, *couplings, 0.0)
    method = Kaufman() if not frustrated else TransferMatrix()
    assert value(method, energy) == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize("couplings", [(0.05, 0.03), (0.6, 0.4), (-0.45, 0.43), (3.0, 0.01)])
def test_kaufman_against_matrices_of_middle_size(couplings):
    assert value(Kaufman(), on_torus(6, 9, *couplings)) == pytest.approx(
        dense(6, 9, *couplings, 0.0), abs=1e-9
    )


def test_kaufman_at_the_ends_of_its_range():
    ring = 40 * np.log(2 * np.cosh(0.6)) + np.log1p(np.tanh(0.6) ** 40)
    for k, k_across in ((0.6, 0.0), (0.0, 0.6)):  # rings that do not see each other
        sides = (40, 30) if k else (30, 40)
        assert value(Kaufman(), on_torus(*sides, k, k_across)) == pytest.approx(30 * ring, abs=1e-8)
    assert value(Kaufman(), on_torus(30, 40, 0.0, 0.0)) == pytest.approx(1200 * np.log(2))
    frozen_solid = value(Kaufman(), on_torus(30, 40, 600.0, 500.0))  # two states, all bonds alike
    assert frozen_solid == pytest.approx(1200 * 1100 + np.log(2), rel=1e-14)
    small = 1200 * (np.log(2) + 2 * np.log(np.cosh(1e-4)))
    assert value(Kaufman(), on_torus(30, 40, 1e-4, 1e-4)) == pytest.approx(small, abs=1e-9)


def test_kaufman_takes_nothing_that_is_not_a_uniform_torus():
    edges, couplings = torus(4, 5, 0.3, 0.2)
    space = Spin((4, 5))

    def fits(edges, couplings, fields=0.0, space=space):
        return Kaufman().quote(Ising(edges, couplings, fields, space=space)).fits

    assert fits(edges, couplings)
    assert not fits(edges[1:], couplings[1:])  # an open bond
    assert not fits(edges, np.where(np.arange(len(edges)) == 3, 0.31, couplings))
    assert not fits(edges, couplings, 1e-3)
    assert not fits(np.concatenate([edges, [[0, 7]]]), np.append(couplings, 0.3))
    assert not Kaufman().quote(Ising.grid((4, 5), 0.3, periodic=False)).fits
    assert not Kaufman().quote(Ising.grid((3, 3, 3), 0.3)).fits
    assert not Kaufman().quote(Potts.grid((4, 4), 3, 0.3)).fits
    two = Potts.grid((4, 4), 2, 0.8)
    assert value(Kaufman(), two) == pytest.approx(enumerated(two).log_z, abs=1e-5)
    hot = Tempered(Ising.grid((4, 4), 0.8), 0.3)
    assert value(Kaufman(), hot) == pytest.approx(enumerated(hot).log_z, abs=1e-5)


# Which one, and at what price --------------------------------------------------------------------


def test_the_cheapest_exact_method_is_taken():
    field = RNG.normal(0, 1, (8, 9))
    assert isinstance(default_method(Ising.grid((60, 60), 0.4)), Kaufman)
    assert isinstance(default_method(Ising.grid((8, 9), 0.4, field)), TransferMatrix | Elimination)
    dense_graph = np.array(list(itertools.combinations(range(18), 2)))
    assert isinstance(default_method(Ising(dense_graph, 0.1, num_sites=18)), Enumeration)
    assert not isinstance(default_method(Ising.grid((8, 9), 0.4), method="estimate"), Kaufman)


def test_what_an_exact_answer_would_cost_is_told():
    lattice = Ising.grid((24, 24), 0.4, 0.1)
    with pytest.raises(ValueError, match="no exact method fits") as error:
        ex.log_z(lattice, key=KEY, method="exact")
    told = str(error.value)
    assert "transfer matrix: a table of 2^" in told and "elimination: a table of 2^" in told
    assert "2.47e+173 states (2^576)" in told
    with pytest.raises(ValueError, match=r"elimination: a table of 2\^"):
        ex.log_z(lattice, key=KEY, method="elimination")
    with pytest.raises(TypeError, match="Kaufman"):
        ex.log_z(lattice, key=KEY, method="kaufman")
    with pytest.raises(TypeError, match="not known as a sum over pairs"):
        ex.log_z(
            ex.from_log_density(lambda x: x.sum(), Binary((4,))), key=KEY, method="elimination"
        )


def test_prices_of_large_graphs_are_found_fast():
    pairs = np.sort(RNG.integers(0, 20_000, (30_000, 2)), axis=1)
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    random_graph = Ising(pairs, 0.1, num_sites=20_000)
    lattice = Ising.grid((150, 150), 0.4, 0.1)
    for energy in (random_graph, lattice):
        for method in (Elimination(), TransferMatrix()):
            start = time.perf_counter()
            assert not method.quote(energy).fits
            assert time.perf_counter() - start < 20  # 0.1 to 1 s, on a machine of its own


def test_time_that_ends_is_told():
    z = Elimination().run(Ising.grid((40, 8), 0.4, 0.1, periodic=False), key=KEY, max_seconds=1e-6)
    assert z.time_limited and not z.reliable and "sites left" in z.reasons[0]
    dense_graph = np.array(list(itertools.combinations(range(22), 2)))
    z = Enumeration().run(Ising(dense_graph, 0.1, num_sites=22), key=KEY, max_seconds=1e-6)
    assert z.time_limited and not z.reliable and "states" in z.reasons[0]


@pytest.mark.slow
def test_24_units_are_enumerated_in_seconds():
    pairs = np.array(list(itertools.combinations(range(24), 2)))
    couplings = RNG.normal(0, 0.3, len(pairs))
    energy = Ising(pairs, couplings, 0.1, num_sites=24)
    enumeration = Enumeration()
    start = time.process_time()
    total = value(enumeration, energy)
    assert time.process_time() - start < 10  # 1.3 CPU seconds, compilation included
    assert total == pytest.approx(value(Elimination(max_entries=2**25), energy), abs=1e-6)
