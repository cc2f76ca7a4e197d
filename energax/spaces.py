"""Where one data point lives.

A space knows the shape and dtype that an energy sees, checks data, proposes symmetric random moves
for Metropolis, and lists its states when they are finitely many. A log Z is relative to counting
measure on discrete spaces and to Lebesgue measure on continuous ones.
"""

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key

from energax import random

Point = Any
"""One point, or with leading axes a batch of them: an array, or a dict of arrays on `Record`."""


def _as_shape(shape) -> tuple[int, ...]:
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
        raise ValueError(f"a shape is a tuple of positive integers, got {shape}")
    return tuple(int(n) for n in shape)


def _as_num_values(k) -> int:
    if not isinstance(k, (int, np.integer)) or k < 2:
        raise ValueError(f"a site needs at least 2 values, got k={k!r}")
    return int(k)


def _flip_mask(scale, shape, key) -> Bool[Array, "..."]:
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


def _refuse(bad: Any, x: np.ndarray, name: str, wanted: str) -> None:
    """Raises for the first value marked in `bad`, an array of the shape of x."""
    bad = np.asarray(bad)  # of a single number NumPy makes no array
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name}: expected {wanted}, got {x[first]!r} at index {first} "
            f"({int(bad.sum())} value(s) in all); rescale the data or choose another space"
        )


def _float_dtype() -> np.dtype:
    return np.dtype(jnp.result_type(float))


class Real(AbstractArraySpace):
    """ℝⁿ: x of `shape`, floats."""

    shape: tuple[int, ...] = eqx.field(static=True, converter=_as_shape)

    dtype = property(lambda self: _float_dtype())
    num_states = property(lambda self: None)
    is_continuous = property(lambda self: True)

    def example(self):
        return jnp.zeros(self.shape)

    def _check(self, x, name):
        return x.astype(self.dtype)

    def select(self, mask):
        return Real((int(mask.sum()),))

    def propose(self, x, scale, *, key):
        return x + scale * random.normal(key, x.shape, x.dtype)


class Box(AbstractArraySpace):
    """low ≤ x ≤ high coordinate by coordinate; ends may be ±inf.

    **Arguments:** `low`, `high`: numbers or arrays, broadcast against each other and to `shape`.

    **Raises:** ValueError where low ≥ high or an end is NaN.
    """

    low: Array
    high: Array
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, low, high, shape=None):
        low, high = np.asarray(low, float), np.asarray(high, float)
        self.shape = (
            np.broadcast_shapes(low.shape, high.shape) if shape is None else _as_shape(shape)
        )
        low, high = np.broadcast_to(low, self.shape), np.broadcast_to(high, self.shape)
        if not np.all(low < high):
            raise ValueError("Box: expected low < high everywhere; an end is NaN or out of order")
        self.low = jnp.asarray(low, _float_dtype())
        self.high = jnp.asarray(high, _float_dtype())

    dtype = property(lambda self: _float_dtype())
    num_states = property(lambda self: None)
    is_continuous = property(lambda self: True)

    def example(self):
        low, high = self.low, self.high
        inner_low = jnp.where(jnp.isfinite(low), low, jnp.where(jnp.isfinite(high), high - 2, -1.0))
        inner_high = jnp.where(jnp.isfinite(high), high, inner_low + 2)
        return (inner_low + inner_high) / 2

    def _check(self, x, name):
        x = x.astype(self.dtype)
        low, high = np.asarray(self.low), np.asarray(self.high)
        _refuse((x < low) | (x > high), x, name, "values between low and high of the Box")
        return x

    def select(self, mask):
        return Box(np.asarray(self.low).ravel()[mask], np.asarray(self.high).ravel()[mask])

    def propose(self, x, scale, *, key):
        """Gaussian step, reflected at the finite ends (a reflected Gaussian is still symmetric)."""
        return self.reflect(x + scale * random.normal(key, x.shape, x.dtype))

    def reflect(self, y):
        """`y` folded back into the box, as light between mirrors at the finite ends."""
        low, high = self.low, self.high
        low_ok, high_ok = jnp.isfinite(low), jnp.isfinite(high)
        safe_low, safe_high = jnp.where(low_ok, low, 0.0), jnp.where(high_ok, high, 0.0)
        width = jnp.where(low_ok & high_ok, safe_high - safe_low, 1.0)
        phase = jnp.mod(y - safe_low, 2 * width)
        both = safe_low + jnp.where(phase > width, 2 * width - phase, phase)
        from_low = safe_low + jnp.abs(y - safe_low)
        from_high = safe_high - jnp.abs(safe_high - y)
        y = jnp.where(
            low_ok & high_ok,
            both,
            jnp.where(low_ok, from_low, jnp.where(high_ok, from_high, y)),
        )
        return jnp.clip(y, low, high)  # rounding only


