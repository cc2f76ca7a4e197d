"""Every kind of energy comes back from a file as it was; your own functions are asked for."""

import json

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax import io, objectives, random, training
from energax.energies import MLP, BernoulliRBM, from_log_density
from energax.energies._base import AbstractEnergy
from energax.objectives import ContrastiveDivergence, PersistentCD
from energax.objectives._base import AbstractObjective
from energax.samplers import MALA, Metropolis
from energax.spaces import Binary, Real
from tests.contract.examples import EXAMPLES, concrete_classes

KEY = random.key(3)


def fit_of(energy, objective=None):
    history = {"step": np.arange(3.0), "loss": np.asarray([1.0, np.nan, 0.5])}
    return training.Fit(energy, history, False, ("a reason",), objective, 3, 1.5, True)


def own_code(energy):
    """Whether the energy is made of a function, which no file keeps."""
    return any(callable(leaf) for leaf in jax.tree.leaves(energy))


@pytest.mark.parametrize("cls", concrete_classes(AbstractEnergy), ids=lambda cls: cls.__name__)
def test_every_energy_comes_back(cls, tmp_path):
    energy = EXAMPLES[cls]()
    fit_of(energy).save(tmp_path)
    if own_code(energy):
        with pytest.raises(ValueError, match=r"energy[.\w\[\]]* is .*not its code. Pass energy="):
            training.load(tmp_path)
        zeros = jax.tree.map(lambda a: 0 * a if eqx.is_inexact_array(a) else a, energy)
        back = training.load(tmp_path, energy=zeros).energy
    else:
        back = training.load(tmp_path).energy
    assert type(back) is cls and bool(eqx.tree_equal(back, energy))
    assert jax.tree.structure(back) == jax.tree.structure(energy)
    point = energy.space.example()
    np.testing.assert_array_equal(eqx.filter_jit(back)(point), eqx.filter_jit(energy)(point))


@pytest.mark.parametrize("cls", concrete_classes(AbstractObjective), ids=lambda cls: cls.__name__)
def test_every_objective_comes_back(cls, tmp_path):
    fit = fit_of(EXAMPLES[BernoulliRBM](), EXAMPLES[cls]()[0])
    fit.save(tmp_path)
    assert bool(eqx.tree_equal(training.load(tmp_path).objective, fit.objective))


def test_the_rest_of_a_fit_comes_back(tmp_path):
    objective = PersistentCD(num_steps=3, sampler=Metropolis(scale=0.25))
    fit = fit_of(MLP(Real((2,)), 4, 1, key=KEY), objective)
    fit.save(tmp_path / "new" / "folder")
    back = training.load(tmp_path / "new" / "folder")
    assert bool(eqx.tree_equal(back.objective, objective))
    for name in ("reliable", "reasons", "num_steps", "seconds", "time_limited"):
        assert getattr(back, name) == getattr(fit, name)
    for name, values in fit.history.items():
        np.testing.assert_array_equal(back.history[name], values)
    fit.save(tmp_path / "new" / "folder")  # again, over the first
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 2
    with pytest.raises(FileNotFoundError, match="no finished run"):
        training.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        fit.save(tmp_path / "file")


class Quadratic(eqx.Module):
    centre: jax.Array
    widths: list

    def __call__(self, x):
        return -sum(width * jnp.sum((x - self.centre) ** 2) for width in self.widths)


class Own(AbstractEnergy):
    """A user's own subclass."""

    slope: jax.Array
    space: Real

    def __call__(self, x):
        return jnp.sum(self.slope * x**2)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(3)(x)))[0] - jnp.sum(x**2)


def equinox_energy(seed):
    rng = np.random.default_rng(seed)
    return from_log_density(
        Quadratic(jnp.asarray(rng.normal(size=2)), [jnp.asarray(0.5), jnp.asarray(rng.random())]),
        Real((2,)),
    )


def flax_energy(seed):
    net = Net()
    params = net.init(jax.random.key(seed), jnp.zeros(2))
    return from_log_density(net.apply, Real((2,)), params=params)


def own_energy(seed):
    return Own(jnp.asarray([0.5, 1.0 + seed]), Real((2,)))


@pytest.mark.parametrize("make", [equinox_energy, flax_energy, own_energy])
def test_your_own_code_is_trained_saved_and_asked_for(make, tmp_path):
    rows = np.random.default_rng(0).normal(size=(100, 2))
    objective = ContrastiveDivergence(sampler=MALA())
    fitted = training.fit(make(0), rows, objective, key=KEY, num_steps=10)
    fitted.save(tmp_path)
    with pytest.raises(ValueError, match=r"is not part of energax.*Pass energy="):
        training.load(tmp_path)
    back = training.load(tmp_path, energy=make(1))
    assert bool(eqx.tree_equal(back.objective, objective))
    x = jnp.asarray([0.3, -0.7])
    np.testing.assert_array_equal(back.energy(x), fitted.energy(x))
    assert float(back.energy(x)) != float(make(0)(x))
    with pytest.raises(ValueError, match="has not the structure of the saved one"):
        training.load(tmp_path, energy=BernoulliRBM(np.ones((2, 2))))


def test_an_energy_of_another_shape_is_refused(tmp_path):
    fit_of(BernoulliRBM(np.ones((3, 2)))).save(tmp_path)
    with pytest.raises(ValueError, match=r"energy\.weight of shape \(3, 2\)"):
        training.load(tmp_path, energy=BernoulliRBM(np.ones((3, 4))))


def test_a_foreign_objective_is_left_out(tmp_path):
    class Mine(objectives.AbstractObjective):
        def init(self, energy, data, *, key):
            return None, None

        def __call__(self, energy, params, batch, carry, *, key):
            return jnp.sum(energy.weight**2), None, {"energy_data": jnp.asarray(0.0)}

    rows = np.zeros((20, 3))
    fitted = training.fit(BernoulliRBM(np.ones((3, 2))), rows, Mine(), key=KEY, num_steps=5)
    fitted.save(tmp_path)
    assert training.load(tmp_path).objective is None


def test_damage_and_newer_formats_are_refused(tmp_path):
    fit_of(BernoulliRBM(np.ones((3, 2)))).save(tmp_path)
    path = tmp_path / "fit.json"
    text = path.read_text()
    path.write_text(text.replace("BernoulliRBM", "BernoulliRBN"))
    with pytest.raises(io.DamagedFile, match="changed after it was written"):
        training.load(tmp_path)
    document = json.loads(text)
    path.write_text(json.dumps({**document, "energax_format": 99}))
    with pytest.raises(ValueError, match=r"format 99.*upgrade energax"):
        training.load(tmp_path)
    path.write_text(text)
    (arrays,) = tmp_path.glob("*.safetensors")
    arrays.write_bytes(arrays.read_bytes()[:-4])
    with pytest.raises(io.DamagedFile, match="is damaged: expected"):
        training.load(tmp_path)


def test_no_file_of_ours_is_a_pickle(tmp_path):
    fit_of(BernoulliRBM(np.ones((3, 2)))).save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    for path in tmp_path.iterdir():
        assert b"\x80\x04" not in path.read_bytes()[:2]
    assert Binary is training._base.registry()["Binary"]
    for name, cls in training._base.registry().items():
        assert cls.__module__.startswith("energax."), name
