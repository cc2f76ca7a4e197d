"""What the exact methods share: what each would cost, and energies read as sums over pairs."""

import dataclasses
from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import (
    AbstractBernoulli,
    AbstractBondEnergy,
    AbstractEnergy,
    Conditional,
    FrozenEnergy,
    Interpolated,
    Product,
    Tempered,
)
from energax.energies.exponential_family import CategoricalFamily
from energax.energies.reference import IndependentCategorical
from energax.energies.tree import ChowLiuTree
from energax.partition._base import AbstractLogZMethod, in_float64
from energax.spaces import AbstractArraySpace, Binary, Categorical, Ordinal, Spin

MAX_TERMS = 2**24
"""States that a sum visits, or entries that a table holds, at most."""


@dataclasses.dataclass(frozen=True)
class Quote:
    """What a method would take, in terms summed, or why it does not apply (`cost` is then inf).

    `refusal` is empty where the method fits; else it says in words what it would cost.
    """

    cost: float
    refusal: str = ""

    @property
    def fits(self) -> bool:
        return not self.refusal


class AbstractExactMethod(AbstractLogZMethod):
    """A method without sampling error, that knows beforehand what it costs."""

    @abstractmethod
    def quote(self, energy: AbstractEnergy) -> Quote:
        """The cost for `energy`, and a refusal where it is too high or the method not made for it.

        Cheap itself, for spaces of any size.
        """

    def cost(self, energy: AbstractEnergy) -> float:
        return self.quote(energy).cost

    def check(self, energy: AbstractEnergy) -> None:
        """Raises TypeError where the method does not apply, ValueError where it costs too much."""
        quote = self.quote(energy)
        if not quote.fits:
            kind = TypeError if np.isinf(quote.cost) else ValueError
            raise kind(f"{quote.refusal}; method='auto' finds another way")


def power(base: int, exponent: int) -> float:
    """base^exponent as a float, inf where it is over 2^1000."""
    return float(base) ** exponent if exponent * np.log2(base) <= 1000 else np.inf


def not_finite(value: float, what: str) -> list[str]:
    return [] if np.isfinite(value) else [f"{what} is {value}"]


def float64_or_32(energy, compute) -> float:
    """compute(energy) with everything in float64, or as it stands where that fails to trace."""
    try:
        with jax.enable_x64(True):
            return float(eqx.filter_jit(compute)(in_float64(energy)))
    except (TypeError, ValueError):
        return float(eqx.filter_jit(compute)(energy))


@dataclasses.dataclass(frozen=True)
class PairForm:
    """f(x) = Σ_e pairs_e[x_i, x_j] + Σ_i singles_i[x_i] + constant, edges e = (i, j), in float64.

    A site's values are numbered 0 to k − 1 (of spins −1 is 0, +1 is 1), sites are row-major in
    `shape`. Every pair of sites is there at most once, i < j, and only if its table is not
    constant. The constant is that of `constant_of`.
    """

    singles: np.ndarray  # (n, k)
    edges: np.ndarray  # (E, 2)
    pairs: np.ndarray  # (E, k, k)
    shape: tuple[int, ...]

    @property
    def num_sites(self) -> int:
        return self.singles.shape[0]

    @property
    def num_values(self) -> int:
        return self.singles.shape[1]

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.singles).all() and np.isfinite(self.pairs).all())


_Tables = tuple[np.ndarray, np.ndarray, np.ndarray]  # singles, edges, pairs


def pair_form(energy: AbstractEnergy) -> PairForm | None:
    """`energy` as a sum over sites and pairs of sites, None where its type does not tell one.

    Ising, Potts and every other AbstractBondEnergy, independent sites, Chow-Liu trees, and what
    Tempered, Product, Conditional, FrozenEnergy and Interpolated make of them.
    """
    with jax.enable_x64(True):
        tables = _tables(in_float64(energy))
    if tables is None:
        return None
    singles, edges, pairs = tables
    assert isinstance(energy.space, AbstractArraySpace)
    edges, pairs = _merged(edges, pairs)
    space = energy.space
    sites = space.sites if isinstance(space, Categorical) else space.shape
    return PairForm(singles, edges, pairs, sites)


def constant_of(energy: AbstractEnergy, form: PairForm) -> float:
    """What `energy` has beyond the tables of `form`, from f at one state that they allow."""
    states = np.random.default_rng(0).integers(form.num_values, size=(64, form.num_sites))
    states[0] = form.singles.argmax(1)
    sites, (i, j) = np.arange(form.num_sites), form.edges.T
    for numbers in states:
        known = form.singles[sites, numbers].sum()
        known += form.pairs[np.arange(len(form.edges)), numbers[i], numbers[j]].sum()
        if np.isfinite(known):
            break

    def f(wide):
        return wide.log_density(point_of_numbers(wide.space, numbers))

    return float64_or_32(energy, f) - float(known)


