"""Ising models: tori on both sides of the critical point, chains, trees, random graphs, glasses."""

import math

import jax.numpy as jnp
import numpy as np
from scipy import stats
from scipy.special import gammaln, logsumexp

import energax as ex
from benchmarks._gauntlet import _check, _sums
from benchmarks._gauntlet._base import Target, single, target
from energax import energies, spaces

UP_DOWN = (-1, 1)
CRITICAL = 0.4406867935


def _torus_log_density(coupling, field=0.0):
    def f(s):
        return (
            coupling * (s * np.roll(s, -1, 1) + s * np.roll(s, -1, 2)).sum((1, 2))
            + field * s.sum((1, 2))
        )  # fmt: skip

    return f


def _torus(side, coupling, published=None) -> Target:
    coupling = float(single(coupling)) if published is None else coupling
    log_z = _sums.kaufman(side, side, coupling)
    if side <= 8:
        again = _sums.by_rows(UP_DOWN, side, side, lambda a, b: coupling * a * b, lambda a: 0 * a)
    else:  # Too wide for the matrix: published where there is one, else the sum along the other way
        again = published if published is not None else _fermions(side, coupling)
    check = _check.recomputed(_torus_log_density(coupling), UP_DOWN, again)
    return Target("spin", energies.Ising.grid((side, side), coupling), log_z, check)


def _fermions(side, coupling) -> float:
    """The torus once more, as four determinants over momenta (McCoy & Wu 1973, chapter IV)."""
    c, s = math.cosh(2 * coupling), math.sinh(2 * coupling)
    log_terms, signs = [], []
    for half_x in (0.5, 0.0):
        for half_y in (0.5, 0.0):
            x = np.cos(2 * math.pi * (np.arange(side) + half_x) / side)
            y = np.cos(2 * math.pi * (np.arange(side) + half_y) / side)
            inside = c**2 - s * (x[:, None] + y)
            log_terms.append(0.5 * np.log(np.abs(inside)).sum())
            odd = half_x == half_y == 0.0
            signs.append(-np.sign(1 - s) if odd else 1.0)  # negative above the critical point
    # Each term is the square root of Π 2(c² − s(cos p + cos q)) · 2^{...}; sizes follow at s → 0,
    # where all four are 1 and Z = 2^N cosh^{2N}.
    total = logsumexp(log_terms, b=np.asarray(signs))
    return float(side * side * math.log(2) - math.log(2) + total)


@target
def ising_4x4_in_field():
    coupling, field = float(single(0.3)), float(single(0.1))
    log_z = _sums.summed(
        lambda s: _torus_log_density(coupling, field)(s.reshape(-1, 4, 4)), UP_DOWN, 16
    )
    energy = energies.Ising.grid((4, 4), coupling, field)
    return Target("spin", energy, log_z, _check.enumeration)


@target
def ising_4x4_critical():
    return _torus(4, CRITICAL, 15.52191546)


@target
def ising_8x8_critical():
    return _torus(8, CRITICAL, 60.14178079)


@target
def ising_8x8_cold():
    return _torus(8, 0.7)


@target
def ising_16x16_hot():
    return _torus(16, 0.3)


@target
def ising_16x16_critical():
    return _torus(16, CRITICAL, 238.64225664)


@target
def ising_16x16_cold():
    return _torus(16, 0.6)


@target
def ising_32x32_hot():
    return _torus(32, 0.25)


@target
def ising_32x32_critical():
    return _torus(32, CRITICAL, 952.64807955)


@target
def ising_as_function_8x8():
    """A torus above the critical temperature as a plain function."""
    target = _torus(8, 0.35)
    coupling = float(single(0.35))
    energy = ex.from_log_density(
        lambda s: coupling * jnp.sum(s * jnp.roll(s, -1, 0) + s * jnp.roll(s, -1, 1)),
        spaces.Spin((8, 8)),
    )
    return Target("spin", energy, target.log_z, target.check)


