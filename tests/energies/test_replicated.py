"""The replicated softmax against sums over every document and every hidden state."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln

import energax as ex
from energax.energies import ReplicatedSoftmax
from energax.energies._base import Product, Tempered, batched, partition_trainable
from energax.objectives.chains._base import starting_rows
from energax.partition import log_z_by_length
from energax.samplers import BlockGibbs, ExchangeGibbs, Metropolis
from energax.samplers._base import State
from energax.samplers.gibbs import ExchangeState
from tests.exact import P_LIMIT, chi_square, enumerated, finite_difference

WORDS, HIDDEN = 3, 2
LENGTHS = (0, 1, 2, 4, 7)
STATES = np.array(list(itertools.product((0.0, 1.0), repeat=HIDDEN)))


def make(scale: float = 0.8) -> ReplicatedSoftmax:
    rng = np.random.default_rng(0)
    return ReplicatedSoftmax(
        scale * rng.normal(size=(WORDS, HIDDEN)),
        rng.normal(0, 1, WORDS),
        rng.normal(0, 0.5, HIDDEN),
        longest=max(LENGTHS),
    )


def documents(length: int) -> np.ndarray:
    """Every document of that length."""
    counts = itertools.product(range(length + 1), repeat=WORDS)
    return np.array([c for c in counts if sum(c) == length])


def joint(model: ReplicatedSoftmax, v: np.ndarray) -> np.ndarray:
    """log of D!/Π v_k! exp(−E(v, h)) by the paper's eq. 5 in NumPy, (documents, states)."""
    w, a, b = (
        np.asarray(p, np.float64) for p in (model.weight, model.word_bias, model.hidden_bias)
    )
    length = v.sum(1)
    energy = -(v @ w @ STATES.T) - (v @ a)[:, None] - length[:, None] * (STATES @ b)
    return -energy + (gammaln(length + 1) - gammaln(v + 1).sum(1))[:, None]


def log_prob(model: ReplicatedSoftmax, length: int) -> np.ndarray:
    """log p(v | D) of every document of that length."""
    f = np.logaddexp.reduce(joint(model, documents(length)), axis=1)
    return f - np.logaddexp.reduce(f)


# What it is


@pytest.mark.parametrize("length", LENGTHS)
def test_probabilities_of_all_documents_of_a_length(length):
    model = make()
    scores = ex.score_samples(model, documents(length), key=ex.random.key(0))
    np.testing.assert_allclose(scores.log_prob, log_prob(model, length), atol=5e-6)
    assert scores.reliable and scores.log_z.method == "by length: summed side"
    with_all = log_z_by_length(model, LENGTHS, key=ex.random.key(0))
    assert with_all[length].value == pytest.approx(scores.log_z.value, abs=1e-12)
    again = ex.score_samples(model, documents(length), key=ex.random.key(1), log_z=with_all)
    np.testing.assert_array_equal(again.log_prob, scores.log_prob)


def test_documents_of_several_lengths_at_once():
    model = make()
    rows = np.concatenate([documents(length) for length in LENGTHS])
    order = np.random.default_rng(1).permutation(len(rows))
    scores = ex.score_samples(model, rows[order], key=ex.random.key(0))
    expected = np.concatenate([log_prob(model, length) for length in LENGTHS])
    np.testing.assert_allclose(scores.log_prob, expected[order], atol=5e-6)
    one = ex.score_samples(model, rows[order[0]], key=ex.random.key(0))
    np.testing.assert_allclose(one.log_prob, scores.log_prob[:1], atol=1e-12)


@pytest.mark.parametrize("length", [1, 4])
def test_one_length_as_words_in_order_and_as_hidden_units(length):
    model = make()
    words, hidden = model.of_length(length), model.hidden_of_length(length)
    whole, topics = enumerated(words), enumerated(hidden)
    expected = log_z_by_length(model, [length], key=ex.random.key(0))[length].value
    assert abs(whole.log_z - expected) < 1e-5 and abs(topics.log_z - expected) < 1e-5
    counts = np.stack([(whole.x == k).sum(1) for k in range(WORDS)], axis=1)
    of_counts = {
        tuple(v): p for v, p in zip(documents(length), log_prob(model, length), strict=True)
    }
    orders = gammaln(length + 1) - gammaln(counts + 1).sum(1)
    np.testing.assert_allclose(
        np.log(whole.prob) + orders, [of_counts[tuple(v)] for v in counts], atol=1e-5
    )
    f = joint(model, documents(length))
    marginal = np.exp(np.logaddexp.reduce(f - np.logaddexp.reduce(f.ravel()), axis=0))
    index = [int(i) for i in topics.index(STATES.astype(topics.x.dtype))]
    np.testing.assert_allclose(topics.prob[index], marginal, atol=1e-6)


