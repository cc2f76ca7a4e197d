"""Checkpoints kept for their scores, whatever happens to the run; what a killed one leaves."""

import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from energax import io, random, training
from energax.energies import BernoulliRBM, Normal, from_log_density
from energax.objectives import MaximumLikelihood, PersistentCD
from energax.spaces import Ordinal
from energax.training._base import remove_leftovers
from energax.training.loop._base import prepared
from tests.training.test_checkpoint import interrupt_after, killed, steps_kept

KEY, ADAM = random.key(8), optax.adam(0.01)
ROWS = (np.random.default_rng(0).random((130, 5)) < 0.4).astype(np.float32)


def score(energy):
    """It swings as training goes on, so that the best ones are not the last ones."""
    return 10 * np.sin(1e4 * float(jnp.sum(energy.visible_bias)))


def train(folder, *, num_steps=90, key=KEY, **options):
    """A rate that does not depend on the number of steps."""
    given = {"keep": 1, "keep_best": 2, "score": score, "average": 0.9, "checkpoint_every": 10}
    return training.fit(
        BernoulliRBM.random(5, 3, key=random.key(0), scale=0.3),
        ROWS,
        PersistentCD(num_steps=2, num_chains=20),
        key=key,
        num_steps=num_steps,
        batch_size=10,
        optimizer=ADAM,
        checkpoint_dir=folder,
        **given | options,
    )


def resume(folder, **options):
    given = {"keep": 1, "checkpoint_every": 10}
    return training.resume(folder, data=ROWS, optimizer=ADAM, **given, **options)


