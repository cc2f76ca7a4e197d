"""What a sampler is: a Markov kernel on an ensemble of chains.

State carries forward, Info only reports, Tuning is frozen after warm-up.
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from energax.energies._base import AbstractEnergy, batched
from energax.results import Population
from energax.spaces import Point

ENERGY_JUMP = 1000.0
"""A rise of the energy in one step, in nats, that no chain at rest makes: a divergence."""


class State(eqx.Module):
    """The ensemble: `x` (num_chains, *event), f(x), and where a kernel uses it ∇f(x)."""

    x: Point
    log_density: Float[Array, " chains"]
    gradient: PyTree | None = None


class Info(eqx.Module):
    """One step's report: acceptance probability and divergence of each chain.

    `evaluations`: of the energy (a gradient counts as one) that each chain's step took, where that
    changes from step to step; None means `evaluations_per_step`.
    """

    acceptance: Float[Array, " chains"]
    divergent: Bool[Array, " chains"]
    evaluations: Float[Array, " chains"] | None = None


class AbstractSampler(eqx.Module):
    """A Markov kernel on an ensemble, in four parts; `run` below is the loop around it."""

    @property
    @abstractmethod
    def is_exact(self) -> bool:
        """True if the frozen kernel leaves exp(f) invariant exactly; unadjusted kernels are not."""

    @property
    def crosses_modes(self) -> bool:
        """True if the kernel itself takes chains from one mode to another, however far apart."""
        return False

    @abstractmethod
    def evaluations_per_step(self, energy: AbstractEnergy) -> float:
        """Energy evaluations (a gradient counts as one) that one step of one chain costs.

        A typical number where it changes from step to step; `Trace.evaluations` has the true one.
        """

    @abstractmethod
    def init(self, energy: AbstractEnergy, x: Point, *, key: Key[Array, ""]) -> tuple[State, Any]:
        """(State, Tuning) at the ensemble `x`.

        **Raises:** TypeError if the energy lacks the structure that this sampler needs.
        """

    def refresh(self, energy: AbstractEnergy, state: State) -> State:
        """The same `x` under a changed energy: everything cached about x is recomputed."""
        return State(state.x, batched(energy, state.x))

    def follow(self, energy: AbstractEnergy, state: State) -> State:
        """`state` after a small parameter update, for chains that live on through training.

        As `refresh`, but a kernel may keep what it would draw at the old parameters: the chains lag
        behind the parameters anyway, and no exact use may call this.
        """
        return self.refresh(energy, state)

    def temper(self, energy: AbstractEnergy, state: State) -> State:
        """The same `x` at another β of the path that `state` is on, `energy` = `path.at(β)`.

        As `refresh`, but a kernel may keep what is the same at every β.
        """
        return self.refresh(energy, state)

    @abstractmethod
    def step(
        self, energy: AbstractEnergy, state: State, tuning: Any, *, key: Key[Array, ""]
    ) -> tuple[State, Info]:
        """One step of every chain."""

    def reversal(self) -> "AbstractSampler":
        """The sampler whose steps run this one's backwards in time: itself, if it is reversible."""
        return self

    @abstractmethod
    def adapt(self, tuning: Any, state: State, info: Info) -> Any:
        """The tuning after one warm-up step; statistics are taken over the whole ensemble."""

    def freeze(self, tuning: Any) -> Any:
        """The tuning that warm-up leaves behind; `run` calls it once, after its last `adapt`."""
        return tuning

    def doubts(self, state: State, tuning: Any) -> list[str]:
        """What the kernel itself has met in a run that speaks against trusting its draws."""
        return []

    def describe(self, state: State, tuning: Any) -> dict[str, Any]:
        """What warm-up settled on and the run met, by name (step size, swap rates): for the reader.

        Numbers or arrays; `sample` puts them into `Draws.details`.
        """
        return {}


class AbstractPopulationMethod(eqx.Module):
    """A way to draw from an energy that is no Markov kernel: whole populations in one go."""

    @abstractmethod
    def run(self, energy: AbstractEnergy, *, key: Key[Array, ""]) -> Population:
        """Weighted draws and log Z.

        **Raises:** TypeError or ValueError where the method does not apply to the energy.
        """


class Trace(eqx.Module):
    """What `run` kept: `x` (kept, num_chains, *event), `log_density` (kept, num_chains), and each
    chain's mean acceptance, number of divergences and mean number of energy evaluations a step."""

    x: Point
    log_density: Float[Array, "kept chains"] | None  # None where nothing was kept
    acceptance: Float[Array, " chains"]
    num_divergent: Int[Array, " chains"]
    evaluations: Float[Array, " chains"]
