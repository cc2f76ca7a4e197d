"""Ising models against enumeration in NumPy; colourings, and the mistakes they refuse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax.energies._base import GeometricPath, Product, Tempered, batched
from energax.energies.lattice import Ising, PairwisePath, Potts
from energax.energies.lattice import _base as lattice
from energax.energies.lattice._base import colouring
from energax.energies.reference import IndependentBernoulli
from energax.random import key
from energax.spaces import Binary, Categorical, Spin
from tests.exact import P_LIMIT, all_points, enumerated, finite_difference

RNG = np.random.default_rng(8)
# Two triangles that share a site, a pendant site and an isolated one: three colours, no pattern.
EDGES = np.array([(0, 1), (1, 2), (2, 0), (2, 3), (4, 3), (2, 4), (4, 5)])
COUPLINGS = RNG.normal(0.2, 0.6, len(EDGES))
FIELDS = RNG.normal(-0.3, 0.5, 7)
S = np.array(np.meshgrid(*[[-1.0, 1.0]] * 7, indexing="ij")).reshape(7, -1).T
BASE = IndependentBernoulli(Spin(7), [0.6, -1.0, 0.3, 1.4, -0.2, -0.7, 0.9])


def energies(edges, couplings, fields, s):
    """E of each row of s, by the formula."""
    pairs = sum(j * s[:, a] * s[:, b] for (a, b), j in zip(edges, couplings, strict=True))
    return -(s @ fields) - pairs


def ising(**arguments):
    return Ising(EDGES, COUPLINGS, FIELDS, num_sites=7, **arguments)


def test_energy_and_its_gradients():
    model = ising()
    np.testing.assert_allclose(
        -batched(model, jnp.asarray(S, float)), energies(EDGES, COUPLINGS, FIELDS, S), atol=1e-5
    )
    point = jnp.asarray(S[37], float)

    def energy(parameters):
        return eqx.tree_at(lambda e: (e.couplings, e.fields), model, parameters)(point)

    parameters = model.couplings, model.fields
    expected = finite_difference(energy, parameters)
    for a, b in zip(jax.grad(energy)(parameters), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("unrolled", [16, 0], ids=["row by row", "many neighbours"])
def test_log_odds_and_site_differences(unrolled, monkeypatch):
    monkeypatch.setattr(lattice, "UNROLLED", unrolled)
    model = ising()
    found = np.asarray(jax.jit(jax.vmap(model.site_differences))(jnp.asarray(S, float)))
    rows = jnp.asarray(S.T, float)  # sites first
    for colour, members in enumerate(model.colours):
        odds = np.asarray(model.log_odds(rows, colour))
        assert odds.shape == (len(members), len(S))
        for site, row in zip(np.asarray(members), odds, strict=True):
            flipped, up, down = S.copy(), S.copy(), S.copy()
            flipped[:, site] *= -1
            up[:, site], down[:, site] = 1, -1
            e = [energies(EDGES, COUPLINGS, FIELDS, s) for s in (flipped, S, down, up)]
            np.testing.assert_allclose(found[:, site], e[0] - e[1], atol=1e-5)
            np.testing.assert_allclose(row, e[2] - e[3], atol=1e-5)


def test_the_critical_torus_has_its_known_log_z():
    """4×4 periodic at the critical K = log(1 + √2)/2, by Kaufman 1949: 15.52191546."""
    model = Ising.grid((4, 4), 0.4406867935)
    assert model.edges.shape == (32, 2) and len(model.colours) == 2
    assert abs(enumerated(model).log_z - 15.52191546) < 1e-6


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3), (5,), (1, 4), (2, 2, 3)])
def test_grids_join_each_site_to_the_next_along_every_axis(shape, periodic):
    fields = RNG.normal(0.2, 0.5, shape)
    model = Ising.grid(shape, 0.7, fields, periodic=periodic)
    s = all_points(Spin(shape))[::7]
    expected = -(s * fields).reshape(len(s), -1).sum(1)
    for axis in range(1, len(shape) + 1):
        products = s * np.roll(s, -1, axis)
        if not periodic:
            products = np.delete(products, -1, axis)
        if shape[axis - 1] > 1:
            expected -= 0.7 * products.reshape(len(s), -1).sum(1)
    np.testing.assert_allclose(-batched(model, jnp.asarray(s, float)), expected, atol=1e-5)


def test_tilt_is_the_posterior_under_flips():
    seen, rate = S[77], 0.15
    posterior = enumerated(ising().tilt(seen * np.log((1 - rate) / rate) / 2))
    points = all_points(Spin(7))
    flips = (points != seen).sum(1)
    expected = enumerated(ising()).prob * rate**flips * (1 - rate) ** (7 - flips)
    np.testing.assert_allclose(posterior.prob, expected / expected.sum(), rtol=1e-4)


# The path


def test_path_is_made_of_ising_models():
    path = ising().path(BASE)
    assert isinstance(path, PairwisePath) and isinstance(path.at(0.4), Ising)
    start = enumerated(path.at(0.0))
    assert abs(start.log_z - float(path.log_z0)) < 1e-5
    np.testing.assert_allclose(start.prob, enumerated(BASE).prob, rtol=1e-5)
    assert start.p_value(np.asarray(path.draw(20_000, key=key(2)))) > P_LIMIT
    increments = jax.jit(jax.vmap(path.increment, (0, None, None)))
    betas, x = [0.0, 0.4, 1.0], all_points(Spin(7))
    f = [enumerated(path.at(beta)).log_density for beta in betas]
    for i, j in ((0, 1), (1, 2), (2, 0)):
        found = increments(jnp.asarray(x, float), betas[i], betas[j])
        np.testing.assert_allclose(found, f[j] - f[i], atol=1e-5)
    np.testing.assert_allclose(f[2], -energies(EDGES, COUPLINGS, FIELDS, x), atol=1e-5)


def test_other_bases_get_the_geometric_path():
    assert isinstance(ising().path(IndependentBernoulli(Binary(7), 0.3)), GeometricPath)


# Colours


def is_proper(model):
    colour = np.full(model.space.num_sites, -1)
    for number, group in enumerate(model.colours):
        assert (colour[np.asarray(group)] == -1).all()
        colour[np.asarray(group)] = number
    ends = np.asarray(model.edges)
    return (colour >= 0).all() and (colour[ends[:, 0]] != colour[ends[:, 1]]).all()


def test_few_colours_are_found():
    complete = [(i, j) for i in range(6) for j in range(i)]
    ring = [(i, (i + 1) % 9) for i in range(9)]  # odd: not bipartite
    wheel = [*ring, *((9, i) for i in range(9))]
    star = [(0, i) for i in range(1, 40)]
    random = np.argwhere(np.triu(RNG.random((60, 60)) < 0.1, 1))
    for edges, num_sites, wanted in (
        (complete, 6, 6), (ring, 9, 3), (wheel, 10, 4), (star, 40, 2), (EDGES, 7, 3), ([], 5, 1)
    ):  # fmt: skip
        model = Ising(edges, 0.3, num_sites=num_sites)
        assert is_proper(model) and len(model.colours) == wanted
    assert is_proper(Ising(random, 0.3, num_sites=60))
    assert len(Ising(random, 0.3, num_sites=60).colours) <= 6
    assert len(Ising.grid((5, 5), 0.3).colours) == 3  # an odd torus
    # A hub's many neighbours are listed for the hub alone.
    assert [n.shape for n in Ising(star, 0.3, num_sites=40).neighbours] == [(1, 39), (39, 1)]


def test_large_graphs_are_coloured_sites_of_most_neighbours_first(monkeypatch):
    monkeypatch.setattr(colouring, "_EASY", 0)
    complete = [(i, j) for i in range(6) for j in range(i)]
    wheel = [*((i, (i + 1) % 9) for i in range(9)), *((9, i) for i in range(9))]
    random = np.argwhere(np.triu(np.random.default_rng(5).random((200, 200)) < 0.04, 1))
    for edges, num_sites, most in ((complete, 6, 6), (wheel, 10, 4), (random, 200, 8)):
        model = Ising(edges, 0.3, num_sites=num_sites)
        assert is_proper(model) and len(model.colours) <= most
    assert len(Ising.grid((6, 6), 0.3).colours) == 2  # two colours are found as before


def test_groups_are_split_where_that_saves_padding(monkeypatch):
    degree = np.array([3, 90, 2, 3, 80, 1, 2, 3])
    group = np.arange(8)
    assert len(colouring.split_by_degree(group, degree)) == 1  # a cut would save 522 places
    monkeypatch.setattr(colouring, "_WASTE", 100)
    parts = colouring.split_by_degree(group, degree)
    assert [part.tolist() for part in parts] == [[0, 2, 3, 5, 6, 7], [1, 4]]
    assert [part.tolist() for part in colouring.split_by_degree(group[:0], degree)] == [[]]


def test_a_large_graph_with_hubs_takes_memory_for_its_edges_alone():
    rng = np.random.default_rng(3)
    num_sites, num_hubs = 40_000, 5
    ring = np.arange(num_hubs, num_sites)
    edges = np.concatenate(
        [
            np.stack([ring, np.roll(ring, -1)], 1),
            np.stack([rng.integers(num_hubs, size=len(ring)), ring], 1),
            rng.permuted(ring).reshape(-1, 5)[:, :2],
        ]
    )
    edges = np.unique(np.sort(edges, axis=1), axis=0)
    couplings, fields = rng.normal(0.2, 0.5, len(edges)), rng.normal(0.3, 0.5, num_sites)
    model = Ising(edges, couplings, fields, num_sites=num_sites)
    assert is_proper(model)
    assert len(model.colours) <= 12
    places = sum(rows.size for rows in model.neighbours)
    assert 2 * len(edges) <= places < 4 * len(edges)  # padded to its hubs it would be 600 times
    s = rng.choice([-1.0, 1.0], num_sites).astype(np.float32)
    around = np.array(fields)
    np.add.at(around, edges[:, 0], couplings * s[edges[:, 1]])
    np.add.at(around, edges[:, 1], couplings * s[edges[:, 0]])
    for colour, members in enumerate(model.colours):
        odds = np.asarray(model.log_odds(s, colour))
        np.testing.assert_allclose(odds, 2 * around[np.asarray(members)], rtol=1e-4, atol=1e-3)


def test_neighbours_in_one_colour_are_refused_by_name():
    """thrml 0.1.4 takes them: E[s₀s₁] = 0.02 where 0.46 is true, without a word."""
    with pytest.raises(ValueError, match="sites 0 and 1 are neighbours but share colour 0"):
        Ising([(0, 1)], 0.5, 0.1, num_sites=2, colours=[[0, 1]])
    with pytest.raises(ValueError, match="sites 4 and 3 are neighbours"):
        ising(colours=[[0, 5, 6], [1, 3, 4], [2]])
    assert is_proper(ising(colours=[[0, 5, 6], [1, 3], [2], [4]]))


@pytest.mark.parametrize("colours", [[[0, 3, 5], [1, 4], [2]], [[0, 3, 5, 6], [1, 4, 0], [2]]])
def test_colours_that_miss_or_repeat_a_site_are_refused(colours):
    with pytest.raises(ValueError, match="each site 0 to 6 exactly once"):
        ising(colours=colours)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([(0, 1), (2, 2)], r"edge 1, \(2, 2\), joins a site to itself"),
        ([(0, 1), (1, 2), (1, 0)], r"edge 2, \(1, 0\), is given before"),
        ([(0, 1), (1, 3)], r"edge 1, \(1, 3\), names a site out of range.* 0 to 2"),
        ([(-1, 1)], "out of range"),
        ([(0, 1, 2)], r"shape \(edges, 2\)"),
        ([(0.0, 1.0)], "dtype float64"),
    ],
)
def test_bad_edges_are_refused(edges, message):
    with pytest.raises(ValueError, match=message):
        Ising(edges, 0.5, num_sites=3)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"couplings \(one an edge\) of shape \(7,\)"):
        Ising(EDGES, COUPLINGS[:3], FIELDS, num_sites=7)
    with pytest.raises(ValueError, match=r"fields \(one a site\) of shape \(7,\)"):
        Ising(EDGES, COUPLINGS, FIELDS[:3], num_sites=7)
    for sizes in ({}, {"num_sites": 7, "space": Spin(7)}):
        with pytest.raises(ValueError, match="either num_sites= or space="):
            Ising(EDGES, COUPLINGS, FIELDS, **sizes)
    with pytest.raises(ValueError, match="ONE point"):
        ising().with_space(Spin(8))


# Potts: the same graph with three values a site

K = 3
LEVELS = RNG.normal(0.2, 0.7, (7, K))
X = np.array(np.meshgrid(*[range(K)] * 7, indexing="ij")).reshape(7, -1).T[::11]


def potts(encoding="index", factor=1.0, **arguments):
    space = Categorical(7, K, encoding)
    return Potts(EDGES, factor * COUPLINGS, factor * LEVELS, space=space, **arguments)


def potts_energies(x):
    pairs = sum(j * (x[:, a] == x[:, b]) for (a, b), j in zip(EDGES, COUPLINGS, strict=True))
    return -LEVELS[np.arange(7), x].sum(1) - pairs


@pytest.mark.parametrize("encoding", ["index", "onehot"])
@pytest.mark.parametrize("unrolled", [16, 0], ids=["row by row", "many neighbours"])
def test_potts_energy_and_one_site_differences(encoding, unrolled, monkeypatch):
    monkeypatch.setattr(lattice, "UNROLLED", unrolled)
    model = potts(encoding)
    points = model.space.encode(jnp.asarray(X))
    np.testing.assert_allclose(-batched(model, points), potts_energies(X), atol=1e-5)
    np.testing.assert_allclose(model.ensemble_log_density(points), -potts_energies(X), atol=1e-5)
    found = np.asarray(jax.jit(jax.vmap(model.site_differences))(points))
    assert found.shape == (len(X), 7, K)
    for site in range(7):
        for value in range(K):
            other = X.copy()
            other[:, site] = value
            expected = potts_energies(other) - potts_energies(X)
            np.testing.assert_allclose(found[:, site, value], expected, atol=1e-5)


def test_potts_gradients_are_its_differences_and_tilts_add_up():
    """f of one-hot rows is bilinear, so that a change of one site is what the gradient says."""
    model = potts("onehot")
    x = model.space.encode(jnp.asarray(X[5]))
    slope = jax.grad(model)(x)
    np.testing.assert_allclose(
        model.site_differences(x), slope - jnp.sum(slope * x, -1, keepdims=True), atol=1e-5
    )
    field = RNG.normal(0, 1, (7, K))
    change = model.tilt(field)(x) - model(x)
    assert float(change) == pytest.approx(-field[np.arange(7), X[5]].sum(), abs=1e-5)


def test_two_valued_potts_is_ising():
    two = Potts.grid((3, 4), 2, 1.4)
    spins = Ising.grid((3, 4), 0.7)
    s = all_points(Spin((3, 4)))[::17]
    x = jnp.asarray((s > 0).astype(np.int32))
    difference = np.asarray(batched(two, x)) - np.asarray(batched(spins, jnp.asarray(s, float)))
    np.testing.assert_allclose(difference, 0.7 * len(two.edges), atol=1e-4)


def test_potts_refuses_what_ising_does():
    with pytest.raises(ValueError, match="Potts: sites 4 and 3 are neighbours"):
        potts(colours=[[0, 5, 6], [1, 3, 4], [2]])
    with pytest.raises(ValueError, match=r"fields \(one a site and value\) of shape \(7, 3\)"):
        Potts(EDGES, 1.0, LEVELS[:, :2], space=Categorical(7, 3))
    with pytest.raises(TypeError, match="Categorical"):
        Potts(EDGES, 1.0, space=Spin(7))


def test_tempered_models_stay_of_their_kind():
    for model in (ising(), potts()):
        cold = model.tempered(0.37)
        assert type(cold) is type(model)
        np.testing.assert_allclose(
            enumerated(cold).log_density, 0.37 * enumerated(model).log_density, atol=1e-5
        )
    assert isinstance(Product(ising(), ising()).tempered(0.37), Tempered)
