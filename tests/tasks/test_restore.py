"""Cleaning and filling in agree with the exact posterior, by enumeration or in closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from energax import energies, random, spaces, tasks

W = np.array(
    [[1.2, -0.7, 0.4], [-0.9, 1.1, 0.8], [0.6, 0.9, -1.3], [-0.5, 0.7, 1.0], [1.4, -1.2, 0.3]]
)


def rbm():
    return energies.BernoulliRBM(W, [0.3, -0.2, 0.5, -0.6, 0.1], [-0.4, 0.2, 0.6])


def plain(energy):
    """The same density as a plain function: no structure for the samplers to use."""
    return energies.from_log_density(energy.log_density, energy.space)


def ising():
    edges = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 2)]
    return energies.Ising(
        edges=edges,
        couplings=[0.6, -0.4, 0.5, 0.7, -0.3, 0.2],
        fields=[0.2, -0.1, 0.3, 0.0, -0.4],
        num_sites=5,
    )


def enumerated(energy, log_factor):
    """(states, probabilities) of exp(f(x) + log_factor(x)) by a plain loop."""
    low = float(np.min(np.asarray(energy.space.example())))
    states = np.array(list(itertools.product([low, 1.0], repeat=5)))
    logs = np.array(
        [float(energy.log_density(jnp.asarray(s, float))) + log_factor(s) for s in states]
    )
    p = np.exp(logs - logs.max())
    return states, p / p.sum()


@pytest.mark.parametrize(
    "make", [rbm, lambda: plain(rbm()), ising], ids=["rbm", "function", "ising"]
)
def test_bit_flips_are_taken_off_as_the_exact_posterior_says(make):
    energy, rate = make(), 0.2
    low = float(np.min(np.asarray(energy.space.example())))
    noisy = np.where(np.random.default_rng(1).random((6, 5)) < 0.5, low, 1.0)
    found = tasks.denoise(energy, noisy, tasks.BitFlip(rate), key=random.key(3))
    assert found.reliable, found.reasons
    for i, y in enumerate(noisy):
        states, p = enumerated(
            energy, lambda s, y=y: np.sum(np.where(s == y, np.log(1 - rate), np.log(rate)))
        )
        mean = p @ states
        assert np.all(np.abs(found.mean[i] - mean) < 5 * found.std_err[i] + 1e-3)
        np.testing.assert_allclose(found.sd[i], np.sqrt(p @ states**2 - mean**2), atol=0.1)
        clear = np.abs(mean - (low + 1) / 2) > 0.1
        np.testing.assert_array_equal((found.x[i] == 1)[clear], (mean > (low + 1) / 2)[clear])
        np.testing.assert_array_equal(found.mode[i], states[np.argmax(p)])


def test_gaussian_noise_is_taken_off_as_wiener_says():
    centre, spread, sd = np.array([1.0, -2.0]), np.array([0.5, 2.0]), 0.8
    energy = energies.from_log_density(
        lambda x: -0.5 * jnp.sum(((x - centre) / spread) ** 2), spaces.Real((2,))
    )
    noisy = np.array([[0.0, 0.0], [3.0, -5.0], [1.0, 1.0]])
    found = tasks.denoise(energy, noisy, tasks.GaussianNoise(sd), key=random.key(5))
    assert found.reliable, found.reasons
    gain = spread**2 / (spread**2 + sd**2)
    mean = centre + gain * (noisy - centre)
    assert np.all(np.abs(found.mean - mean) < 5 * found.std_err)
    np.testing.assert_allclose(found.mode, mean, atol=2e-3)
    np.testing.assert_allclose(found.sd, np.sqrt(gain) * sd * np.ones((3, 2)), rtol=0.1)


def test_what_was_compiled_serves_other_rows_and_noise_of_another_size():
    traced = []

    def f(x):
        traced.append(1)
        return -0.5 * jnp.sum((x - 0.3) ** 2)

    energy = energies.from_log_density(f, spaces.Real((2,)))
    counts = []
    for rows, sd, row in ((0.0, 0.5, [np.nan, 1.0]), (2.0, 0.9, [0.5, np.nan])):
        tasks.denoise(energy, np.full((3, 2), rows), tasks.GaussianNoise(sd), key=random.key(0))
        tasks.impute(energy, [row], key=random.key(1))
        counts.append(len(traced))
    first, both = counts
    assert both - first <= 2 < first  # the choice of a sampler looks at f, once a call


def test_noise_that_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="BitFlip acts on"):
        energy = energies.from_log_density(lambda x: -jnp.sum(x**2), spaces.Real((2,)))
        tasks.denoise(energy, np.zeros((1, 2)), tasks.BitFlip(0.1), key=random.key(0))
    with pytest.raises(ValueError, match="flip rate"):
        tasks.BitFlip(0.5)
    with pytest.raises(ValueError, match="positive"):
        tasks.GaussianNoise(0.0)


@pytest.mark.parametrize(
    "make", [rbm, lambda: plain(rbm()), ising], ids=["rbm", "function", "ising"]
)
def test_missing_sites_follow_the_exact_conditional(make):
    energy = make()
    low = float(np.min(np.asarray(energy.space.example())))
    rows = np.array(
        [[1, np.nan, low, np.nan, 1], [np.nan, low, 1, 1, np.nan], [low, 1, low, 1, 1]], float
    )
    found = tasks.impute(energy, rows, key=random.key(2))
    assert found.reliable, found.reasons
    for i, row in enumerate(rows):
        known = ~np.isnan(row)
        states, p = enumerated(
            energy, lambda s, k=known, r=row: 0.0 if np.all(s[k] == r[k]) else -np.inf
        )
        assert np.all(np.abs(found.mean[i] - p @ states) < 5 * found.std_err[i] + 1e-3)
        np.testing.assert_array_equal(found.x[i][known], row[known])
        assert np.all(found.sd[i][known] == 0)


def test_missing_parts_of_a_table_follow_the_conditional_of_its_rbm():
    """Against sums over the hidden states: p(h | seen), then the mean of what is missing."""
    units = energies.RecordUnits(
        {
            "kind": energies.SoftmaxUnits([[0.2, -0.1, 0.6]]),
            "size": energies.GaussianUnits([0.5, -1.0], np.log([0.8, 1.5])),
        }
    )
    weight = np.array([[1.5, -0.4], [-0.8, 0.9], [0.2, 0.3], [1.2, -0.7], [-0.6, 1.4]])
    energy = energies.RBM(weight, units, energies.BernoulliUnits([-0.3, 0.2]))
    rows = {
        "kind": np.array([[2.0], [np.nan], [np.nan]]),
        "size": np.array([[np.nan, -2.0], [1.0, np.nan], [0.3, 0.1]]),
    }
    found = tasks.impute(energy, rows, key=random.key(2))
    assert found.reliable, found.reasons
    hidden = np.array(list(itertools.product([0.0, 1.0], repeat=2)))
    field = hidden @ weight.T  # (4, 5)
    mean, sd = np.array([0.5, -1.0]), np.array([0.8, 1.5])
    logits = np.array([0.2, -0.1, 0.6]) + field[:, :3]
    log_kind = logits - np.logaddexp.reduce(logits, 1, keepdims=True)
    for i in range(3):
        log_p = hidden @ [-0.3, 0.2]
        kind, size = rows["kind"][i, 0], rows["size"][i]
        log_p = log_p + (np.logaddexp.reduce(logits, 1) if np.isnan(kind) else logits[:, int(kind)])
        for j in range(2):
            pull = field[:, 3 + j]
            seen = (size[j] - mean[j]) / sd[j]
            log_p = log_p + (0.5 * pull**2 if np.isnan(size[j]) else pull * seen)
        p = np.exp(log_p - np.logaddexp.reduce(log_p))
        for j in range(2):
            if np.isnan(size[j]):
                expected = p @ (mean[j] + sd[j] * field[:, 3 + j])
                error = found.std_err["size"][i, j]
                assert abs(found.mean["size"][i, j] - expected) < 5 * error
            else:
                assert found.mean["size"][i, j] == np.float32(size[j])
        if np.isnan(kind):
            expected = p @ np.exp(log_kind)
            error = found.std_err["kind"][i, 0] + 1e-3
            assert np.all(np.abs(found.mean["kind"][i, 0] - expected) < 5 * error)


def test_missing_numbers_follow_the_conditional_normal():
    precision = np.array([[2.0, -0.8, 0.3], [-0.8, 1.5, 0.4], [0.3, 0.4, 1.0]])
    centre = np.array([1.0, -1.0, 0.5])
    energy = energies.from_log_density(
        lambda x: -0.5 * (x - centre) @ jnp.asarray(precision, x.dtype) @ (x - centre),
        spaces.Real((3,)),
    )
    found = tasks.impute(energy, [[np.nan, 0.5, np.nan]], key=random.key(7))
    assert found.reliable, found.reasons
    gone = [0, 2]
    block = precision[np.ix_(gone, gone)]
    mean = centre[gone] - np.linalg.solve(block, precision[np.ix_(gone, [1])] @ [0.5 - centre[1]])
    assert np.all(np.abs(found.mean[0, gone] - mean) < 5 * found.std_err[0, gone])
    sd = np.sqrt(np.diag(np.linalg.inv(block)))
    np.testing.assert_allclose(found.sd[0, gone], sd, rtol=0.15)


def test_records_and_categories_are_filled_in():
    space = spaces.Record(kind=spaces.Categorical((1,), 3), size=spaces.Real((1,)))
    centre = jnp.array([-2.0, 0.0, 3.0])
    energy = energies.from_log_density(
        lambda x: -0.5 * jnp.sum((x["size"] - centre[x["kind"]]) ** 2), space
    )
    rows = {"kind": np.array([[np.nan], [2.0]]), "size": np.array([[0.9], [np.nan]])}
    found = tasks.impute(energy, rows, key=random.key(4))
    p = np.exp(-0.5 * (0.9 - np.asarray(centre)) ** 2)
    np.testing.assert_allclose(found.mean["kind"][0, 0], p / p.sum(), atol=0.06)
    assert abs(found.mean["size"][1, 0] - 3.0) < 5 * found.std_err["size"][1, 0]
    assert found.x["kind"][0, 0] == 1 and found.x["kind"][1, 0] == 2


def test_features_are_hidden_means():
    v = np.array([[1.0, 0, 1, 1, 0], [0, 0, 1, 0, 1]])
    wanted = 1 / (1 + np.exp(-(v @ W + [-0.4, 0.2, 0.6])))
    np.testing.assert_allclose(tasks.features(rbm(), v), wanted, rtol=1e-5)
    assert tasks.features(rbm(), v[0]).shape == (3,)
    with pytest.raises(TypeError, match="hidden units"):
        tasks.features(ising(), -np.ones(5))


def test_corrupting_is_the_stated_noise():
    clean = jnp.ones((4000, 5))
    noise = tasks.BitFlip(0.3)
    for space, other in ((spaces.Binary((5,)), 0.0), (spaces.Spin((5,)), -1.0)):
        noisy = noise.corrupt(clean, space, key=random.key(0))
        assert set(np.unique(noisy)) == {other, 1.0}
        assert abs(float(jnp.mean(noisy == other)) - 0.3) < 5 * np.sqrt(0.21 / 20_000)
    added = tasks.GaussianNoise(2.0).corrupt(clean, spaces.Real((5,)), key=jax.random.key(0))
    assert abs(float(jnp.std(added)) - 2.0) < 0.06
