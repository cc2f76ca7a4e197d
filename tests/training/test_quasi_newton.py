"""L-BFGS: where it ends against SciPy, what it refuses, and that a killed run goes on."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from energax import random, training
from energax.energies import BernoulliRBM, BoltzmannMachine, Ising, from_log_density
from energax.energies._base import batched, partition_trainable
from energax.objectives import MaximumLikelihood, Penalised, PersistentCD, PseudoLikelihood
from energax.objectives._base import AbstractObjective
from energax.objectives.discrete import PairwiseInverse
from energax.results import UnreliableResult
from energax.spaces import Binary, Spin
from tests.exact import enumerated

KEY = random.key(51)
SITES = 6
RNG = np.random.default_rng(6)
J = np.triu(RNG.normal(0.1, 0.5, (SITES, SITES)), 1)
J = J + J.T


@pytest.fixture(scope="module", params=["spins", "bits"])
def case(request):
    space = Spin(SITES) if request.param == "spins" else Binary(SITES)
    truth = BoltzmannMachine(J.astype(np.float32), RNG.normal(0, 0.3, SITES), space=space)
    return space, enumerated(truth).draw(3000, seed=4)


def scipy_minimum(space, rows):
    """The pseudo-likelihood's minimum by SciPy in float64, from formulas in NumPy."""
    upper = np.triu_indices(SITES, 1)
    up = (rows > 0).astype(float)
    gain = 2.0 if isinstance(space, Spin) else 1.0

    def loss(theta):
        matrix = np.zeros((SITES, SITES))
        matrix[upper] = theta[:-SITES]
        u = gain * (rows @ (matrix + matrix.T) + theta[-SITES:])
        error = gain * (1 / (1 + np.exp(-u)) - up) / len(rows)
        product = error.T @ rows
        slope = np.append((product + product.T)[upper], error.sum(0))
        return (np.logaddexp(0, u) - up * u).mean(0).sum(), slope

    found = minimize(loss, np.zeros(len(upper[0]) + SITES), jac=True, method="BFGS", tol=1e-9)
    return found.x, found.fun


def flat(energy):
    return np.asarray(ravel_pytree(partition_trainable(energy)[0])[0], float)


def test_it_ends_where_scipy_ends_and_stops_by_itself(case):
    space, rows = case
    theta, value = scipy_minimum(space, rows)
    start = BoltzmannMachine.zeros(space, rows)
    run = training.fit(start, rows, PseudoLikelihood(), key=KEY, optimizer="lbfgs")
    assert run.reliable, run.reasons
    assert run.num_steps < 30 and len(run.history["step"]) == run.num_steps
    np.testing.assert_allclose(flat(run.energy), theta, atol=3e-4)
    assert run.history["loss"][-1] == pytest.approx(value, rel=1e-6)
    with jax.enable_x64(True):
        wide = BoltzmannMachine.zeros(space, rows)
        run = training.fit(wide, rows, PseudoLikelihood(), key=KEY, optimizer="lbfgs")
        np.testing.assert_allclose(flat(run.energy), theta, atol=1e-5)


def test_other_objectives_without_chance_and_other_energies():
    """Exact likelihood of a plain function: at the end the model's moments are the data's."""
    space = Spin(4)

    def f(params, x):
        return params["b"] @ x + params["w"] @ (x[:-1] * x[1:])

    truth = from_log_density(
        f, space, params={"b": jnp.array([0.3, -0.2, 0.5, 0.1]), "w": jnp.array([0.6, -0.4, 0.8])}
    )
    rows = enumerated(truth).draw(2000, seed=1)
    start = from_log_density(f, space, params={"b": jnp.zeros(4), "w": jnp.zeros(3)})
    run = training.fit(start, rows, MaximumLikelihood(), key=KEY, optimizer="lbfgs")
    assert run.reliable, run.reasons
    model = enumerated(run.energy)
    np.testing.assert_allclose(model.prob @ model.x, rows.mean(0), atol=1e-4)
    pairs = model.prob @ (model.x[:, :-1] * model.x[:, 1:])
    np.testing.assert_allclose(pairs, (rows[:, :-1] * rows[:, 1:]).mean(0), atol=1e-4)


class MeanEnergy(AbstractObjective):
    is_deterministic = property(lambda self: True)

    def init(self, energy, data, *, key):
        return None, None

    def __call__(self, energy, params, batch, carry, *, key):
        loss = -jnp.mean(batched(energy, batch))
        return loss, None, {"energy_data": loss}


def test_a_line_that_rises_is_searched_again():
    """−p + exp(8 (p − 0.2)): a slope without curvature, and then a wall."""
    energy = from_log_density(
        lambda p, x: p - jnp.exp(8 * (p - 0.2)) + 0.0 * jnp.sum(x),
        Binary(1),
        params=jnp.asarray(-1.5),
    )
    rows = np.zeros((10, 1))
    run = training.fit(energy, rows, MeanEnergy(), key=KEY, optimizer="lbfgs")
    assert run.reliable, run.reasons
    assert float(run.energy.params) == pytest.approx(0.2 - np.log(8) / 8, abs=1e-3)
    assert (np.diff(run.history["loss"]) > 0).any()


