"""log Z of what stays in a family: products, powers and conditionals of textbook densities."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import (
    AbstractEnergy,
    Conditional,
    FrozenEnergy,
    Interpolated,
    Product,
    Tempered,
)
from energax.energies.exponential_family import (
    AbstractExponentialFamily,
    Beta,
    Exponential,
    Gamma,
    MultivariateNormal,
    Normal,
    Poisson,
)
from energax.energies.reference import Gaussian
from energax.partition._base import Clock, answer, in_float64
from energax.partition.exact._base import AbstractExactMethod, Quote
from energax.results import LogZ


class ClosedForm(AbstractExactMethod):
    """log Z of products, powers and conditionals of normal, gamma, beta, exponential, Poisson.

    A product of members of one family adds natural parameters, a power β multiplies them
    (Wainwright & Jordan 2008, eq. 3.5), so that log Z = A(Σ βη) + constant; a conditional drops
    coordinates. Normals of every kind are f(x) = −½ xᵀΛx + bᵀx + c, with
    log Z = c + ½ bᵀΛ⁻¹b − ½ log det Λ + (n/2) log 2π, a conditional being a block of Λ (Bishop
    2006, eq. 2.73). Poisson's 1/x! stays of the family only to the power of 1.

    Where a product leaves the natural parameter space (Λ not positive definite) there is no Z: the
    answer is +∞ and says so. Products of *discrete* sites are `Elimination`'s.

    **Raises:** TypeError for an energy that is none of these.
    """

    def quote(self, energy: AbstractEnergy) -> Quote:
        if _applies(energy):
            return Quote(float(energy.space.num_sites))
        return Quote(
            np.inf,
            f"closed form: {type(energy).__name__} is no product, power or conditional of members "
            "of one known family",
        )

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False) -> LogZ:
        self.check(energy)
        clock = Clock()
        with jax.enable_x64(True):
            form = _form(in_float64(energy))
            assert form is not None
            value = form.log_z()
        reasons = []
        if np.isposinf(value):
            reasons = ["the density does not die out: Z is infinite"]
        elif not np.isfinite(value):
            reasons = [f"the closed form is {value}"]
        return answer(value, 0.0, clock, method="closed form", reasons=reasons)


class _Form:
    """A density as numbers that products add and powers multiply."""

    @abstractmethod
    def scaled(self, factor: float) -> "_Form": ...

    @abstractmethod
    def times(self, other: "_Form") -> "_Form | None": ...

    @abstractmethod
    def restricted(self, free: np.ndarray, given: np.ndarray) -> "_Form": ...

    @abstractmethod
    def log_z(self) -> float: ...

    @property
    def in_family(self) -> bool:
        """Whether its normaliser is known."""
        return True


@dataclasses.dataclass(frozen=True)
class _Quadratic(_Form):
    """f(x) = −½ xᵀΛx + bᵀx + c on ℝⁿ; Λ as its diagonal (n,) or whole (n, n)."""

    precision: np.ndarray
    slope: np.ndarray
    constant: float

    def scaled(self, factor):
        return _Quadratic(factor * self.precision, factor * self.slope, factor * self.constant)

    def times(self, other):
        if not isinstance(other, _Quadratic):
            return None
        a, b = self.precision, other.precision
        if a.ndim != b.ndim:
            a, b = (np.diag(m) if m.ndim == 1 else m for m in (a, b))
        return _Quadratic(a + b, self.slope + other.slope, self.constant + other.constant)

    def restricted(self, free, given):
        y = np.where(np.isin(np.arange(len(given)), free), 0.0, given)
        if self.precision.ndim == 1:
            pull, precision = self.precision * y, self.precision[free]
        else:
            pull, precision = self.precision @ y, self.precision[np.ix_(free, free)]
        constant = self.constant + self.slope @ y - 0.5 * y @ pull
        return _Quadratic(precision, (self.slope - pull)[free], float(constant))

    def log_z(self):
        n = len(self.slope)
        if self.precision.ndim == 1:
            if not (self.precision > 0).all():
                return np.inf
            half_det, square = 0.5 * np.log(self.precision).sum(), self.slope**2 / self.precision
        else:
            try:
                factor = np.linalg.cholesky(self.precision)
            except np.linalg.LinAlgError:
                return np.inf
            half_det = np.log(np.diag(factor)).sum()
            square = np.linalg.solve(factor, self.slope) ** 2
        return float(self.constant + 0.5 * square.sum() - half_det + 0.5 * n * np.log(2 * np.pi))


@dataclasses.dataclass(frozen=True)
class _Member(_Form):
    """f(x) = ⟨η, T(x)⟩ + p log h(x) + c of a family with independent coordinates.

    `family`: a member that lends its T, h and A; `eta`: one (n,) array for each statistic.
    """

    family: AbstractExponentialFamily
    eta: dict[str, np.ndarray]
    base_power: float
    constant: float

    def scaled(self, factor):
        eta = {name: factor * value for name, value in self.eta.items()}
        return _Member(self.family, eta, factor * self.base_power, factor * self.constant)

    def times(self, other):
        if not isinstance(other, _Member) or type(other.family) is not type(self.family):
            return None
        eta = {name: value + other.eta[name] for name, value in self.eta.items()}
        base_power = self.base_power + other.base_power
        return _Member(self.family, eta, base_power, self.constant + other.constant)

    def restricted(self, free, given):
        held = np.setdiff1d(np.arange(len(given)), free)
        point = jnp.asarray(given[held].astype(self.family.space.dtype))
        statistics = _named(self.family.sufficient_statistics(point))
        constant = self.constant + self.base_power * float(self.family.log_base_measure(point))
        constant += sum(float(self.eta[name][held] @ statistics[name]) for name in self.eta)
        eta = {name: value[free] for name, value in self.eta.items()}
        return _Member(self.family, eta, self.base_power, constant)

    @property
    def in_family(self):
        return self.base_power == 1 or not isinstance(self.family, Poisson)

    def log_z(self):
        eta = {name: jnp.asarray(value) for name, value in self.eta.items()}
        eta = eta if isinstance(self.family.eta, dict) else eta[""]
        return float(self.family.log_partition(eta)) + self.constant


def _named(statistics) -> dict[str, np.ndarray]:
    named = statistics if isinstance(statistics, dict) else {"": statistics}
    return {name: np.asarray(value, np.float64).reshape(-1) for name, value in named.items()}


def _float64(array) -> np.ndarray:
    return np.asarray(array, np.float64).reshape(-1)


def _of_gaussian(energy: Gaussian) -> _Quadratic:
    mean = _float64(energy.mean)
    if energy.scale is not None:
        precision = 1 / _float64(energy.scale) ** 2
        pull = precision * mean
    else:
        whitening = np.tril(np.asarray(energy.whitening, np.float64))
        precision = whitening.T @ whitening
        pull = precision @ mean
    return _Quadratic(precision, pull, float(-0.5 * mean @ pull))


def _of_normal(energy: Normal) -> _Quadratic:
    return _Quadratic(-2 * _float64(energy.eta["x_squared"]), _float64(energy.eta["x"]), 0.0)


def _of_multivariate(energy: MultivariateNormal) -> _Quadratic:
    half = np.asarray(energy.eta["xx"], np.float64)
    return _Quadratic(-(half + half.T), _float64(energy.eta["x"]), 0.0)


def _of_member(energy: AbstractExponentialFamily) -> _Member:
    return _Member(energy, _named(energy.eta), 1.0, 0.0)


_LEAVES: dict[type[AbstractEnergy], Callable[..., _Form]] = {
    Gaussian: _of_gaussian,
    Normal: _of_normal,
    MultivariateNormal: _of_multivariate,
    Exponential: _of_member,
    Gamma: _of_member,
    Beta: _of_member,
    Poisson: _of_member,
}


def _form(energy: AbstractEnergy) -> _Form | None:
    """`energy` in closed form, None where it is no product, power or conditional of one family."""
    if isinstance(energy, FrozenEnergy):
        return _form(energy.energy)
    if isinstance(energy, Tempered):
        return _powered(energy.energy, float(energy.beta))
    if isinstance(energy, Interpolated):
        beta = float(energy.beta)
        return _product([_powered(energy.base, 1 - beta), _powered(energy.energy, beta)])
    if isinstance(energy, Product):
        return _product([_form(expert) for expert in energy.experts])
    if isinstance(energy, Conditional):
        whole = _form(energy.energy)
        if whole is None or energy.free is None:
            return None
        return whole.restricted(np.asarray(energy.free), _float64(energy.given))
    make = _LEAVES.get(type(energy))
    return None if make is None else make(energy)


def _powered(energy: AbstractEnergy, beta: float) -> _Form | None:
    form = _form(energy)
    return None if form is None else form.scaled(beta)


def _product(forms: list[_Form | None]) -> _Form | None:
    total = forms[0]
    for form in forms[1:]:
        total = None if total is None or form is None else total.times(form)
    return total


def _applies(energy: AbstractEnergy) -> bool:
    if not any(isinstance(leaf, tuple(_LEAVES)) for leaf in _energies(energy)):
        return False  # cheap for the many energies that are none of these
    with jax.enable_x64(True):
        form = _form(in_float64(energy))
    return form is not None and form.in_family


def _energies(energy: AbstractEnergy) -> list[AbstractEnergy]:
    """The known members inside."""
    kinds = tuple(_LEAVES)
    nodes = jax.tree.leaves(energy, is_leaf=lambda node: isinstance(node, kinds))
    return [node for node in nodes if isinstance(node, kinds)]
