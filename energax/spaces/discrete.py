"""Bits, spins, categories, levels and counts."""

import math
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from energax import random
from energax.spaces._base import (
    AbstractArraySpace,
    AbstractSpace,
    Point,
    as_num_values,
    as_shape,
    flip_mask,
    float_dtype,
    refuse,
)


class _TwoValued(AbstractArraySpace):
    shape: eqx.AbstractVar[tuple[int, ...]]

    dtype = property(lambda self: float_dtype())
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

    shape: tuple[int, ...] = eqx.field(static=True, converter=as_shape)

    def example(self):
        return jnp.zeros(self.shape)

    def _check(self, x, name):
        refuse((x != 0) & (x != 1), x, name, "only 0 and 1")
        return x.astype(self.dtype)

    def propose(self, x, scale, *, key):
        return jnp.where(flip_mask(scale, x.shape, key), 1 - x, x)

    def states(self, index):
        return self._bits(index)


class Spin(_TwoValued):
    """{−1, +1}ⁿ: x of `shape`, floats −1.0 and 1.0."""

    shape: tuple[int, ...] = eqx.field(static=True, converter=as_shape)

    def example(self):
        return -jnp.ones(self.shape)

    def _check(self, x, name):
        refuse((x != -1) & (x != 1), x, name, "only -1 and +1")
        return x.astype(self.dtype)

    def propose(self, x, scale, *, key):
        return jnp.where(flip_mask(scale, x.shape, key), -x, x)

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

    sites: tuple[int, ...] = eqx.field(static=True, converter=as_shape)
    num_values: int = eqx.field(static=True, converter=as_num_values)
    encoding: str = eqx.field(static=True, default="index")  # or "onehot"; checked below

    def __check_init__(self):
        if self.encoding not in ("index", "onehot"):
            raise ValueError(f"encoding is 'index' or 'onehot', got {self.encoding!r}")

    @property
    def shape(self):  # type: ignore[override]
        return self.sites if self.encoding == "index" else (*self.sites, self.num_values)

    @property
    def dtype(self):
        return np.dtype(np.int32) if self.encoding == "index" else float_dtype()

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
            refuse((x != 0) & (x != 1), x, name, "one-hot rows of 0 and 1")
            if not np.all(x.sum(-1) == 1):
                raise ValueError(f"{name}: expected exactly one 1 along the last axis of each site")
            return x.astype(self.dtype)
        bad = (x != np.round(x)) | (x < 0) | (x >= self.num_values)
        refuse(bad, x, name, f"integers 0 to {self.num_values - 1}")
        return x.astype(self.dtype)

    def propose(self, x, scale, *, key):
        key_mask, key_shift = jax.random.split(key)
        old = self.decode(x)
        if self.encoding == "onehot" and jnp.ndim(scale) > len(self.sites):
            scale = jnp.max(scale, axis=-1)
        shift = jax.random.randint(key_shift, old.shape, 1, self.num_values)
        new = jnp.where(flip_mask(scale, old.shape, key_mask), (old + shift) % self.num_values, old)
        return self.encode(new)

    def states(self, index):
        return self.encode(self._digits(index, self.num_sites).reshape((-1, *self.sites)))


class Ordinal(_ManyValued):
    """{0, …, k−1}ⁿ with order: x of `shape`, floats."""

    shape: tuple[int, ...] = eqx.field(static=True, converter=as_shape)
    num_values: int = eqx.field(static=True, converter=as_num_values)

    dtype = property(lambda self: float_dtype())
    num_states = property(lambda self: self.num_values**self.num_sites)

    def select(self, mask):
        return Ordinal((int(mask.sum()),), self.num_values)

    def example(self):
        return jnp.zeros(self.shape)

    def _check(self, x, name):
        bad = (x != np.round(x)) | (x < 0) | (x >= self.num_values)
        refuse(bad, x, name, f"whole numbers 0 to {self.num_values - 1}")
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

    shape: tuple[int, ...] = eqx.field(static=True, converter=as_shape)

    dtype = property(lambda self: np.dtype(np.int32))
    num_states = property(lambda self: None)
    is_continuous = property(lambda self: False)

    def select(self, mask):
        return Count((int(mask.sum()),))

    def example(self):
        return jnp.zeros(self.shape, jnp.int32)

    def _check(self, x, name):
        bad = (x != np.round(x)) | (x < 0) | (x >= 2**31)
        refuse(bad, x, name, "whole numbers from 0 to 2^31 - 1")
        return x.astype(self.dtype)

    def propose(self, x, scale, *, key):
        """Rounded Gaussian step, reflected at −1/2 (symmetric)."""
        step = jnp.round(scale * random.normal(key, x.shape))
        step = jnp.clip(step, -(2.0**30), 2.0**30).astype(x.dtype)
        y = x + step
        return jnp.where(y < 0, -1 - y, y)


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
