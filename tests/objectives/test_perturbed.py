"""Rows against moved copies of themselves: the truth from draws, losses by sums, the bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax import random
from energax.energies import from_log_density
from energax.objectives import ConditionalNCE, EnergyDiscrepancy
from energax.spaces import Binary, Box, Categorical, Count, Ordinal, Real, Record
from tests.exact import enumerated
from tests.objectives.recovery import agrees, banana, banana_draws, chain, chain_draws, errors
from tests.objectives.test_noise_contrastive import spins


@pytest.mark.parametrize(
    ("objective", "rows"),
    [
        (ConditionalNCE(), 100_000),
        (ConditionalNCE(0.3, num_moves=2), 100_000),
        (EnergyDiscrepancy(0.3), 20_000),
    ],
    ids=["NCE, the data's sd", "NCE, small moves", "energy discrepancy"],
)
def test_the_truth_is_found_in_two_dimensions(objective, rows):
    with jax.enable_x64(True):
        found = errors(objective, banana(), banana_draws(rows, 1), seed=3)
    assert agrees(found)


@pytest.mark.slow
def test_the_truth_is_found_in_ten_dimensions():
    with jax.enable_x64(True):
        rows = chain_draws(100_000, 2)
        found = errors(ConditionalNCE(), chain(), rows, seed=4, steps=6)
    assert agrees(found)


def test_the_truth_is_found_on_spins():
    with jax.enable_x64(True):
        rows = enumerated(spins()).draw(100_000, seed=2)
        found = errors(ConditionalNCE(), spins(), rows, seed=3)
    assert agrees(found)


@pytest.mark.slow
def test_few_copies_bias_energy_discrepancy_and_w_takes_most_of_it_away():
    """docs/choose.md has these figures."""
    with jax.enable_x64(True):
        rows = enumerated(spins()).draw(20_000, seed=2)
        found = {
            (num, w): errors(EnergyDiscrepancy(num_moves=num, w=w), spins(), rows, seed=3, steps=14)
            for num, w in ((16, 0.0), (16, 1.0), (4, 1.0))
        }
    for few in (found[4, 1.0], found[16, 1.0]):
        assert agrees(few)
        assert np.abs(few.off / few.z).max() < 0.015  # its standard errors
    couplings = found[16, 0.0].off[5:] * np.sign(spins().params["w"])
    assert couplings.min() > 0.05 and couplings.max() < 0.12


def test_the_loss_on_bits_is_that_of_the_sum_over_moves():
    """Of two bits, every flip listed: q(y|x) = s^changes (1 − s)^(2 − changes)."""
    s, f = 0.3, np.array([0.3, -0.8, 1.1, 0.4])  # of 00, 01, 10, 11
    energy = from_log_density(
        lambda p, x: p[(2 * x[0] + x[1]).astype(int)], Binary((2,)), params=jnp.asarray(f)
    )
    points = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    changes = np.abs(points[:, None] - points[None]).sum(-1)
    move = s**changes * (1 - s) ** (2 - changes)
    rows = jnp.asarray(np.repeat(points, 5000, axis=0))
    got = ConditionalNCE()(energy, None, rows, jnp.asarray(s), key=random.key(0))[0]
    due = np.sum(move * 2 * np.log1p(np.exp(f[None] - f[:, None]))) / 4
    assert float(got) == pytest.approx(due, abs=0.02)
    objective = EnergyDiscrepancy(num_moves=300)
    got = objective(energy, None, rows, jnp.asarray(s), key=random.key(0))[0]
    around = np.log(move @ np.exp(f))  # what f gives the neighbourhood of each y
    due = np.sum(move * (around[None] - f[:, None])) / 4
    assert float(got) == pytest.approx(due, abs=0.02)


def test_small_moves_are_score_matching():
    """2 log(1 + eᵘ) = 2 log 2 + u + u²/4 + …, and E[u + u²/4] → t²/2 (Δf + ½|∇f|²)."""
    energy = from_log_density(
        lambda p, x: -p * jnp.sum(jnp.cosh(x - 0.3)), Real((2,)), params=jnp.asarray(0.8)
    )
    with jax.enable_x64(True):
        x, t = jnp.asarray([[0.9, -0.6]]), 0.1
        rows = jnp.repeat(x, 1_000_000, axis=0)
        got = ConditionalNCE()(energy, None, rows, jnp.asarray(t), key=random.key(0))[0]
        score, hessian = jax.grad(energy.log_density)(x[0]), jax.hessian(energy.log_density)(x[0])
        due = float(t**2 / 2 * (jnp.trace(hessian) + score @ score / 2))
        noise = 5 * t * float(jnp.linalg.norm(score)) / np.sqrt(len(rows))
    assert float(got) - 2 * np.log(2) == pytest.approx(due, abs=noise + 0.03 * abs(due))
    # Half or double the second term, or a move √2 as long, would show.
    assert noise + 0.03 * abs(due) < 0.1 * abs(due)


SPACES = {
    "real": Real((3,)),
    "box": Box(0.0, [1.0, np.inf, 2.0]),
    "bits": Binary((4,)),
    "categories": Categorical((3,), 4),
    "one-hot": Categorical((3,), 4, "onehot"),
    "ordinal": Ordinal((3,), 5),
    "counts": Count((3,)),
    "record": Record(a=Real((2,)), b=Categorical((2,), 3)),
}


@pytest.mark.parametrize("objective", [ConditionalNCE(), EnergyDiscrepancy()], ids=["NCE", "ED"])
@pytest.mark.parametrize("name", SPACES)
def test_moves_of_default_size_are_known_on_every_space(name, objective):
    space = SPACES[name]
    x = jax.tree.map(lambda a: jnp.repeat(a[None], 200, 0), space.example())
    for i in range(3):
        x = space.propose(x, 0.5, key=random.key(i))

    def f(params, x):
        return params * sum(jnp.sum(jnp.sin(leaf + 1.0)) for leaf in jax.tree.leaves(x))

    energy = from_log_density(f, space, params=jnp.asarray(0.7))
    carry = objective.init(energy, x, key=random.key(0))[1]
    moved = space.propose(x, carry, key=random.key(5))
    changed = [np.asarray(a != b) for a, b in zip(*map(jax.tree.leaves, (x, moved)), strict=True)]
    assert 0.1 < np.mean(np.concatenate([c.reshape(200, -1) for c in changed], 1)) <= 1
    loss, _, metrics = objective(energy, None, x, carry, key=random.key(1))
    assert np.isfinite(float(loss)) and np.isfinite(float(metrics["energy_data"]))


def test_a_default_move_changes_two_sites_of_a_whole_record():
    space = Record(a=Binary((6,)), b=Categorical((4,), 3), c=Real((8,)))
    rows = {
        "a": np.zeros((50, 6), np.float32),
        "b": np.zeros((50, 4), np.int32),
        "c": np.random.default_rng(0).normal(0.0, 3.0, (50, 8)).astype(np.float32),
    }
    energy = from_log_density(lambda x: jnp.sum(x["c"]), space)
    carry = ConditionalNCE().init(energy, rows, key=random.key(0))[1]
    assert float(carry["a"]) == float(carry["b"]) == pytest.approx(0.2)
    np.testing.assert_allclose(carry["c"], rows["c"].std(0) / 2, rtol=1e-5)


def test_scales_that_do_not_suit_the_space_are_refused():
    bits = from_log_density(lambda x: jnp.sum(x), Binary((3,)))
    rows = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match="probability that a site changes, below 1"):
        ConditionalNCE(1.0).init(bits, rows, key=random.key(0))
    with pytest.raises(ValueError, match=r"shape of a point, \(3,\), got shape \(2,\)"):
        ConditionalNCE([0.1, 0.2]).init(bits, rows, key=random.key(0))
    record = Record(a=Real((2,)), b=Binary((2,)))
    mixed = from_log_density(lambda x: jnp.sum(x["a"]), record)
    both = {"a": np.zeros((4, 2), np.float32), "b": np.zeros((4, 2), np.float32)}
    with pytest.raises(ValueError, match=r"expected the parts \['a', 'b'\], got \['a'\]"):
        EnergyDiscrepancy({"a": 0.3}).init(mixed, both, key=random.key(0))
    EnergyDiscrepancy({"a": 3.0, "b": [0.1, 0.2]}).init(mixed, both, key=random.key(0))


def test_senseless_numbers_are_refused():
    for make in (ConditionalNCE, EnergyDiscrepancy):
        with pytest.raises(ValueError, match="num_moves"):
            make(num_moves=0)
        with pytest.raises(ValueError, match="scale"):
            make(scale=[0.1, 0.0])
    with pytest.raises(ValueError, match="w from 0"):
        EnergyDiscrepancy(w=-1.0)
