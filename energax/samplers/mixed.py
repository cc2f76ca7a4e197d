"""Records of mixed parts: each part moved by the kernel that fits it, given the other parts."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax.energies._base import AbstractEnergy, batched
from energax.samplers._base import AbstractSampler, Info, State
from energax.spaces import AbstractArraySpace, Point, Record


class MixedState(State):
    """The ensemble, and each part's own state as its kernel left it.

    What a part's state caches is of the other parts' values then; a step refreshes it before use.
    """

    parts: dict[str, State] | None = None


class MixedInfo(Info):
    """One step's report: the mean acceptance over the parts, and what each part reported."""

    parts: dict[str, Info] | None = None


class Mixed(AbstractSampler):
    """One step moves every part of a `Record` once, by its own kernel for p(part | other parts).

    Metropolis within Gibbs: Tierney 1994, "Markov chains for exploring posterior distributions",
    section 2.4. `Mixed(weight=MALA(), label=SiteGibbs())`. The parts go in the order given.
    Every part has its tuning, learned over the whole ensemble.

    **Arguments:** `**parts`: a sampler for each part of the record, by name.

    **Raises:** TypeError for what is no sampler; ValueError without any.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    samplers: tuple[AbstractSampler, ...]

    def __init__(self, **parts: Any):
        if not parts:
            raise ValueError("Mixed needs a sampler for each part, as in Mixed(a=MALA(), b=...)")
        for name, sampler in parts.items():
            if not isinstance(sampler, AbstractSampler):
                raise TypeError(
                    f"Mixed: expected a sampler such as MALA() for part {name!r}, got {sampler!r}"
                )
        self.names, self.samplers = tuple(parts), tuple(parts.values())

    @property
    def parts(self) -> dict[str, AbstractSampler]:
        return dict(zip(self.names, self.samplers, strict=True))

    @staticmethod
    def of(energy: AbstractEnergy, choose: Callable[[AbstractEnergy], AbstractSampler]) -> "Mixed":
        """The sampler that `choose` gives for each part's energy, the other parts held fixed.

        **Raises:** TypeError unless `energy` lives on a `Record`.
        """
        space = _record(energy)
        return Mixed(**{name: choose(_part(energy, name)) for name in space.parts})

    @property
    def is_exact(self):
        return all(sampler.is_exact for sampler in self.parts.values())

    def evaluations_per_step(self, energy):
        moves = (s.evaluations_per_step(_part(energy, n)) for n, s in self.parts.items())
        return sum(moves) + len(self.parts)  # each part's state is refreshed

    def init(self, energy, x, *, key):
        """(MixedState, a tuning for each part).

        **Raises:** TypeError unless the space is a `Record`, and where a kernel does not fit its
        part; ValueError unless the names are those of its parts.
        """
        space = _record(energy)
        if set(space.parts) != set(self.parts):
            raise ValueError(
                f"Mixed: expected a sampler for each of the parts {sorted(space.parts)}, got "
                f"{sorted(self.parts)}"
            )
        keys = jax.random.split(key, len(self.parts))
        states, tunings = {}, {}
        for part_key, (name, sampler) in zip(keys, self.parts.items(), strict=True):
            # The tuning looks at the whole ensemble, as if all had the first chain's other parts
            first = _part(energy, name, jax.tree.map(lambda a: a[0], x))
            _, tunings[name] = sampler.init(first, x[name], key=part_key)

            def start(point, chain_key, name=name, sampler=sampler):
                own = _part(energy, name, point)
                return _single(sampler.init(own, point[name][None], key=chain_key)[0])

            chain_keys = jax.random.split(part_key, len(x[name]))
            states[name] = jax.vmap(start)(x, chain_keys)
        return MixedState(x, batched(energy, x), parts=states), tunings

    def refresh(self, energy, state):
        assert isinstance(state, MixedState) and state.parts is not None
        states = {}
        for name, sampler in self.parts.items():

            def again(point, part, name=name, sampler=sampler):
                own = eqx.tree_at(lambda s: s.x, _ensemble_of_one(part), point[name][None])
                return _single(sampler.refresh(_part(energy, name, point), own))

            states[name] = jax.vmap(again)(state.x, state.parts[name])
        return MixedState(state.x, batched(energy, state.x), parts=states)

    def step(self, energy, state, tuning, *, key):
        assert isinstance(state, MixedState) and state.parts is not None
        x, f, states, infos = state.x, state.log_density, dict(state.parts), {}
        keys = jax.random.split(key, len(self.parts))
        for (name, sampler), part_key in zip(self.parts.items(), keys, strict=True):

            def move(point, value, part, chain_key, name=name, sampler=sampler):
                own = _part(energy, name, point)
                ready = _ready(sampler, own, _ensemble_of_one(part), value)
                new, info = sampler.step(own, ready, tuning[name], key=chain_key)
                return _single(new), _single(info)

            chain_keys = jax.random.split(part_key, f.shape[0])
            states[name], infos[name] = jax.vmap(move)(x, f, states[name], chain_keys)
            x, f = {**x, name: states[name].x}, states[name].log_density
        return MixedState(x, f, parts=states), self._info(energy, infos)

    def _info(self, energy, infos: dict[str, Info]) -> MixedInfo:
        reports = list(infos.values())
        evaluations = None
        if any(info.evaluations is not None for info in reports):
            evaluations = jnp.full_like(reports[0].acceptance, len(infos))
            for name, info in infos.items():
                usual = self.parts[name].evaluations_per_step(_part(energy, name))
                evaluations += usual if info.evaluations is None else info.evaluations
        return MixedInfo(
            sum((info.acceptance for info in reports[1:]), reports[0].acceptance) / len(reports),
            jnp.any(jnp.stack([info.divergent for info in reports]), axis=0),
            evaluations,
            parts=infos,
        )

    def reversal(self):
        return Mixed(**{name: sampler.reversal() for name, sampler in [*self.parts.items()][::-1]})

    def adapt(self, tuning, state, info):
        assert isinstance(state, MixedState) and state.parts is not None
        assert isinstance(info, MixedInfo) and info.parts is not None
        return {
            name: sampler.adapt(tuning[name], state.parts[name], info.parts[name])
            for name, sampler in self.parts.items()
        }

    def freeze(self, tuning):
        return {name: sampler.freeze(tuning[name]) for name, sampler in self.parts.items()}

    def describe(self, state, tuning):
        assert isinstance(state, MixedState) and state.parts is not None
        found: dict[str, Any] = {}
        for name, sampler in self.parts.items():
            own = sampler.describe(state.parts[name], tuning[name])
            found |= {f"{name}: {what}": value for what, value in own.items()}
        return found


class _Part(AbstractEnergy):
    """E of one part of a record, the other parts held at `given`."""

    energy: AbstractEnergy
    given: dict[str, Any]
    name: str = eqx.field(static=True)
    space: AbstractArraySpace

    def __call__(self, x):
        return self.energy({**self.given, self.name: x})


def _part(energy: AbstractEnergy, name: str, point: Point | None = None) -> _Part:
    """p(part | the others as in `point`); None takes some point of the space."""
    space = _record(energy)
    point = space.example() if point is None else point
    assert isinstance(point, dict)
    given = {other: point[other] for other in space.parts if other != name}
    return _Part(energy, given, name, space.parts[name])


def _record(energy: AbstractEnergy) -> Record:
    if isinstance(energy.space, Record):
        return energy.space
    raise TypeError(
        f"Mixed moves the parts of a Record, got {energy.space}; use one of its kernels by itself"
    )


def _ensemble_of_one(chain: Any) -> Any:
    return jax.tree.map(lambda a: a[None], chain)


def _single(ensemble: Any) -> Any:
    """The only chain of an ensemble of one: every leaf of a state goes by chains first."""
    return jax.tree.map(lambda a: a[0], ensemble)


def _ready(
    sampler: AbstractSampler, energy: _Part, state: State, log_density: Float[Array, ""]
) -> State:
    """A part's state after the other parts moved; a bare one has nothing but f to refresh."""
    if type(state) is State and state.gradient is None:
        return State(state.x, log_density[None])
    return sampler.refresh(energy, state)
