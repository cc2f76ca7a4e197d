"""Energies E(x) of one point, p(x) = exp(−E(x))/Z, and what they make of one another: paths from a
base, powers, products and conditionals.

Low energy is probable. `log_density` always means f = −E, unnormalised. An energy is a function of
ONE point; the library batches by `jax.vmap`.
"""

import weakref
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from energax.compiler import check_arithmetic
from energax.spaces import AbstractArraySpace, AbstractSpace, Point, Record


class AbstractEnergy(eqx.Module):
    """E(x) of one point x of `space`; the distribution is p(x) = exp(−E(x))/Z."""

    if TYPE_CHECKING:  # a property to type checkers: as a field it would lead every constructor

        @property
        def space(self) -> AbstractSpace: ...

    else:
        space: eqx.AbstractVar[AbstractSpace]

    @abstractmethod
    def __call__(self, x: Point) -> Float[Array, ""]:
        """E(x), a scalar of shape ()."""

    def log_density(self, x: Point) -> Float[Array, ""]:
        """f(x) = −E(x), unnormalised."""
        return -self(x)

    def path(self, base: "AbstractNormalised") -> "AbstractPath":
        """Distributions from `base` (β = 0) to this one (β = 1)."""
        return GeometricPath(base, self)

    def tempered(self, beta) -> "AbstractEnergy":
        """β E(x), of the same kind where there is one: an Ising model's couplings and fields scale.

        **Arguments:** `beta`: a number or a scalar array, which may be traced.
        """
        return Tempered(self, beta)

    def merged(self, other: "AbstractEnergy") -> "AbstractEnergy | None":
        """E(x) + E_other(x) as one energy of this kind, None where it is none.

        Two RBMs are an RBM of all their hidden units, so that the sum keeps block Gibbs, its exact
        log Z and its path.
        """
        return None

    def condition(self, **given) -> "Conditional":
        """p(rest | given) as an energy on what is left free.

        On a `Record`: parts by name, `energy.condition(age=3.0)`. On any other space: one point
        `x=` with NaN where it is free (sites in row-major order become a flat space).

        **Raises:** ValueError for unknown names, values outside the space, or nothing left free.
        """
        return condition(self, given)

    def restrict(self, conditional: "Conditional") -> "AbstractEnergy":
        """`conditional`, which this energy's `condition` made, up to a constant in a better form.

        An RBM or an Ising model with some sites held is one itself, and has its own samplers.
        """
        return conditional

    def with_space(self, space: AbstractSpace) -> "AbstractEnergy":
        """The same energy read on another space (networks whose weights do not fix a size).

        **Raises:** ValueError if the energy cannot be evaluated there.
        """
        moved = eqx.tree_at(lambda e: e.space, self, space)
        check_scalar(moved)
        return moved

    def __add__(self, other) -> "AbstractEnergy":
        """Sum of energies, product of densities; of the same kind where there is one (`merged`),
        else a `Product`, which keeps the experts apart."""
        if not isinstance(other, AbstractEnergy):
            return NotImplemented
        one = self.merged(other)
        return Product(self, other) if one is None else one

    def __mul__(self, beta) -> "AbstractEnergy":
        """β E(x), a density to the power β (`tempered`)."""
        if isinstance(beta, AbstractEnergy):
            return NotImplemented
        return self.tempered(beta)

    __rmul__ = __mul__

    def __neg__(self) -> "AbstractEnergy":
        """−E(x): what was probable is improbable. On unbounded spaces Z may not exist."""
        return self.tempered(-1.0)

    def __sub__(self, other) -> "AbstractEnergy":
        """E(x) − E_other(x), the ratio of two densities, as one expert against another."""
        return self + -other if isinstance(other, AbstractEnergy) else NotImplemented


class AbstractNormalised(AbstractEnergy):
    """An energy with known normaliser and exact draws: bases, noise, closed-form targets."""

    @property
    @abstractmethod
    def log_z(self) -> Float[Array, ""]:
        """log Z = log ∫ exp(−E(x)) dx, exact."""

    @abstractmethod
    def draw(self, num: int, *, key: Key[Array, ""]) -> Point:
        """`num` exact independent draws, (num, *event)."""

    def log_prob(self, x: Point) -> Float[Array, ""]:
        """log p(x) = −E(x) − log Z."""
        return -self(x) - self.log_z

    @property
    def site_parameters(self) -> Any:
        """What the sites are drawn from where they are independent; None where they are not.

        The log-odds of "up" on Binary and Spin, (*shape); log-probabilities up to a constant on
        Categorical and Ordinal, (*sites, k); (mean, sd) on Real; the mean on Count; by part on
        Record, where a part may be None.
        """
        return None


