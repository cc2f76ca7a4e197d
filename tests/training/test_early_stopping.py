"""The tracked log-likelihood against enumeration; stopping in time; resuming bit for bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax import random, training
from energax.energies import MLP, BernoulliRBM, Ising, MultivariateNormal, from_log_density
from energax.energies.reference import fitted_base
from energax.objectives import MaximumLikelihood, PersistentCD
from energax.partition import log_z
from energax.results import UnreliableResult
from energax.samplers.choose import default_sampler
from energax.spaces import Binary, Real, Spin
from energax.training import EarlyStopping
from energax.training.stopping import _base as tracking
from energax.training.stopping import choose as stopping
from tests.training.test_checkpoint import interrupt_after, killed, same, steps_kept

KEY = random.key(11)


@pytest.fixture
def tracked(monkeypatch):
    """Small models are tracked too, as large ones are, so that sums can judge."""
    monkeypatch.setattr(stopping, "num_exact_states", lambda energy: None)


def prototypes(num, sites=10, seed=0, noise=0.08):
    """Noisy copies of four patterns."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).random((4, sites)) < 0.5
    return (patterns[rng.integers(4, size=num)] ^ (rng.random((num, sites)) < noise)).astype(float)


def rbm(sites=10, hidden=6, seed=0, scale=0.3):
    return BernoulliRBM.random(sites, hidden, key=random.key(seed), scale=scale)


def true_log_z(energy):
    """By the definition: every state."""
    f = jax.vmap(energy.log_density)(energy.space.enumerate())
    f = np.asarray(f, float)
    return f.max() + np.log(np.exp(f - f.max()).sum())


def snapshots(monkeypatch):
    """{step: (energy, told log Z, told error)} of the next fits, filled as they go."""
    seen = {}
    look = stopping.Watcher.look

    def spy(self, energy, step):
        told = look(self, energy, step)
        trusted = not self.now["lost"]
        seen[step] = (
            energy,
            *(float(told[f"log_likelihood_{n}"][0]) for n in ("log_z", "std_err")),
            trusted,
        )
        return told

    monkeypatch.setattr(stopping.Watcher, "look", spy)
    return seen


# ---- the walkers -----------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_weights_are_unbiased_at_any_number_of_steps(num_steps):
    """E[Ẑ]/Z = 1, along an RBM's own way and along a straight line between two RBMs."""
    first = rbm(6, 4, seed=1, scale=0.8)
    second = rbm(6, 4, seed=2, scale=1.0)
    path = first.path(fitted_base(first.space, prototypes(50, 6)))
    ratios = {"path": [], "line": []}
    for i in range(40):
        keys = jax.random.split(jax.random.fold_in(KEY, i), 3)
        start = tracking.at_base(path, None, key=keys[0])
        sampler = default_sampler(first)
        there, _ = tracking.carry(
            path, sampler, tracking.straight(None), start, num_steps, key=keys[1]
        )
        onward, _ = tracking.carry(
            tracking.Between(first, second),
            sampler,
            tracking.straight(None),
            there,
            num_steps,
            key=keys[2],
        )
        for name, walkers, energy in (("path", there, first), ("line", onward, second)):
            weight = np.exp(np.asarray(walkers.log_weight, float)).mean(1)
            ratios[name] += list(weight * np.exp(walkers.level - true_log_z(energy)))
    for name, found in ratios.items():
        error = np.std(found, ddof=1) / np.sqrt(len(found))
        assert error < 0.1 and abs(np.mean(found) - 1) < 5 * error, (name, np.mean(found), error)