def test_hidden_units_given_a_document():
    model = make()
    rows = np.concatenate([documents(length) for length in LENGTHS])
    f = joint(model, rows)
    posterior = np.exp(f - np.logaddexp.reduce(f, axis=1)[:, None])
    np.testing.assert_allclose(ex.features(model, rows), posterior @ STATES, atol=1e-5)


def test_without_weights_it_is_the_unigram_model():
    rows = np.random.default_rng(2).multinomial(20, [0.5, 0.3, 0.2], size=30)
    unigram = ReplicatedSoftmax.random(rows, 3, key=ex.random.key(0), scale=0.0)
    share = (rows.sum(0) + 0.5) / (rows.sum() + 1.5)
    expected = rows @ np.log(share)
    scores = ex.score_samples(unigram, rows, key=ex.random.key(1))
    orders = gammaln(21) - gammaln(rows + 1).sum(1)
    np.testing.assert_allclose(scores.log_prob, expected + orders, atol=1e-4)
    found = ex.perplexity(scores, rows)
    assert abs(found.value - np.exp(-expected.sum() / rows.sum())) < 1e-4


# What it is not


def test_what_takes_one_distribution_refuses():
    model = make()
    for energy in (model, Tempered(model, 0.5), Product(model, model), ex.frozen(model)):
        with pytest.raises(ValueError, match=r"one for each length: take energy.of_length"):
            ex.log_z(energy, key=ex.random.key(0))
        with pytest.raises(ValueError, match="one for each length"):
            ex.sample(energy, 10, key=ex.random.key(0))
    for refused in (lambda: 0.5 * model, lambda: model.path(None)):
        with pytest.raises(TypeError, match="one for each length"):
            refused()
    with pytest.raises(ValueError, match="points of different lengths have different Z"):
        ex.log_ratio(model, [1, 0, 0], [[1, 0, 0], [0, 1, 1]])
    found = ex.log_ratio(model, [1, 0, 1], [0, 2, 0])
    p = {tuple(v): f for v, f in zip(documents(2), log_prob(model, 2), strict=True)}
    assert abs(found - (p[1, 0, 1] - p[0, 2, 0])) < 1e-5


def test_training_that_would_mix_lengths_is_refused():
    model = make()
    rows = documents(4)
    for objective in (ex.objectives.ConditionalNCE(), ex.objectives.ReplayCD()):
        with pytest.raises(TypeError, match="for one of all: take PersistentCD"):
            ex.fit(model, rows, objective, key=ex.random.key(0))
    with pytest.raises(TypeError, match="Metropolis's do not; leave it out"):
        objective = ex.objectives.PersistentCD(sampler=Metropolis())
        ex.fit(model, rows, objective, key=ex.random.key(0))
    with pytest.raises(ValueError, match=r"a row has length 8, .* up to longest=7"):
        ex.fit(model, documents(8), ex.objectives.PersistentCD(), key=ex.random.key(0))
    with pytest.raises(ValueError, match="longest: expected a whole number of words from 1"):
        ReplicatedSoftmax(np.zeros((3, 2)), longest=0)
    with pytest.raises(ValueError, match="expected word_bias of shape"):
        ReplicatedSoftmax(np.zeros((3, 2)), np.zeros(2), longest=5)


# Training


def test_the_gradient_of_the_exact_likelihood():
    """Against finite differences of the sum over all documents, and eq. 6 of the paper."""
    model = make()
    rows = np.random.default_rng(3).integers(0, 3, (12, WORDS))
    rows = rows[rows.sum(1) <= max(LENGTHS)]
    objective = ex.objectives.MaximumLikelihood()
    theta, rest = partition_trainable(model)

    def loss(theta, batch):
        energy = eqx.combine(theta, rest)
        return objective(energy, None, batch, None, key=ex.random.key(0))[0]

    def minus_mean_log_p(theta):
        changed = eqx.combine(theta, rest)
        by_length = {n: log_prob(changed, n) for n in set(rows.sum(1).tolist())}
        return -np.mean(
            [by_length[v.sum()][(documents(v.sum()) == v).all(1).argmax()] for v in rows]
        )

    value, found = jax.value_and_grad(loss)(theta, jnp.asarray(rows, jnp.int32))
    assert abs(float(value) - minus_mean_log_p(theta)) < 1e-5
    expected = finite_difference(minus_mean_log_p, theta)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)

    def products(v, log_weight):
        """E[v_k h_j] with h from p(h | v)."""
        f = joint(model, v)
        posterior = np.exp(f - np.logaddexp.reduce(f, axis=1)[:, None]) @ STATES
        return np.einsum("n,nk,nj->kj", np.exp(log_weight), v, posterior)

    of_data = products(rows, np.full(len(rows), -np.log(len(rows))))
    of_model = np.mean([products(documents(n), log_prob(model, n)) for n in rows.sum(1)], axis=0)
    np.testing.assert_allclose(found.weight, of_model - of_data, atol=1e-5)


