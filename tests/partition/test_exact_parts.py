"""f read as a sum over groups of coordinates: what is taken apart, what must not be, and its Z."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import energax as ex
from energax.partition.choose import default_method
from energax.partition.exact import IndependentParts
from energax.partition.exact.separable import groups
from energax.partition.quadrature import Quadrature
from tests.exact import enumerated

KEY = ex.random.key(0)
RNG = np.random.default_rng(3)
R = ex.Real
BLOCKS = jnp.asarray(np.kron(np.eye(3), [[2.0, 0.5], [0.5, 1.0]]), float)
CENTRE = jnp.arange(6.0)
TABLE = jnp.asarray(RNG.normal(0, 1, (4, 3)), float)
MIXED = ex.Record(a=R((2,)), b=ex.Binary((3,)))


def singles(n):
    return [[i] for i in range(n)]


SEEN = {
    "a sum": (lambda x: -jnp.sum(x**4 - x**2), R((5,)), singles(5)),
    "a dot product": (lambda x: -jnp.dot(x, x), R((5,)), singles(5)),
    "blocks of a matrix": (
        lambda x: -(x - CENTRE) @ BLOCKS @ (x - CENTRE),
        R((6,)),
        [[0, 1], [2, 3], [4, 5]],
    ),
    "rows": (lambda x: -jnp.sum(x[0] ** 2 * (1 + x[1] ** 2)), R((2, 3)), [[0, 3], [1, 4], [2, 5]]),
    "branches": (lambda x: jnp.sum(jnp.where(x > 0, -x, 2 * x)), R((4,)), singles(4)),
    "scattered": (
        lambda x: -(x[0] ** 2) - x[1] ** 2 * x[3] ** 2 - jnp.abs(x[2]),
        R((4,)),
        [[0], [1, 3], [2]],
    ),
    "mean and scale": (lambda x: -4 * jnp.mean(x**2) / 3.0 + 2.0 * x[1], R((4,)), singles(4)),
    "a library's density": (
        lambda x: jnp.sum(jax.scipy.stats.norm.logpdf(x, 1.0, 2.0)),
        R((4,)),
        singles(4),
    ),
    "vmapped rows": (
        lambda x: jnp.sum(jax.vmap(lambda a: -(a @ a) - a[0] * a[1])(x)),
        R((3, 2)),
        [[0, 1], [2, 3], [4, 5]],
    ),
    "parts of a record": (
        lambda x: -jnp.sum((x["a"] - x["b"][:2]) ** 2) + 0.3 * jnp.sum(x["b"]),
        MIXED,
        [[0, 2], [1, 3], [4]],
    ),
    "one-hot": (
        lambda x: jnp.sum(x * TABLE) + x[0, 0] * x[1, 1],
        ex.Categorical((4,), 3, "onehot"),
        [[0, 1], [2], [3]],
    ),
    "jitted, checkpointed": (
        lambda x: jax.jit(lambda y: -jnp.sum(jax.checkpoint(jnp.cosh)(y)))(x),
        R((3,)),
        singles(3),
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_sums_over_groups_are_seen(name):
    f, space, expected = SEEN[name]
    found = groups(ex.from_log_density(f, space))
    assert [group.tolist() for group in found] == expected


ONE = {
    "a norm": lambda x: -jnp.sqrt(jnp.sum(x**2)),
    "a chain": lambda x: -jnp.sum((x[1:] - x[:-1]) ** 2) - x[0] ** 2,
    "a dense matrix": lambda x: -(x @ (jnp.eye(4) + 0.1) @ x),
    "log sum exp": lambda x: jax.nn.logsumexp(-(x**2)),
    "centred": lambda x: -jnp.sum((x - jnp.mean(x)) ** 2) - x[0] ** 2,
    "a product": lambda x: -jnp.prod(1 + x**2),
    "a common condition": lambda x: jnp.where(x[0] > 0, jnp.sum(-(x**2)), -jnp.inf),
    "a place by x": lambda x: -jnp.sum(x**2) + x[(x[0] > 0).astype(int) + 1] + x[3] * x[0],
    "sorted": lambda x: -jnp.sum(jnp.sort(x) * jnp.arange(4.0) + x**2),
    "cumulated": lambda x: -jnp.sum(jnp.cumsum(x) ** 2),
    "a scan": lambda x: -(jax.lax.scan(lambda c, a: (c * 0.5 + a, None), 0.0, x)[0] ** 2),
    "a loop": lambda x: jax.lax.fori_loop(0, 4, lambda i, c: c - x[i] ** 2 * c, 1.0),
    "a quotient": lambda x: -jnp.sum(x**2) / (1 + jnp.sum(jnp.abs(x))),
    "a maximum": lambda x: -jnp.max(jnp.abs(x)),
    "two dots": lambda x: -(jnp.dot(x, x) ** 2),
    "itself turned": lambda x: -jnp.dot(x, x[::-1]) - jnp.dot(x, jnp.roll(x, 1)) - jnp.sum(x**4),
}


@pytest.mark.parametrize("name", ONE)
def test_what_is_no_sum_is_left_whole(name):
    assert len(groups(ex.from_log_density(ONE[name], R((4,))))) == 1


@pytest.mark.parametrize("seed", range(12))
def test_random_programs_are_never_taken_apart_wrongly(seed):
    """Mixed differences of f vanish between groups: f(x+u+v) − f(x+u) − f(x+v) + f(x) = 0."""
    rng = np.random.default_rng(seed)
    n = 6
    f = random_program(rng, n)
    found = groups(ex.from_log_density(f, R((n,))))
    with jax.enable_x64(True):
        x, u, v = rng.normal(0, 1, (3, 50, n))
        label = np.empty(n, int)
        for number, group in enumerate(found):
            label[group] = number
        for group in range(len(found)):
            near = np.where(label == group, u, 0.0)
            far = np.where(label != group, v, 0.0)
            values = [np.asarray(jax.vmap(f)(p)) for p in (x, x + near, x + far, x + near + far)]
            mixed = values[3] - values[2] - values[1] + values[0]
            assert np.abs(mixed).max() < 1e-9 * (1 + np.abs(values).max())


def random_program(rng, n):
    """A sum of a few terms, each some chain of operations on some coordinates of x."""
    steps = [
        lambda y, a: jnp.tanh(y),
        lambda y, a: y * a[: y.shape[0]],
        lambda y, a: jnp.concatenate([y[1:], y[:1]]) if a[0] > 1.0 else y[::-1],
        lambda y, a: jnp.where(a[: y.shape[0]] > 0, y, 0.0),
        lambda y, a: y + jnp.where(a[: y.shape[0]] > 0.8, y[0], 0.0),
        lambda y, a: jnp.diag(a[: y.shape[0]]) @ y,
        lambda y, a: jnp.pad(y, 1)[1:-1] - a[1],
        lambda y, a: jnp.square(y),
    ]
    terms = []
    for _ in range(rng.integers(1, 4)):
        where = np.sort(rng.choice(n, rng.integers(2, n + 1), replace=False))
        chain = [(steps[rng.integers(len(steps))], rng.normal(0, 1, n)) for _ in range(4)]
        terms.append((where, chain, rng.integers(3)))

    def f(x):
        total = -jnp.sum(x**2)
        for where, chain, end in terms:
            y = x[where]
            for step, a in chain:
                y = step(y, a)
            total = total + (jnp.sum(y), jnp.dot(y, y), jnp.sum(y[1:] * y[:-1]))[end]
        return total

    return f


def test_many_real_coordinates_one_by_one():
    slope = jnp.asarray(RNG.normal(0, 1, 8), float)
    energy = ex.from_log_density(lambda x: jnp.sum(slope * x - x**4 + x**2), R((8,)))
    truth = sum(
        np.log(integrate.quad(lambda t, a=a: np.exp(a * t - t**4 + t**2), -6, 6, epsabs=1e-12)[0])
        for a in np.asarray(slope, np.float64)
    )
    assert isinstance(default_method(energy), IndependentParts)
    z = ex.log_z(energy, key=KEY)
    assert z.reliable and z.method == "parts"
    assert abs(z.value - truth) < 1e-6 and z.std_err < 1e-6
    lost = ex.from_log_density(lambda x: jnp.sum((slope * x - x**4 + x**2)[1:]), R((8,)))
    with pytest.warns(ex.UnreliableResult):
        flat = ex.log_z(lost, key=KEY)
    assert not flat.reliable and "coordinates [0]" in flat.reasons[0]


def test_what_the_parts_have_in_common_cancels_to_the_last_digit():
    """f(x⁰) is −2·10⁸ where x⁰ = 0; its float32 is 16 apart."""
    centre, scale = jnp.array([3.1, -7.3, 11.7]), jnp.array([1e-3, 1e-2, 1e-3])
    energy = ex.from_log_density(lambda x: -0.5 * jnp.sum(((x - centre) / scale) ** 2), R((3,)))
    truth = np.log(np.asarray(scale, np.float64) * np.sqrt(2 * np.pi)).sum()
    z = IndependentParts().run(energy, key=KEY)
    assert z.reliable and abs(z.value - truth) < 4 * z.std_err < 1e-4


def test_a_record_falls_into_planes_and_bits():
    def f(x):
        real = -2.0 * (x["a"][:2] - 0.3 * x["b"][:2]) ** 2
        return jnp.sum(real) - 1.5 * (x["a"][2] - x["a"][3]) ** 2 - x["a"][2] ** 2 + 0.8 * x["b"][4]

    energy = ex.from_log_density(f, ex.Record(a=R((4,)), b=ex.Binary((5,))))
    plane = 0.5 * np.log((2 * np.pi) ** 2 / np.linalg.det([[5.0, -3.0], [-3.0, 3.0]]))
    line = 0.5 * np.log(np.pi / 2) + np.log(2)  # a shift by the bit changes nothing
    truth = plane + 2 * line + 2 * np.log(2) + np.log1p(np.exp(0.8))
    z = IndependentParts().run(energy, key=KEY)
    assert z.reliable and abs(z.value - truth) < max(4 * z.std_err, 1e-4)


def test_many_discrete_sites():
    bits = jnp.asarray(RNG.normal(0, 1, 40), float)
    energy = ex.from_log_density(
        lambda x: bits @ x - 2.0 * jnp.sum(x[::2] * x[1::2]), ex.Binary((40,))
    )
    a, b = np.asarray(bits[::2], np.float64), np.asarray(bits[1::2], np.float64)
    truth = np.log(1 + np.exp(a) + np.exp(b) + np.exp(a + b - 2)).sum()
    z = ex.log_z(energy, key=KEY)
    assert z.method == "parts" and z.value == pytest.approx(truth, abs=1e-5)
    table = jnp.asarray(RNG.normal(0, 1, (8, 3)), float)
    hot = ex.from_log_density(
        lambda x: jnp.sum(x * table) + x[0, 0] * x[7, 1], ex.Categorical((8,), 3, "onehot")
    )
    found = IndependentParts().run(hot, key=KEY)
    assert found.value == pytest.approx(enumerated(hot).log_z, abs=1e-5)


def test_walls_and_boxes():
    box = ex.Box(np.array([0.0, -np.inf, 1.0, -2.0]), np.array([np.inf, 3.0, 4.0, np.inf]))
    energy = ex.from_log_density(
        lambda x: jnp.sum(jnp.where((x > 2.5) & (jnp.arange(4) < 1), -jnp.inf, -(x**2))), box
    )
    ends = [(0, 2.5), (-9, 3), (1, 4), (-2, 9)]
    truth = sum(np.log(integrate.quad(lambda t: np.exp(-t * t), *end)[0]) for end in ends)
    z = IndependentParts().run(energy, key=KEY)
    assert z.reliable and abs(z.value - truth) < max(4 * z.std_err, 1e-4)


def test_parts_that_cost_too_much_or_have_no_method_are_refused():
    with pytest.raises(TypeError, match="not seen to be a sum"):
        IndependentParts().run(ex.from_log_density(ONE["a norm"], R((4,))), key=KEY)
    many = ex.from_log_density(lambda x: -jnp.sum(x**4), R((400,)))
    with pytest.raises(ValueError, match="400 of them take"):
        ex.log_z(many, key=KEY, method="exact")
    wide = ex.from_log_density(lambda x: -(jnp.dot(x[:5], x[:5]) ** 2) - x[5] ** 2, R((6,)))
    with pytest.raises(TypeError, match="has no exact method"):
        IndependentParts().run(wide, key=KEY)


def test_few_coordinates_still_go_by_quadrature_where_they_are_joined():
    bent = ex.from_log_density(lambda x: -(x[0] ** 2) - (x[1] - x[0] ** 2) ** 2, R((2,)))
    assert isinstance(default_method(bent), Quadrature)
