"""Interrupted runs end bit for bit where uninterrupted ones do; damage is refused by name."""

import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from energax import io, random, training
from energax.energies import BernoulliRBM, from_log_density
from energax.objectives import ContrastiveDivergence, PersistentCD
from energax.samplers import MALA
from energax.spaces import Real

KEY = random.key(5)
ROWS = (np.random.default_rng(0).random((130, 5)) < 0.4).astype(np.float32)
POINTS = np.random.default_rng(1).normal(size=(130, 2)).astype(np.float32)
HELD = ROWS[:20]


def rbm():
    return BernoulliRBM.random(5, 3, key=random.key(0), scale=0.3)


def well(params, x):
    return -params["a"] * jnp.sum((x**2 - 1) ** 2) + params["b"] @ x


def double_well():
    params = {"a": jnp.asarray(0.5), "b": jnp.asarray([0.1, -0.2])}
    return from_log_density(well, Real((2,)), params=params)


def train_rbm(*, num_steps=90, key=KEY, rows=ROWS, objective=None, **options):
    """13 steps an epoch; PCD, an average, held-out rows."""
    return training.fit(
        rbm(),
        rows,
        objective or PersistentCD(num_steps=2, num_chains=20),
        key=key,
        num_steps=num_steps,
        **{"batch_size": 10, "average": 0.9, "validation": HELD, **options},
    )


def train_well(**options):
    """A tuned sampler, whose tuning is a part of the run."""
    return training.fit(
        double_well(),
        POINTS,
        PersistentCD(num_steps=2, num_chains=20, sampler=MALA()),
        key=KEY,
        num_steps=90,
        batch_size=10,
        **options,
    )


def same(a: training.Fit, b: training.Fit):
    """Bit for bit, the record included."""
    for x, y in zip(jax.tree.leaves(a.energy), jax.tree.leaves(b.energy), strict=True):
        np.testing.assert_array_equal(x, y)
    assert a.num_steps == b.num_steps and set(a.history) == set(b.history)
    for name in a.history:
        np.testing.assert_array_equal(a.history[name], b.history[name])


def interrupt_after(step):
    def callback(now, metrics):
        if now >= step:
            signal.raise_signal(signal.SIGINT)

    return callback


@pytest.fixture(scope="module")
def whole_rbm():
    return train_rbm()


def steps_kept(folder):
    return [int(path.stem[5:]) for path in sorted(folder.glob("*.json"))]


@pytest.mark.parametrize("train", [train_rbm, train_well])
def test_ctrl_c_loses_nothing_and_resume_ends_bit_for_bit(train, tmp_path):
    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint_dir=tmp_path, callback=interrupt_after(37))
    (kept,) = steps_kept(tmp_path)
    assert 37 <= kept < 90
    same(train(checkpoint_dir=tmp_path, resume=True), whole)
    assert steps_kept(tmp_path)[-1] == 90
    same(train(checkpoint_dir=tmp_path, resume=True), whole)  # nothing is left to do


def test_where_chunks_end_changes_no_bit(tmp_path, whole_rbm):
    for every in (1, 7, 30, 1000):
        folder = tmp_path / str(every)
        same(train_rbm(checkpoint_dir=folder, checkpoint_every=every), whole_rbm)
    assert steps_kept(tmp_path / "7") == [77, 84, 90]
    assert steps_kept(tmp_path / "30") == [30, 60, 90]
    assert steps_kept(tmp_path / "1000") == [90]
    folder = tmp_path / "kept"
    train_rbm(checkpoint_dir=folder, checkpoint_every=30, keep=1)
    assert steps_kept(folder) == [90] and len(list(folder.iterdir())) == 2


