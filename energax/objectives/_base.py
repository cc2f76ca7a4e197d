"""What an objective is: a loss whose gradient trains θ, with parameters and memory of its own."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, Key, PyTree

from energax.energies._base import AbstractEnergy
from energax.spaces import AbstractSpace, Point

Metrics = dict[str, Float[Array, ""]]


class AbstractObjective(eqx.Module):
    """A loss over minibatches.

    `fit` differentiates `__call__` in θ (the trainable arrays of `energy`) and in Params, and hands
    Carry from step to step (chains, tunings): it survives parameter updates, so whatever it caches
    about an energy must be recomputed.
    """

    @abstractmethod
    def init(
        self, energy: AbstractEnergy, data: Point, *, key: Key[Array, ""]
    ) -> tuple[PyTree, Any]:
        """(Params, Carry): parameters trained beside θ, and the memory; None where there are none.

        **Arguments:** `data`: all training rows, (rows, *event), already validated.

        **Raises:** TypeError or ValueError if the energy or its space does not suit the objective.
        """

    @abstractmethod
    def __call__(
        self,
        energy: AbstractEnergy,
        params: PyTree,
        batch: Point,
        carry: Any,
        *,
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], Any, Metrics]:
        """(loss, Carry, Metrics) on one minibatch (batch, *event).

        Metrics always hold `energy_data` and, where the objective has samples, `energy_samples`:
        the two halves of the gradient.
        """

    def data_space(self, energy: AbstractEnergy) -> AbstractSpace:
        """Where the rows that it learns from live: the energy's space, but for hidden layers."""
        return energy.space

    def evaluations_per_step(self, energy: AbstractEnergy, batch_size: int) -> float:
        """Energy evaluations (a gradient counts as one) of one call on `batch_size` rows."""
        return float(batch_size)