def test_the_stated_error_is_that_of_log_z():
    """Over 60 populations on their own: z² averages about 1 (t with 15 degrees: 1.15)."""
    energy = rbm(6, 4, seed=1, scale=1.2)
    path = energy.path(fitted_base(energy.space, prototypes(50, 6)))
    truth, z = true_log_z(energy), []
    for i in range(60):
        key_draw, key_run = jax.random.split(jax.random.fold_in(KEY, i))
        walkers = tracking.at_base(path, None, key=key_draw)
        walkers, _ = tracking.carry(
            path, default_sampler(energy), tracking.straight(None), walkers, 20, key=key_run
        )
        value, error = walkers.log_z()
        z.append((value - truth) / error)
    assert 0.55 < np.mean(np.square(z)) < 2.0
    assert abs(np.mean(z)) < 5 * 1.1 / np.sqrt(60)


def test_a_jump_that_the_walkers_cannot_follow_is_seen():
    """In one step to an RBM whose mass lies elsewhere: the ESS says so, and the error is large."""
    start, end = BernoulliRBM(np.zeros((20, 2)), -4.0), BernoulliRBM(np.zeros((20, 2)), 4.0)
    path = start.path(fitted_base(start.space, np.zeros((50, 20))))
    walkers = tracking.at_base(path, None, key=KEY)
    _, least = tracking.carry(
        tracking.Between(start, end),
        default_sampler(start),
        tracking.straight(None),
        walkers,
        1,
        key=KEY,
    )
    assert least < stopping._LEAST_ESS


def test_a_survey_ends_at_the_target_and_measures_the_way():
    """f_β = β·c·x on one bit: the length is ∫ sd dβ = c∫√(p(1−p))dβ, an elementary integral."""
    c = 6.0
    energy = from_log_density(lambda x: c * x[0], Binary((1,)))
    path = energy.path(fitted_base(energy.space, np.array([[0.0], [1.0]]), smoothing=0.0))
    found = tracking.survey(path, default_sampler(energy), key=KEY)
    exact = 2 * np.arctan(np.tanh(c / 4))  # ∫₀ᶜ du/(2 cosh(u/2))
    assert found.arrived and 0.7 < found.length / exact < 2
    assert float(found.beta(1.0)) == 1.0 and float(found.beta(0.0)) == 0.0


# ---- the tracked likelihood ------------------------------------------------------------------


