"""log Z of the uniform Ising torus without a field, of any size, by Kaufman's closed form."""

from typing import NamedTuple

import numpy as np

from energax.partition._base import Clock, answer
from energax.partition.exact._base import (
    AbstractExactMethod,
    PairForm,
    Quote,
    constant_of,
    not_finite,
    pair_form,
)
from energax.results import LogZ


class Kaufman(AbstractExactMethod):
    """The m × n Ising torus with one coupling along each axis and no field, in closed form.

    Z = ½ (2 sinh 2K)^{mn/2} [Π 2cosh(½mγ_{2r−1}) + Π 2sinh(½mγ_{2r−1}) + Π 2cosh(½mγ_{2r})
    + Π 2sinh(½mγ_{2r})], products over r = 1 … n, with
    cosh γ_q = coth 2K cosh 2K′ − cos(πq/n) sinh 2K′ / sinh 2K and γ_0 = 2K′ + log tanh K
    (Kaufman 1949, "Crystal statistics II", with γ_q by eq. 7 and 75; Ferdinand & Fisher 1969 for
    the sign of γ_0), K along the side of m sites, K′ along that of n. Summed in logs.

    Negative couplings along an even side are positive ones of the model with every second row
    flipped; along an odd side they are refused. On a side of 2 the two bonds of the torus are one
    edge of twice the coupling. Two-valued Potts models are Ising models. Cost: m + n terms.

    **Raises:** TypeError for every other energy.
    """

    def quote(self, energy) -> Quote:
        form = pair_form(energy)
        torus = None if form is None else _torus(form)
        if torus is None:
            return Quote(
                np.inf,
                "Kaufman's formula: needs a periodic 2-d Ising lattice without field, one coupling "
                "along each axis, negative ones along even sides only",
            )
        return Quote(float(torus.rows + torus.columns))

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        self.check(energy)
        form = pair_form(energy)
        torus = None if form is None else _torus(form)
        assert form is not None and torus is not None
        clock = Clock()
        value = torus.constant + constant_of(energy, form) + _log_z(torus)
        reasons = not_finite(value, "the closed form")
        return answer(value, 0.0, clock, method="kaufman", reasons=reasons)


class _Torus(NamedTuple):
    rows: int
    columns: int
    down: float  # K between rows
    across: float  # K′ within a row
    constant: float


def _torus(form: PairForm) -> _Torus | None:
    """`form` as a uniform torus, None where it is none that the formula takes."""
    singles = form.singles
    if form.num_values != 2 or not form.is_finite or (singles[:, 0] != singles[:, 1]).any():
        return None
    sides = tuple(side for side in form.shape if side > 1)
    shapes = [sides] if len(sides) == 2 else []
    if len(sides) == 1:  # flat: any lattice with as many bonds as a torus of it has
        n = form.num_sites
        shapes = [(n // w, w) for w in range(2, n // 2 + 1) if n % w == 0]
    like, unlike = form.pairs[:, 0, 0], form.pairs[:, 0, 1]
    spins_alike = (form.pairs[:, 1, 1] == like) & (form.pairs[:, 1, 0] == unlike)
    if not spins_alike.all():
        return None
    bond = (like - unlike) / 2
    constant = singles[:, 0].sum() + ((like + unlike) / 2).sum()
    for rows, columns in shapes:
        found = _couplings(form.edges, bond, rows, columns)
        if found is not None:
            return _Torus(rows, columns, *found, float(constant))
    return None


def _couplings(edges, bond, rows: int, columns: int) -> tuple[float, float] | None:
    """(K between rows, K′ within rows) where the edges are those of the torus, else None.

    Edges without a coupling are not listed: an axis without any has coupling 0.
    """
    low, high = edges[:, 0], edges[:, 1]
    same_row, same_column = low // columns == high // columns, low % columns == high % columns
    gap = high - low
    within = same_row & np.isin(gap, (1, columns - 1))
    between = same_column & np.isin(gap, (columns, (rows - 1) * columns))
    if not (within | between).all():
        return None
    found = []
    for chosen, side in ((between, rows), (within, columns)):
        times = 2 if side == 2 else 1  # how many bonds of the torus one edge stands for
        values = np.unique(bond[chosen])
        if chosen.any() and (len(values) > 1 or chosen.sum() != rows * columns // times):
            return None
        coupling = float(values[0]) / times if chosen.any() else 0.0
        if coupling < 0 and side % 2:
            return None
        found.append(coupling)
    return found[0], found[1]


def _log_z(torus: _Torus) -> float:
    """log Z of couplings of either sign, of which negative ones lie along even sides."""
    m, n, k, k_across = torus.rows, torus.columns, abs(torus.down), abs(torus.across)
    if k == 0:  # its dual is infinite: turn the lattice
        m, n, k, k_across = n, m, k_across, k
    if k == 0:
        return m * n * np.log(2.0)
    # γ by sinh²(γ/2) = sinh²(K* − K′) + sinh 2K* sinh 2K′ sin²(πq/2n), K* = −½ log tanh K, in logs.
    dual = np.arctanh(np.exp(-2 * k)) if k > 0.2 else -0.5 * np.log(np.tanh(k))
    q = np.arange(2 * n)
    with np.errstate(divide="ignore"):
        product = _log_sinh(2 * k_across) - _log_sinh(2 * k)  # sinh 2K* = 1 / sinh 2K
        square = np.logaddexp(
            2 * _log_sinh(abs(dual - k_across)), product + 2 * np.log(np.sin(np.pi * q / (2 * n)))
        )
    gamma = np.where(
        square < 100, 2 * np.arcsinh(np.exp(np.minimum(square, 100) / 2)), square + np.log(4.0)
    )
    gamma[0] = 2 * (k_across - dual)
    half = 0.5 * m * np.abs(gamma)
    with np.errstate(divide="ignore"):
        log_cosh = half + np.log1p(np.exp(-2 * half))
        log_sinh = half + np.log(-np.expm1(-2 * half))
    odd, even = q % 2 == 1, q % 2 == 0
    terms = [log_cosh[odd].sum(), log_sinh[odd].sum(), log_cosh[even].sum(), log_sinh[even].sum()]
    signs = [1.0, 1.0, 1.0, np.sign(gamma[0])]
    top = max(terms)
    total = sum(sign * np.exp(term - top) for sign, term in zip(signs, terms, strict=True))
    log_two_sinh = _log_sinh(2 * k) + np.log(2.0)
    return float(0.5 * m * n * log_two_sinh + top + np.log(total / 2))


def _log_sinh(x):
    """log sinh x, x ≥ 0, without overflow; −∞ at 0."""
    with np.errstate(divide="ignore"):
        return x - np.log(2.0) + np.log(-np.expm1(-2 * np.float64(x)))
