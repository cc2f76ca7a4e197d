"""Maximum likelihood where a part of every point is never seen."""

from typing import Any

import equinox as eqx
import jax

from energax.energies._base import AbstractEnergy, batched, without_gradient
from energax.energies.reference import default_base
from energax.objectives._base import (
    AbstractObjective,
    check_whole,
    energies_of,
    energies_of_data,
)
from energax.objectives.chains._base import (
    Held,
    advance,
    begin,
    sampler_of,
    some_rows,
)
from energax.samplers._base import AbstractSampler, State, started
from energax.samplers.choose import default_sampler
from energax.samplers.mixed import Mixed
from energax.spaces import Point, Record, num_rows


class LatentChains(eqx.Module):
    """The model's chains, and the tunings of both kinds of chains."""

    state: State
    tuning: Any
    hidden_tuning: Any


class LatentPCD(AbstractObjective):
    """PCD-k of p(x) = Σ_z p(x, z): gradient E_{p(z | data)}[∇E(data, z)] − E_chains[∇E(x, z)].

    Younes 1999; Tieleman 2008, with hidden parts as in Neal 1992, "Connectionist learning of belief
    networks", section 2. The data's half takes each row's hidden parts from chains of their own,
    that start at draws of the base and hold the row; the other half is `PersistentCD` of the joint
    energy. Population target: maximum likelihood of the parts that are seen, as the learning rate
    falls to zero and `num_hidden_steps` grows; too few of them leave hidden parts that know too
    little of their row. Where hidden parts have few states, an energy of the seen parts alone
    (log-sum-exp over the others) is exact; for layers of units take `MeanFieldPCD`, or an RBM. It
    costs `num_hidden_steps` of each row's chain, k steps of each other and two gradients.

    **Arguments:** `hidden`: names of the parts of the record that the data do not have.
    `num_steps`: k. `num_chains`: they start at random rows of the data. `num_hidden_steps`: of the
    rows' chains. `sampler`: of the joint energy; None takes its default. Both kinds go on tuning
    themselves.

    **Raises:** ValueError for numbers out of range or no names; from `data_space` TypeError unless
    the energy lives on a `Record` with these parts and others.
    """

    hidden: tuple[str, ...] = eqx.field(
        static=True, converter=lambda h: (h,) if isinstance(h, str) else tuple(h)
    )
    num_steps: int = eqx.field(static=True, default=5)
    num_chains: int = eqx.field(static=True, default=100)
    num_hidden_steps: int = eqx.field(static=True, default=20)
    sampler: AbstractSampler | None = None

    def __check_init__(self):
        for name in ("num_steps", "num_chains", "num_hidden_steps"):
            check_whole(name, getattr(self, name))
        if not self.hidden:
            raise ValueError("hidden: expected the names of parts that the data do not have")

    def data_space(self, energy):
        """The record of the parts that are seen.

        **Raises:** TypeError unless the energy lives on a `Record` with the hidden parts and more.
        """
        space = energy.space
        if not isinstance(space, Record) or not set(self.hidden) < set(space.parts):
            raise TypeError(
                f"LatentPCD: expected an energy on a Record of which {list(self.hidden)} are some "
                f"but not all of the parts, got {space}"
            )
        return Record(**{k: part for k, part in space.parts.items() if k not in self.hidden})

    def init(self, energy, data, *, key):
        """(None, the chains)."""
        self.data_space(energy)
        key_rows, key_hidden, key_init, key_tune = jax.random.split(key, 4)
        x = self._completed(energy, some_rows(data, self.num_chains, key_rows), key_hidden)
        state, tuning = started(sampler_of(self.sampler, energy), energy, x, key=key_init)
        own = started(self._hidden_sampler(energy), energy, x, key=key_tune)[1]
        return None, LatentChains(state, tuning, own)

    def __call__(self, energy, params, batch, carry, *, key):
        keys = jax.random.split(key, 4)
        sampler, own = sampler_of(self.sampler, energy), self._hidden_sampler(energy)
        start = sampler.follow(without_gradient(energy), carry.state)
        state, tuning, acceptance = advance(
            sampler, energy, start, carry.tuning, self.num_steps, keys[0]
        )
        rows = begin(own, energy, self._completed(energy, batch, keys[1]), key=keys[2])
        rows, hidden_tuning, _ = advance(
            own, energy, rows, carry.hidden_tuning, self.num_hidden_steps, keys[3]
        )
        metrics = {
            **energies_of_data(-batched(energy, rows.x)),
            **energies_of("samples", -batched(energy, state.x)),
            "acceptance": acceptance,
        }
        loss = metrics["energy_data"] - metrics["energy_samples"]
        return loss, LatentChains(state, tuning, hidden_tuning), metrics

    def _completed(self, energy: AbstractEnergy, rows: Point, key) -> Point:
        """The rows with draws of the base as their hidden parts."""
        parts = energy.space.parts  # type: ignore[attr-defined]
        keys = jax.random.split(key, len(self.hidden))
        drawn = {
            name: default_base(parts[name]).draw(num_rows(rows), key=each)
            for name, each in zip(self.hidden, keys, strict=True)
        }
        return {name: drawn[name] if name in drawn else rows[name] for name in parts}

    def _hidden_sampler(self, energy: AbstractEnergy) -> Mixed:
        """It moves the hidden parts alone."""
        own = Mixed.of(energy, default_sampler).parts
        return Mixed(**{k: own[k] if k in self.hidden else Held() for k in own})

    def evaluations_per_step(self, energy, batch_size):
        each = sampler_of(self.sampler, energy).evaluations_per_step(energy)
        own = self._hidden_sampler(energy).evaluations_per_step(energy)
        own -= len(self.data_space(energy).parts)  # those of the parts that are held
        chains = self.num_chains * (self.num_steps * each + 1)
        return chains + batch_size * (self.num_hidden_steps * own + 1)
