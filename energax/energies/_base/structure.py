"""What samplers and methods may ask of an energy beyond E(x): kinds of structure, each a class."""

import math
from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from energax.energies._base.energy import AbstractEnergy, AbstractNormalised
from energax.spaces import AbstractSpace, Point, Spin


class AbstractBernoulli(AbstractNormalised):
    """Independent two-valued sites, the base from which RBMs and Ising models have paths."""

    logits: eqx.AbstractVar[Float[Array, "..."]]
    """log p(site is up) − log p(site is down), (*shape); up = 1 or +1."""

    @property
    def site_parameters(self):
        return self.logits


class AbstractLocalEnergy(AbstractEnergy):
    """An energy on a discrete space that knows all its one-site changes at once."""

    @abstractmethod
    def site_differences(self, x: Point) -> Float[Array, "..."]:
        """E(x with one site changed) − E(x).

        (*shape) for the flip of each site on two-valued spaces; (*sites, k) for site ← j else.
        """

    def ensemble_site_differences(self, x: Point) -> Float[Array, "rows ..."]:
        """`site_differences` of a batch (rows, *event), by the fastest way there is."""
        return jax.vmap(self.site_differences)(x)


class AbstractPairwise(AbstractLocalEnergy):
    """f(x) = Σ_e J_e x_i x_j + Σ_i h_i x_i on two-valued sites, edges e = (i, j) of a graph."""

    couplings: eqx.AbstractVar[Float[Array, " edges"]]
    fields: eqx.AbstractVar[Float[Array, " sites"]]
    edges: eqx.AbstractVar[Any]
    """(edges, 2) site numbers (row-major) of both ends."""


class AbstractColouredEnergy(AbstractLocalEnergy):
    """An energy whose sites fall into groups (colours) that are independent given the others."""

    colours: eqx.AbstractVar[tuple[Int[Array, " n"], ...]]
    """Site numbers (row-major) of each group; together every site exactly once."""

    @abstractmethod
    def sweep(
        self, x: Point, *, key: Key[Array, ""], backwards: bool = False
    ) -> tuple[Point, Float[Array, " chains"]]:
        """(x, f) after each colour of the ensemble was redrawn in turn from p(sites | the others).

        Geman & Geman 1984, section XI. `x`: (num_chains, *event). `backwards`: from the last colour
        to the first, which is the sweep run backwards in time.
        """

    @abstractmethod
    def ensemble_log_density(self, x: Point) -> Float[Array, " chains"]:
        """f of an ensemble (num_chains, *event), by the fastest way there is."""


class AbstractColouredSpins(AbstractColouredEnergy):
    """A coloured energy of two-valued sites."""

    @abstractmethod
    def log_odds(self, sites: Float[Array, "sites ..."], colour: int) -> Float[Array, "n ..."]:
        """log p(site is up | the others) − log p(site is down | the others), up = 1 or +1.

        For the sites of `colours[colour]`. An ensemble comes sites first, (num_sites, num_chains):
        a site's neighbours are then whole rows, which is several times faster than chains first.
        """

    @abstractmethod
    def log_density_from_sites(self, sites: Float[Array, "sites ..."]) -> Float[Array, "..."]:
        """f of one flat point (num_sites,) or an ensemble, sites first."""

    def sweep(self, x, *, key, backwards=False):
        up, down = 1.0, -1.0 if isinstance(self.space, Spin) else 0.0
        sites = x.reshape(len(x), -1).T
        keys = jax.random.split(key, len(self.colours))
        order = list(enumerate(self.colours))
        for colour, members in order[::-1] if backwards else order:
            log_odds = self.log_odds(sites, colour)
            u = jax.random.uniform(keys[colour], log_odds.shape, log_odds.dtype)
            new = jnp.where(u < jax.nn.sigmoid(log_odds), up, down).astype(sites.dtype)
            sites = sites.at[members].set(new, unique_indices=True)
        return sites.T.reshape(x.shape), self.log_density_from_sites(sites)

    def ensemble_log_density(self, x):
        return self.log_density_from_sites(x.reshape(len(x), -1).T)


class AbstractBondEnergy(AbstractColouredEnergy):
    """f(x) = Σ_e w_e [x_i = x_j] + Σ_i h_i(x_i) + constant over edges e = (i, j) of a graph.

    What cluster moves need. A site's values are numbered 0 to k − 1 (of spins −1 is 0, +1 is 1).
    """

    edges: eqx.AbstractVar[Int[Array, "edges 2"]]
    """Site numbers (row-major) of both ends."""

    @property
    @abstractmethod
    def bond_gains(self) -> Float[Array, " edges"]:
        """w: how much f is higher where the two ends are alike; negative if it is lower."""

    @property
    @abstractmethod
    def value_gains(self) -> Float[Array, "sites k"]:
        """h_i of each value."""


