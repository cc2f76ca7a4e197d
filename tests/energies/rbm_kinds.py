"""An RBM of every kind of units, and its density by sums and integrals in NumPy float64."""

import itertools

import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

import energax as ex
from energax.energies import RBM
from energax.energies.boltzmann import (
    BernoulliUnits,
    CountUnits,
    GaussianUnits,
    RecordUnits,
    RectifiedUnits,
    ReplicatedSoftmaxUnits,
    SoftmaxUnits,
    SpinUnits,
)

VISIBLE = {
    "bernoulli": lambda: BernoulliUnits([0.4, -0.7, 1.1]),
    "spin": lambda: SpinUnits([0.3, -0.5, 0.2]),
    "gaussian": lambda: GaussianUnits([0.7, -1.2], jnp.log(jnp.array([0.6, 1.4]))),
    "softmax": lambda: SoftmaxUnits([[0.1, 0.5, -0.4], [0.8, -0.2, 0.0]]),
    "onehot": lambda: SoftmaxUnits([[0.1, 0.5, -0.4], [0.8, -0.2, 0.0]], "onehot"),
    "count": lambda: CountUnits([0.4, -0.3]),
    "words": lambda: ReplicatedSoftmaxUnits([0.3, -0.6, 0.2], 4),
    "record": lambda: RecordUnits(
        {
            "size": GaussianUnits([0.5], jnp.log(jnp.array([0.8]))),
            "kind": SoftmaxUnits([[0.2, -0.1, 0.6]]),
            "flag": BernoulliUnits([0.3]),
        }
    ),
}
HIDDEN = {
    "bernoulli": lambda: BernoulliUnits([0.3, -0.8]),
    "spin": lambda: SpinUnits([0.3, -0.4]),
    "gaussian": lambda: GaussianUnits([0.2, -0.3], jnp.log(jnp.array([0.5, 0.7]))),
    "rectified": lambda: RectifiedUnits([0.4, -0.6]),
}

# Every kind of either layer, not every pair: the layers do not know each other.
SUMMED = [
    *((visible, "bernoulli") for visible in VISIBLE),
    ("gaussian", "spin"),
    ("record", "spin"),
]
PAIRS = [*SUMMED, ("softmax", "gaussian"), ("bernoulli", "rectified"), ("gaussian", "rectified")]


def make(visible: str, hidden: str = "bernoulli", scale: float = 0.6) -> RBM:
    v, h = VISIBLE[visible](), HIDDEN[hidden]()
    rng = np.random.default_rng(len(visible) + 10 * len(hidden))
    return RBM(scale * rng.normal(size=(len(v.bias), len(h.bias))), v, h)


def exact_draws(model: RBM, num: int):
    """p(h) of bits by enumeration, then v ~ p(v | h)."""
    h = np.array(list(itertools.product((0.0, 1.0), repeat=len(model.hidden.bias))))
    field = jnp.asarray(h, float) @ model.weight.T + model.visible.bias
    log_p = np.asarray(model.hidden.own(jnp.asarray(h, float)), np.float64)
    log_p = log_p + np.asarray(model.visible.log_partition(field), np.float64)
    p = np.exp(log_p - log_p.max())
    chosen = np.random.default_rng(5).choice(len(h), num, p=p / p.sum())
    return model.sample_visible(jnp.asarray(h[chosen], float), key=ex.random.key(6))


# The formulas once more, in NumPy float64, by hand.


def own(units, x) -> np.ndarray:
    if isinstance(units, RecordUnits):
        return sum(own(part, x[name]) for name, part in units.parts.items())
    x = np.asarray(x, np.float64)
    if isinstance(units, GaussianUnits):
        mean, sd = np.asarray(units.location, np.float64), np.exp(np.asarray(units.log_sd, float))
        return -0.5 * (((x - mean) / sd) ** 2).sum(-1)
    if isinstance(units, RectifiedUnits):
        return (x * np.asarray(units.bias) - 0.5 * x**2).sum(-1)
    if isinstance(units, CountUnits):
        return stats.poisson.logpmf(x, np.exp(units.bias)).sum(-1) + np.exp(units.bias).sum()
    return features(units, x) @ np.asarray(units.bias, np.float64)