class _TwoValued(AbstractArraySpace):
    shape: eqx.AbstractVar[tuple[int, ...]]

    dtype = property(lambda self: _float_dtype())
    num_states = property(lambda self: 2**self.num_sites)
    is_continuous = property(lambda self: False)
    num_values = property(lambda self: 2)

    def select(self, mask):
        return type(self)((int(mask.sum()),))  # type: ignore[call-arg]

    def _bits(self, index):
        shifts = jnp.arange(self.num_sites, dtype=index.dtype)
        return ((index[:, None] >> shifts) & 1).reshape((-1, *self.shape)).astype(self.dtype)


class Binary(_TwoValued):
    """{0, 1}ⁿ: x of `shape`, floats 0.0 and 1.0."""

    shape: tuple[int, ...] = eqx.field(static=True, converter=_as_shape)

    def example(self):
        return jnp.zeros(self.shape)

    def _check(self, x, name):
        _refuse((x != 0) & (x != 1), x, name, "only 0 and 1")
        return x.astype(self.dtype)

    def propose(self, x, scale, *, key):
        return jnp.where(_flip_mask(scale, x.shape, key), 1 - x, x)

    def states(self, index):
        return self._bits(index)


class Spin(_TwoValued):
    """{−1, +1}ⁿ: x of `shape`, floats −1.0 and 1.0."""

    shape: tuple[int, ...] = eqx.field(static=True, converter=_as_shape)

    def example(self):
        return -jnp.ones(self.shape)

    def _check(self, x, name):
        _refuse((x != -1) & (x != 1), x, name, "only -1 and +1")
        return x.astype(self.dtype)

    def propose(self, x, scale, *, key):
        return jnp.where(_flip_mask(scale, x.shape, key), -x, x)

    def states(self, index):
        return 2 * self._bits(index) - 1


