"""Two layers whose features are measured from fixed offsets."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float

from energax.energies.boltzmann._base.rbm import AbstractRBM


class Offsets(eqx.Module):
    """What the features of each layer are measured from, first layer to last, in centred forms."""

    means: tuple[Float[Array, " _"], ...]


class AbstractCentredRBM(AbstractRBM):
    """An RBM written as E(v, h) = −own(v) − own(h) − (φ(v) − μ)ᵀ W (ψ(h) − λ) + μᵀWλ, own(·) being
    those of `free`.

    What chains and gradients ask takes the same products with W as a plain RBM: centring costs a
    step of training next to nothing.
    """

    free: eqx.AbstractVar[AbstractRBM]

    @property
    @abstractmethod
    def means(self) -> tuple[Float[Array, " features"], Float[Array, " hidden"]]:
        """μ and λ."""

    @property
    def space(self):  # type: ignore[override]
        return self.free.space

    @property
    def weight(self):  # type: ignore[override]
        return self.free.weight

    @property
    def visible(self):  # type: ignore[override]
        return self.free.visible.pulled(-self.weight @ self.means[1])

    @property
    def hidden(self):  # type: ignore[override]
        return self.free.hidden.pulled(-self.means[0] @ self.weight)

    def hidden_input(self, x):
        from_mean = self.free.visible.features(x) - self.means[0]
        return from_mean @ self.weight + self.free.hidden.bias

    def log_density_from(self, x, hidden_input):
        visible, hidden = self.means
        pull = (hidden_input - self.free.hidden.bias) @ hidden + visible @ (self.weight @ hidden)
        return self.free.visible.own(x) - pull + self.free.hidden.log_partition(hidden_input)

    def sample_visible(self, hidden, *, key):
        from_mean = self.free.hidden.features(hidden) - self.means[1]
        pull = from_mean @ self.weight.T
        return self.free.visible.draw(pull + self.free.visible.bias, key=key)

    @property
    def num_summed_states(self):
        return self.free.num_summed_states

    def replaced(self, weight, visible, hidden):
        """A plain machine: its parameters are no longer trained."""
        return self.free.replaced(weight, visible, hidden)
