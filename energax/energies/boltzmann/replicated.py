"""The replicated softmax: documents of any lengths as counts of words, topics as hidden bits.

Salakhutdinov & Hinton 2009, "Replicated softmax: an undirected topic model".
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from energax.energies._base import AbstractEnergy, AbstractOfLengths, softplus
from energax.energies.boltzmann._base import RBM, BernoulliUnits, ReplicatedSoftmaxUnits
from energax.energies.boltzmann._base.layers import draw_categories
from energax.energies.boltzmann._base.numbers import bernoulli
from energax.spaces import Binary, Count

_AT_ONCE = 2**21  # numbers held by `log_z_by_length`


class ReplicatedSoftmax(AbstractOfLengths):
    """p(v | D) of documents as counts v of k words, D = Σ v: each length a distribution of its own.

    E(v) = −log(D!/Π v_k!) − v·log π − Σ_j softplus(D b_j + (vW)_j), with π = softmax(a), and
    Z_D = Σ_h exp(D u(h)), u(h) = b·h + log Σ_k π_k exp((Wh)_k). Salakhutdinov & Hinton 2009, eq. 1
    to 6: given the topics h, bits, all words are draws of one distribution, softmax(a + Wh), and
    what a topic weighs by itself counts D times. They give the probability of the words in their
    order; p(v) of the counts is D!/Π v_k! times as much. Both E and log Z_D leave out D log Σ eᵃ.

    Chains keep their document's length. `log_z`, `sample` and all else that takes one distribution
    want `of_length(D)`; `fit`, `score_samples`, `perplexity` and `features` take documents of all
    lengths. `hidden_input` and `draw_hidden` carry D as one more number at the end, from which
    `sample_visible` knows it.

    **Arguments:** `weight` W: (words, hidden). `word_bias` a: (words,) or a number. `hidden_bias`
    b: (hidden,) or a number. `longest`: the most words of a document that chains may move.

    **Raises:** ValueError if the shapes do not fit each other, or for `longest` below 1.
    """

    weight: Float[Array, "words hidden"]
    word_bias: Float[Array, " words"]
    hidden_bias: Float[Array, " hidden"]
    space: Count
    longest: int = eqx.field(static=True)

    def __init__(self, weight: Any, word_bias: Any = 0.0, hidden_bias: Any = 0.0, *, longest: int):
        weight = jnp.asarray(weight, float)
        if weight.ndim != 2 or 0 in weight.shape:
            raise ValueError(
                f"ReplicatedSoftmax: expected weight of shape (words, hidden), got {weight.shape}"
            )
        self.weight = weight
        self.word_bias = _bias("word_bias", word_bias, weight.shape[0])
        self.hidden_bias = _bias("hidden_bias", hidden_bias, weight.shape[1])
        self.space = Count((weight.shape[0],))
        self.longest = _length("longest", longest)

    @staticmethod
    def random(
        data: Any,
        num_hidden: int,
        *,
        key: Key[Array, ""],
        scale: float = 0.01,
        longest: int | None = None,
    ) -> "ReplicatedSoftmax":
        """One to start training from: W ~ N(0, scale²), b = 0, π the words' shares in `data`.

        With scale = 0 it is the unigram model: all documents' words from one distribution.

        **Arguments:** `data`: counts, (documents, words); half an occurrence is added to each word.
        `longest`: None takes that of the longest document.

        **Raises:** ValueError for data that are no counts.
        """
        num_words = np.shape(data)[-1] if np.ndim(data) == 2 else 1
        rows = Count((num_words,)).validate(data, batch=True, name="data")
        often = rows.sum(axis=0, dtype=np.float64) + 0.5
        most = max(1, int(rows.sum(axis=1, dtype=np.int64).max()))
        weight = scale * jax.random.normal(key, (num_words, num_hidden))
        share = np.log(often / often.sum())
        return ReplicatedSoftmax(weight, share, longest=most if longest is None else longest)

    @property
    def log_share(self) -> Float[Array, " words"]:
        """log π, of words that no topic has a hand in."""
        return jax.nn.log_softmax(self.word_bias)

    def __call__(self, x):
        return -self.log_density_from(x, self.hidden_input(x))

    def lengths(self, x):
        return jnp.sum(x, axis=-1)

    def hidden_input(self, x):
        v = x.astype(self.weight.dtype)
        length = jnp.sum(v, axis=-1, keepdims=True)
        return jnp.concatenate([v @ self.weight + length * self.hidden_bias, length], axis=-1)

    def log_density_from(self, x, hidden_input):
        v = x.astype(self.weight.dtype)
        orders = _log_orders(v)
        return orders + v @ self.log_share + jnp.sum(softplus(hidden_input[..., :-1]), axis=-1)

    def draw_hidden(self, hidden_input, *, key):
        h = bernoulli(hidden_input[..., :-1], key)
        return jnp.concatenate([h, hidden_input[..., -1:]], axis=-1)

    def hidden_mean(self, x):
        return jax.nn.sigmoid(self.hidden_input(x)[..., :-1])

    def sample_visible(self, hidden, *, key):
        field = hidden[..., :-1] @ self.weight.T + self.word_bias
        words = draw_categories(field, key, self.longest).reshape(-1, self.longest)
        length = hidden[..., -1].reshape(-1, 1)
        rows = jnp.arange(len(words))[:, None]
        counts = jnp.zeros((len(words), len(self.word_bias)), jnp.int32)
        counts = counts.at[rows, words].add((jnp.arange(self.longest) < length).astype(jnp.int32))
        # No document: its energy is not finite, and whoever runs the chain tells.
        counts = jnp.where(length > self.longest, -1, counts)
        return counts.reshape(field.shape)

    def hidden_gain(self, hidden):
        gain = self.hidden_of_length(1).log_density_of(hidden[..., :-1])
        return gain, hidden[..., -1]

    def with_length(self, hidden, length):
        return hidden.at[..., -1].set(length)

    @property
    def num_summed_states(self):
        return 2 ** len(self.hidden_bias)

    def log_z_by_sum(self):
        """Raises ValueError: each length has a Z of its own."""
        raise ValueError(self.refusal("log_z_by_sum"))

    def log_z_by_length(self, lengths):
        num, numbers = self.num_summed_states, Binary(self.hidden_bias.shape)
        lengths = jnp.asarray(lengths, self.weight.dtype)[:, None]
        widest = max(len(self.word_bias), len(lengths))
        size = min(num, 2 ** max(0, int(math.log2(_AT_ONCE / widest))))

        @jax.checkpoint  # else the gradient would keep every chunk
        def chunk(start):
            index = start + jnp.arange(size)
            u = self.hidden_of_length(1).log_density_of(numbers.states(jnp.minimum(index, num - 1)))
            return jax.nn.logsumexp(jnp.where(index < num, lengths * u, -jnp.inf), axis=1)

        return jax.nn.logsumexp(jax.lax.map(chunk, jnp.arange(0, num, size)), axis=0)

    def of_length(self, length):
        """p(w | D) of D words in order, an RBM on `Categorical((D,), k)` of the same log Z.

        Each is as probable as the others of its counts: p(v) = D!/Π v_k! p(w).

        **Raises:** ValueError for a length that is no whole number from 1.
        """
        words = ReplicatedSoftmaxUnits(self.log_share, _length("length", length))
        # A bias that counts D times is one more weight of every word.
        weight = self.weight + self.hidden_bias
        return RBM(weight, words, BernoulliUnits(jnp.zeros_like(self.hidden_bias)))

    def hidden_of_length(self, length):
        return TopicsOfLength(self.weight, self.log_share, self.hidden_bias, length)

    def path(self, base):
        """Raises TypeError: a path leads to one distribution."""
        raise TypeError(self.refusal("path"))

    def tempered(self, beta):
        """Raises TypeError: a power of p(v | D) is none of the same kind."""
        raise TypeError(self.refusal("tempered"))


class TopicsOfLength(AbstractEnergy):
    """p(h | D) of the topics of a document of D words, E(h) = −D (b·h + log Σ_k π_k exp((Wh)_k)).

    What is left of `ReplicatedSoftmax` when the words are summed out: its log Z is log Z_D, and D
    is an array, so that one compiled program serves all lengths (Salakhutdinov & Hinton 2009,
    section 4.1, anneal the words instead).

    **Arguments:** `weight` W: (words, hidden). `log_share`: log π, (words,). `hidden_bias` b:
    (hidden,). `length` D.
    """

    weight: Float[Array, "words hidden"]
    log_share: Float[Array, " words"]
    hidden_bias: Float[Array, " hidden"]
    length: Float[Array, ""] = eqx.field(converter=lambda n: jnp.asarray(n, float))

    @property
    def space(self):  # type: ignore[override]
        return Binary(self.hidden_bias.shape)

    def __call__(self, x):
        return -self.log_density_of(x)

    def log_density_of(self, h: Float[Array, "... hidden"]) -> Float[Array, "..."]:
        """f of one h or of many."""
        words = jax.nn.logsumexp(self.log_share + h @ self.weight.T, axis=-1)
        return self.length * (h @ self.hidden_bias + words)


def _log_orders(counts: Float[Array, "... words"]) -> Float[Array, "..."]:
    """log(D!/Π v_k!), of in how many orders the words of a document may stand."""
    own = jnp.sum(jax.scipy.special.gammaln(counts + 1), axis=-1)
    return jax.scipy.special.gammaln(jnp.sum(counts, axis=-1) + 1) - own


def _bias(name: str, value: Any, size: int) -> Float[Array, " _"]:
    value = jnp.asarray(value, float)
    if value.shape not in ((), (size,)):
        raise ValueError(
            f"ReplicatedSoftmax: expected {name} of shape ({size},) beside a weight (words, "
            f"hidden), got {value.shape}"
        )
    return jnp.broadcast_to(value, (size,))


def _length(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: expected a whole number of words from 1, got {value!r}")
    return int(value)