def test_what_does_not_settle_says_so(case):
    space, rows = case
    start = BoltzmannMachine.zeros(space, rows)
    with pytest.warns(UnreliableResult, match="had not settled after num_steps=3"):
        run = training.fit(start, rows, PseudoLikelihood(), key=KEY, optimizer="lbfgs", num_steps=3)
    assert not run.reliable and run.num_steps == 3


def test_what_it_cannot_do_is_refused(case):
    space, rows = case
    start = BoltzmannMachine.zeros(space, rows)
    with pytest.raises(ValueError, match="PersistentCD are of random samples"):
        training.fit(start, rows, PersistentCD(), key=KEY, optimizer="lbfgs")
    with pytest.raises(ValueError, match="batch_size=100 of 3000 rows"):
        training.fit(start, rows, PseudoLikelihood(), key=KEY, optimizer="lbfgs", batch_size=100)
    with pytest.raises(ValueError, match="None for Adam or 'lbfgs', got 'newton'"):
        training.fit(start, rows, PseudoLikelihood(), key=KEY, optimizer="newton")
    with pytest.raises(ValueError, match="optimizer= or learning_rate="):
        training.fit(start, rows, PseudoLikelihood(), key=KEY, optimizer="lbfgs", learning_rate=0.1)


@pytest.mark.parametrize(
    ("objective", "optimizer"),
    [
        (Penalised(PseudoLikelihood(), l1=0.02), "lbfgs"),
        (Penalised(PseudoLikelihood(), l1=0.02, l2=0.1), None),
    ],
    ids=["L-BFGS", "Adam"],
)
def test_a_killed_run_goes_on_bit_for_bit(case, tmp_path, objective, optimizer):
    space, rows = case
    start = BoltzmannMachine.zeros(space, rows)
    options = dict(key=KEY, optimizer=optimizer, num_steps=60, checkpoint_every=4)
    whole = training.fit(start, rows, objective, checkpoint_dir=tmp_path / "a", **options)

    def press(step, metrics):
        if step >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.fit(
            start, rows, objective, checkpoint_dir=tmp_path / "b", callback=press, **options
        )
    resumed = training.resume(tmp_path / "b", data=rows)
    assert resumed.num_steps == whole.num_steps
    np.testing.assert_array_equal(flat(resumed.energy), flat(whole.energy))
    np.testing.assert_array_equal(resumed.history["loss"], whole.history["loss"])
    resumed.save(tmp_path / "c")
    back = training.load(tmp_path / "c")
    np.testing.assert_array_equal(flat(back.energy), flat(whole.energy))
    assert float(back.objective.l1) == pytest.approx(0.02)


def test_the_rough_inverse_is_symmetric_positive_and_near_the_inverse(case):
    space = case[0]
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(3000, 1)) + 0.5 * rng.normal(size=(3000, SITES)) > 0.3
    rows = 2.0 * shared - 1 if isinstance(space, Spin) else 1.0 * shared
    ring = [(i, (i + 1) % SITES) for i in range(SITES)]
    energies = [BoltzmannMachine.zeros(space)]
    if isinstance(space, Spin):
        energies.append(Ising(ring, 0.0, num_sites=SITES))
    for energy in energies:
        theta, fixed = partition_trainable(energy)
        vector, unravel = ravel_pytree(theta)
        inverse = PairwiseInverse.of(energy, jnp.asarray(rows))
        matrix = np.stack([ravel_pytree(inverse(unravel(row)))[0] for row in jnp.eye(len(vector))])
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
        assert np.linalg.eigvalsh(matrix).min() > 0

        def loss(v, unravel=unravel, fixed=fixed):
            energy = eqx.combine(unravel(v), fixed)
            return PseudoLikelihood()(energy, None, jnp.asarray(rows), None, key=KEY)[0]

        hessian = np.asarray(jax.hessian(loss)(vector))
        values = np.linalg.eigvals(matrix @ hessian).real
        plain = np.linalg.eigvalsh(hessian)
        assert values.max() / values.min() < 0.7 * plain.max() / plain.min()


def test_rbms_are_fitted_too():
    rows = enumerated(
        BernoulliRBM(RNG.normal(size=(5, 2)), RNG.normal(size=5), RNG.normal(size=2))
    ).draw(1000, seed=0)
    start = BernoulliRBM.random(5, 2, key=KEY, data=rows, scale=0.3)
    objective = Penalised(MaximumLikelihood(), l2=0.01)
    run = training.fit(start, rows, objective, key=KEY, optimizer="lbfgs")
    assert run.reliable, run.reasons
    assert run.history["gradient_norm"][-1] < 1e-3