def same_energy(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def same_end(folder, got, other, due):
    """The same list of the best, the same files, and the same in them."""
    same_energy(got.energy, due.energy)
    assert got.best == due.best and len(due.best) == 2
    for name, values in due.history.items():
        np.testing.assert_array_equal(got.history[name], values)
    names = [sorted(path.name for path in (f / "best").iterdir()) for f in (folder, other)]
    assert [name for name in names[0] if name.endswith("json")] == [
        name for name in names[1] if name.endswith("json")
    ]
    for each in due.best:
        a, b = (training.load(f, which=each.step) for f in (folder, other))
        same_energy(a.energy, b.energy)
        np.testing.assert_array_equal(a.history["loss"], b.history["loss"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


def test_the_best_by_a_score_of_ones_own_are_kept_beside_the_last(whole):
    folder, fitted = whole
    steps, scores = (fitted.history[f"checkpoint_{name}"] for name in ("step", "score"))
    np.testing.assert_array_equal(steps, np.arange(10, 91, 10))
    ranked = sorted(zip(-scores, steps, strict=True))[:2]
    assert [(each.step, -each.score) for each in fitted.best] == [(s, v) for v, s in ranked]
    assert steps_kept(folder) == [90]
    assert sorted(steps_kept(folder / "best")) == sorted(each.step for each in fitted.best)
    assert len(list((folder / "best").iterdir())) == 4
    for each in fitted.best:
        kept = training.load(folder, which=each.step)
        assert kept.num_steps == each.step and score(kept.energy) == each.score
        assert kept.history["step"][-1] == each.step - 1
    best = training.load(folder, which="best")
    assert best.num_steps == fitted.best[0].step and best.reliable
    assert isinstance(best.objective, PersistentCD)


def test_the_best_is_what_a_run_of_its_length_gives(whole, tmp_path):
    folder, fitted = whole
    short = train(tmp_path, num_steps=fitted.best[0].step)
    same_energy(short.energy, training.load(folder, which="best").energy)


def test_the_list_is_saved_with_the_run(whole, tmp_path):
    folder, fitted = whole
    fitted.save(tmp_path)
    assert training.load(tmp_path).best == fitted.best
    (tmp_path / "checkpoints").symlink_to(folder)  # as the command line has it
    assert training.load(tmp_path, which="best").num_steps == fitted.best[0].step


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [10, 60])
@pytest.mark.parametrize("place", ["before a checkpoint", "after it"])
def test_killed_anywhere_the_best_come_back(whole, tmp_path, monkeypatch, after, place):
    other, due = whole

    def die(step):
        if step >= after:
            raise Killed

    old = prepared.write_checkpoint
    with monkeypatch.context() as patched, pytest.raises(Killed):
        if place == "after it":
            train(tmp_path, callback=lambda step, _: die(step))
        patched.setattr(  # after a best one was written, if it is one
            prepared, "write_checkpoint", lambda f, c, keep: die(c.step) or old(f, c, keep=keep)
        )
        train(tmp_path)
    last = after if place == "after it" else after - 10
    assert steps_kept(tmp_path) == [last] * (last > 0)
    got = resume(tmp_path, score=score) if last else train(tmp_path, resume=True)
    same_end(tmp_path, got, other, due)


def test_killed_while_one_that_was_driven_out_is_removed(whole, tmp_path, monkeypatch):
    other, due = whole
    old = io.remove_archive

    def half(path):
        if path.parent.name != "best":
            return old(path)
        path.unlink()
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(io, "remove_archive", half)
        train(tmp_path)
    got = resume(tmp_path, score=score)
    same_end(tmp_path, got, other, due)
    assert len(list((tmp_path / "best").iterdir())) == 4


def test_ctrl_c_while_a_best_one_is_written(whole, tmp_path, monkeypatch):
    other, due = whole
    old, calls = prepared.write_best, []

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        old(*given)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(prepared, "write_best", interrupted)
        train(tmp_path)
    got = resume(tmp_path, score=score)
    same_end(tmp_path, got, other, due)


def watched(folder, **options):
    return training.fit(
        BernoulliRBM.random(5, 3, key=random.key(0), scale=0.3),
        ROWS,
        PersistentCD(num_steps=2, num_chains=20),
        key=KEY,
        num_steps=120,
        batch_size=10,
        learning_rate=0.1,
        early_stopping=training.EarlyStopping(0.3, every=8, patience=100),
        checkpoint_dir=folder,
        checkpoint_every=50,
        keep_best=3,
        **options,
    )


def test_the_looks_of_early_stopping_are_scores(tmp_path):
    fitted = watched(tmp_path / "a")
    looks, values = (fitted.history[name] for name in ("log_likelihood_step", "log_likelihood"))
    ranked = sorted(zip(-values, looks, strict=True))[:3]
    assert [(each.step, -each.score) for each in fitted.best] == [(s, v) for v, s in ranked]
    assert fitted.best[0].step == fitted.early_stopping.best_step == fitted.num_steps
    best = training.load(tmp_path / "a", which="best")
    same_energy(best.energy, fitted.energy)
    assert best.history["log_likelihood"][-1] == fitted.best[0].score
    with pytest.raises(KeyboardInterrupt):
        watched(tmp_path / "b", callback=interrupt_after(70))
    got = training.resume(tmp_path / "b", data=ROWS, checkpoint_every=50)
    assert got.best == fitted.best
    assert steps_kept(tmp_path / "a" / "best") == steps_kept(tmp_path / "b" / "best")
    assert got.early_stopping.best_step == fitted.early_stopping.best_step


def root(params, x):
    return jnp.sqrt(params) * x[0]


def into_trouble(folder, **options):
    """√p falls below 0; every tenth step is scored, and the later the better."""
    start = from_log_density(root, Ordinal((1,), 4), params=jnp.asarray(1.0))
    given = {"key": KEY, "num_steps": 120, "learning_rate": 0.02, "checkpoint_every": 10}
    given |= {"keep_best": 3, "score": lambda energy: -float(energy.params), "recover": True}
    return training.fit(
        start, np.zeros((20, 1)), PersistentCD(num_chains=10), checkpoint_dir=folder,
        **given | options,
    )  # fmt: skip


def test_what_was_on_the_way_into_trouble_is_not_among_the_best(tmp_path):
    fitted = into_trouble(tmp_path / "a")
    (first, *_) = fitted.recoveries
    assert first.step > first.back_to
    given_up = {s for s in range(first.back_to + 1, first.step + 1) if s % 10 == 0}
    noted = fitted.history["checkpoint_step"]
    assert given_up and (np.diff(noted) > 0).all()  # each step once: as the run went on
    order = np.lexsort((noted, -fitted.history["checkpoint_score"]))[:3]
    assert [each.step for each in fitted.best] == list(noted[order])
    for each in fitted.best:
        kept = training.load(tmp_path / "a", fitted.energy, which=each.step)
        assert -float(kept.energy.params) == each.score

    for step in (first.back_to + 7, first.step + 5):  # before the trouble and after it

        def kill(now, metrics, step=step):
            if now >= step:
                raise Killed

        folder = tmp_path / str(step)
        with pytest.raises(Killed):
            into_trouble(folder, callback=kill)
        got = into_trouble(folder, resume=True)
        assert got.best == fitted.best and got.recoveries == fitted.recoveries
        assert steps_kept(tmp_path / "a" / "best") == steps_kept(folder / "best")


def test_a_damaged_best_one_is_passed_over_by_name(whole, tmp_path):
    _, due = whole
    train(tmp_path)
    (first, second) = due.best
    (arrays,) = (tmp_path / "best").glob(f"step-{first.step:09d}.*.safetensors")
    content = arrays.read_bytes()
    arrays.write_bytes(content[:-50])
    with pytest.warns(training.DamagedCheckpoint) as caught:
        assert training.load(tmp_path, which="best").num_steps == second.step
    assert f"{first.step:09d}" in str(caught[0].message)
    assert f"going on from step-{second.step:09d}.json" in str(caught[0].message)
    others = f"kept for their scores are also steps: {second.step}$"
    with pytest.raises(io.DamagedFile, match=others):
        training.load(tmp_path, which=first.step)
    arrays.write_bytes(content)
    described = tmp_path / "best" / f"step-{first.step:09d}.json"
    described.write_text(described.read_text()[:-30])
    with pytest.warns(training.DamagedCheckpoint, match=f"{first.step:09d}.json is damaged"):
        assert training.load(tmp_path, which="best").num_steps == second.step
    # A run goes on from its last checkpoint and does not look at these.
    same_energy(resume(tmp_path, score=score).energy, due.energy)
    for path in (tmp_path / "best").glob("*.json"):
        path.write_text("{")
    with pytest.raises(io.DamagedFile, match="holds no good checkpoint"):
        training.load(tmp_path, which="best")


def test_a_run_goes_on_from_the_best_when_asked(whole, tmp_path):
    _, due = whole
    train(tmp_path, keep=3)
    step = due.best[0].step
    assert step < 90
    got = resume(tmp_path, score=score, which="best", num_steps=step)
    assert got.num_steps == step and steps_kept(tmp_path)[-1] == step
    assert max(steps_kept(tmp_path / "best")) <= step
    again = resume(tmp_path, score=score, num_steps=90)
    assert again.best == due.best
    same_energy(again.energy, due.energy)


def test_what_does_not_go_together_is_refused(tmp_path, whole):
    folder, _ = whole

    def refused(match, error=ValueError, **options):
        with pytest.raises(error, match=match):
            train(tmp_path, **options)

    refused("keep_best: expected a whole number from 1", keep_best=0)
    refused("keep_best= needs a score: early_stopping=", score=None)
    refused("score= is for keep_best=", keep_best=None)
    refused("give checkpoint_every=", checkpoint_every=None)
    refused("score", TypeError, score=0.5)
    refused("returns one number", TypeError, score=lambda energy: energy.weight)
    refused('resume: expected True, False or "best"', resume="worst")
    with pytest.raises(ValueError, match="keep_best= needs checkpoint_dir="):
        train(None)
    with pytest.raises(ValueError, match="pass score="):
        resume(folder)
    with pytest.raises(ValueError, match=r"keep_best: this family is fitted at once"):
        training.fit(
            Normal([0.0], [1.0]), ROWS[:, :1], key=KEY, keep_best=1, score=score,
            checkpoint_dir=tmp_path / "n", checkpoint_every=1,
        )  # fmt: skip
    with pytest.raises(FileNotFoundError, match="no checkpoint was kept for its score"):
        training.load(tmp_path / "none", which="best")
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 7 was kept"):
        training.load(folder, which=7)
    with pytest.raises(ValueError, match="which: expected"):
        training.load(folder, which="first")
    with pytest.raises(
        FileNotFoundError, match=r"by resume, its best checkpoint is which=\"best\""
    ):
        training.load(folder)


def test_a_score_that_is_no_number_counts_for_nothing(tmp_path):
    seen = iter([np.nan, 1.0, -np.inf, 0.5, np.nan, np.nan])
    fitted = train(tmp_path, num_steps=60, score=lambda energy: next(seen))
    assert [each.step for each in fitted.best] == [20, 40]
    assert len(fitted.history["checkpoint_score"]) == 6


# ---- what a killed process leaves ------------------------------------------------------------


def gone():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_half_written_files_of_a_process_that_is_gone_are_removed(tmp_path):
    training.fit(
        BernoulliRBM.random(5, 3, key=KEY), ROWS, MaximumLikelihood(), key=KEY, num_steps=4,
        checkpoint_dir=tmp_path,
    )  # fmt: skip
    (tmp_path / "best").mkdir()
    kept = {path.name for path in tmp_path.iterdir()}
    dead, old = gone(), time.time() - 1e9
    removed = (
        f".step-000000009.json.{dead}-0123abcd.tmp",
        f"best/.step-000000009.json.{dead}-0123abcd.tmp",
        f".fit.json.{os.getpid()}-0123abcd.tmp",  # the same number, before this process began
        "step-000000002.0123456789ab.safetensors",  # arrays whose JSON was never written
    )
    stays = (
        f".step-000000009.json.{os.getppid()}-0123abcd.tmp",  # somebody writes it
        f".mine.{dead}.tmp",
        "mine.tmp",
        "weights.safetensors",
    )
    for name in (*removed, *stays):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (old, old))
    now = f".step-000000009.json.{os.getpid()}-89abcdef.tmp"  # of another thread
    (tmp_path / now).write_text("half")
    training.resume(tmp_path, data=ROWS, num_steps=5)
    left = {path.name for path in tmp_path.iterdir()}
    assert left >= {*stays, now} and not any((tmp_path / name).exists() for name in removed)
    assert kept <= left
    remove_leftovers(tmp_path / "none")  # nothing there, nothing to do


SCRIPT = """
import sys, time
from tests.training.test_best import train
slow = lambda step, metrics: time.sleep(0.02)
train(sys.argv[1], num_steps=1000, callback=slow)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_the_best(tmp_path):
    due = train(tmp_path / "whole", num_steps=1000)
    for i, seconds in enumerate((0.0, 0.217, 0.5)):
        folder = tmp_path / str(i)
        killed(SCRIPT, folder, seconds)
        assert steps_kept(folder)[-1] < 1000
        got = resume(folder, score=score, num_steps=1000)
        same_end(folder, got, tmp_path / "whole", due)
        assert not list(folder.rglob(".*.tmp"))
        assert len(list((folder / "best").iterdir())) == 4
