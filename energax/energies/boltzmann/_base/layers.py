"""Layers of units with several features each, and layers made of layers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from energax import random
from energax.energies.boltzmann._base.units import AbstractUnits, only_space, site_part
from energax.spaces import AbstractSpace, Categorical, Record

_UNROLLED = 32  # values, up to which a category is drawn by one comparison with each


class SoftmaxUnits(AbstractUnits):
    """x_i of k values, the features one-hot: own(x) = Σ_i b[i, x_i], log partition
    Σ_i log Σ_j e^field[i, j] (Salakhutdinov, Mnih & Hinton 2007, eq. 1 to 3; Potts units).

    **Arguments:** `values` b: (units, k). `encoding`: of the space, "index" or "onehot".

    **Raises:** ValueError for values of another shape.
    """

    own_is_linear = True

    values: Float[Array, "units k"]
    space: Categorical  # type: ignore[assignment]

    def __init__(self, values: Any, encoding: str = "index"):
        self.values = jnp.asarray(values, float)
        if self.values.ndim != 2:
            raise ValueError(
                f"SoftmaxUnits: expected values of shape (units, k), got {self.values.shape}"
            )
        num, k = self.values.shape
        self.space = Categorical((num,), k, encoding)

    @property
    def bias(self):
        return self.values.reshape(-1)

    def features(self, x):
        if self.space.encoding == "index":
            x = jax.nn.one_hot(x, self.space.num_values, dtype=self.values.dtype)
        return x.reshape(*x.shape[:-2], -1)

    def own(self, x):
        return self.features(x) @ self.bias

    def log_partition(self, field):
        return jnp.sum(jax.nn.logsumexp(self._by_unit(field), axis=-1), axis=-1)

    def draw(self, field, *, key):
        return self.space.encode(draw_categories(self._by_unit(field), key))

    def start(self, parameters):
        return self._like(parameters)

    def mixed(self, start, beta):
        return self._like((1 - beta) * start.values + beta * self.values)

    def pulled(self, field):
        return self._like(self.values + field.reshape(self.values.shape))

    def field_of(self, slope):
        if self.space.encoding == "index":
            raise TypeError(
                f"a field times the number of a category means nothing on {self.space}; use "
                'encoding="onehot"'
            )
        return jnp.broadcast_to(slope, self.values.shape).reshape(-1)

    def restrict(self, conditional):
        given = self.features(conditional.given)
        index, given = site_part(conditional, given, self.space.num_values)
        return self._like(self.values[np.asarray(conditional.free)]), index, given

    def with_space(self, space):
        own = self.space
        if isinstance(space, Categorical) and (
            (space.sites, space.num_values) == (own.sites, own.num_values)
        ):
            return SoftmaxUnits(self.values, space.encoding)
        return only_space(self, space)

    def _by_unit(self, field):
        return field.reshape(*field.shape[:-1], -1, self.space.num_values)

    def _like(self, values) -> "SoftmaxUnits":
        return SoftmaxUnits(values, self.space.encoding)


class ReplicatedSoftmaxUnits(AbstractUnits):
    """A document of D words out of k, all of which the other layer sees alike, by their counts.

    own(x) = Σ_d b[x_d], φ(x) = how often each word occurs, log partition D log Σ_j e^field[j]
    (Salakhutdinov & Hinton 2009, "Replicated softmax", eq. 1 to 4). A hidden bias that grows with
    D, as there, is the same number added to a hidden unit's weights of all words. `with_space`
    gives the model of documents of another length.

    **Arguments:** `bias` b: (k,). `length` D.
    """

    own_is_linear = True

    bias: Float[Array, " k"]  # type: ignore[assignment]
    space: Categorical  # type: ignore[assignment]

    def __init__(self, bias: Any, length: int):
        self.bias = jnp.asarray(bias, float)
        if self.bias.ndim != 1:
            raise ValueError(
                f"ReplicatedSoftmaxUnits: expected bias of shape (words,), got {self.bias.shape}"
            )
        self.space = Categorical((length,), len(self.bias))

    def features(self, x):
        one_hot = jax.nn.one_hot(x, self.space.num_values, dtype=self.bias.dtype)
        return jnp.sum(one_hot, axis=-2)

    def own(self, x):
        return jnp.sum(self.bias[x], axis=-1)

    def log_partition(self, field):
        return self.space.num_sites * jax.nn.logsumexp(field, axis=-1)

    def draw(self, field, *, key):
        return draw_categories(field, key, self.space.num_sites)

    def start(self, parameters):
        return ReplicatedSoftmaxUnits(jnp.mean(parameters, axis=0), self.space.num_sites)

    def mixed(self, start, beta):
        bias = (1 - beta) * start.bias + beta * self.bias
        return ReplicatedSoftmaxUnits(bias, self.space.num_sites)

    def pulled(self, field):
        return ReplicatedSoftmaxUnits(self.bias + field, self.space.num_sites)

    def field_of(self, slope):
        raise TypeError(f"words of {self.space} are numbers without order: no field acts on them")

    def restrict(self, conditional):
        free = np.asarray(conditional.free)
        held = np.setdiff1d(np.arange(self.space.num_sites), free)
        units = ReplicatedSoftmaxUnits(self.bias, len(free))
        given = self.features(jnp.asarray(conditional.given)[held])
        return units, np.arange(len(self.bias)), given

    def with_space(self, space):
        if isinstance(space, Categorical) and space == Categorical(
            space.num_sites, self.space.num_values
        ):
            return ReplicatedSoftmaxUnits(self.bias, space.num_sites)
        return only_space(self, space)


class RecordUnits(AbstractUnits):
    """Layers of several kinds side by side, for tables of mixed columns: features one after the
    other, everything else a sum over `parts` (Tran, Phung & Venkatesh 2011, "Mixed-variate
    restricted Boltzmann machines", eq. 3).

    **Arguments:** `parts`: a layer for each name of the record.
    """

    parts: dict[str, AbstractUnits]

    def __init__(self, parts: dict[str, AbstractUnits]):
        if not parts:
            raise ValueError("RecordUnits: expected a layer for each name, got none")
        # In the order that JAX gives dicts, so that the features keep their places.
        self.parts = {name: parts[name] for name in sorted(parts)}

    @property
    def space(self):
        return Record(**{name: part.space for name, part in self.parts.items()})

    @property
    def bias(self):
        return jnp.concatenate([part.bias for part in self.parts.values()])

    def features(self, x):
        each = [part.features(x[name]) for name, part in self.parts.items()]
        return jnp.concatenate(each, axis=-1)

    def own(self, x):
        return sum(part.own(x[name]) for name, part in self.parts.items())

    def log_partition(self, field):
        fields = self._split(field)
        return sum(part.log_partition(fields[name]) for name, part in self.parts.items())

    def draw(self, field, *, key):
        fields, keys = self._split(field), jax.random.split(key, len(self.parts))
        return {
            name: part.draw(fields[name], key=keys[i])
            for i, (name, part) in enumerate(self.parts.items())
        }

    def start(self, parameters):
        starts = {}
        for name, part in self.parts.items():
            given = parameters.get(name)
            start = None if given is None else part.start(given)
            if start is None:
                return None
            starts[name] = start
        return RecordUnits(starts)

    def mixed(self, start, beta):
        mixed = {name: part.mixed(start.parts[name], beta) for name, part in self.parts.items()}
        return RecordUnits(mixed)

    def joined(self, other):
        if not isinstance(other, RecordUnits):
            return None
        joined = {}
        for name, part in self.parts.items():
            both = part.joined(other.parts[name])
            if both is None:
                return None
            joined[name] = both
        return RecordUnits(joined)

    def pulled(self, field):
        fields = self._split(field)
        return RecordUnits({name: part.pulled(fields[name]) for name, part in self.parts.items()})

    def field_of(self, slope):
        each = [part.field_of(slope[name]) for name, part in self.parts.items()]
        return jnp.concatenate(each)

    def restrict(self, conditional):
        """The given parts are whole ones."""
        kept, index, given, start = {}, [], [], 0
        for name, part in self.parts.items():
            size = len(part.bias)
            if name in conditional.given:
                given.append(part.features(conditional.given[name]))
            else:
                kept[name] = part
                index.append(start + np.arange(size))
                given.append(jnp.zeros(size))
            start += size
        return RecordUnits(kept), np.concatenate(index), jnp.concatenate(given)

    def with_space(self, space: AbstractSpace):
        if isinstance(space, Record) and set(space.parts) == set(self.parts):
            return RecordUnits(
                {name: part.with_space(space.parts[name]) for name, part in self.parts.items()}
            )
        return only_space(self, space)

    def _split(self, field) -> dict[str, Float[Array, "... features"]]:
        ends = np.cumsum([len(part.bias) for part in self.parts.values()])
        return dict(zip(self.parts, jnp.split(field, ends[:-1], axis=-1), strict=True))


def draw_categories(
    logits: Float[Array, "... k"], key: Key[Array, ""], num: int | None = None
) -> Int[Array, "..."]:
    """Categories of p(j) ∝ e^{logits_j}; with `num` as many of each row, (..., num)."""
    k = logits.shape[-1]
    if num is None and k <= _UNROLLED:
        return random.categorical(key, logits)
    shape = (*logits.shape[:-1], 1 if num is None else num)
    prob = jnp.exp(logits - jnp.max(logits, -1, keepdims=True))
    upper = jnp.cumsum(prob, -1).reshape(-1, k)
    u = jax.random.uniform(key, shape, prob.dtype).reshape(len(upper), -1) * upper[:, -1:]
    found = jax.vmap(lambda up, at: jnp.searchsorted(up, at, side="right"))(upper, u)
    found = jnp.minimum(found, k - 1).astype(jnp.int32).reshape(shape)
    return found[..., 0] if num is None else found