class AbstractPath(eqx.Module):
    """Distributions p_β ∝ exp(f_β), β from 0 (normalised, exact draws) to 1 (the target)."""

    @property
    @abstractmethod
    def log_z0(self) -> Float[Array, ""]:
        """log Z at β = 0, exact."""

    @abstractmethod
    def at(self, beta) -> AbstractEnergy:
        """The energy at β; β may be traced, the structure is the same for every β."""

    @abstractmethod
    def increment(self, x: Point, b0, b1) -> Float[Array, ""]:
        """f_{b1}(x) − f_{b0}(x) for one point, without subtracting large totals."""

    @abstractmethod
    def draw(self, num: int, *, key: Key[Array, ""]) -> Point:
        """Exact draws at β = 0."""

    @property
    def is_linear(self) -> bool:
        """True if f_β = (1 − β) f_0 + β f_1: f_0 and f at one β then give f at every β."""
        return False

    def start_log_density(self, x: Point) -> Float[Array, ""]:
        """f_0(x), the log-density at β = 0, unnormalised."""
        return self.at(0.0).log_density(x)


def _scaled(factor, energy: Float[Array, ""]) -> Float[Array, ""]:
    """factor · energy with 0 · ∞ = 0: a factor of 0 removes the term, hard walls included."""
    return jnp.where(factor == 0, 0.0, factor * jnp.where(factor == 0, 0.0, energy))


class Interpolated(AbstractEnergy):
    """E_β = (1 − β) E_base + β E."""

    base: AbstractNormalised
    energy: AbstractEnergy
    beta: Float[Array, ""]

    @property
    def space(self):  # type: ignore[override]
        return self.energy.space

    def __call__(self, x):
        return _scaled(1 - self.beta, self.base(x)) + _scaled(self.beta, self.energy(x))


class GeometricPath(AbstractPath):
    """The geometric path f_β = (1 − β) f_base + β f (Neal 2001, eq. 3)."""

    base: AbstractNormalised
    energy: AbstractEnergy

    @property
    def log_z0(self):
        return self.base.log_z

    def at(self, beta):
        return Interpolated(self.base, self.energy, jnp.asarray(beta, float))

    def increment(self, x, b0, b1):
        return _scaled(b1 - b0, self.base(x) - self.energy(x))

    @property
    def is_linear(self):
        return True

    def start_log_density(self, x):
        return self.base.log_density(x)

    def draw(self, num, *, key):
        return self.base.draw(num, key=key)


class Tempered(AbstractEnergy):
    """β E(x): p_β ∝ p^β. β is an array, so changing it does not compile anew."""

    energy: AbstractEnergy
    beta: Float[Array, ""] = eqx.field(converter=lambda b: jnp.asarray(b, float))

    @property
    def space(self):  # type: ignore[override]
        return self.energy.space

    def __call__(self, x):
        return _scaled(self.beta, self.energy(x))

    def with_space(self, space):
        return Tempered(self.energy.with_space(space), self.beta)


class Product(AbstractEnergy):
    """Product of experts, E(x) = Σ_i E_i(x) (Hinton 2002), all on one space."""

    experts: tuple[AbstractEnergy, ...]

    def __init__(self, *experts: AbstractEnergy):
        if not experts:
            raise ValueError("Product needs at least one energy")
        flat: list[AbstractEnergy] = []
        for expert in experts:
            if not isinstance(expert, AbstractEnergy):
                raise TypeError(f"Product multiplies energies, got {type(expert).__name__}")
            flat.extend(expert.experts if isinstance(expert, Product) else [expert])
        first = flat[0].space
        for expert in flat[1:]:
            if type(expert.space) is not type(first) or expert.space.shape != first.shape:
                raise ValueError(
                    f"Product: experts must share one space, got {first} and {expert.space}"
                )
        self.experts = tuple(flat)

    @property
    def space(self):  # type: ignore[override]
        return self.experts[0].space

    def __call__(self, x):
        return sum((expert(x) for expert in self.experts[1:]), self.experts[0](x))

    def with_space(self, space):
        return Product(*(expert.with_space(space) for expert in self.experts))


