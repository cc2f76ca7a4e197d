"""What a log Z method is: a small class whose `run` gives an `Estimate`, judged in one place."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Key

from energax.energies._base import AbstractEnergy
from energax.results import LogZ


class AbstractLogZMethod(eqx.Module):
    """A way to find log Z of an energy."""

    @abstractmethod
    def cost(self, energy: AbstractEnergy) -> float:
        """Energy evaluations needed, inf where the method does not apply."""

    @abstractmethod
    def run(
        self,
        energy: AbstractEnergy,
        *,
        key: Key[Array, ""],
        precision: float,
        max_seconds: float | None,
    ) -> LogZ:
        """log Z with its error and verdict."""