def exact_pairs(model, length: int, num: int, rng):
    """(v, h) drawn from p(v, h | length)."""
    f = joint(model, documents(length))
    p = np.exp(f - f.max()).ravel()
    chosen = rng.choice(len(p), num, p=p / p.sum())
    return documents(length)[chosen // len(STATES)], STATES[chosen % len(STATES)]


@pytest.mark.parametrize("kernel", ["block", "exchange", "exchange with short ones"])
def test_chains_of_many_lengths_leave_each_length_as_it_is(kernel):
    """Exact starts; χ² over all documents of a length after three steps."""
    model, rng, num = make(1.6), np.random.default_rng(4), 20_000
    lengths = (1, 3, 7)
    x = jnp.asarray(
        np.concatenate([exact_pairs(model, n, num, rng)[0] for n in lengths]), jnp.int32
    )
    sampler = BlockGibbs() if kernel == "block" else ExchangeGibbs(3)
    state = sampler.refresh(model, State(x, jnp.zeros(len(x))))
    if kernel == "exchange with short ones":
        short = [np.append(exact_pairs(model, n, 1, rng)[1][0], n) for n in (1, 2, 2, 3)]
        state = ExchangeState(
            x, state.log_density, hidden_input=state.hidden_input, short=jnp.asarray(short, float)
        )
    step = jax.jit(lambda state, key: sampler.step(model, state, None, key=key)[0])
    for key in jax.random.split(ex.random.key(5), 3):
        state = step(state, key)
    after = np.asarray(state.x).reshape(len(lengths), num, WORDS)
    np.testing.assert_allclose(state.log_density, batched(model, state.x), atol=1e-4)
    for rows, n in zip(after, lengths, strict=True):
        assert (rows.sum(1) == n).all()
        same = (rows[:, None] == documents(n)).all(-1)
        assert chi_square(same.sum(0), np.exp(log_prob(model, n))) > P_LIMIT / 9


def test_exchange_takes_long_documents_to_other_topics():
    """Two topics that hardly share a word: of 60 words plain Gibbs never leaves its own."""
    weight = np.array([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [0.0, 4.0]])
    lengths = np.arange(1, 61)
    # u of either topic alone is the same, above those of none and of both
    model = ReplicatedSoftmax(weight, 0.0, [-2.0, -2.0], longest=60)
    start = np.zeros((60, 4), int)
    start[:, 0] = lengths
    moved = {}
    for sampler in (BlockGibbs(), ExchangeGibbs()):
        x = jnp.asarray(start, jnp.int32)
        state, _ = sampler.init(model, x, key=ex.random.key(0))

        def sweep(state, key, sampler=sampler):
            return sampler.step(model, state, None, key=key)[0], state.x

        _, x = jax.lax.scan(sweep, state, jax.random.split(ex.random.key(1), 400))
        long = np.asarray(x)[100:, 40:]
        moved[type(sampler)] = float((long[..., 2:].sum(-1) > long[..., :2].sum(-1)).mean())
    assert moved[BlockGibbs] == 0
    assert abs(moved[ExchangeGibbs] - 0.5) < 0.15


def test_documents_longer_than_the_longest_are_no_documents():
    model = make()
    hidden = jnp.asarray([[1.0, 0.0, 7.0], [1.0, 0.0, 8.0]])
    drawn = model.sample_visible(hidden, key=ex.random.key(0))
    assert drawn[0].sum() == 7 and (drawn[1] == -1).all()
    assert not jnp.isfinite(model(drawn[1]))


def test_chains_start_at_rows_of_all_lengths():
    rows = np.random.default_rng(6).integers(0, 40, (1000, WORDS))
    model = ReplicatedSoftmax.random(rows, 2, key=ex.random.key(0))
    assert model.longest == rows.sum(1).max()
    for seed in range(5):
        chosen = np.asarray(starting_rows(model, rows, 50, ex.random.key(seed)))
        # one of each 20 rows in a row, so that no quantile is off by more than 20 rows
        place = np.searchsorted(np.sort(rows.sum(1)), chosen.sum(1))
        assert np.abs(place - (20 * np.arange(50) + 10)).max() <= 30
        assert {tuple(v) for v in chosen} <= {tuple(v) for v in rows}


def topics() -> np.ndarray:
    """Shares of 12 words under either topic and under neither, (3, 12)."""
    about = np.ones((3, 12))
    about[0, :4], about[1, 4:8] = 8.0, 8.0
    return about / about.sum(1, keepdims=True)


def corpus(num: int, seed: int) -> np.ndarray:
    """Documents of 5 to 60 of 12 words, of one of two topics, and some of neither."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(3, num, p=[0.4, 0.4, 0.2])
    return np.stack([rng.multinomial(rng.integers(5, 61), topics()[i]) for i in chosen])


@pytest.mark.parametrize("objective", ["exact", "PCD", "CD"])
def test_topics_are_found_again(objective):
    rows, held_out = corpus(800, 7), corpus(400, 8)
    start = ReplicatedSoftmax.random(rows, 2, key=ex.random.key(1), scale=0.1)
    chosen = {
        "exact": None,
        "PCD": ex.objectives.PersistentCD(2),
        "CD": ex.objectives.ContrastiveDivergence(2),
    }[objective]
    run = ex.fit(start, rows, chosen, key=ex.random.key(2), num_steps=600)
    assert run.reliable
    unigram = ReplicatedSoftmax.random(rows, 1, key=ex.random.key(3), scale=0.0)
    found, alone = (
        ex.perplexity(ex.score_samples(e, held_out, key=ex.random.key(4)), held_out)
        for e in (run.energy, unigram)
    )
    each = np.logaddexp.reduce(held_out @ np.log(topics()).T + np.log([0.4, 0.4, 0.2]), axis=1)
    truth = np.exp(-each.sum() / held_out.sum())
    # a mixture, whose weights do not change with the length, is none of this family
    assert truth - 0.05 < found.value < truth + 0.35
    assert alone.value - found.value > 1.0
    # The hidden states of long documents of each topic are others.
    told = np.stack([20 * about * 12 for about in topics()]).round().astype(int)
    states = ex.features(run.energy, told) > 0.5
    assert (states[0] != states[1]).any()


# Answers


def test_annealing_agrees_with_the_sums():
    model = make(1.6)
    lengths = [1, 5, 40]
    exact = log_z_by_length(model, lengths, key=ex.random.key(0))
    found = log_z_by_length(model, lengths, key=ex.random.key(1), method="ais", precision=0.1)
    for n in lengths:
        assert found[n].reliable and 0 < found[n].std_err <= 0.1
        assert abs(found[n].value - exact[n].value) < 4.5 * found[n].std_err
    rows = np.array([[1, 0, 0], [3, 1, 1], [2, 3, 0]])
    scores = ex.score_samples(model, rows, key=ex.random.key(1), method="ais", precision=0.1)
    assert scores.std_err[1] == scores.std_err[2] == found[5].std_err
    shared = np.sqrt(found[1].std_err ** 2 + (2 * found[5].std_err) ** 2) / 3
    assert scores.log_z_std_err == pytest.approx(shared)
    told = ex.perplexity(scores, rows)
    assert told.log_z_std_err == pytest.approx(
        told.value * np.sqrt(found[1].std_err ** 2 + (2 * found[5].std_err) ** 2) / 11
    )


def test_the_error_of_the_perplexity():
    """Of the ratio of two means: its intervals over many corpora hold that of a large one."""
    model = make(1.6)
    rng = np.random.default_rng(9)
    rows = np.concatenate([exact_pairs(model, n, 20_000, rng)[0] for n in (1, 3, 7)])
    scores = ex.score_samples(model, rows, key=ex.random.key(0))
    truth = ex.perplexity(scores, rows).value
    inside = 0
    for _ in range(400):
        part = rng.choice(len(rows), 40)
        some = type(scores)(
            **{**vars(scores), "log_prob": scores.log_prob[part], "std_err": scores.std_err[part]}
        )
        mean = ex.perplexity(some, rows[part])
        inside += mean.lower <= truth <= mean.upper
    assert 355 <= inside <= 395  # 380 are due; sd 4.4
    with pytest.raises(ValueError, match="expected the 60000 documents of the scores, got 3"):
        ex.perplexity(scores, rows[:3])
    with pytest.raises(ValueError, match="expected documents with words"):
        empty = np.zeros((2, WORDS), int)
        ex.perplexity(ex.score_samples(model, empty, key=ex.random.key(0)), empty)


def test_a_fit_comes_back_from_its_file(tmp_path):
    rows = corpus(100, 10)
    start = ReplicatedSoftmax.random(rows, 2, key=ex.random.key(0), longest=99)
    run = ex.fit(start, rows, ex.objectives.PersistentCD(1), key=ex.random.key(1), num_steps=20)
    run.save(tmp_path / "run")
    back = ex.load(tmp_path / "run").energy
    assert back.longest == 99 and eqx.tree_equal(back, run.energy)
