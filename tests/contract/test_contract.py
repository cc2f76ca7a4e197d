"""Every concrete class of the library keeps the contract, found by itself.

A new class needs one line in `examples.py` that makes one; the suite fails until it is there.
"""

import inspect
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax import random
from energax.energies._base import (
    AbstractEnergy,
    AbstractLocalEnergy,
    AbstractNormalised,
    batched,
    partition_trainable,
)
from energax.objectives._base import AbstractObjective
from energax.partition._base import AbstractLogZMethod
from energax.results import LogZ
from energax.samplers._base import AbstractPopulationMethod, AbstractSampler, run
from energax.spaces import AbstractSpace, Binary, Categorical, Spin
from tests.contract.examples import EXAMPLES, concrete_classes

ROOTS = {
    "space": AbstractSpace,
    "energy": AbstractEnergy,
    "sampler": AbstractSampler,
    "objective": AbstractObjective,
    "method": AbstractLogZMethod,
    "population": AbstractPopulationMethod,
}


def of_kind(kind):
    return [pytest.param(cls, id=cls.__name__) for cls in concrete_classes(ROOTS[kind])]


def scaled(energy, factor):
    """The same energy with other parameters."""
    params, rest = partition_trainable(energy)
    return eqx.combine(jax.tree.map(lambda a: factor * a, params), rest)


def points_of(space, num=5):
    """Some points of the space, by a short random walk from its example."""
    x = jax.tree.map(lambda a: jnp.broadcast_to(a, (num, *jnp.shape(a))), space.example())
    for i in range(3):
        x = space.propose(x, 0.5, key=random.key(i))
    return x


def take(x, i):
    return jax.tree.map(lambda a: a[i], x)


def count_traces(function):
    """`function` under jit, and a list that grows by one at each trace."""
    traces = []

    @eqx.filter_jit
    def jitted(*args):
        traces.append(1)
        return function(*args)

    return jitted, traces


@pytest.mark.parametrize("kind", ROOTS)
def test_each_class_is_abstract_or_final_documented_and_has_an_example(kind):
    classes = concrete_classes(ROOTS[kind])
    assert classes
    for cls in classes:
        parents = [c for c in cls.__mro__[1:] if c in classes]
        assert not parents, f"{cls.__name__} overrides the final class {parents[0].__name__}"
        assert cls.__doc__ and not cls.__doc__.startswith(cls.__name__ + "("), cls.__name__
        assert cls in EXAMPLES, f"add an example of {cls.__name__} to tests/contract/examples.py"


@pytest.mark.parametrize("kind", ["sampler", "objective", "method", "population"])
def test_each_method_names_its_source(kind):
    for cls in concrete_classes(ROOTS[kind]):
        text = (cls.__doc__ or "") + (inspect.getmodule(cls).__doc__ or "")
        assert re.search(r"\b(19|20)\d\d\b|arXiv", text), f"{cls.__name__} names no source"


@pytest.mark.parametrize("cls", of_kind("space"))
def test_space(cls):
    space = EXAMPLES[cls]()
    x = points_of(space)
    back = space.validate(jax.tree.map(np.asarray, x), batch=True)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(x), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert jax.tree.map(lambda a: a.shape, space.example()) == space.shape
    with jax.enable_x64(True):
        wide = EXAMPLES[cls]()
        moved = wide.propose(points_of(wide), 0.5, key=random.key(9))
        wide.validate(jax.tree.map(np.asarray, moved), batch=True)
        for leaf in jax.tree.leaves(moved):
            assert leaf.dtype in (jnp.float64, jnp.int32)


@pytest.mark.parametrize("cls", of_kind("energy"))
def test_energy(cls):
    energy = EXAMPLES[cls]()
    x = points_of(energy.space)
    f, traces = count_traces(batched)
    values = f(energy, x)
    assert values.shape == (5,) and jnp.issubdtype(values.dtype, jnp.floating)
    assert bool(jnp.all(jnp.isfinite(values)))
    loop = jnp.stack([-energy(take(x, i)) for i in range(5)])
    np.testing.assert_allclose(values, loop, rtol=2e-5, atol=2e-5)
    f(scaled(energy, 1.01), x)
    assert len(traces) == 1, "a parameter update traced anew"
    leaves, structure = jax.tree.flatten(energy)
    np.testing.assert_array_equal(jax.tree.unflatten(structure, leaves)(take(x, 0)), loop[0] * -1)
    gradient = eqx.filter_grad(lambda p, r: jnp.sum(batched(eqx.combine(p, r), x)))(
        *partition_trainable(energy)
    )
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(gradient))
    with jax.enable_x64(True):
        wide = EXAMPLES[cls]()
        assert wide(take(points_of(wide.space), 0)).dtype == jnp.float64


@pytest.mark.parametrize(
    "cls", [c for c in of_kind("energy") if issubclass(c.values[0], AbstractNormalised)]
)
def test_normalised_energy_draws_points_of_its_space(cls):
    energy = EXAMPLES[cls]()
    draws = energy.draw(50, key=random.key(1))
    energy.space.validate(jax.tree.map(np.asarray, draws), batch=True)
    assert np.isfinite(float(energy.log_z))
    assert bool(jnp.all(jnp.isfinite(batched(energy, draws))))


