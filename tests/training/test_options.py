"""Options that hold a network back, and a slow blow-up that is told."""

import json
import re
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from energax import cli, jobs, random, training
from energax.energies import (
    MLP,
    BernoulliRBM,
    ConvNet,
    Ising,
    Normal,
    Tempered,
    fitted_base,
    from_log_density,
    frozen,
)
from energax.energies._base import batched, partition_trainable
from energax.objectives import EnergyPenalty, MaximumLikelihood, PersistentCD
from energax.results import UnreliableResult
from energax.samplers import ULA
from energax.spaces import Binary, Ordinal, Real, Spin
from energax.training.loop._base import within
from energax.training.loop.review import review
from tests.exact import enumerated
from tests.training.test_checkpoint import interrupt_after, same

KEY = random.key(61)
RNG = np.random.default_rng(6)


def largest(matrix):
    """Its largest singular value; the last axis of a kernel against all others."""
    matrix = np.asarray(matrix, np.float64)
    return np.linalg.svd(matrix.reshape(-1, matrix.shape[-1]), compute_uv=False)[0]


def clusters(at, sd, num=1000):
    """Two of them in the plane."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(s * at, sd, (num // 2, 2)) for s in (-1, 1)]).astype("f4")


# ---- spectral norm ---------------------------------------------------------------------------


@pytest.mark.parametrize("average", [None, 0.9])
def test_matrices_end_within_the_bound(average):
    """At a rate at which they would grow far beyond it."""
    rows, start = clusters(2.0, 0.4), MLP(Real((2,)), 24, 2, key=KEY)
    options = {"key": KEY, "num_steps": 400, "learning_rate": 0.01, "average": average}
    free = training.fit(start, rows, PersistentCD(2), **options)
    assert min(map(largest, free.energy.weights)) > 1.5
    held = training.fit(start, rows, PersistentCD(2), spectral_norm=0.7, **options)
    assert held.reliable, held.reasons
    for weight in held.energy.weights:
        assert 0.6 < largest(weight) <= 0.7 * 1.01
    assert np.linalg.norm(held.energy.readout) > 0.75  # a vector is left alone


class Net(eqx.Module):
    first: eqx.nn.Conv2d
    held: eqx.Module
    last: eqx.nn.Linear

    def __call__(self, x):
        h = jax.nn.tanh(self.first(x.reshape(1, 4, 4)))
        return self.last(h.reshape(-1))[0] - self.held(x.reshape(-1))[0]


def test_kernels_are_matrices_and_frozen_parts_are_left_alone():
    rows = (RNG.random((200, 4, 4)) < RNG.random((4, 4))).astype(np.float32)
    options = {"key": KEY, "num_steps": 60, "learning_rate": 0.03, "spectral_norm": 0.5}
    conv = ConvNet(Binary((4, 4)), (5, 6), key=KEY)
    fitted = training.fit(conv, rows, PersistentCD(1), **options).energy
    for kernel in fitted.kernels:
        assert 0.45 < largest(kernel) <= 0.5 * 1.01
    keys = jax.random.split(jax.random.key(0), 3)
    net = Net(
        eqx.nn.Conv2d(1, 3, 2, key=keys[0]),
        frozen(eqx.nn.Linear(16, 1, key=keys[1])),
        eqx.nn.Linear(27, 1, key=keys[2]),
    )
    net = eqx.tree_at(
        lambda n: (n.held.module.weight, n.first.bias),
        net,
        (jnp.ones((1, 16)), jnp.ones((3, 1, 1))),
    )
    start = from_log_density(net, Binary((4, 4)))
    np.testing.assert_array_equal(within(start, 0.5)[0].function.first.bias, 1.0)  # no matrix
    found = training.fit(start, rows, PersistentCD(1), **options).energy.function
    assert 0.45 < largest(np.asarray(found.first.weight).reshape(3, -1)) <= 0.5 * 1.01
    assert 0.45 < largest(found.last.weight) <= 0.5 * 1.01
    np.testing.assert_array_equal(found.held.module.weight, 1.0)


def test_it_is_plain_descent_with_an_exact_projection():
    """And begins with one; weights of an RBM are meant as well, and may start at 0."""
    rows = (RNG.random((100, 6)) < np.linspace(0.2, 0.8, 6)).astype(np.float32)
    weight, limit, rate = RNG.normal(0, 1, (6, 4)), 0.8, 0.3
    for weight in (RNG.normal(0, 1, (6, 4)), np.zeros((6, 4))):
        start = BernoulliRBM(weight, RNG.normal(0, 0.3, 6), RNG.normal(0, 0.3, 4))
        fitted = training.fit(
            start,
            np.where(rows > 0, rows[:, ::-1], rows),  # correlated columns
            MaximumLikelihood(),
            key=KEY,
            optimizer=optax.sgd(rate),
            num_steps=60,
            batch_size=100,
            spectral_norm=limit,
        )
        theta, fixed = partition_trainable(start)

        @eqx.filter_jit
        @eqx.filter_grad
        def slope(theta, fixed=fixed):
            energy, data = eqx.combine(theta, fixed), np.where(rows > 0, rows[:, ::-1], rows)
            return MaximumLikelihood()(energy, None, jnp.asarray(data), None, key=KEY)[0]

        for step in range(61):
            shrink = max(1.0, largest(theta.weight) / limit)
            theta = eqx.tree_at(lambda t: t.weight, theta, theta.weight / shrink)
            if step < 60:
                theta = jax.tree.map(lambda p, g: p - rate * g, theta, slope(theta))
        np.testing.assert_allclose(fitted.energy.weight, theta.weight, atol=2e-3)
        assert largest(fitted.energy.weight) <= limit * 1.01


def test_within_a_wide_bound_it_still_fits():
    truth = enumerated(
        Ising([(0, 1), (1, 2), (2, 3), (0, 3)], [0.8, -0.6, 0.7, 0.5], 0.2, num_sites=4)
    )
    rows = truth.draw(2000, seed=1)
    _, often = np.unique(rows, axis=0, return_counts=True)
    entropy = -np.sum(often / 2000 * np.log(often / 2000))
    loss = {}
    for limit in (None, 2.0, 0.1):
        fitted = training.fit(
            MLP(Spin((4,)), 16, 2, key=KEY),
            rows,
            MaximumLikelihood(),
            key=KEY,
            num_steps=1500,
            batch_size=2000,
            learning_rate=0.01,
            spectral_norm=limit,
        )
        loss[limit] = fitted.history["loss"][-1] - entropy
        if limit:
            assert max(map(largest, fitted.energy.weights)) <= limit * 1.01
    assert loss[None] < 0.01 and loss[2.0] < 0.02 and loss[0.1] > 0.2


def bounded_run(**options):
    return training.fit(
        MLP(Real((2,)), 8, 2, key=KEY),
        clusters(1.0, 0.3, 130),
        EnergyPenalty(PersistentCD(2, 20), 0.05),
        key=KEY,
        num_steps=90,
        batch_size=10,
        learning_rate=0.01,
        **{"spectral_norm": 0.6, "temperature": 0.5, "average": 0.9, **options},
    )


def test_all_three_together_resume_bit_for_bit(tmp_path):
    whole = bounded_run()
    with pytest.raises(KeyboardInterrupt):
        bounded_run(checkpoint_dir=tmp_path, checkpoint_every=20, callback=interrupt_after(40))
    same(training.resume(tmp_path, data=clusters(1.0, 0.3, 130)), whole)
    same(bounded_run(checkpoint_dir=tmp_path, resume=True), whole)
    refused = r"spectral_norm=0.6, not None; temperature=0.5, not 2.0"
    with pytest.raises(ValueError, match=refused):
        bounded_run(checkpoint_dir=tmp_path, resume=True, spectral_norm=None, temperature=2.0)
    whole.save(tmp_path / "saved")
    back = training.load(tmp_path / "saved")
    same(back, whole)
    assert float(back.energy.beta) == 2.0


def test_a_bound_that_makes_no_sense_is_refused():
    rows = (RNG.random((50, 5)) < 0.5).astype(np.float32)
    rbm = BernoulliRBM.random(5, 3, key=KEY)
    for given in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="spectral_norm: expected a positive number"):
            training.fit(rbm, rows, key=KEY, spectral_norm=given)
    with pytest.raises(ValueError, match=r"lbfgs' searches along lines, and spectral_norm="):
        training.fit(rbm, rows, MaximumLikelihood(), key=KEY, optimizer="lbfgs", spectral_norm=1.0)
    with pytest.raises(ValueError, match="trains none"):
        training.fit(Ising([(0, 1)], 0.1, num_sites=5), 2 * rows - 1, key=KEY, spectral_norm=1.0)
    with pytest.raises(ValueError, match="fitted at once by its moments"):
        training.fit(Normal([0.0], [1.0]), rows[:, :1], key=KEY, spectral_norm=1.0)


# ---- temperature -----------------------------------------------------------------------------


def bowl(p, x):
    return p[0] * x[0] + p[1] * x[0] ** 2 / 5


def test_at_a_temperature_the_energy_is_divided_by_it():
    """Minima of exact likelihoods: T times the natural parameters, and the same density."""
    rows = np.repeat(np.arange(6), [60, 10, 20, 10, 40, 60])[:, None]
    x = np.arange(6.0)
    density = {}
    for t in (1.0, 0.2, 3.0):
        start = from_log_density(bowl, Ordinal((1,), 6), params=jnp.asarray([0.1, -0.1]))
        fitted = training.fit(
            start,
            rows,
            MaximumLikelihood(),
            key=KEY,
            optimizer="lbfgs",
            temperature=None if t == 1 else t,
        )
        assert fitted.reliable, fitted.reasons
        inner = fitted.energy
        if t != 1:
            assert isinstance(inner, Tempered) and float(inner.beta) == np.float32(1 / t)
            inner = inner.energy
        f = np.asarray(batched(fitted.energy, jnp.asarray(x)[:, None]), float)
        density[t] = np.exp(f - np.logaddexp.reduce(f))
        natural = np.asarray(inner.params) / t
        np.testing.assert_allclose(f, natural[0] * x + natural[1] * x**2 / 5, rtol=1e-4)
        for power in (1, 2):  # moments of the rows, as at any maximum of this likelihood
            wanted = (rows**power).mean()
            assert density[t] @ x**power == pytest.approx(wanted, rel=1e-3)
        np.testing.assert_allclose(density[t], density[1.0], atol=2e-3)


def test_a_tempered_start_trains_its_beta_and_a_temperature_stays(tmp_path):
    rows, mlp = clusters(1.0, 0.3, 200), MLP(Real((2,)), 8, 1, key=KEY)
    options = {"key": KEY, "num_steps": 50, "learning_rate": 0.01}
    free = training.fit(4.0 * mlp, rows, PersistentCD(1), **options).energy
    held = training.fit(mlp, rows, PersistentCD(1), temperature=0.25, **options).energy
    assert float(free.beta) != 4.0 and float(held.beta) == 4.0
    for moved, before in zip(held.energy.weights, mlp.weights, strict=True):
        assert (np.asarray(moved) != np.asarray(before)).all()


def test_a_function_goes_on_at_its_temperature(tmp_path):
    rows = np.repeat(np.arange(6), 10)[:, None]

    def train(**options):
        start = from_log_density(bowl, Ordinal((1,), 6), params=jnp.asarray([0.1, -0.1]))
        chains = PersistentCD(1, 20)
        return training.fit(
            start, rows, chains, key=KEY, num_steps=60, temperature=0.5, batch_size=10, **options
        )

    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint_dir=tmp_path, checkpoint_every=20, callback=interrupt_after(20))
    again = from_log_density(bowl, Ordinal((1,), 6), params=jnp.zeros(2))
    same(training.resume(tmp_path, again, data=rows), whole)


def test_a_temperature_that_makes_no_sense_is_refused():
    rows = np.ones((10, 5), np.float32)
    with pytest.raises(ValueError, match=r"temperature: expected a positive number, got 0\.0"):
        training.fit(MLP(Spin((5,)), 4, key=KEY), rows, key=KEY, temperature=0.0)
    with pytest.raises(ValueError, match=r"Ising at another temperature .* energy\.tempered"):
        training.fit(Ising([(0, 1)], 0.1, num_sites=5), rows, key=KEY, temperature=0.5)


# ---- what they are for -----------------------------------------------------------------------


def test_a_penalty_holds_energies_that_drift():
    """Steps of fixed size leave samples where E is higher than at the data, which training makes
    ever higher; with a penalty of s the two are at most 1/s apart."""
    rows, start = clusters(1.0, 0.3), MLP(Real((2,)), 32, 2, key=random.key(0))
    chains = PersistentCD(5, sampler=ULA(0.1))
    options = {"key": random.key(1), "num_steps": 800, "learning_rate": 3e-3}
    with pytest.warns(UnreliableResult):
        free = training.fit(start, rows, chains, **options)
    assert np.abs(free.history["energy_data"]).max() > 300
    held = training.fit(start, rows, EnergyPenalty(chains, 0.1), **options)
    assert held.reliable, held.reasons
    assert np.abs(held.history["energy_data"]).max() < 5
    assert np.abs(held.history["gap"]).max() < 1 / 0.1


def test_a_slow_blow_up_is_told():
    """Chains stay in their cluster, so that nothing weighs one against the other; E grows to
    tens of nats and falls again, and the gap stays far below the spread, which grows along.

    The course is chaotic, another one on another machine: two of three are to be told.
    """
    rows, start = clusters(2.0, 0.4), MLP(Real((2,)), 64, 2, key=random.key(0))
    told = 0
    for seed in (1, 2, 3):
        options = {"key": random.key(seed), "num_steps": 1000}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UnreliableResult)
            fitted = training.fit(start, rows, PersistentCD(5), learning_rate=0.015, **options)
        said = " ".join(str(each.message) for each in caught)
        if not re.search(r"spread by .* (E has grown without bounds|threw E about)", said):
            continue
        names = "gap", "energy_data_sd"
        parts = zip(*(np.array_split(fitted.history[n], 10)[5:] for n in names), strict=True)
        gap, spread = max(((g.mean(), sd.mean()) for g, sd in parts), key=lambda part: part[1])
        told += bool(abs(gap) < spread / 2 and spread > 20)
    assert told >= 2
    calm = training.fit(start, rows, PersistentCD(5), learning_rate=0.001, **options)
    assert calm.reliable, calm.reasons


def test_energies_that_were_thrown_about_are_told_though_the_end_is_calm():
    calm, wild = np.full(200, 1.3), np.full(200, 1.3)
    wild[140:160] = 20.5
    early = np.where(np.arange(200) < 60, 20.5, 1.3)  # of a start that came to rest
    history = {"step": np.arange(200.0), "acceptance": np.full(200, 0.5), "gap": np.zeros(200)}
    assert not review(history | {"energy_data_sd": calm}, 2)
    assert not review(history | {"energy_data_sd": early}, 2)
    (reason,) = review(history | {"energy_data_sd": wild}, 2)
    assert "20.5 nats, and do by 1.3 at the end" in reason


@pytest.mark.parametrize(
    ("gap", "spread", "sites", "reasons"),
    [
        (0.5, 1.0, 2, 0),
        (-2.5, 1.0, 2, 1),  # as ever
        (40.0, 50.0, 2, 2),  # below the spread, but both have grown
        (0.1, 50.0, 2, 1),
        (0.1, 9.0, 1, 0),  # heavy tails
        (5.0, 25.0, 784, 0),
        (400.0, 600.0, 784, 1),
        (60.0, 1700.0, 3072, 0),  # plain and textured pictures
        (60.0, 4000.0, 3072, 1),
    ],
)
def test_neither_gap_nor_spread_is_measured_by_the_other_alone(gap, spread, sites, reasons):
    grow = np.linspace(0.0, 1.0, 200) ** 0.1
    history = {"step": np.arange(200.0), "acceptance": np.full(200, 0.5)}
    history |= {"gap": gap * grow, "energy_data_sd": spread * grow}
    assert len(review(history, sites)) == reasons


# ---- on the command line ---------------------------------------------------------------------


def run(*words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return ended.value.code or 0


def test_the_command_line_has_all_three(tmp_path, capsys):
    np.save(tmp_path / "rows.npy", clusters(1.0, 0.3, 200))
    fit = ["fit", tmp_path / "rows.npy", "--num-steps", 40, "--hidden", 8, "--seed", 3]
    options = ["--energy-penalty", 0.02, "--spectral-norm", 0.6, "--temperature", 0.2]
    assert run(*fit, "--model", "mlp", *options, "--out", tmp_path / "run") == 0
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (told["energy_penalty"], told["spectral_norm"], told["temperature"]) == (0.02, 0.6, 0.2)
    back = training.load(tmp_path / "run")
    assert isinstance(back.energy, Tempered) and float(back.energy.beta) == 5.0
    assert all(largest(weight) <= 0.6 * 1.01 for weight in back.energy.energy.weights)
    assert isinstance(back.objective, EnergyPenalty) and float(back.objective.strength) > 0
    assert "energy_penalty" in back.history
    assert run("resume", tmp_path / "run") == 0
    capsys.readouterr()
    for words, named in (
        (["--model", "rbm", "--temperature", 0.2], "--temperature is for networks"),
        (["--model", "mlp", "--temperature", 0], "--temperature: expected a positive"),
        (["--model", "independent", "--spectral-norm", 1], "--spectral-norm: Normal is fitted"),
        (["--model", "mlp", "--spectral-norm", -1], "spectral_norm: expected a positive"),
        (["--objective", "moments", "--energy-penalty", 0.1], "--energy-penalty"),
    ):
        assert run(*fit, *words, "--out", tmp_path / "no") == 2
        assert named in capsys.readouterr().err
        assert not (tmp_path / "no").exists()


def test_on_the_command_line_a_network_starts_from_the_base_of_the_rows():
    rows = RNG.normal(3.0, 2.0, (300, 2)).astype(np.float32)
    space = Real((2,))
    model = jobs.build_model("mlp", space, rows, 8, 0.1, key=KEY)
    flat = eqx.tree_at(lambda m: m.readout, model, jnp.zeros(8))
    x = jnp.asarray(rows[:20])
    wanted = batched(fitted_base(space, rows), x)
    np.testing.assert_allclose(batched(flat.tempered(1 / 0.1), x), wanted, rtol=1e-4)