class Conditional(AbstractEnergy):
    """E(rest, given) as an energy of the rest; made by `AbstractEnergy.condition`.

    On a `Record`, `given` holds whole parts; else `given` is one point and `free` numbers the sites
    that stay free.
    """

    energy: AbstractEnergy
    given: Any
    free: Int[Array, " m"] | None
    space: AbstractSpace

    def __call__(self, x):
        return self.energy(self.complete(x))

    def complete(self, x: Point) -> Point:
        """The full point of the original space that holds `x` at the free places."""
        if self.free is None:
            return {**self.given, **x}
        whole = self.energy.space
        assert isinstance(whole, AbstractArraySpace)
        tail = x.shape[1:]  # (k,) for one-hot sites, else ()
        flat = jnp.reshape(self.given, (whole.num_sites, *tail))
        return flat.at[self.free].set(x).reshape(whole.shape)


def condition(energy: AbstractEnergy, given: dict[str, Any]) -> Conditional:
    """See `AbstractEnergy.condition`."""
    space = energy.space
    if isinstance(space, Record):
        unknown = sorted(set(given) - set(space.parts))
        rest = {name: part for name, part in space.parts.items() if name not in given}
        if unknown or not given or not rest:
            raise ValueError(
                f"condition: expected some but not all of {sorted(space.parts)}, "
                f"got {sorted(given)}"
            )
        fixed = {
            name: jnp.asarray(space.parts[name].validate(value, batch=False, name=name))
            for name, value in given.items()
        }
        return Conditional(energy, fixed, None, Record(**rest))
    if set(given) != {"x"}:
        raise ValueError(
            f"condition: on {type(space).__name__} give one point x= with NaN where it is free, "
            f"got {sorted(given)}"
        )
    assert isinstance(space, AbstractArraySpace)
    point = np.array(given["x"], float)
    if point.shape != space.shape:
        raise ValueError(f"condition: expected x of shape {space.shape}, got {point.shape}")
    missing = np.any(np.isnan(point).reshape(space.num_sites, -1), axis=-1)
    if not missing.any() or missing.all():
        raise ValueError("condition: expected NaN at some but not all sites of x")
    sites = point.reshape(space.num_sites, -1)
    example = np.asarray(space.example()).reshape(space.num_sites, -1)
    filled = np.where(missing[:, None], example, sites).reshape(space.shape)
    fixed = jnp.asarray(space.validate(filled, batch=False, name="x"))
    return Conditional(energy, fixed, jnp.asarray(np.flatnonzero(missing)), space.select(missing))


_checked: dict[int, weakref.ref] = {}
"""Energies that were found right, which never change: tracing one again takes milliseconds."""


def check_scalar(energy: AbstractEnergy) -> None:
    """Raises unless `energy` is an energy that gives a real scalar for one point of its space.

    The first time it also asks whether XLA computes right, and warns where it does not.
    """
    check_arithmetic()
    number = id(energy)
    known = _checked.get(number)
    if known is not None and known() is energy:
        return
    if not isinstance(energy, AbstractEnergy):
        raise TypeError(
            f"expected an energy, got {type(energy).__name__}; wrap a function f(x) by "
            "energax.from_log_density(f, space)"
        )
    point = energy.space.example()
    shown = jax.tree.map(lambda a: a.shape, point)
    try:
        out = eqx.filter_eval_shape(energy, point)
    except Exception as error:
        raise ValueError(
            f"the energy failed on ONE point of shape {shown} of {energy.space}: {error}\n"
            "An energy takes one point (the library batches) and must be traceable by JAX "
            "(jax.numpy, no Python branches on values)."
        ) from error
    shape = getattr(out, "shape", None)
    if shape != () or not jnp.issubdtype(out.dtype, jnp.floating):
        got = f"shape {shape}, dtype {out.dtype}" if shape is not None else type(out).__name__
        raise ValueError(
            f"an energy gives one real number, shape (), for ONE point of shape {shown}; "
            f"got {got}. Do not batch inside it; reduce the output with .sum(), "
            "or index it with [0]."
        )
    _checked[number] = weakref.ref(energy, lambda _: _checked.pop(number, None))