@pytest.mark.parametrize(
    "cls", [c for c in of_kind("energy") if issubclass(c.values[0], AbstractLocalEnergy)]
)
def test_local_energy_knows_its_one_site_changes(cls):
    energy = EXAMPLES[cls]()
    space = energy.space
    x = take(points_of(space), 3)
    found = np.asarray(energy.site_differences(x))
    if isinstance(space, Binary | Spin):
        differences = found.reshape(space.num_sites)
    else:
        differences = found.reshape(space.num_sites, space.num_values)
    for site, value in (
        np.ndindex(*differences.shape)
        if differences.ndim == 2
        else ((i, None) for i in range(space.num_sites))
    ):
        other = with_site(space, x, site, value)
        expected = float(energy(other) - energy(x))
        place = site if value is None else (site, value)
        assert differences[place] == pytest.approx(expected, abs=2e-5)


def with_site(space, x, site, value):
    """`x` with one site set to the value of that number; None flips a two-valued site."""
    if isinstance(space, Categorical):
        numbers = space.decode(x)
        return space.encode(numbers.ravel().at[site].set(value).reshape(numbers.shape))
    flat = x.ravel()
    if value is None:
        value = -flat[site] if isinstance(space, Spin) else 1 - flat[site]
    return flat.at[site].set(value).reshape(x.shape)


@pytest.mark.parametrize("cls", of_kind("sampler"))
def test_sampler(cls):
    sampler, energy = EXAMPLES[cls]()
    x = points_of(energy.space, 6)
    state, tuning = sampler.init(energy, x, key=random.key(0))
    keys = jax.random.split(random.key(1), (4, 1))
    by_hand = state
    for i in range(4):
        by_hand, info = sampler.step(energy, by_hand, tuning, key=keys[i, 0])
        assert info.acceptance.shape == (6,) and info.divergent.shape == (6,)
    looped, _, trace = run(sampler, energy, state, tuning, key=random.key(1), num_steps=4)
    for a, b in zip(jax.tree.leaves(by_hand.x), jax.tree.leaves(looped.x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert trace.log_density.shape == (4, 6)
    np.testing.assert_allclose(
        trace.log_density[-1], batched(energy, looped.x), rtol=1e-4, atol=1e-4
    )

    step, traces = count_traces(lambda e, s, t: sampler.step(e, s, t, key=random.key(2)))
    step(energy, state, tuning)
    other = scaled(energy, 1.01)
    step(other, sampler.refresh(other, state), sampler.adapt(tuning, state, info))
    assert len(traces) == 1, "a parameter update or a tuned number traced anew"
    fresh = sampler.refresh(other, state)
    np.testing.assert_allclose(fresh.log_density, batched(other, state.x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cls", of_kind("objective"))
def test_objective(cls):
    objective, energy, data = EXAMPLES[cls]()
    params, carry = objective.init(energy, data, key=random.key(0))

    def gradient(energy, params, carry, key):
        def loss(trained):
            value, new_carry, metrics = objective(
                eqx.combine(trained[0], rest), trained[1], take(data, slice(8)), carry, key=key
            )
            return value, (new_carry, metrics)

        theta, rest = partition_trainable(energy)
        return eqx.filter_value_and_grad(loss, has_aux=True)((theta, params))

    step, traces = count_traces(gradient)
    (value, (carry, metrics)), grads = step(energy, params, carry, random.key(1))
    assert value.shape == () and np.isfinite(float(value)) and "energy_data" in metrics
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grads))
    assert any(bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads[0]))
    step(scaled(energy, 1.01), params, carry, random.key(2))
    assert len(traces) == 1, "a parameter update traced anew"


@pytest.mark.parametrize("cls", of_kind("method"))
def test_log_z_method(cls):
    method, energy, truth = EXAMPLES[cls]()
    assert method.cost(energy) < np.inf
    answer = method.run(energy, key=random.key(0), precision=0.25, max_seconds=300.0)
    assert isinstance(answer, LogZ)
    assert answer.reliable, answer.reasons
    assert abs(answer.value - truth) < max(4 * answer.std_err, 1e-3)
    assert answer.lower <= answer.value <= answer.upper


@pytest.mark.parametrize("cls", of_kind("population"))
def test_population_method(cls):
    method, energy, truth = EXAMPLES[cls]()
    answer = method.run(energy, key=random.key(0))
    energy.space.validate(answer.x.reshape(-1, *energy.space.shape), batch=True)
    assert answer.reliable, answer.reasons
    assert abs(answer.log_z.value - truth) < max(4 * answer.log_z.std_err, 1e-3)
    np.testing.assert_allclose(answer.weights.sum(), 1.0)
    first = take(answer.x, 0)
    np.testing.assert_allclose(answer.log_density[0], batched(energy, first), rtol=1e-4, atol=1e-4)
    again = method.run(energy, key=random.key(0))
    np.testing.assert_array_equal(again.x, answer.x)