class _ManyValued(AbstractArraySpace):
    if TYPE_CHECKING:

        @property
        def num_values(self) -> int: ...

    else:
        shape: eqx.AbstractVar[tuple[int, ...]]
        num_values: eqx.AbstractVar[int]

    is_continuous = property(lambda self: False)

    def _digits(self, index, num_sites):
        powers = jnp.asarray([self.num_values**i for i in range(num_sites)], index.dtype)
        return (index[:, None] // powers) % self.num_values


class Categorical(_ManyValued):
    """{0, …, k−1}ⁿ without order.

    With `encoding="index"` an energy sees int32 of `sites`; with `"onehot"` floats of
    `sites + (k,)`, one 1.0 in each last-axis row, which kernels that use gradients need.
    """

    sites: tuple[int, ...] = eqx.field(static=True, converter=_as_shape)
    num_values: int = eqx.field(static=True, converter=_as_num_values)
    encoding: str = eqx.field(static=True, default="index")  # or "onehot"; checked below

    def __check_init__(self):
        if self.encoding not in ("index", "onehot"):
            raise ValueError(f"encoding is 'index' or 'onehot', got {self.encoding!r}")

    @property
    def shape(self):  # type: ignore[override]
        return self.sites if self.encoding == "index" else (*self.sites, self.num_values)

    @property
    def dtype(self):
        return np.dtype(np.int32) if self.encoding == "index" else _float_dtype()

    @property
    def num_sites(self):
        return math.prod(self.sites)

    @property
    def num_states(self):
        return self.num_values**self.num_sites

    def encode(self, index: Int[Array, "..."]):
        """Integer categories (..., *sites) in the encoding that energies see."""
        if self.encoding == "index":
            return index.astype(jnp.int32)
        return jax.nn.one_hot(index, self.num_values, dtype=self.dtype)

    def decode(self, x) -> Int[Array, "..."]:
        """Integer categories (..., *sites) of encoded points."""
        return jnp.asarray(x) if self.encoding == "index" else jnp.argmax(x, -1).astype(jnp.int32)

    def select(self, mask):
        return Categorical((int(mask.sum()),), self.num_values, self.encoding)

    def example(self):
        return self.encode(jnp.zeros(self.sites, jnp.int32))

    def _check(self, x, name):
        if self.encoding == "onehot":
            _refuse((x != 0) & (x != 1), x, name, "one-hot rows of 0 and 1")
            if not np.all(x.sum(-1) == 1):
                raise ValueError(f"{name}: expected exactly one 1 along the last axis of each site")
            return x.astype(self.dtype)
        bad = (x != np.round(x)) | (x < 0) | (x >= self.num_values)
        _refuse(bad, x, name, f"integers 0 to {self.num_values - 1}")
        return x.astype(self.dtype)

    def propose(self, x, scale, *, key):
        key_mask, key_shift = jax.random.split(key)
        old = self.decode(x)
        if self.encoding == "onehot" and jnp.ndim(scale) > len(self.sites):
            scale = jnp.max(scale, axis=-1)
        shift = jax.random.randint(key_shift, old.shape, 1, self.num_values)
        new = jnp.where(
            _flip_mask(scale, old.shape, key_mask), (old + shift) % self.num_values, old
        )
        return self.encode(new)

    def states(self, index):
        return self.encode(self._digits(index, self.num_sites).reshape((-1, *self.sites)))


class Ordinal(_ManyValued):
    """{0, …, k−1}ⁿ with order: x of `shape`, floats."""

    shape: tuple[int, ...] = eqx.field(static=True, converter=_as_shape)
    num_values: int = eqx.field(static=True, converter=_as_num_values)

    dtype = property(lambda self: _float_dtype())
    num_states = property(lambda self: self.num_values**self.num_sites)

    def select(self, mask):
        return Ordinal((int(mask.sum()),), self.num_values)

    def example(self):
        return jnp.zeros(self.shape)

    def _check(self, x, name):
        bad = (x != np.round(x)) | (x < 0) | (x >= self.num_values)
        _refuse(bad, x, name, f"whole numbers 0 to {self.num_values - 1}")
        return x.astype(self.dtype)

    def propose(self, x, scale, *, key):
        """Rounded Gaussian step, reflected half-way outside the two ends (symmetric)."""
        y = x + jnp.round(scale * random.normal(key, x.shape, x.dtype))
        phase = jnp.mod(y, 2 * self.num_values)
        return jnp.where(phase >= self.num_values, 2 * self.num_values - 1 - phase, phase)

    def states(self, index):
        return self._digits(index, self.num_sites).reshape((-1, *self.shape)).astype(self.dtype)


class Count(AbstractArraySpace):
    """{0, 1, 2, …}ⁿ: x of `shape`, int32."""

    shape: tuple[int, ...] = eqx.field(static=True, converter=_as_shape)

    dtype = property(lambda self: np.dtype(np.int32))
    num_states = property(lambda self: None)
    is_continuous = property(lambda self: False)

    def select(self, mask):
        return Count((int(mask.sum()),))

    def example(self):
        return jnp.zeros(self.shape, jnp.int32)

    def _check(self, x, name):
        bad = (x != np.round(x)) | (x < 0) | (x >= 2**31)
        _refuse(bad, x, name, "whole numbers from 0 to 2^31 - 1")
        return x.astype(self.dtype)

    def propose(self, x, scale, *, key):
        """Rounded Gaussian step, reflected at −1/2 (symmetric)."""
        step = jnp.round(scale * random.normal(key, x.shape))
        step = jnp.clip(step, -(2.0**30), 2.0**30).astype(x.dtype)
        y = x + step
        return jnp.where(y < 0, -1 - y, y)


class Record(AbstractSpace):
    """A named mix of spaces: x is a dict with one entry a part.

    `Record(age=Real(()), smoker=Binary((1,)))`; parts may not be records themselves.
    """

    parts: dict[str, AbstractArraySpace]

    def __init__(self, **parts: Any):
        if not parts:
            raise ValueError("Record needs at least one named part, as in Record(a=Real((2,)))")
        for name, part in parts.items():
            if not isinstance(part, AbstractArraySpace):
                raise TypeError(
                    f"Record part {name!r}: expected a space such as Real((2,)), got {part!r}"
                )
        self.parts = dict(sorted(parts.items()))  # the order in which JAX flattens dicts

    @property
    def shape(self):  # type: ignore[override]
        return {name: part.shape for name, part in self.parts.items()}

    @property
    def dtype(self):
        return {name: part.dtype for name, part in self.parts.items()}

    @property
    def num_sites(self):
        return sum(part.num_sites for part in self.parts.values())

    @property
    def num_states(self):
        counts = [part.num_states for part in self.parts.values()]
        return None if None in counts else math.prod(n for n in counts if n is not None)

    @property
    def is_continuous(self):
        return all(part.is_continuous for part in self.parts.values())

    def example(self):
        return {name: part.example() for name, part in self.parts.items()}

    def validate(self, x, *, batch=None, name="x"):
        if not isinstance(x, dict) or set(x) != set(self.parts):
            got = sorted(x) if isinstance(x, dict) else type(x).__name__
            raise ValueError(f"{name}: expected a dict with keys {sorted(self.parts)}, got {got}")
        out = {
            key: part.validate(x[key], batch=batch, name=f"{name}[{key!r}]")
            for key, part in self.parts.items()
        }
        extra = {k: v.ndim - len(self.parts[k].shape) for k, v in out.items()}
        rows = {k: len(v) for k, v in out.items() if extra[k] == 1}
        if len(set(extra.values())) > 1 or len(set(rows.values())) > 1:
            raise ValueError(f"{name}: expected as many rows in each part, got {rows}")
        return out

    def propose(self, x, scale, *, key):
        """Every part moves by its own rule; `scale` is a number or a dict like x."""
        keys = jax.random.split(key, len(self.parts))
        return {
            name: part.propose(
                x[name], scale[name] if isinstance(scale, dict) else scale, key=keys[i]
            )
            for i, (name, part) in enumerate(self.parts.items())
        }

    def states(self, index):
        if self.num_states is None:
            return super().states(index)
        out = {}
        for name, part in self.parts.items():
            out[name] = part.states(index % part.num_states)  # type: ignore[operator]
            index = index // part.num_states  # type: ignore[operator]
        return out


def num_rows(x: Point) -> int:
    """Length of the leading axis of a batch of points."""
    return len(jax.tree.leaves(x)[0])


def flatten_points(x: Point) -> np.ndarray:
    """A batch of points as float64 (*batch, sites): what diagnostics and distances look at.

    `x` carries exactly two leading axes (chains, draws); records are joined in the order of names.
    """
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(x)]
    return np.concatenate([a.reshape(a.shape[0], a.shape[1], -1) for a in leaves], axis=-1)