@target
def ising_open_6x7_in_field():
    coupling, field = float(single(0.5)), float(single(0.05))
    log_z = _sums.by_rows(
        UP_DOWN, 6, 7, lambda a, b: coupling * a * b, lambda a: field * a, periodic=False
    )
    again = _sums.by_rows(
        UP_DOWN, 7, 6, lambda a, b: coupling * a * b, lambda a: field * a, periodic=False
    )

    def f(s):
        bonds = (s[:, 1:] * s[:, :-1]).sum((1, 2)) + (s[:, :, 1:] * s[:, :, :-1]).sum((1, 2))
        return coupling * bonds + field * s.sum((1, 2))

    energy = energies.Ising.grid((7, 6), coupling, field, periodic=False)
    return Target("spin", energy, log_z, _check.recomputed(f, UP_DOWN, again))


@target
def ising_cube_3x3x2():
    coupling, field = float(single(0.25)), float(single(0.2))

    def f(s):
        s = s.reshape(-1, 3, 3, 2)
        bonds = sum((s * np.roll(s, -1, axis)).sum((1, 2, 3)) for axis in (1, 2, 3))
        return coupling * bonds + field * s.sum((1, 2, 3))

    energy = energies.Ising.grid((3, 3, 2), coupling, field)
    return Target("spin", energy, _sums.summed(f, UP_DOWN, 18), _check.enumeration)


@target
def ising_chain_1000():
    """Open, without field: 2^N cosh^{N−1} J."""
    coupling = float(single(0.8))
    energy = energies.Ising.grid((1_000,), coupling, periodic=False)
    log_z = 1_000 * math.log(2) + 999 * math.log(math.cosh(coupling))
    pair = coupling * np.array([[1, -1], [-1, 1]])
    again = _sums.chain(np.zeros((1_000, 2)), np.broadcast_to(pair, (999, 2, 2)))
    check = _check.recomputed(lambda s: coupling * (s[:, 1:] * s[:, :-1]).sum(1), UP_DOWN, again)
    return Target("spin", energy, log_z, check)


@target
def ising_ring_500_in_field():
    """λ₊^N + λ₋^N (Ising 1925)."""
    j, h = 0.5, float(single(0.3))
    root = math.sqrt(math.exp(2 * j) * math.sinh(h) ** 2 + math.exp(-2 * j))
    plus, minus = math.exp(j) * math.cosh(h) + root, math.exp(j) * math.cosh(h) - root
    log_z = 500 * math.log(plus) + math.log1p((minus / plus) ** 500)
    again = _sums.by_rows(UP_DOWN, 1, 500, lambda a, b: j * a * b, lambda a: h * a - j)
    check = _check.recomputed(
        lambda s: j * (s * np.roll(s, -1, 1)).sum(1) + h * s.sum(1), UP_DOWN, again
    )
    return Target("spin", energies.Ising.grid((500,), j, h), log_z, check)


@target
def ising_tree_200():
    """A random tree with random couplings: 2^N Π cosh J."""
    rng = np.random.default_rng(1)
    parent = np.array([rng.integers(0, i) for i in range(1, 200)])
    edges = np.stack([parent, np.arange(1, 200)], 1)
    coupling = single(rng.normal(0, 1, 199))
    log_z = 200 * math.log(2) + np.log(np.cosh(coupling)).sum()
    # Leaves first: what each site receives from those below, one number a spin.
    message = np.zeros((200, 2))
    for (a, b), j in zip(edges[::-1], coupling[::-1], strict=True):
        pair = j * np.array([[1, -1], [-1, 1]])
        message[a] += logsumexp(pair + message[b], axis=1)
    check = _check.recomputed(
        lambda s: (s[:, edges[:, 0]] * s[:, edges[:, 1]]) @ coupling, UP_DOWN,
        float(logsumexp(message[0])),
    )  # fmt: skip
    energy = energies.Ising(edges, coupling, num_sites=200)
    return Target("spin", energy, float(log_z), check)


