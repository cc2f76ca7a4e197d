"""Networks as energies against plain NumPy; what they cost; the base that keeps Z finite."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, expit

from energax.energies._base import batched, check_scalar, correlate, partition_trainable
from energax.energies.neural import MLP, ConvNet
from energax.energies.reference import Gaussian
from energax.random import key
from energax.spaces import Binary, Box, Categorical, Count, Ordinal, Real, Record, Spin
from tests.exact import finite_difference, integrated, log_density64

RNG = np.random.default_rng(4)
NUMPY = {
    "elu": lambda u: np.where(u > 0, u, np.expm1(u)),
    "gelu": lambda u: u * (1 + erf(u / np.sqrt(2))) / 2,
    "leaky_relu": lambda u: np.where(u > 0, u, 0.01 * u),
    "relu": lambda u: np.maximum(u, 0),
    "silu": lambda u: u * expit(u),
    "softplus": lambda u: np.logaddexp(0, u),
    "tanh": np.tanh,
}


def stirred(network):
    """The network with biases off zero."""
    biases = tuple(jnp.asarray(RNG.normal(0, 0.5, b.shape), float) for b in network.biases)
    return eqx.tree_at(lambda e: e.biases, network, biases)


def mlp_in_numpy(network, x):
    h = x.reshape(len(x), -1)
    for weight, bias in zip(network.weights, network.biases, strict=True):
        h = NUMPY[network.activation](h @ np.asarray(weight, float) + np.asarray(bias, float))
    return h @ np.asarray(network.readout, float)


def conv_in_numpy(network, x):
    """One image (height, width, channels), by loops over positions, zeros outside."""
    for layer, (kernel, bias) in enumerate(zip(network.kernels, network.biases, strict=True)):
        if layer:
            x = np.pad(x, [(0, x.shape[0] % 2), (0, x.shape[1] % 2), (0, 0)], mode="edge")
            x = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
        padded, kernel = np.pad(x, [(1, 1), (1, 1), (0, 0)]), np.asarray(kernel, float)
        out = np.empty((*x.shape[:2], kernel.shape[3]))
        for i, j in np.ndindex(*x.shape[:2]):
            out[i, j] = np.tensordot(padded[i : i + 3, j : j + 3], kernel, 3)
        x = NUMPY[network.activation](out + np.asarray(bias, float))
    pooled = x.sum((0, 1)) if network.pooling == "sum" else x.mean((0, 1))
    return pooled @ np.asarray(network.readout, float)


@pytest.mark.parametrize("activation", NUMPY)
def test_mlp_against_numpy(activation):
    network = stirred(MLP(Box([-2.0] * 6, 3.0, (6,)), 7, 3, activation, key=key(0)))
    assert network.base is None and len(network.weights) == 3
    x = RNG.normal(0.3, 1, (20, 6))
    atol = 2e-3 if activation == "gelu" else 1e-6  # jax.nn.gelu is the tanh approximation
    np.testing.assert_allclose(-log_density64(network, x), mlp_in_numpy(network, x), atol=atol)


@pytest.mark.parametrize(("pooling", "shapes"), [("sum", [(4, 6), (7, 1)]), ("mean", [(9, 5)])])
def test_conv_net_against_numpy_at_every_size(pooling, shapes):
    """The same weights on another size, odd sides and one-pixel rows included."""
    network = stirred(ConvNet(Spin((4, 6)), (3, 5, 4), 3, "tanh", pooling, key=key(1)))
    for shape in shapes:
        moved = network.with_space(Spin(shape))
        assert moved.space == Spin(shape)
        x = RNG.choice([-1.0, 1.0], shape)
        found = -log_density64(moved, x[None])[0]
        assert abs(found - conv_in_numpy(network, x[..., None])) < 1e-6


def test_colour_images():
    colour = stirred(ConvNet(Box(0.0, 1.0, (5, 4, 3)), (6,), key=key(2)))
    x = RNG.random((5, 4, 3))
    assert abs(-log_density64(colour, x[None])[0] - conv_in_numpy(colour, x)) < 1e-6


@pytest.mark.parametrize(
    "network",
    [
        MLP(Real((3,)), 4, 2, key=key(3)),
        ConvNet(Real((3, 3)), (2, 2), key=key(4)),
    ],
    ids=["MLP", "ConvNet"],
)
def test_gradients_against_finite_differences(network):
    network = stirred(network)
    trainable, rest = partition_trainable(network)
    x = RNG.normal(0.2, 1, network.space.shape)

    def energy(trainable, x):
        return eqx.combine(trainable, rest)(x)

    found = jax.jit(jax.grad(energy, (0, 1)))(trainable, jnp.asarray(x, float))
    value = jax.jit(energy)
    expected = [
        *jax.tree.leaves(finite_difference(lambda t: value(t, jnp.asarray(x)), trainable)),
        finite_difference(lambda x: value(trainable, x), x),
    ]
    for a, b in zip(jax.tree.leaves(found), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


# What a batch costs


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from primitives(value.jaxpr)


def test_a_batch_of_an_mlp_is_plain_matrix_products():
    """No batched products in f or in ∇f: (batch, in) @ (in, out), and no more work than by hand."""
    network, x = MLP(Binary((50,)), 32, 2, key=key(5)), jnp.ones((100, 50))
    for function in (network.log_density, jax.grad(network.log_density)):
        products = [
            e.params["dimension_numbers"]
            for e in primitives(jax.make_jaxpr(jax.vmap(function))(x).jaxpr)
            if e.primitive.name == "dot_general"
        ]
        assert len(products) >= 3 and all(batch == ((), ()) for _, batch in products)

    def by_hand(network, x):
        for weight, bias in zip(network.weights, network.biases, strict=True):
            x = jax.nn.silu(x @ weight + bias)
        return -(x @ network.readout)

    def work(function):
        return eqx.filter_jit(function).lower(network, x).compile().compiled.cost_analysis()

    ours, hand = work(batched), work(by_hand)
    assert ours["flops"] <= 1.001 * hand["flops"]
    assert ours["transcendentals"] <= hand["transcendentals"]


def test_a_batch_of_a_conv_net_is_one_convolution_a_layer():
    network = ConvNet(Binary((8, 8)), (4, 6), key=key(6))
    jaxpr = jax.make_jaxpr(jax.vmap(network))(jnp.ones((10, 8, 8))).jaxpr
    convolutions = [e for e in primitives(jaxpr) if e.primitive.name == "correlate"]
    assert [e.invars[0].aval.shape for e in convolutions] == [(10, 8, 8, 1), (10, 4, 4, 4)]
    assert not any(e.primitive.name == "conv_general_dilated" for e in primitives(jaxpr))


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
def test_the_slopes_of_a_convolution_are_those_of_jax(side):
    """Of x and the kernel, and those of a function of the slopes, odd and even kernels."""
    h, kernel = (jnp.asarray(RNG.normal(size=s), float) for s in ((5, 6, 2), (side, side, 2, 3)))
    weight = jnp.asarray(RNG.normal(size=(5, 6, 3)), float)

    def jax_own(h, kernel):
        return jax.lax.conv_general_dilated(
            h[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]

    def slopes(convolve):
        def value(h, kernel):
            return jnp.sum(weight * jnp.sin(convolve(h, kernel)))

        def of_slopes(h, kernel):
            return sum(jnp.sum(jnp.cos(g)) for g in jax.grad(value, (0, 1))(h, kernel))

        both = (h, kernel), (h**2, kernel**2)
        return (
            *(jax.jvp(f, *both) for f in (value, jax.grad(value))),
            *(jax.grad(f, (0, 1))(h, kernel) for f in (value, of_slopes)),
        )

    both = (jax.tree.leaves(slopes(f)) for f in (correlate, jax_own))
    for a, b in zip(*both, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_convolution_with_a_kernel_for_each_of_several_images():
    h, kernel = (jnp.asarray(RNG.normal(size=s), float) for s in ((3, 5, 4, 2), (3, 3, 3, 2, 3)))
    by_turns = [correlate(*each) for each in zip(h, kernel, strict=True)]
    np.testing.assert_allclose(jax.vmap(correlate)(h, kernel), by_turns, rtol=1e-5, atol=1e-5)
    of_one = [correlate(h[0], each) for each in kernel]
    found = jax.vmap(correlate, (None, 0))(h[0], kernel)
    np.testing.assert_allclose(found, of_one, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA on CPUs")
def test_slopes_of_a_conv_net_in_a_loop_are_convolutions_that_xla_is_fast_in():
    """In the one layout of images (batch, height, width, channels) and kernels (in, out last)."""
    network, x = ConvNet(Real((8, 8)), (4, 6), key=key(6)), jnp.ones((10, 8, 8))

    def downhill(network, x):
        slope = eqx.filter_grad(lambda e: -jnp.sum(batched(e, x)))(network)
        return eqx.apply_updates(network, slope), x - jax.vmap(jax.grad(network))(x)

    def loop(network, x):
        arrays, rest = eqx.partition(network, eqx.is_array)

        def step(_, carry):
            network, x = downhill(eqx.combine(carry[0], rest), carry[1])
            return eqx.filter(network, eqx.is_array), x

        return jax.lax.fori_loop(0, 3, step, (arrays, x))

    text = eqx.filter_jit(loop).lower(network, x).compile().compiled.as_text()
    layouts = re.findall(r" convolution\(.*dim_labels=(\S+?),? ", text)
    assert len(layouts) >= 4 and set(layouts) == {"b01f_01io->b01f"}


# The base


def test_the_wide_base_keeps_z_finite():
    """A network that falls without end, E = −2 max(x, 0), has a finite Z beside it."""
    network = MLP(Real((1,)), 4, 1, "relu", key=key(7))
    network = eqx.tree_at(
        lambda e: (e.weights, e.readout),
        network,
        ((jnp.full((1, 4), 0.5),), jnp.full((4,), -1.0)),
    )  # f = 2 max(x, 0) − x²/200: a Gaussian about 200 of sd 10, weight e^200
    narrow = integrated(network, -100.0, 400.0)
    expected = 200 + np.log(10 * np.sqrt(2 * np.pi))
    assert abs(narrow.log_z - expected) < 1e-3
    assert abs(float(narrow.mean()[0]) - 200) < 1e-2


def test_only_unbounded_coordinates_are_confined():
    x = np.array([0.5, 7.0, -3.0, 40.0])
    space = Box([0.0, 2.0, -np.inf, -np.inf], [1.0, np.inf, 5.0, np.inf])
    network = MLP(space, 4, 1, key=key(8))
    base = float(network.base(jnp.asarray(x, float)))
    assert abs(base - (5.0**2 + 8.0**2 + 40.0**2) / 200) < 1e-4
    counts = MLP(Count((2,)), 4, 1, key=key(8))
    assert abs(float(counts.base(jnp.array([30, 40]))) - 2500 / 20_000) < 1e-6
    for bounded in (Binary(3), Spin(3), Ordinal(3, 4), Categorical(3, 4), Box(0.0, 1.0, (3,))):
        assert MLP(bounded, 4, 1, key=key(8)).base is None


def test_a_base_of_ones_own_is_added_and_not_trained():
    base = Gaussian(Real((2,)), [0.3, -1.0], [0.5, 2.0])
    network = stirred(MLP(Real((2,)), 4, 1, key=key(9), base=base))
    x = RNG.normal(0, 1, (10, 2))
    expected = mlp_in_numpy(network, x) - log_density64(base, x)
    np.testing.assert_allclose(-log_density64(network, x), expected, atol=1e-6)
    trainable, _ = partition_trainable(network)
    shapes = sorted(a.shape for a in jax.tree.leaves(trainable))
    assert shapes == [(2, 4), (4,), (4,)]
    gradient = jax.grad(lambda e: e(jnp.ones(2)), allow_int=True)(network)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient.base))
    alone = MLP(Real((2,)), 4, 1, key=key(9), base=None)
    assert alone.base is None
    with pytest.raises(ValueError, match="expected 'wide', None or an energy on"):
        MLP(Real((3,)), key=key(9), base=base)


# What they read


def test_categories_enter_one_hot():
    indexed = stirred(MLP(Categorical((3,), 4), 5, 1, key=key(10)))
    onehot = eqx.tree_at(lambda e: e.space, indexed, Categorical((3,), 4, "onehot"))
    x = RNG.integers(0, 4, (20, 3))
    np.testing.assert_allclose(
        batched(indexed, jnp.asarray(x)), batched(onehot, jax.nn.one_hot(x, 4)), atol=1e-6
    )
    np.testing.assert_allclose(
        -batched(indexed, jnp.asarray(x)), mlp_in_numpy(indexed, np.eye(4)[x]), atol=1e-5
    )
    pixels = ConvNet(Categorical((4, 5), 3), (2,), key=key(11))
    assert pixels.kernels[0].shape == (3, 3, 3, 2)
    check_scalar(pixels)


@pytest.mark.parametrize("space", [Count((2, 3)), Ordinal((2, 3), 4), Real((2, 3))])
def test_numbers_enter_as_they_are(space):
    network = stirred(MLP(space, 5, 1, key=key(12), base=None))
    x = RNG.integers(0, 4, (20, 2, 3))
    found = batched(network, jnp.asarray(x, space.dtype))
    np.testing.assert_allclose(-found, mlp_in_numpy(network, x), atol=1e-5)


def test_what_is_saved_is_arrays_and_names():
    for network in (MLP(Real((2,)), key=key(0)), ConvNet(Binary((8, 8)), key=key(0))):
        assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(network))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: MLP(Record(a=Real((2,))), key=key(0)), TypeError, "Concatenate the parts"),
        (lambda: ConvNet(Record(a=Real((2,))), key=key(0)), TypeError, "Concatenate the parts"),
        (lambda: MLP(Real((2,)), activation="sin", key=key(0)), ValueError, "one of .'elu'"),
        (lambda: MLP(Real((2,)), depth=0, key=key(0)), ValueError, "at least 1, got 0"),
        (lambda: ConvNet(Real((8,)), key=key(0)), ValueError, "expected images.* use MLP"),
        (lambda: ConvNet(Real((8, 8)), pooling="max", key=key(0)), ValueError, "'sum' or 'mean'"),
        (lambda: ConvNet(Real((8, 8)), (), key=key(0)), ValueError, "at least one layer"),
        (
            lambda: ConvNet(Real((8, 8)), key=key(0)).with_space(Real((8, 8, 3))),
            ValueError,
            r"1 channel\(s\), got 3",
        ),
        (lambda: MLP(Real((8,)), key=key(0)).with_space(Real((9,))), ValueError, "ONE point"),
    ],
)
def test_what_does_not_fit_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
