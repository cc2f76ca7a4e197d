"""Training on several devices of one process: the same steps, shared."""

import os
import subprocess
import sys

import numpy as np
import pytest

TRAIN = """
import sys, jax, numpy as np, jax.numpy as jnp
import energax as ex
from energax import energies, objectives, training
from energax.training.loop._base import Devices

rng = np.random.default_rng(0)
rows = rng.normal(size=(1024, 2)) @ [[1.0, 0.4], [0.0, 0.7]] + [2.0, -1.0]
space = ex.Real((2,))
start = energies.MLP(space, 32, key=ex.random.key(1), base=energies.fitted_base(space, rows))
start = jax.tree.map(lambda a: a.astype(float) if hasattr(a, "dtype") else a, start)
wanted = int(sys.argv[1])
assert len(jax.devices()) == wanted
given = {}
for name, objective in {
    "pcd": objectives.PersistentCD(num_steps=5, num_chains=128),
    "score": objectives.DenoisingScoreMatching(),
    "replay": objectives.ReplayCD(num_steps=3),
}.items():
    fitted = training.fit(
        start, rows, objective, key=ex.random.key(2), num_steps=20, batch_size=128,
        learning_rate=0.01, clip=10.0, average=0.9,
    )
    leaves = [a for a in jax.tree.leaves(fitted.energy) if hasattr(a, "dtype")]
    assert all(len(a.sharding.device_set) == 1 for a in leaves)
    given[name] = np.concatenate([np.ravel(a) for a in leaves])
    assert np.isfinite(given[name]).all()
    ex.sample(fitted.energy, 8, key=ex.random.key(0), num_steps=8)  # it is of one device again
spins = rng.choice([-1, 1], size=(512, 6))
ring = energies.Ising([(i, (i + 1) % 6) for i in range(6)], 0.1, 0.0, num_sites=6)
for name, num_chains in {"spins": 64, "chains that devices do not divide": 60}.items():
    objective = objectives.PersistentCD(3, num_chains)
    given[name] = np.asarray(training.fit(
        ring, spins, objective, key=ex.random.key(2), num_steps=20, batch_size=128,
    ).energy.couplings)
np.savez(sys.argv[2], **given)
assert (Devices.of(100, 1024).mesh is None) == (wanted == 1)
assert wanted == 1 or Devices.of(100, 1024).mesh.size == 4  # of 8, what divides 100
"""

SHARES = """
import jax, numpy as np
import energax as ex
from energax import energies, objectives, training
from energax.training.loop._base import run as loop

told = []
old = loop.advance
def spy(*given):
    told.append(old.lower(*given).compile().compiled.as_text())
    return old(*given)
loop.advance = spy
rows = np.random.default_rng(0).normal(size=(640, 3))
start = energies.MLP(ex.Real((3,)), 48, key=ex.random.key(1))
training.fit(
    start, rows, objectives.PersistentCD(num_chains=96), key=ex.random.key(2), num_steps=2,
    batch_size=160,
)
(text,) = set(told)
sums = [line for line in text.splitlines() if " all-reduce(" in line]
# the gradient as one vector, not array by array
assert sums and not any("[48,48]" in line or "[3,48]" in line for line in sums)
# products of a quarter of the rows, and of a quarter of the chains, and none of all of them
assert "f32[40,48]" in text and "f32[24,48]" in text
assert "f32[160,48]" not in text and "f32[96,48]" not in text
"""


def on_devices(count, code, *arguments):
    flags = f"--xla_force_host_platform_device_count={count}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
    if code is SHARES:
        del environment["JAX_ENABLE_X64"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_eight_devices_take_the_steps_of_one(tmp_path):
    for count in (1, 8):
        on_devices(count, TRAIN, count, tmp_path / f"{count}.npz")
    one, eight = (np.load(tmp_path / f"{count}.npz") for count in (1, 8))
    for name in one:
        assert np.abs(one[name] - eight[name]).max() < 1e-4, name
    assert np.abs(one["pcd"] - one["score"]).max() > 1e-2  # they did learn something


def test_rows_and_chains_are_shared_out():
    on_devices(4, SHARES)
