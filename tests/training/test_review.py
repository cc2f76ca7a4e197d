"""Objectives without samples: a loss that got worse, or ran off on the way, is told."""

import warnings

import numpy as np
import pytest

import energax as ex
from energax import objectives, training
from energax.energies import Ising

FIRST, SECOND = np.triu_indices(6, 1)


def spins():
    rng = np.random.default_rng(0)
    rows = np.where(rng.random((400, 6)) < 0.3, 1.0, -1.0)
    rows[:, 3:] = np.where(rng.random((400, 3)) < 0.1, -rows[:, :3], rows[:, :3])
    return rows


def ising(couplings=None):
    couplings = np.zeros(len(FIRST)) if couplings is None else couplings
    fields = np.arctanh(spins().mean(0))
    return Ising(np.stack([FIRST, SECOND], 1), couplings, fields, num_sites=6)


def fitted(rate, start=None, num_steps=400, **options):
    objective = objectives.PseudoLikelihood()
    given = dict(key=ex.random.key(1), num_steps=num_steps, batch_size=50, learning_rate=rate)
    return training.fit(start or ising(), spins(), objective, **given | options)


def test_a_rate_that_throws_the_model_about_is_told():
    with pytest.warns(ex.UnreliableResult, match="threw the model about"):
        run = fitted(10.0)
    assert not run.reliable and np.isfinite(np.asarray(run.energy.couplings)).all()
    with pytest.warns(ex.UnreliableResult, match="the loss ran away"):
        run = fitted(50.0)  # so far that it is not gone on with
    assert not run.reliable and np.isfinite(np.asarray(run.energy.couplings)).all()


def test_a_loss_that_got_worse_is_told():
    """A rate that grows: all goes well until the end."""
    import optax

    growing = optax.adam(lambda step: 1e-3 * 10.0 ** (step / 60.0))
    with pytest.warns(ex.UnreliableResult, match="it has got worse"):
        fitted(None, optimizer=growing)


def test_a_good_rate_is_not_blamed_wherever_it_starts(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = fitted(0.01, checkpoint_dir=tmp_path, checkpoint_every=100)
        again = training.resume(tmp_path, data=spins())  # nothing is left to do
        at_its_best = fitted(0.01, start=run.energy)
        shortest = fitted(0.01, num_steps=100)
    assert run.reliable and again.reliable and at_its_best.reliable and shortest.reliable


def test_what_it_began_with_is_kept_over_an_interruption(tmp_path):
    """Resumed from the middle, the end is compared with the very start, as without."""

    def stop(step, metrics):
        if step >= 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(10.0, checkpoint_dir=tmp_path, checkpoint_every=100, callback=stop)
    with pytest.warns(ex.UnreliableResult, match="threw the model about"):
        resumed = training.resume(tmp_path, data=spins())
    with pytest.warns(ex.UnreliableResult):
        whole = fitted(10.0)
    assert resumed.reasons == whole.reasons