def test_resume_needs_the_data_alone(tmp_path, whole_rbm):
    with pytest.raises(KeyboardInterrupt):
        train_rbm(checkpoint_dir=tmp_path, checkpoint_every=20, callback=interrupt_after(40))
    same(training.resume(tmp_path, data=ROWS, validation=HELD), whole_rbm)
    with pytest.raises(ValueError, match="holds a run with data_sha256="):
        training.resume(tmp_path, data=1 - ROWS)
    with pytest.raises(FileNotFoundError, match="no checkpoint to go on from"):
        training.resume(tmp_path / "none", data=ROWS)


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    """With an optimizer whose rate does not depend on the number of steps."""
    adam = optax.adam(0.01)
    whole = train_rbm(optimizer=adam, validation=None)
    train_rbm(optimizer=adam, validation=None, num_steps=50, checkpoint_dir=tmp_path)
    same(training.resume(tmp_path, data=ROWS, optimizer=adam, num_steps=90), whole)


def test_your_own_code_is_asked_for(tmp_path):
    adam = optax.adam(0.01)
    whole = train_well(optimizer=adam)
    with pytest.raises(KeyboardInterrupt):
        train_well(optimizer=adam, checkpoint_dir=tmp_path, callback=interrupt_after(20))
    with pytest.raises(ValueError, match=r"energy\.function is .*well.*Pass energy="):
        training.resume(tmp_path, data=POINTS)
    with pytest.raises(ValueError, match=r"optimizer is your own code.*pass optimizer="):
        training.resume(tmp_path, double_well(), data=POINTS)
    with pytest.raises(ValueError, match="goes on with the optimizer"):
        training.resume(tmp_path, double_well(), data=POINTS, optimizer=optax.sgd(0.01))
    same(training.resume(tmp_path, double_well(), data=POINTS, optimizer=adam), whole)


def test_another_run_is_refused(tmp_path):
    train_rbm(checkpoint_dir=tmp_path, num_steps=20)
    with pytest.raises(ValueError, match=r"holds the checkpoints of a run already.*resume=True"):
        train_rbm(checkpoint_dir=tmp_path)

    def refused(match, **options):
        with pytest.raises(ValueError, match=match):
            train_rbm(checkpoint_dir=tmp_path, resume=True, **options)

    refused("batch_size=10, not 20", batch_size=20)
    refused("average=0.9, not None", average=None)
    refused("another key", key=random.key(6))
    refused("the objective PersistentCD", objective=ContrastiveDivergence())
    refused("data_sha256", rows=ROWS[:-1])
    refused("optimizer='default', not 'given'", optimizer=optax.adam(0.01))


def test_damaged_checkpoints_are_passed_over(tmp_path, whole_rbm):
    with pytest.raises(KeyboardInterrupt):
        train_rbm(checkpoint_dir=tmp_path, checkpoint_every=20, callback=interrupt_after(60))
    assert steps_kept(tmp_path) == [20, 40, 60]
    (arrays,) = tmp_path.glob("step-000000060.*.safetensors")
    arrays.write_bytes(arrays.read_bytes()[:-100])
    described = tmp_path / "step-000000040.json"
    described.write_text(described.read_text().replace('"step": 40', '"step": 41'))
    with pytest.warns(training.DamagedCheckpoint) as caught:
        resumed = training.resume(tmp_path, data=ROWS, validation=HELD)
    (warning,) = caught
    for text in ("000000060", "expected", "000000040.json is damaged", "from step-000000020.json"):
        assert text in str(warning.message)
    same(resumed, whole_rbm)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(io.DamagedFile, match="holds no good checkpoint"):
        training.resume(tmp_path, data=ROWS)


def killed(script, folder, seconds):
    """Runs `script`, which trains in `folder`; kills it `seconds` after its first checkpoint."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen([sys.executable, "-c", script, str(folder)], env=environment)
    while not list(folder.glob("step-*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


SCRIPT = """
import sys, time
from tests.training.test_checkpoint import train_rbm
slow = lambda step, metrics: time.sleep(0.05)
train_rbm(num_steps=2000, checkpoint_dir=sys.argv[1], checkpoint_every=10, callback=slow)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing(tmp_path):
    """Whenever a process is killed, a good checkpoint is there, and leads to the same end."""
    whole = train_rbm(num_steps=2000)
    for i, seconds in enumerate((0.0, 0.317)):
        folder = tmp_path / str(i)
        killed(SCRIPT, folder, seconds)
        assert steps_kept(folder)[-1] < 2000
        same(training.resume(folder, data=ROWS, validation=HELD), whole)