def few_valued(
    name: str, space: AbstractSpace, instead: str
) -> Binary | Spin | Categorical | Ordinal:
    """`space` if its sites have few values, which `name` lists; `instead` says what to take.

    **Raises:** TypeError on any other space.
    """
    if isinstance(space, (Binary, Spin, Categorical, Ordinal)):
        return space
    raise TypeError(
        f"{name} lists the values of a site, on Binary, Spin, Categorical and Ordinal spaces, "
        f"got {space}; {instead}"
    )


def with_site_moved(
    space: AbstractArraySpace, x: Point, site: Int[Array, " chains"], shift: Int[Array, " others"]
) -> Point:
    """(others, chains, *event): `x` with its `site` `shift` values on, round and round."""
    at: Bool[Array, "chains sites"] = jnp.arange(space.num_sites) == site[:, None]
    if isinstance(space, Categorical) and space.encoding == "onehot":
        rows = x.reshape(*at.shape, space.num_values)
        moved = jax.vmap(lambda s: jnp.where(at[..., None], jnp.roll(rows, s, axis=-1), rows))(
            shift
        )
        return moved.reshape(-1, *x.shape)
    flat = x.reshape(at.shape)
    if isinstance(space, Binary):
        moved = jnp.where(at, 1 - flat, flat)[None]
    elif isinstance(space, Spin):
        moved = jnp.where(at, -flat, flat)[None]
    else:
        assert isinstance(space, (Categorical, Ordinal))
        onward = jnp.mod(flat + shift[:, None, None].astype(flat.dtype), space.num_values)
        moved = jnp.where(at, onward, flat)
    return moved.reshape(-1, *x.shape)
