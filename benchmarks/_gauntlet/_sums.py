"""log Z by float64 sums in NumPy that share no code with energax."""

import itertools
import math

import numpy as np
from scipy.special import logsumexp


def states(values, num_sites: int, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Rows `start` to `stop` of all combinations of `values`, (rows, num_sites) float64."""
    values = np.asarray(values, np.float64)
    k = len(values)
    index = np.arange(start, k**num_sites if stop is None else min(stop, k**num_sites))
    digits = np.empty((len(index), num_sites), np.int64)
    for site in reversed(range(num_sites)):
        digits[:, site] = index % k
        index = index // k
    return values[digits]


def summed(f, values, num_sites: int, chunk: int = 2**15) -> float:
    """log Σ exp f over all combinations; f takes a batch (rows, num_sites)."""
    total = len(values) ** num_sites
    parts = [
        logsumexp(f(states(values, num_sites, start, start + chunk)))
        for start in range(0, total, chunk)
    ]
    return float(logsumexp(parts))


def rbm(weight, visible_bias, hidden_bias) -> float:
    """log Z of a Bernoulli RBM through its smaller layer."""
    w, b, c = (np.asarray(a, np.float64) for a in (weight, visible_bias, hidden_bias))
    if w.shape[0] < w.shape[1]:
        w, b, c = w.T, c, b
    b, c = np.broadcast_to(b, w.shape[0]), np.broadcast_to(c, w.shape[1])
    return summed(
        lambda h: h @ c + np.logaddexp(0, h @ w.T + b).sum(1), (0, 1), w.shape[1], chunk=2**12
    )


def _log_abs_sinh(x):
    x = np.abs(x)
    with np.errstate(divide="ignore"):
        return x + np.log(-np.expm1(-2 * x)) - math.log(2)


def kaufman(width: int, height: int, coupling: float) -> float:
    """log Z of the Ising model on a torus without field, coupling > 0.

    Kaufman 1949, "Crystal statistics II", eq. 102 (as written by Ferdinand & Fisher 1969).
    """
    k = coupling
    number = np.arange(2 * width)
    with np.errstate(invalid="ignore"):
        gamma = np.arccosh(
            np.maximum(
                math.cosh(2 * k) ** 2 / math.sinh(2 * k) - np.cos(math.pi * number / width), 1
            )
        )
    gamma[0] = 2 * k + math.log(math.tanh(k))  # of either sign
    half = height * gamma / 2
    log_cosh = np.logaddexp(half, -half)
    log_sinh = _log_abs_sinh(half) + math.log(2)
    terms = [log_cosh[1::2].sum(), log_sinh[1::2].sum(), log_cosh[::2].sum(), log_sinh[::2].sum()]
    sign = [1, 1, 1, np.sign(gamma[0])]
    return float(
        width * height / 2 * math.log(2 * math.sinh(2 * k))
        - math.log(2)
        + logsumexp(terms, b=np.asarray(sign, float))
    )


def by_rows(values, width: int, height: int, bond, site, periodic: bool = True) -> float:
    """log Z of a lattice by the row-to-row transfer matrix.

    `bond(a, b)` and `site(a)`: log weights, elementwise.
    """
    rows = np.array(list(itertools.product(np.asarray(values, float), repeat=width)))
    within = site(rows).sum(1)
    pairs = bond(rows, np.roll(rows, -1, 1))
    within = within + (pairs if periodic else pairs[:, :-1]).sum(1)
    between = sum(bond(rows[:, None, i], rows[None, :, i]) for i in range(width))
    matrix = between + within[:, None] / 2 + within[None] / 2
    top = matrix.max()
    matrix = np.exp(matrix - top)
    if periodic:
        eigenvalues = np.linalg.eigvalsh(matrix)
        largest = np.abs(eigenvalues).max()
        return float(
            height * (top + math.log(largest)) + math.log(((eigenvalues / largest) ** height).sum())
        )
    log_z, vector = 0.0, np.exp(within / 2 - within.max() / 2)
    log_z += within.max() / 2
    for _ in range(height - 1):
        vector = matrix @ vector
        scale = vector.max()
        vector, log_z = vector / scale, log_z + top + math.log(scale)
    return log_z + math.log(vector @ np.exp(within / 2))


def chain(site, pair) -> float:
    """log Z of an open chain by forward sums: `site` (n, k), `pair` (n − 1, k, k) log weights."""
    message = site[0]
    for here, between in zip(site[1:], pair, strict=True):
        message = here + logsumexp(message[:, None] + between, axis=0)
    return float(logsumexp(message))