@pytest.mark.slow
def test_the_tracked_log_z_is_the_enumerated_one(tracked, monkeypatch):
    """Five trainings: every trusted look within its error bar, most looks trusted, under 10 %."""
    last = []
    for seed in range(5):
        seen = snapshots(monkeypatch)
        rows = prototypes(400, seed=seed)
        found = training.fit(
            rbm(seed=seed),
            rows,
            PersistentCD(num_steps=5),
            key=random.key(seed),
            num_steps=1000,
            batch_size=100,
            early_stopping=EarlyStopping(0.25, patience=1000),
        )
        record = found.early_stopping
        assert record is not None and record.method == "tracked" and not record.stopped
        assert record.num_trusted >= 0.6 * record.num_looks and record.share <= 0.1
        z = []
        for energy, value, error, trusted in seen.values():
            if trusted and error <= 0.25:
                z.append((value - true_log_z(energy)) / np.hypot(error, 1e-3))
        assert np.abs(z).max() < 6, (seed, z)  # t with 15 degrees of freedom, 250 looks
        last += [z[len(z) // 2], z[-1]]
        monkeypatch.undo()
        monkeypatch.setattr(stopping, "num_exact_states", lambda energy: None)
    assert np.mean(np.square(last)) < 4  # ten, not independent


def test_the_history_holds_the_likelihood_of_the_rows_that_were_held_out(tmp_path):
    rows, held = prototypes(300), prototypes(60, seed=5)
    found = training.fit(
        rbm(), rows, key=KEY, num_steps=60, early_stopping=EarlyStopping(held, every=20)
    )
    history, record = found.history, found.early_stopping
    assert record is not None and record.method == "exact" and record.check is None
    np.testing.assert_array_equal(history["log_likelihood_step"], [0, 20, 40, 60])
    np.testing.assert_array_equal(history["log_likelihood_std_err"], 0)
    best = int(np.argmax(history["log_likelihood"]))
    assert found.num_steps == record.best_step == history["log_likelihood_step"][best]
    f = np.asarray(jax.vmap(found.energy.log_density)(jnp.asarray(held, float)), float)
    log_prob = f - true_log_z(found.energy)
    assert history["log_likelihood"][best] == pytest.approx(log_prob.mean(), abs=1e-4)
    assert record.log_likelihood == history["log_likelihood"][best]
    assert record.sampling_std_err == pytest.approx(log_prob.std(ddof=1) / np.sqrt(60), rel=1e-3)
    assert len(history["step"]) == 60
    # early stopping only watches: the weights on the way are those of a run without it
    plain = training.fit(rbm(), rows, key=KEY, num_steps=60)
    np.testing.assert_array_equal(plain.history["loss"], history["loss"])
    found.save(tmp_path)
    assert training.load(tmp_path).early_stopping == record


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_a_model_that_overfits_is_stopped_where_it_was_best(exact, request):
    """30 rows, 24 hidden units: judged by fresh rows and by the enumerated log Z."""
    if not exact:
        request.getfixturevalue("tracked")
    rows, fresh = prototypes(30), prototypes(3000, seed=8)
    start = rbm(10, 24, scale=0.01)
    options = dict(key=KEY, num_steps=4000, batch_size=30, learning_rate=0.02, average=0.98)
    objective = PersistentCD(num_steps=5)
    held = prototypes(200, seed=9)
    stopped = training.fit(
        start, rows, objective, early_stopping=EarlyStopping(held, patience=8), **options
    )
    to_the_end = training.fit(start, rows, objective, **options)
    record = stopped.early_stopping
    assert record is not None and record.stopped and record.last_step < 4000
    assert "no better in 8 looks" in record.reason and record.best_step < record.last_step
    assert record.share <= 0.1 and stopped.num_steps == record.best_step

    def likelihood(energy):
        f = np.asarray(jax.vmap(energy.log_density)(jnp.asarray(fresh, float)), float)
        return f - true_log_z(energy)

    gain = likelihood(stopped.energy) - likelihood(to_the_end.energy)  # paired over 3000 rows
    assert gain.mean() > 5 * gain.std(ddof=1) / np.sqrt(len(gain))


@pytest.mark.slow
def test_other_energies_are_tracked_too(monkeypatch):
    """A network on the plane (MALA, tuned as it goes), against quadrature; no exact method fits."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 2)) * [1.0, 0.6] + [0.5, -0.3]
    start = MLP(Real((2,)), 8, 1, key=KEY, base=fitted_base(Real((2,)), rows))
    seen = snapshots(monkeypatch)
    found = training.fit(
        start,
        rows,
        PersistentCD(num_steps=10),
        key=KEY,
        num_steps=150,
        learning_rate=0.005,
        early_stopping=EarlyStopping(0.2, every=50, share=1.0),
    )
    record = found.early_stopping
    assert record is not None and record.method == "tracked" and record.num_trusted >= 2
    for energy, value, error, trusted in list(seen.values())[::2]:
        truth = log_z(energy, key=KEY, method="quadrature")
        assert not trusted or abs(value - truth.value) < 6 * error + 0.01


def test_spins_are_tracked_by_sweeps(tracked):
    first, second = np.triu_indices(6, 1)
    start = Ising(np.stack([first, second], 1), np.zeros(15), np.zeros(6), num_sites=6)
    rows = 2 * prototypes(200, 6) - 1
    found = training.fit(
        start, rows, PersistentCD(num_steps=20), key=KEY, num_steps=80,
        early_stopping=EarlyStopping(0.2, every=40, share=1.0),
    )  # fmt: skip
    record = found.early_stopping
    assert isinstance(found.energy.space, Spin) and record is not None and record.num_trusted == 3
    assert abs(record.log_z - true_log_z(found.energy)) < 6 * record.std_err + 1e-3


# ---- verdicts --------------------------------------------------------------------------------


def test_what_could_not_be_followed_is_told(tracked):
    """A share far too small for a run from the base: the last parameters, and the reason."""
    with pytest.warns(UnreliableResult, match="early stopping watched nothing"):
        found = training.fit(
            rbm(), prototypes(100), PersistentCD(), key=KEY, num_steps=40,
            early_stopping=EarlyStopping(0.2, every=20, share=1e-4),
        )  # fmt: skip
    record = found.early_stopping
    assert record is not None and record.best_step is None and not found.reliable
    assert found.num_steps == 40 and np.isnan(record.log_likelihood)
    assert np.isinf(found.history["log_likelihood_std_err"]).all()
    assert np.isnan(found.history["log_likelihood"]).all()


def test_a_check_that_disagrees_is_told(tracked, monkeypatch):
    """A tracker that is off on the way: the run from the base at the end finds it."""
    carry = stopping.carry

    def wrong(way, *rest, **options):
        walkers, least = carry(way, *rest, **options)
        if isinstance(way, tracking.Between):
            walkers = tracking.Walkers(
                walkers.x, walkers.log_weight, walkers.level + 3.0, walkers.tuning
            )
        return walkers, least

    monkeypatch.setattr(stopping, "carry", wrong)
    with pytest.warns(UnreliableResult, match="disagree"):
        found = training.fit(
            BernoulliRBM(np.zeros((10, 6)), 2.0), prototypes(200), PersistentCD(num_steps=5),
            key=KEY, num_steps=600, early_stopping=EarlyStopping(0.2, every=150),
        )  # fmt: skip
    assert not found.reliable


def test_min_delta_and_patience():
    rows, held = prototypes(300), prototypes(60, seed=5)
    options = dict(key=KEY, num_steps=400)
    watch = EarlyStopping(held, every=20, patience=2, min_delta=5.0)
    found = training.fit(rbm(scale=0.01), rows, early_stopping=watch, **options)
    record = found.early_stopping
    assert record is not None and record.stopped and record.last_step == record.best_step + 40
    values = found.history["log_likelihood"]
    at = int(np.flatnonzero(found.history["log_likelihood_step"] == record.best_step)[0])
    assert (values[at + 1 :] <= values[at] + 5.0).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"held_out": 1.5}, "share of the rows between 0 and 1, got 1.5"),
        ({"every": 0}, "every: expected a whole number from 1"),
        ({"patience": True}, "patience: expected a whole number"),
        ({"min_delta": -1.0}, "min_delta: expected a number from 0"),
        ({"share": 0.0}, "share: expected one above 0 to 1"),
        ({"max_std_err": 0.0}, "max_std_err: expected a positive number"),
    ],
)
def test_bad_settings_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        EarlyStopping(**options)


def test_bad_rows_are_refused():
    with pytest.raises(ValueError, match=r"early_stopping.held_out: expected only 0 and 1"):
        training.fit(
            rbm(), prototypes(20), key=KEY, early_stopping=EarlyStopping(np.full((3, 10), 0.5))
        )
    with pytest.raises(ValueError, match="leaves 0 to watch and 3 to train on"):
        training.fit(rbm(), prototypes(3), key=KEY, early_stopping=0.1)
    normal = MultivariateNormal(np.zeros(2), np.eye(2))
    with pytest.raises(ValueError, match="fitted at once by its moments"):
        training.fit(normal, np.zeros((5, 2)), key=KEY, early_stopping=0.1)


# ---- interrupted runs ------------------------------------------------------------------------


def train(num_steps=120, early_stopping=0.2, **options):
    return training.fit(
        rbm(),
        prototypes(150),
        PersistentCD(num_steps=10),
        key=KEY,
        num_steps=num_steps,
        batch_size=20,
        average=0.9,
        early_stopping=early_stopping,
        **options,
    )


def same_stopping(a, b):
    same(a, b)
    for field in dataclasses.fields(a.early_stopping):
        x, y = (getattr(fit.early_stopping, field.name) for fit in (a, b))
        assert x == y or (x != x and y != y), field.name


WATCH = EarlyStopping(0.2, every=20, share=0.5)


def test_ctrl_c_and_resume_end_bit_for_bit(tracked, tmp_path):
    whole = train(early_stopping=WATCH)
    assert whole.early_stopping.num_trusted >= 3
    with pytest.raises(KeyboardInterrupt):
        train(early_stopping=WATCH, checkpoint_dir=tmp_path, callback=interrupt_after(50))
    (kept,) = steps_kept(tmp_path)
    assert 50 <= kept < 120
    same_stopping(training.resume(tmp_path, data=prototypes(150)), whole)
    same_stopping(training.resume(tmp_path, data=prototypes(150)), whole)  # nothing left to do
    for every in (7, 30):
        folder = tmp_path / str(every)
        same_stopping(
            train(early_stopping=WATCH, checkpoint_dir=folder, checkpoint_every=every), whole
        )


def test_a_stopped_run_stays_stopped(tmp_path):
    watch = EarlyStopping(0.2, every=10, patience=1, min_delta=100.0)
    found = train(early_stopping=watch, checkpoint_dir=tmp_path)
    assert found.early_stopping.stopped and found.early_stopping.last_step == 10
    same_stopping(training.resume(tmp_path, data=prototypes(150)), found)
    with pytest.raises(ValueError, match="early_stopping="):
        training.fit(
            rbm(), prototypes(150), PersistentCD(num_steps=10), key=KEY,
            num_steps=120, batch_size=20, average=0.9, checkpoint_dir=tmp_path, resume=True,
        )  # fmt: skip


def test_rows_of_your_own_are_asked_for(tmp_path):
    watch = EarlyStopping(prototypes(30, seed=3), every=20)
    whole = train(early_stopping=watch)
    with pytest.raises(KeyboardInterrupt):
        train(early_stopping=watch, checkpoint_dir=tmp_path, callback=interrupt_after(50))
    with pytest.raises(ValueError, match=r"watched rows of your own.*early_stopping="):
        training.resume(tmp_path, data=prototypes(150))
    other = EarlyStopping(prototypes(30, seed=4), every=20)
    with pytest.raises(ValueError, match="early_stopping="):
        training.resume(tmp_path, data=prototypes(150), early_stopping=other)
    same_stopping(training.resume(tmp_path, data=prototypes(150), early_stopping=watch), whole)


def test_trouble_leads_back_with_what_was_known_then():
    """Parameters blow up after a while: the best look is one from before."""

    def f(params, x):
        return jnp.sqrt(params) * x[0] - 0.5 * jnp.sum(x)

    start = from_log_density(f, Binary((3,)), params=jnp.asarray(1.0))
    with pytest.warns(UnreliableResult, match="became NaN"):
        found = training.fit(
            start, np.zeros((40, 3)), MaximumLikelihood(), key=KEY, num_steps=600,
            learning_rate=0.01, early_stopping=EarlyStopping(0.2, every=5, patience=1000),
        )  # fmt: skip
    record = found.early_stopping
    assert not found.reliable and record is not None
    assert record.best_step <= record.last_step < int(found.history["step"][-1])
    assert np.isfinite(record.log_likelihood)


SCRIPT = """
import sys, time
from energax.training.stopping import choose
choose.num_exact_states = lambda energy: None
from tests.training.test_early_stopping import WATCH, train
slow = lambda step, metrics: time.sleep(0.02)
train(2000, WATCH, checkpoint_dir=sys.argv[1], checkpoint_every=10, callback=slow)
"""


@pytest.mark.slow
def test_kill_9_loses_nothing(tracked, tmp_path):
    whole = train(2000, WATCH)
    killed(SCRIPT, tmp_path, 0.217)
    assert steps_kept(tmp_path)[-1] < 2000
    same_stopping(training.resume(tmp_path, data=prototypes(150)), whole)
