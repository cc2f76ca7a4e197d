"""The mode against enumeration and dynamic programming in NumPy, and what may not be claimed."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import energax as ex
from energax.energies import Ising, Potts, Tempered
from energax.random import key
from energax.results import UnreliableResult
from energax.tasks.mode.cut import Spins, ferromagnetic_gauge, frustrated_loop, minimum_cut
from tests.exact import all_points, enumerated, log_density64

S12 = np.array(list(itertools.product([-1.0, 1.0], repeat=12)))


def graph(rng, num, share):
    """A random graph of `num` sites; some may stay alone."""
    return np.argwhere(np.triu(rng.random((num, num)) < share, 1))


def energies(edges, couplings, fields, s):
    """E of each row, by the formula."""
    pairs = sum(j * s[:, a] * s[:, b] for (a, b), j in zip(edges, couplings, strict=True))
    return -(s @ fields) - pairs


def balanced(rng, num=12, share=0.3, spread=0.0):
    """(edges, couplings, fields) without a frustrated loop, in a random gauge."""
    edges = graph(rng, num, share)
    gauge = rng.choice([-1.0, 1.0], num)
    size = rng.gamma(2.0, 0.4, len(edges)) * 10 ** rng.uniform(-spread, spread, len(edges))
    fields = rng.normal(0.15, 1.0, num) * 10 ** rng.uniform(-spread, spread, num)
    return edges, size * gauge[edges[:, 0]] * gauge[edges[:, 1]], fields


def cut(edges, couplings, fields):
    spins = Spins(edges, couplings, fields)
    gauge = ferromagnetic_gauge(spins)
    assert gauge is not None
    found = minimum_cut(spins.turned(gauge))
    return gauge * found.spins, found


@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_the_cut_is_the_lowest_of_all_states(spread):
    rng = np.random.default_rng(3)
    for _ in range(60):
        edges, couplings, fields = balanced(rng, share=rng.uniform(0.05, 0.6), spread=spread)
        e = energies(edges, couplings, fields, S12)
        s, found = cut(edges, couplings, fields)
        assert found.exact
        assert 0 <= found.gap <= 1e-15 * (np.abs(couplings).sum() + np.abs(fields).sum())
        np.testing.assert_array_equal(s, S12[e.argmin()])


def test_mutants_miss_it():
    """A wrong sign or a factor of 2 in fields or couplings finds other states."""
    rng = np.random.default_rng(4)
    missed = np.zeros(4)
    for _ in range(40):
        edges, couplings, fields = balanced(rng)
        e = energies(edges, couplings, fields, S12)
        for i, wrong in enumerate([
            (couplings, -fields), (couplings, 2 * fields), (2 * couplings, fields),
            (couplings, fields / 2),
        ]):  # fmt: skip
            s, _ = cut(edges, *wrong)
            missed[i] += np.any(s != S12[e.argmin()])
    assert np.all(missed >= 12), missed


def strip_minimum(right, down, fields):
    """min E of a grid (rows, columns) with free ends, column by column (Bellman 1957)."""
    rows, columns = fields.shape
    states = np.array(list(itertools.product([-1.0, 1.0], repeat=rows)))
    total = np.zeros(len(states))
    for c in range(columns):
        if c:
            link = (states * right[:, c - 1]) @ states.T  # [new, old]
            total = (total - link).min(1)
        total = total - states @ fields[:, c]
        total = total - (states[:, 1:] * states[:, :-1]) @ down[:, c]
    return total.min()


def strip(rng, rows, columns, signs=(1.0,)):
    """(edges, couplings, fields, right, down) of a grid with random couplings."""
    number = np.arange(rows * columns).reshape(rows, columns)
    right = rng.gamma(2.0, 0.3, (rows, columns - 1)) * rng.choice(signs, (rows, columns - 1))
    down = rng.gamma(2.0, 0.3, (rows - 1, columns)) * rng.choice(signs, (rows - 1, columns))
    edges = np.concatenate([
        np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], 1),
        np.stack([number[:-1].ravel(), number[1:].ravel()], 1),
    ])  # fmt: skip
    fields = rng.normal(0.1, 0.9, (rows, columns))
    return edges, np.concatenate([right.ravel(), down.ravel()]), fields, right, down


def test_large_lattices_agree_with_dynamic_programming():
    rng = np.random.default_rng(6)
    for rows, columns in ((7, 60), (3, 400)):
        edges, couplings, fields, right, down = strip(rng, rows, columns)
        s, found = cut(edges, couplings, fields.ravel())
        lowest = strip_minimum(right, down, fields)
        assert found.exact
        value = energies(edges, couplings, fields.ravel(), s[None])[0]
        assert value == pytest.approx(lowest, rel=1e-12)


def test_what_rounding_may_cost_is_told():
    """Couplings 10²⁰ apart do not fit 60 bits: the small ones are lost, and the gap says so."""
    edges = np.array([(0, 1), (1, 2), (2, 3)])
    found = minimum_cut(Spins(edges, np.array([1e20, 1.0, 1.0]), np.array([0.0, 1e20, -0.5, 0.2])))
    assert found.gap <= 4 and found.unique is None
    found = minimum_cut(Spins(edges[1:], np.array([1.0, 1.0]), np.array([0, 1e30, -0.5, 0.2])))
    assert found.gap == 0 and found.spins.tolist() == [-1, 1, 1, 1] and found.unique is False


def test_ties_are_told():
    ring = [(i, (i + 1) % 6) for i in range(6)]
    free = ex.mode(Ising(ring, -0.7, num_sites=6), key=key(0), method="minimum cut")
    assert free.exact and free.unique is False and free.energy == pytest.approx(-4.2, rel=1e-6)
    assert abs(np.diff(free.x)).min() == 2  # in turn up and down
    held = ex.mode(Ising(ring, -0.7, [0.1, 0, 0, 0, 0, 0], num_sites=6), key=key(0))
    assert held.method == "enumeration" and held.unique
    by_cut = ex.mode(
        Ising(ring, -0.7, [0.1, 0, 0, 0, 0, 0], num_sites=6), key=key(0), method="minimum cut"
    )
    np.testing.assert_array_equal(by_cut.x, [1, -1, 1, -1, 1, -1])
    np.testing.assert_array_equal(held.x, by_cut.x)
    assert by_cut.unique and by_cut.gap == 0
    assert not ex.mode(Ising(ring, 0.7, num_sites=6), key=key(0)).unique


def test_frustrated_loops_are_found_and_refused():
    triangle = [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 5), (5, 2)]
    model = Ising(triangle, [0.5, 0.4, -0.3, 0.2, -0.6, -0.3, 0.1], 0.2, num_sites=6)
    with pytest.raises(ValueError, match=r"frustrated.*loop of sites (0|1|2), (0|1|2), (0|1|2) "):
        ex.mode(model, key=key(0), method="minimum cut")
    assert ex.mode(model, key=key(0)).exact  # by enumeration
    rng = np.random.default_rng(8)
    for _ in range(40):
        edges = graph(rng, 14, 0.25)
        couplings = rng.normal(0.4, 0.7, len(edges))
        spins = Spins(edges, couplings, np.zeros(14))
        sign = {frozenset(e): np.sign(j) for e, j in zip(edges.tolist(), couplings, strict=True)}
        # Any assignment that satisfies every edge is a gauge; there is one or no other.
        s = np.array(list(itertools.product([-1.0, 1.0], repeat=13)))
        s = np.concatenate([np.ones((len(s), 1)), s], 1)
        satisfied = np.all(s[:, edges[:, 0]] * s[:, edges[:, 1]] * couplings > 0, axis=1)
        assert (ferromagnetic_gauge(spins) is not None) == satisfied.any()
        if not satisfied.any():
            loop = frustrated_loop(spins)
            links = [frozenset(pair) for pair in zip(loop, loop[1:] + loop[:1], strict=True)]
            assert len(set(loop)) == len(loop) >= 3
            assert np.prod([sign[link] for link in links]) == -1


def test_what_wrapping_makes_of_them():
    rng = np.random.default_rng(9)
    edges, couplings, fields = balanced(rng, 9, 0.4)
    model = Ising(edges, couplings, fields, num_sites=9)
    held = np.full(9, np.nan)
    held[[2, 5]] = [1, -1]
    tilted = rng.normal(0, 1, 9)
    wrapped = {
        "tempered": Tempered(model, 0.37),
        "held": model.condition(x=held),
        "times independent": model + ex.energies.IndependentBernoulli(ex.Spin(9), tilted),
        "potts": Potts(
            edges, abs(couplings), rng.normal(0, 0.5, (9, 2)), space=ex.Categorical(9, 2)
        ),
        "one-hot": Potts(
            edges, abs(couplings), rng.normal(0, 0.5, (9, 2)), space=ex.Categorical(9, 2, "onehot")
        ),
        "posterior": model.tilt(tilted),
    }
    for name, energy in wrapped.items():
        exact = enumerated(energy)
        found = ex.mode(energy, key=key(1), method="minimum cut")
        assert found.exact and found.reliable and found.gap < 1e-12, name
        np.testing.assert_array_equal(found.x, exact.x[exact.prob.argmax()], name)
        assert found.energy == pytest.approx(-exact.log_density.max(), abs=1e-5), name
        assert found.x.dtype == energy.space.dtype
        listed = ex.mode(energy, key=key(1))
        assert listed.method == "enumeration" and listed.exact
        np.testing.assert_array_equal(listed.x, found.x, name)


def test_the_default_cuts_where_states_are_too_many_to_list():
    rng = np.random.default_rng(2)
    fields = rng.normal(0.1, 1.0, (20, 20))
    model = Ising.grid((20, 20), 0.6, fields, periodic=False)
    found = ex.mode(model, key=key(0))
    assert found.method == "minimum cut" and found.exact and found.unique
    assert found.energy == pytest.approx(-float(model.log_density(found.x)), rel=1e-5)
    flips = np.asarray(model.site_differences(jnp.asarray(found.x)))
    assert flips.min() > 0


# Listing


def test_listing_on_every_finite_space():
    rng = np.random.default_rng(5)
    w = rng.normal(0, 1, (4, 3))
    spaces = {
        "binary": (ex.Binary((2, 3)), lambda x: jnp.sum(jnp.cumsum(x)) * 0.4 - 3.1 * x[0, 1]),
        "ordinal": (ex.Ordinal((2,), 5), lambda x: -0.4 * (x[0] - 3.2) ** 2 + 0.2 * x[0] - x[1]),
        "categorical": (
            ex.Categorical((2,), 3),
            lambda x: jnp.asarray(w, jnp.float32)[x[0] + x[1] * 0, x[1]],
        ),
        "walls": (
            ex.Binary((4,)),
            lambda x: jnp.where(jnp.sum(x) == 2, x @ jnp.array([0.1, 0.5, -0.2, 0.4]), -jnp.inf),
        ),
    }
    for name, (space, f) in spaces.items():
        energy = ex.from_log_density(f, space)
        points = all_points(space)
        values = log_density64(energy, points.astype(space.dtype))
        found = ex.mode(energy, key=key(0))
        assert found.exact and found.gap == 0 and found.num_evaluations == len(points), name
        np.testing.assert_array_equal(found.x, points[values.argmax()], name)
        assert found.energy == pytest.approx(-values.max(), abs=1e-6), name
    record = ex.from_log_density(
        lambda r: 0.9 * r["a"][0] * r["b"][1] - 0.5 * r["c"][0] * r["a"][0],
        ex.Record(a=ex.Spin((1,)), b=ex.Binary((2,)), c=ex.Ordinal((1,), 3)),
    )
    found = ex.mode(record, key=key(0))  # a = −1, c = 2, b₁ = 0: f = 1; b₀ is free
    assert found.energy == pytest.approx(-1.0) and found.unique is False
    assert found.x["a"].tolist() == [-1] and found.x["c"].tolist() == [2]


def test_nothing_to_find():
    with pytest.raises(ValueError, match="-inf at every state"):
        ex.mode(ex.from_log_density(lambda x: jnp.sum(x) - jnp.inf, ex.Binary(3)), key=key(0))
    with pytest.raises(ValueError, match="f = nan at state"):
        ex.mode(ex.from_log_density(lambda x: jnp.log(jnp.sum(x) - 1.0), ex.Binary(3)), key=key(0))


# Searches


def test_annealing_finds_a_frustrated_ground_state_and_does_not_boast():
    edges, couplings, fields, right, down = strip(np.random.default_rng(11), 6, 8, (-1.0, 1.0))
    lowest = strip_minimum(right, down, 0.2 * fields)
    model = Ising(edges, couplings, 0.2 * fields.ravel(), num_sites=48)
    with pytest.warns(UnreliableResult, match="annealing proves nothing"):
        found = ex.mode(model, key=key(3))
    assert found.method == "annealing" and not found.exact and not found.reliable
    assert found.gap == np.inf and found.unique is None and 0 < found.agreement < 1
    assert found.energy == pytest.approx(lowest, rel=1e-5)
    with pytest.warns(UnreliableResult):
        hasty = ex.mode(model, key=key(3), num_chains=2, num_sweeps=2)
    assert hasty.energy >= lowest - 1e-5
    assert hasty.num_evaluations < found.num_evaluations
    with pytest.warns(UnreliableResult):
        again = ex.mode(Tempered(model, 0.3), key=key(3), method="annealing", num_sweeps=300)
    assert again.energy == pytest.approx(0.3 * lowest, rel=1e-5)


@pytest.mark.filterwarnings("ignore::energax.results.UnreliableResult")
@pytest.mark.parametrize("name", ["rbm", "potts", "hopfield", "function", "ordinal", "held"])
def test_annealing_on_other_energies(name):
    rng = np.random.default_rng(12)
    edges, couplings, _ = balanced(rng, 9, 0.4)
    mixed = couplings * rng.choice([-1.0, 1.0], len(couplings))
    w = jnp.asarray(rng.normal(0, 1, (8, 8)), jnp.float32)
    held = np.full(9, np.nan)
    held[[2, 5]] = [1, -1]
    model = Ising(edges, mixed, rng.normal(0, 0.5, 9), num_sites=9)
    energy = {
        "rbm": ex.energies.BernoulliRBM(
            rng.normal(0, 1.5, (9, 4)), rng.normal(0, 1, 9), rng.normal(0, 1, 4)
        ),
        "potts": Potts(edges[:8], mixed[:8], rng.normal(0, 0.3, (9, 3)),
                       space=ex.Categorical(9, 3)),
        "hopfield": ex.energies.Hopfield(
            rng.choice([-1, 1], (2, 10)), rng.normal(0.1, 0.1, 10)
        ),
        "function": ex.from_log_density(lambda x: x @ w @ x, ex.Binary(8)),
        "ordinal": ex.from_log_density(
            lambda x: -0.3 * jnp.sum((x - 2.2) ** 2) + 0.4 * x[0] * x[1], ex.Ordinal((4,), 6)
        ),
        "held": model.condition(x=held),
    }[name]  # fmt: skip
    exact = ex.mode(energy, key=key(1), method="enumeration")
    found = ex.mode(energy, key=key(2), method="annealing", num_sweeps=200)
    assert exact.exact and not found.exact
    assert found.energy == pytest.approx(exact.energy, rel=1e-5, abs=1e-5)
    np.testing.assert_array_equal(found.x, exact.x)


@pytest.mark.filterwarnings("ignore::energax.results.UnreliableResult")
def test_annealing_on_counts_and_from_given_starts():
    energy = ex.from_log_density(lambda x: -jnp.sum(jnp.abs(x - 7.0)) + 0.1 * x[0], ex.Count((2,)))
    found = ex.mode(energy, key=key(4), num_sweeps=200)
    assert found.method == "annealing" and found.x.tolist() == [7, 7]
    stuck = Ising.grid((4, 4), 50.0, 0.01)
    down = -np.ones((3, 4, 4))
    found = ex.mode(stuck, key=key(4), method="annealing", initial=down, num_sweeps=40)
    assert found.energy == pytest.approx(float(stuck(jnp.ones((4, 4)))), abs=0.5)


def test_ascent_finds_the_higher_peak_and_says_that_it_is_local():
    mixture = ex.energies.Mixture(
        [
            ex.energies.Gaussian(ex.Real((2,)), [3.0, -1.0], [0.5, 0.2]),
            ex.energies.Gaussian(ex.Real((2,)), [-3.0, 1.0], [1.5, 0.4]),
        ],
        [0.3, 0.7],
    )
    with pytest.warns(UnreliableResult, match="no more than a local mode"):
        found = ex.mode(mixture, key=key(5))
    assert found.method == "ascent" and not found.exact and found.gap == np.inf
    np.testing.assert_allclose(found.x, [3.0, -1.0], atol=2e-3)  # 0.3/0.1 against 0.7/0.6
    assert 0 < found.agreement < 1


@pytest.mark.filterwarnings("ignore::energax.results.UnreliableResult")
def test_ascent_in_a_box_and_without_a_top():
    box = ex.Box([-1.0, 0.0, 2.0], [2.5, np.inf, np.inf])
    slope = ex.from_log_density(lambda x: 1.7 * x[0] - 2.0 * x[1] - (x[2] - 3.5) ** 2, box)
    found = ex.mode(slope, key=key(6))
    np.testing.assert_allclose(found.x, [2.5, 0.0, 3.5], atol=2e-3)
    runaway = ex.mode(ex.from_log_density(lambda x: jnp.sum(x**2), ex.Real((2,))), key=key(6))
    assert any("no highest point" in reason for reason in runaway.reasons)


def test_bad_arguments_are_refused():
    model = Ising.grid((3, 3), 0.3, 0.1)
    with pytest.raises(ValueError, match="one of"):
        ex.mode(model, key=key(0), method="icm")
    with pytest.raises(ValueError, match="num_chains"):
        ex.mode(model, key=key(0), num_chains=0)
    with pytest.raises(ValueError, match="num_sweeps"):
        ex.mode(model, key=key(0), num_sweeps=0)
    with pytest.raises(ValueError, match="initial"):
        ex.mode(model, key=key(0), method="annealing", initial=np.ones((4, 3, 2)))
    with pytest.raises(ValueError, match=r"'enumeration' does not apply.*2\^1600 states"):
        ex.mode(Ising.grid((40, 40), 0.3), key=key(0), method="enumeration")
    with pytest.raises(ValueError, match="3 values"):
        ex.mode(Potts.grid((3, 3), 3, 0.5), key=key(0), method="minimum cut")
    with pytest.raises(ValueError, match="FunctionEnergy does not tell itself"):
        ex.mode(
            ex.from_log_density(lambda x: jnp.sum(x), ex.Spin(3)), key=key(0), method="minimum cut"
        )
    with pytest.raises(ValueError, match="Real and Box"):
        ex.mode(model, key=key(0), method="ascent")
    with pytest.raises(ValueError, match="take method='ascent'"):
        ex.mode(ex.energies.Normal([0.4], [0.5]), key=key(0), method="annealing")
