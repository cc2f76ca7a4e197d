"""What a space is, and what spaces of all kinds share."""

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

Point = Any
"""One point, or with leading axes a batch of them: an array, or a dict of arrays on `Record`."""


def as_shape(shape) -> tuple[int, ...]:
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
        raise ValueError(f"a shape is a tuple of positive integers, got {shape}")
    return tuple(int(n) for n in shape)


def as_num_values(k) -> int:
    if not isinstance(k, (int, np.integer)) or k < 2:
        raise ValueError(f"a site needs at least 2 values, got k={k!r}")
    return int(k)


def flip_mask(scale, shape, key) -> Bool[Array, "..."]:
    """Sites to change: each by itself with probability `scale` (never all but surely)."""
    return jax.random.uniform(key, shape) < scale


class AbstractSpace(eqx.Module):
    """The set that one point x belongs to."""

    if TYPE_CHECKING:  # a property to type checkers: as a field it would lead every constructor

        @property
        def shape(self) -> Any: ...

    else:
        shape: eqx.AbstractVar[Any]

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """The dtype that an energy sees."""

    @property
    @abstractmethod
    def num_sites(self) -> int:
        """Number of free coordinates of one point."""

    @property
    @abstractmethod
    def num_states(self) -> int | None:
        """Number of points, exactly; None if there are infinitely many."""

    @property
    @abstractmethod
    def is_continuous(self) -> bool:
        """True if every coordinate is real-valued (Lebesgue measure)."""

    @abstractmethod
    def example(self) -> Point:
        """Some point of the space."""

    @abstractmethod
    def validate(self, x, *, batch: bool | None = None, name: str = "x") -> Any:
        """`x` as NumPy in the dtype that energies see, or a ValueError that says what is wrong.

        **Arguments:** `batch`: True wants one leading axis of points, False exactly one point, None
        takes either. `name`: what the error calls the data.
        """

    @abstractmethod
    def propose(self, x: Point, scale, *, key: Key[Array, ""]) -> Point:
        """A symmetric random move, q(x'|x) = q(x|x'), for a batch of points (leading axes).

        **Arguments:** `scale`: how far, broadcastable to one point: a standard deviation in units
        of x where values are ordered, else the probability that a site changes.
        """

    def states(self, index: Int[Array, " n"]) -> Point:
        """The points of the given numbers 0 ≤ index < num_states: (n, *event)."""
        raise TypeError(f"{type(self).__name__} has infinitely many points: none can be numbered")

    def enumerate(self) -> Point:
        """All points, (num_states, *event). Large spaces are better read in chunks by `states`."""
        if self.num_states is None:
            raise TypeError(f"{type(self).__name__} has infinitely many points: no enumeration")
        if self.num_states > 2**24:
            raise ValueError(
                f"{self.num_states:,} states are too many to list at once (limit 2^24); "
                "read them in chunks with states(index)"
            )
        return self.states(jnp.arange(self.num_states))


class AbstractArraySpace(AbstractSpace):
    """A space whose points are single arrays."""

    @property
    def num_sites(self) -> int:
        return math.prod(self.shape)

    @abstractmethod
    def select(self, mask: np.ndarray) -> "AbstractArraySpace":
        """The space of the sites where `mask` (num_sites,) is True, row-major, as a flat vector."""

    @abstractmethod
    def _check(self, x: np.ndarray, name: str) -> np.ndarray:
        """Raises ValueError for values outside the space; returns `x` in the right dtype."""

    def validate(self, x, *, batch: bool | None = None, name: str = "x") -> np.ndarray:
        x = as_numeric(x, name)
        extra = x.ndim - len(self.shape)
        fits = extra in (0, 1) and x.shape[extra:] == self.shape
        if not fits or (batch is not None and extra != int(batch)):
            if batch is False:
                wanted = f"one point of shape {self.shape}"
            else:
                rows = ", ".join(["rows", *map(str, self.shape)]) + ("" if self.shape else ",")
                wanted = f"shape ({rows})" + (f" or {self.shape}" if batch is None else "")
            raise ValueError(f"{name}: expected {wanted} for {self}, got shape {x.shape}")
        if batch and len(x) == 0:
            raise ValueError(f"{name}: expected at least one row, got none")
        if not np.all(np.isfinite(x)):
            where = np.argwhere(~np.isfinite(x))
            raise ValueError(
                f"{name}: {len(where)} value(s) are NaN or infinite, the first at index "
                f"{tuple(int(i) for i in where[0])}; remove or impute them"
            )
        return self._check(x, name)


def as_numeric(x, name: str) -> np.ndarray:
    """`x` as a numeric or boolean NumPy array, or an error that says what arrived instead."""
    try:
        array = np.asarray(x)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: expected a numeric array, got ragged or mixed data") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name}: expected numbers, got dtype {array.dtype}"
            + ("; are the rows of different length?" if array.dtype == object else "")
        )
    return array


def refuse(bad: Any, x: np.ndarray, name: str, wanted: str) -> None:
    """Raises for the first value marked in `bad`, an array of the shape of x."""
    bad = np.asarray(bad)  # of a single number NumPy makes no array
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name}: expected {wanted}, got {x[first]} at index {first} "
            f"({int(bad.sum())} value(s) in all); rescale the data or choose another space"
        )


def float_dtype() -> np.dtype:
    return np.dtype(jnp.result_type(float))


def num_rows(x: Point) -> int:
    """Length of the leading axis of a batch of points."""
    return len(jax.tree.leaves(x)[0])


def flatten_points(x: Point) -> np.ndarray:
    """A batch of points as float64 (*batch, sites): what diagnostics and distances look at.

    `x` carries exactly two leading axes (chains, draws); records are joined in the order of names.
    """
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(x)]
    return np.concatenate([a.reshape(a.shape[0], a.shape[1], -1) for a in leaves], axis=-1)
