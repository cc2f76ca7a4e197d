"""An RBM in centred parameters, which train faster."""

from typing import Any

import jax.numpy as jnp

from energax.energies._base import Frozen, frozen
from energax.energies.boltzmann._base import (
    AbstractCentredRBM,
    AbstractRBM,
    GaussianUnits,
    Offsets,
    RecordUnits,
)


class CentredRBM(AbstractCentredRBM):
    """The RBM E(v, h) = −own(v) − own(h) − (φ(v) − μ)ᵀ W (ψ(h) − λ), up to a constant.

    Montavon & Müller 2012, "Deep Boltzmann machines and the centering trick", eq. 4; for RBMs
    Melchior, Fischer & Wiskott 2016. With fixed offsets μ, λ near the means of the two layers a
    step on W does not move the means, nor depend on which value of a bit is called 1. It is another
    set of parameters for the same distributions: train it in place of the plain RBM, and take
    `plain` of what comes back.

    **Arguments:** `free`: an RBM whose biases are those of the centred form. `offsets`: μ and λ,
    frozen.
    """

    free: AbstractRBM
    offsets: Frozen

    def __init__(self, free: AbstractRBM, offsets: Frozen):
        self.free, self.offsets = free, offsets

    @staticmethod
    def of(rbm: AbstractRBM, data: Any) -> "CentredRBM":
        """`rbm`, the same distribution, measured from its layers' means on `data` (rows, *event).

        **Raises:** ValueError for data outside the space; TypeError for Gaussian units, which are
        measured from their location as they are.
        """
        layers = [rbm.visible, rbm.hidden]
        layers += rbm.visible.parts.values() if isinstance(rbm.visible, RecordUnits) else []
        if any(isinstance(units, GaussianUnits) for units in layers):
            raise TypeError(
                "CentredRBM: Gaussian units are measured from their location already; train the "
                "RBM as it is, on standardised columns"
            )
        rows = rbm.space.validate(data, batch=True, name="data")
        hidden = rbm.hidden.features(rbm.hidden_mean(rows))
        visible = jnp.mean(rbm.visible.features(rows), axis=0)
        offsets = visible, jnp.mean(hidden, axis=0)
        biased: Any = rbm.hidden.pulled(offsets[0] @ rbm.weight)
        free = rbm.replaced(rbm.weight, rbm.visible.pulled(rbm.weight @ offsets[1]), biased)
        return CentredRBM(free, frozen(Offsets(offsets)))

    @property
    def plain(self) -> AbstractRBM:
        """The same distribution as an RBM of the kind that `of` was given."""
        hidden: Any = self.hidden
        return self.replaced(self.weight, self.visible, hidden)

    @property
    def means(self):
        return self.offsets.module.means

    def with_space(self, space):
        free: Any = self.free.with_space(space)
        return CentredRBM(free, self.offsets)