def features(units, x) -> np.ndarray:
    if isinstance(units, RecordUnits):  # in the order of the names
        return np.concatenate([features(units.parts[n], x[n]) for n in sorted(units.parts)], -1)
    x = np.asarray(x, np.float64)
    if isinstance(units, GaussianUnits):
        return (x - np.asarray(units.location, np.float64)) / np.exp(
            np.asarray(units.log_sd, float)
        )
    if isinstance(units, ReplicatedSoftmaxUnits):
        return np.stack([(x == j).sum(-1) for j in range(units.space.num_values)], -1)
    if isinstance(units, SoftmaxUnits):
        k = units.space.num_values
        if units.space.encoding == "index":
            x = (x[..., None] == np.arange(k)).astype(float)
        return x.reshape(*x.shape[:-2], -1)
    return x


def hidden_terms(units, field: np.ndarray) -> np.ndarray:
    """log Σ_h or log ∫ dh exp(own(h) + u·ψ(h)) of each unit, `field` = u, by sums and integrals."""
    out = np.empty(field.shape)
    for index in np.ndindex(*field.shape):
        j, u = index[-1], field[index]
        one = type(units)(units.bias[j : j + 1])
        if isinstance(units, GaussianUnits):
            one = GaussianUnits(units.location[j : j + 1], units.log_sd[j : j + 1])

        def f(h, one=one, u=u):
            h = np.array([h])
            return float(own(one, h) + u * features(one, h)[0])

        if isinstance(units, BernoulliUnits):
            out[index] = np.logaddexp(f(0.0), f(1.0))
        elif isinstance(units, SpinUnits):
            out[index] = np.logaddexp(f(-1.0), f(1.0))
        else:
            ends = (0, 40) if isinstance(units, RectifiedUnits) else (-40, 40)
            nodes = np.linspace(*ends, 20_001)
            grid = own(one, nodes[:, None]) + u * features(one, nodes[:, None])[:, 0]
            out[index] = np.log(integrate.simpson(np.exp(grid), x=nodes))
    return out


def log_density(model: RBM, x) -> np.ndarray:
    pull = features(model.visible, x) @ np.asarray(model.weight, np.float64)
    return own(model.visible, x) + hidden_terms(model.hidden, pull).sum(-1)


def points(space, num_counts: int = 25):
    """All points of a finite space; of counts those below a bound."""
    if isinstance(space, ex.Count):
        return np.array(list(itertools.product(range(num_counts), repeat=space.num_sites)))
    return space.enumerate()


def some_points(model: RBM, num: int = 6):
    h = np.random.default_rng(1).normal(0.5, 0.3, (num, len(model.hidden.bias)))
    return model.sample_visible(jnp.asarray(h, float), key=ex.random.key(3))


def brute_log_z(model: RBM) -> float:
    """By a sum over the visible states, or of real coordinates an integral on a grid."""
    v = model.visible
    if isinstance(v, GaussianUnits):
        line = np.linspace(-20, 20, 401)
        grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1)
        f = own(v, grid) + np.sum(
            _terms_by_table(model.hidden, features(v, grid) @ np.asarray(model.weight)), -1
        )
        inner = integrate.simpson(np.exp(f - f.max()), x=line)
        return float(np.log(integrate.simpson(inner, x=line)) + f.max())
    if isinstance(v, RecordUnits):
        line = np.linspace(-15, 15, 1501)
        total = -np.inf
        for kind, flag in itertools.product(range(3), (0.0, 1.0)):
            x = {
                "size": line[:, None],
                "kind": np.full((len(line), 1), kind),
                "flag": np.full((len(line), 1), flag),
            }
            f = own(v, x) + np.sum(
                _terms_by_table(model.hidden, features(v, x) @ np.asarray(model.weight)), -1
            )
            total = np.logaddexp(total, np.log(integrate.simpson(np.exp(f), x=line)))
        return float(total)
    x = points(v.space)
    f = own(v, x) + _terms_by_table(model.hidden, features(v, x) @ np.asarray(model.weight)).sum(-1)
    return float(np.logaddexp.reduce(f))


def _terms_by_table(units, field):
    """`hidden_terms` of Bernoulli and spin units in closed form, for the large grids."""
    b = np.asarray(units.bias, np.float64)
    if isinstance(units, BernoulliUnits):
        return np.logaddexp(0, b + field)
    assert isinstance(units, SpinUnits)
    return np.logaddexp(b + field, -b - field)