class AbstractBipartiteEnergy(AbstractEnergy):
    """An energy over visible x with hidden units summed out, E(x) = −log Σ_h exp(−E(x, h)).

    Given x the hidden units are independent, and given h the visible ones are. What the hidden
    units see of x, `hidden_input(x)`, is the costly product; everything else about x follows from
    it, so a sampler computes it once a step. All methods take a batch (leading axes) or one point.
    """

    @abstractmethod
    def hidden_input(self, x: Point) -> Float[Array, "... hidden"]:
        """All that p(h | x) depends on; c + xW for an RBM.

        Where an energy's `path(base)` is made of bipartite energies, they all share it.
        """

    @abstractmethod
    def log_density_from(
        self, x: Point, hidden_input: Float[Array, "... hidden"]
    ) -> Float[Array, "..."]:
        """f(x), given `hidden_input(x)`."""

    @abstractmethod
    def draw_hidden(
        self, hidden_input: Float[Array, "... hidden"], *, key: Key[Array, ""]
    ) -> Float[Array, "... hidden"]:
        """h ~ p(h | x), given `hidden_input(x)`."""

    @abstractmethod
    def hidden_mean(self, x: Point) -> Float[Array, "... hidden"]:
        """E[h | x]: the learned features."""

    @abstractmethod
    def sample_visible(self, hidden: Float[Array, "... hidden"], *, key: Key[Array, ""]) -> Point:
        """x ~ p(x | h)."""

    @property
    @abstractmethod
    def num_summed_states(self) -> int | None:
        """Number of states that `log_z_by_sum` visits: those of the smaller side.

        1 where it is a closed form, None where both sides have infinitely many and it is none.
        """

    @abstractmethod
    def log_z_by_sum(self) -> Float[Array, ""]:
        """log Z, exact, by a sum over the smaller side (the other is summed in closed form)."""

    def sample_hidden(self, x: Point, *, key: Key[Array, ""]) -> Float[Array, "... hidden"]:
        """h ~ p(h | x)."""
        return self.draw_hidden(self.hidden_input(x), key=key)


class AbstractOfLengths(AbstractBipartiteEnergy):
    """An energy whose points have lengths, each length a distribution of its own,
    p(x | length) = exp(f(x)) / Z(length); chains keep theirs.

    There is no p(x), and no Z: what needs one distribution takes `of_length(n)`.
    """

    longest: eqx.AbstractVar[int]
    """The greatest length of a point that chains may move."""

    @abstractmethod
    def lengths(self, x: Point) -> Int[Array, "..."]:
        """Of a batch (leading axes) or one point."""

    @abstractmethod
    def of_length(self, length: int) -> AbstractEnergy:
        """The energy of the points of one length; they may be written in another way there."""

    @abstractmethod
    def hidden_of_length(self, length: Any) -> AbstractEnergy:
        """The energy of the hidden units in points of one length, all else summed out.

        Its log Z is Z(length)'s, and it has one shape for every length.
        """

    @abstractmethod
    def hidden_gain(
        self, hidden: Float[Array, "... hidden"]
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """(u, n) of what `draw_hidden` gives: p(h | n) ∝ exp(n u(h)), n the length."""

    @abstractmethod
    def with_length(
        self, hidden: Float[Array, "... hidden"], length: Float[Array, "..."]
    ) -> Float[Array, "... hidden"]:
        """What `draw_hidden` gives, of another length."""

    @abstractmethod
    def log_z_by_length(self, lengths: Any) -> Float[Array, " lengths"]:
        """log Z of each of these lengths, exact, by one sum over `num_summed_states` terms."""

    def refusal(self, who: str) -> str:
        """Why `who`, who takes one distribution, does not take this."""
        return (
            f"{who}: {type(self).__name__} is not one distribution but one for each length: take "
            "energy.of_length(n) (score_samples and perplexity take points of all lengths)"
        )


def check_one_distribution(energy: AbstractEnergy, who: str) -> None:
    """Raises ValueError if `energy` is, or has in it, a distribution for each length."""

    def is_of_lengths(node: Any) -> bool:
        return isinstance(node, AbstractOfLengths)

    for node in jax.tree.leaves(energy, is_leaf=is_of_lengths):
        if is_of_lengths(node):
            raise ValueError(node.refusal(who))


class AbstractDeepEnergy(AbstractBipartiteEnergy):
    """An energy of several layers of bits, of which only the first is data.

    Its points hold hidden layers too. Of the first layer alone a lower bound is known, from a
    distribution q of independent hidden units near p(hidden | v).
    """

    @property
    @abstractmethod
    def data_space(self) -> AbstractSpace:
        """Where the first layer lives."""

    @abstractmethod
    def mean_field(
        self, v: Float[Array, "... visible"], num_updates: int = 30
    ) -> tuple[Float[Array, "..."], ...]:
        """(v, μ_1, …, μ_L): the means of the q that a fixed number of updates finds."""

    @abstractmethod
    def expected_energy(self, layers: tuple[Float[Array, "..."], ...]) -> Float[Array, "..."]:
        """E_q[E] of all units less the entropy of those that x leaves out: E_q[E(x)] or more."""

    @abstractmethod
    def bound(self, layers: tuple[Float[Array, "..."], ...]) -> Float[Array, "..."]:
        """E_q[log p(v, hidden)] + H(q) + log Z, which is at most log p(v) + log Z."""

    @abstractmethod
    def from_layers(self, layers: tuple[Float[Array, "..."], ...]) -> Point:
        """The point of `space` that these values of all layers make."""


class AbstractTiltable(AbstractEnergy):
    """An energy that stays of its own kind under a linear term (an RBM, an Ising model)."""

    @abstractmethod
    def tilt(self, field: Float[Array, "..."]) -> AbstractEnergy:
        """E(x) − ⟨field, x⟩, with `field` of the shape of x; its normaliser changes."""


class AbstractSmoothed(AbstractEnergy):
    """An energy of data with Gaussian noise on: f = log(p_data ∗ N(0, σ²)) up to a constant.

    So denoising score matching trains it (Vincent 2011), and so Tweedie's formula reads it:
    E[clean | x] = x + σ²∇f(x).
    """

    sigma: eqx.AbstractVar[float]
    """Standard deviation σ of the noise on each coordinate; known, not trained."""

    def __check_init__(self):
        if not 0 < self.sigma < math.inf:
            raise ValueError(
                f"{type(self).__name__}: expected sigma above 0, the sd of the noise, got "
                f"{self.sigma:g}"
            )