def _merged(edges: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each pair of sites once, lower number first, without those whose table says nothing."""
    turned = edges[:, 0] > edges[:, 1]
    edges = np.sort(edges, axis=1)
    pairs = np.where(turned[:, None, None], pairs.transpose(0, 2, 1), pairs)
    unique, place = np.unique(edges, axis=0, return_inverse=True)
    if len(unique) < len(edges):
        total = np.zeros((len(unique), *pairs.shape[1:]))
        np.add.at(total, place.ravel(), pairs)
        edges, pairs = unique, total
    says = (pairs != pairs[:, :1, :1]).any((1, 2))
    return edges[says], pairs[says]


def _tables(energy: AbstractEnergy) -> _Tables | None:
    if isinstance(energy, FrozenEnergy):
        return _tables(energy.energy)
    if isinstance(energy, Tempered):
        return _scaled(_tables(energy.energy), energy.beta)
    if isinstance(energy, Interpolated):
        beta = np.float64(energy.beta)
        return _joined(
            [_scaled(_tables(energy.base), 1 - beta), _scaled(_tables(energy.energy), beta)]
        )
    if isinstance(energy, Product):
        return _joined([_tables(expert) for expert in energy.experts])
    if isinstance(energy, Conditional):
        return _restricted(energy)
    if isinstance(energy, AbstractBondEnergy):
        singles, gains = _float64(energy.value_gains), _float64(energy.bond_gains)
        alike = np.eye(singles.shape[1])
        return singles, np.asarray(energy.edges, int), gains[:, None, None] * alike
    if isinstance(energy, AbstractBernoulli):
        logits = _float64(energy.logits).reshape(-1)
        return _alone(np.stack([np.zeros_like(logits), logits], 1))
    if isinstance(energy, IndependentCategorical):
        return _alone(_float64(energy.logits).reshape(-1, energy.space.num_values))
    if isinstance(energy, CategoricalFamily):
        return _alone(_float64(energy.eta).reshape(-1, energy.space.num_values))
    if isinstance(energy, ChowLiuTree):
        return _tree(energy)
    return None


def _float64(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)


def _alone(singles: np.ndarray) -> _Tables:
    k = singles.shape[1]
    return singles, np.zeros((0, 2), int), np.zeros((0, k, k))


def _scaled(tables: _Tables | None, factor: Any) -> _Tables | None:
    if tables is None:
        return None
    singles, edges, pairs = tables
    factor = np.float64(factor)
    if factor == 0:  # removes hard walls too
        return np.zeros_like(singles), edges, np.zeros_like(pairs)
    return factor * singles, edges, factor * pairs


def _joined(all_tables: list[_Tables | None]) -> _Tables | None:
    known = [tables for tables in all_tables if tables is not None]
    if len(known) < len(all_tables):
        return None
    singles, edges, pairs = zip(*known, strict=True)
    return np.sum(singles, axis=0), np.concatenate(edges), np.concatenate(pairs)


def _restricted(conditional: Conditional) -> _Tables | None:
    """The sites left free; what the given ones say to them joins their singles."""
    tables = _tables(conditional.energy)
    if tables is None or conditional.free is None:
        return None
    singles, edges, pairs = tables
    whole = conditional.energy.space
    assert isinstance(whole, AbstractArraySpace)
    free, given = np.asarray(conditional.free), _numbers(whole, conditional.given)
    number = np.full(len(singles), -1)
    number[free] = np.arange(len(free))
    ends, singles = number[edges], singles[free].copy()
    for near, far in ((0, 1), (1, 0)):
        cut = np.flatnonzero((ends[:, near] >= 0) & (ends[:, far] < 0))
        table = pairs[cut] if near == 0 else pairs[cut].transpose(0, 2, 1)
        seen = table[np.arange(len(cut)), :, given[edges[cut, far]]]
        np.add.at(singles, ends[cut, near], seen)
    inside = (ends >= 0).all(1)
    return singles, ends[inside], pairs[inside]


def _tree(tree: ChowLiuTree) -> _Tables:
    """log p of every site given its parent, softplus(l) − x l of the log odds l."""
    logits, parent = _float64(tree.logits), np.asarray(tree.parent)
    log_prob = np.stack([-np.logaddexp(0, logits), -np.logaddexp(0, -logits)], -1)  # [., above, x]
    child = np.flatnonzero(parent != np.arange(len(parent)))
    singles = log_prob[:, 0].copy()
    singles[child] = 0
    return singles, np.stack([parent[child], child], 1), log_prob[child]


def _numbers(space: AbstractArraySpace, x: Any) -> np.ndarray:
    """Value numbers (num_sites,) of one point."""
    if isinstance(space, Categorical):
        x = space.decode(x)
    elif isinstance(space, Spin):
        x = x > 0
    return np.asarray(x).reshape(-1).astype(int)


def point_of_numbers(space: Any, numbers: np.ndarray) -> Any:
    """The point whose sites have the values of these numbers (num_sites,)."""
    if isinstance(space, Categorical):
        return space.encode(jnp.asarray(numbers.reshape(space.sites)))
    assert isinstance(space, Binary | Spin | Ordinal)
    values = 2 * numbers - 1 if isinstance(space, Spin) else numbers
    return jnp.asarray(values.reshape(space.shape), space.dtype)
