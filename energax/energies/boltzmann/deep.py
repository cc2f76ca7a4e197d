"""Deep Boltzmann machines: layers of bits, each joined to the next."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax.energies._base import AbstractDeepEnergy, Frozen, frozen
from energax.energies.boltzmann._base import (
    RBM,
    AbstractCentredRBM,
    AbstractRBM,
    BernoulliUnits,
    Offsets,
    RecordUnits,
)
from energax.spaces import Binary, Record

_MOST_LAYERS = 10  # their names are then in the order of their numbers


class DeepBoltzmannMachine(AbstractRBM, AbstractDeepEnergy):
    """Layers x₀ (visible), x₁, …, x_L of bits, each joined to the next:
    E(x) = −Σ_l b_l·x_l − Σ_l x_{l−1}ᵀ W_l x_l (Salakhutdinov & Hinton 2009, "Deep Boltzmann
    machines", eq. 8).

    Given the even layers the odd ones are independent, and the other way round: it is an RBM whose
    visible layer are the even ones. So a point is a record of these, `visible`, `hidden_2`, … and
    the odd layers are summed out; block Gibbs, annealing and log Z are an RBM's. What is known of
    the visible layer alone is a bound, `bound(v, mean_field(v))`.

    **Arguments:** `weights`: W_1 to W_L, (units of layer l − 1, units of layer l). `biases`: b_0 to
    b_L, (units,) each; None is 0.

    **Raises:** ValueError if the shapes do not fit each other.
    """

    weights: tuple[Float[Array, "_ _"], ...]
    biases: tuple[Float[Array, " _"], ...]
    space: Record

    def __init__(self, weights: Sequence[Any], biases: Sequence[Any] | None = None):
        self.weights = tuple(jnp.asarray(w, float) for w in weights)
        shapes = [w.shape for w in self.weights]
        chained = all(len(s) == 2 for s in shapes) and all(
            a[1] == b[0] for a, b in pairwise(shapes)
        )
        if not 2 <= len(shapes) < _MOST_LAYERS or not chained:
            raise ValueError(
                "DeepBoltzmannMachine: expected 2 to 9 weights, (units of a layer, units of the "
                f"next) each, got shapes {shapes}"
            )
        sizes = [shapes[0][0], *(s[1] for s in shapes)]
        if biases is None:
            biases = [jnp.zeros(n) for n in sizes]
        self.biases = tuple(jnp.asarray(b, float) for b in biases)
        if [b.shape for b in self.biases] != [(n,) for n in sizes]:
            raise ValueError(
                f"DeepBoltzmannMachine: expected biases of {sizes} units, got shapes "
                f"{[b.shape for b in self.biases]}"
            )
        self.space = Record(**{name_of(i): Binary((sizes[i],)) for i in range(0, len(sizes), 2)})

    @property
    def data_space(self):
        return self.space.parts[name_of(0)]

    @property
    def visible(self):
        even = range(0, len(self.biases), 2)
        return RecordUnits({name_of(i): BernoulliUnits(self.biases[i]) for i in even})

    @property
    def hidden(self):
        return BernoulliUnits(jnp.concatenate(self.biases[1::2]))

    @property
    def weight(self):  # type: ignore[override]
        """All weights from even layers to odd ones, rows in the order of the record's names."""
        sizes = [len(b) for b in self.biases]
        odd = range(1, len(sizes), 2)
        rows = []
        for i in self.even:
            blocks = [jnp.zeros((sizes[i], sizes[j])) for j in odd]
            if i > 0:
                blocks[(i - 1) // 2] = self.weights[i - 1].T
            if i + 1 < len(sizes):
                blocks[i // 2] = self.weights[i]
            rows.append(jnp.concatenate(blocks, axis=1))
        return jnp.concatenate(rows, axis=0)

    @property
    def even(self) -> list[int]:
        """Numbers of the even layers, in the order of their names."""
        return sorted(range(0, len(self.biases), 2), key=name_of)

    def replaced(self, weight, visible, hidden):
        return RBM(weight, visible, hidden)

    def mean_field(self, v, num_updates: int = 30):
        """μ_l = σ(b_l + μ_{l−1} W_l + W_{l+1} μ_{l+1}), all odd layers and then all even ones
        (Salakhutdinov & Hinton 2009, eq. 11).

        It starts from a pass upwards with twice the weights, which stand for what is not yet known
        of the layer above.
        """
        layers, last = [v], len(self.weights)
        from_below = v @ self.weights[0]  # the visible layer stays as it is
        for i in range(1, last + 1):
            pull = from_below if i == 1 else layers[-1] @ self.weights[i - 1]
            pull = pull * (2.0 if i < last else 1.0)
            layers.append(jax.nn.sigmoid(pull + self.biases[i]))

        def update(layers, _):
            layers = list(layers)
            for start in (1, 2):
                for i in range(start, last + 1, 2):
                    pull = from_below if i == 1 else layers[i - 1] @ self.weights[i - 1]
                    if i < last:
                        pull = pull + layers[i + 1] @ self.weights[i].T
                    layers[i] = jax.nn.sigmoid(pull + self.biases[i])
            return tuple(layers), None

        layers, _ = jax.lax.scan(update, tuple(layers), None, length=num_updates)
        return layers

    def expected_energy(self, layers):
        return _expected_energy(self, layers, layers)

    def bound(self, layers):
        return _bound(self, layers)

    def from_layers(self, layers):
        return {name_of(i): layers[i] for i in range(0, len(layers), 2)}


class CentredDBM(AbstractCentredRBM, AbstractDeepEnergy):
    """The deep machine E(x) = −Σ_l b_l·x_l − Σ_l (x_{l−1} − c_{l−1})ᵀ W_l (x_l − c_l), up to a
    constant (Montavon & Müller 2012, "Deep Boltzmann machines and the centering trick", eq. 4).

    With fixed offsets c_l near the means of the layers, all layers can be trained at once from
    small weights: a step on W_l moves no means. It is another set of parameters for the same
    distributions: train it in place of the plain machine, and take `plain` of what comes back.

    **Arguments:** `free`: a machine whose biases are those of the centred form. `offsets`: c_0 to
    c_L, frozen.
    """

    free: DeepBoltzmannMachine
    offsets: Frozen

    def __init__(self, free: DeepBoltzmannMachine, offsets: Frozen):
        self.free, self.offsets = free, offsets

    @staticmethod
    def of(dbm: DeepBoltzmannMachine, data: Any) -> "CentredDBM":
        """`dbm`, the same distribution, measured from its layers' mean-field means on `data`
        (rows, visible).

        **Raises:** ValueError for data outside the visible layer's space.
        """
        rows = jnp.asarray(dbm.data_space.validate(data, batch=True, name="data"))
        means = tuple(jnp.mean(layer, axis=0) for layer in dbm.mean_field(rows))
        return CentredDBM(_pulled(dbm, means, 1.0), frozen(Offsets(means)))

    @property
    def plain(self) -> DeepBoltzmannMachine:
        """The same distribution as a plain machine."""
        return _pulled(self.free, self.offsets.module.means, -1.0)

    @property
    def means(self):
        each = self.offsets.module.means
        even = jnp.concatenate([each[i] for i in self.free.even])
        return even, jnp.concatenate(each[1::2])

    @property
    def data_space(self):
        return self.free.data_space

    def mean_field(self, v, num_updates: int = 30):
        return self.plain.mean_field(v, num_updates)

    def expected_energy(self, layers):
        each = self.offsets.module.means
        from_means = [x - c for x, c in zip(layers, each, strict=True)]
        return _expected_energy(self.free, layers, from_means) + sum(
            c @ (w @ d) for c, w, d in zip(each, self.free.weights, each[1:], strict=False)
        )

    def bound(self, layers):
        return _bound(self, layers)

    def from_layers(self, layers):
        return self.free.from_layers(layers)


def _expected_energy(dbm: DeepBoltzmannMachine, layers, joined) -> Float[Array, "..."]:
    """That of means `layers` where the weights of `dbm` join `joined`, these or what is left of
    them once their centres are taken away."""
    f = sum((x @ b for x, b in zip(layers, dbm.biases, strict=True)), jnp.zeros(()))
    for x, w, y in zip(joined, dbm.weights, joined[1:], strict=False):
        f = f + jnp.sum((x @ w) * y, axis=-1)
    return -(f + sum(_entropy(x) for x in layers[1::2]))


def _bound(energy: AbstractDeepEnergy, layers) -> Float[Array, "..."]:
    entropy = sum((_entropy(x) for x in layers[2::2]), jnp.zeros(()))
    return entropy - energy.expected_energy(layers)


def _pulled(dbm: DeepBoltzmannMachine, means, sign: float) -> DeepBoltzmannMachine:
    """The machine with b_l + sign · (W_lᵀ c_{l−1} + W_{l+1} c_{l+1}) for biases."""
    biases = list(dbm.biases)
    for i, w in enumerate(dbm.weights):
        biases[i] = biases[i] + sign * (w @ means[i + 1])
        biases[i + 1] = biases[i + 1] + sign * (means[i] @ w)
    return DeepBoltzmannMachine(dbm.weights, biases)


class TiedRBM(AbstractRBM):
    """An RBM of bits whose visible or hidden layer is there several times, with the same weights.

    With the data twice over, its hidden units see now what they will see of the data and of the
    layer above once they are part of a deep Boltzmann machine (Salakhutdinov & Hinton 2009, section
    3.1).

    **Arguments:** `shared`: W, (visible, hidden) of one copy. `visible_bias`, `hidden_bias`: of one
    copy. `copies`: (of the visible, of the hidden layer).
    """

    shared: Float[Array, "visible hidden"]
    visible_bias: Float[Array, " visible"]
    hidden_bias: Float[Array, " hidden"]
    copies: tuple[int, int] = eqx.field(static=True)
    space: Binary

    def __init__(self, shared: Any, visible_bias: Any, hidden_bias: Any, copies: tuple[int, int]):
        self.shared = jnp.asarray(shared, float)
        self.visible_bias = jnp.asarray(visible_bias, float)
        self.hidden_bias = jnp.asarray(hidden_bias, float)
        self.copies = copies
        self.space = Binary((copies[0] * self.shared.shape[0],))

    @property
    def weight(self):  # type: ignore[override]
        return jnp.tile(self.shared, self.copies)

    @property
    def visible(self):
        return BernoulliUnits(jnp.tile(self.visible_bias, self.copies[0]))

    @property
    def hidden(self):
        return BernoulliUnits(jnp.tile(self.hidden_bias, self.copies[1]))

    def replaced(self, weight, visible, hidden):
        return RBM(weight, visible, hidden)


def name_of(layer: int) -> str:
    """The name of an even layer in the record."""
    return "visible" if layer == 0 else f"hidden_{layer}"


def _entropy(mean: Float[Array, "... units"]) -> Float[Array, "..."]:
    """Of independent bits, in nats."""
    p = jnp.clip(mean, 1e-7, 1 - 1e-7)
    return -jnp.sum(p * jnp.log(p) + (1 - p) * jnp.log1p(-p), axis=-1)