def _on_graph(num, edges, coupling, field, kind="spin", as_function=False) -> Target:
    edges, coupling, field = np.asarray(edges), single(coupling), single(field)

    matrix = np.zeros((num, num))
    matrix[edges[:, 0], edges[:, 1]] = coupling

    def f(s):
        return ((s @ matrix) * s).sum(1) + s @ field

    energy = energies.Ising(edges, coupling, field, num_sites=num)
    if as_function:
        j, h = jnp.asarray(matrix), jnp.asarray(field)
        energy = ex.from_log_density(lambda s: s @ j @ s + h @ s, spaces.Spin((num,)))
    return Target(kind, energy, _sums.summed(f, UP_DOWN, num), _check.enumeration)


@target
def ising_random_graph_18():
    rng = np.random.default_rng(2)
    edges = [(i, j) for i in range(18) for j in range(i) if rng.random() < 0.2]
    return _on_graph(18, edges, rng.normal(0.3, 0.6, len(edges)), rng.normal(0, 0.3, 18))


def _glass(num, beta, seed, **more) -> Target:
    """Sherrington and Kirkpatrick 1975."""
    rng = np.random.default_rng(seed)
    edges = np.stack(np.triu_indices(num, 1), 1)
    coupling = beta * rng.normal(size=len(edges)) / math.sqrt(num)
    return _on_graph(num, edges, coupling, beta * rng.normal(0, 0.1, num), **more)


@target
def spin_glass_16():
    return _glass(16, 1.0, 3)


@target
def spin_glass_20_cold():
    return _glass(20, 2.5, 4)


@target
def spin_glass_14_function():
    return _glass(14, 1.5, 5, as_function=True)


def _curie_weiss(num, beta, field) -> Target:
    """β (Σs)²/2N + h Σs: a sum over the number of spins that are up."""
    beta, field = float(single(beta)), float(single(field))
    up = np.arange(num + 1)
    total = 2.0 * up - num
    choose = gammaln(num + 1) - gammaln(up + 1) - gammaln(num + 1 - up)
    f = beta * total**2 / (2 * num) + field * total
    # Hubbard and Stratonovich: a Gaussian integral over one field.
    y = np.linspace(-60, 60, 400_001) / math.sqrt(num)
    inner = -num * y**2 / (2 * beta) + num * np.logaddexp(y + field, -y - field)
    again = logsumexp(inner) + math.log(y[1] - y[0])
    again += 0.5 * math.log(num / (2 * math.pi * beta))
    energy = ex.from_log_density(
        lambda s: beta * jnp.sum(s) ** 2 / (2 * num) + field * jnp.sum(s), spaces.Spin((num,))
    )
    check = _check.recomputed(
        lambda s: beta * s.sum(1) ** 2 / (2 * num) + field * s.sum(1), UP_DOWN, float(again)
    )
    return Target("spin", energy, float(logsumexp(choose + f)), check)


@target
def curie_weiss_200_hot():
    return _curie_weiss(200, 0.7, 0.05)


@target
def curie_weiss_100_cold():
    """Two magnetised modes, of which the field prefers one."""
    return _curie_weiss(100, 1.3, 0.02)


@target
def spins_independent_1500():
    field = single(np.random.default_rng(6).normal(0, 1, 1_500))
    h = jnp.asarray(field)
    energy = ex.from_log_density(lambda s: h @ s, spaces.Spin((1_500,)))
    bits = _check.scipy(stats.bernoulli(1 / (1 + np.exp(-2 * field))), (1_500,))
    proposal = _check.Proposal(
        lambda rng, num: 2.0 * bits.draw(rng, num) - 1, lambda x: bits.log_p((x + 1) / 2)
    )
    log_z = np.logaddexp(field, -field).sum()
    return Target("spin", energy, float(log_z), _check.importance(proposal, 2_000))


@target
def ising_conditional_5x5():
    """Seven spins of a torus given; eighteen are free."""
    coupling, field = float(single(0.4)), float(single(-0.1))
    given = np.full((5, 5), np.nan)
    given[0] = 1.0
    given[2, 1:3] = -1.0
    energy = energies.Ising.grid((5, 5), coupling, field).condition(x=given)

    def f(s):
        whole = np.broadcast_to(given, (len(s), 5, 5)).copy()
        whole[:, np.isnan(given)] = s
        return _torus_log_density(coupling, field)(whole)

    return Target("spin", energy, _sums.summed(f, UP_DOWN, 18), _check.enumeration)
