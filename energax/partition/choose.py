"""log_z(): the one function people call, and which method it takes."""

import warnings
from collections.abc import Iterable
from functools import partial

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key

from energax.energies._base import (
    AbstractEnergy,
    AbstractNormalised,
    AbstractOfLengths,
    check_one_distribution,
    check_scalar,
)
from energax.energies.mixture import ModelMixture
from energax.partition._base import AbstractLogZMethod, Clock, answer, in_float64, log_sum_exp
from energax.partition.estimated import AIS, SMC, Bridge, Tempering
from energax.partition.exact import EXACT, exact_method, refusals
from energax.random import as_key
from energax.results import LogZ, UnreliableResult, Verdict
from energax.samplers.driver.starts import NoStart

_ESTIMATES = {
    "estimate": AIS,
    "ais": AIS,
    "bridge": Bridge,
    "mbar": Tempering,
    "thermodynamic integration": partial(Tempering, integrate=True),
    "smc": SMC,
}
_MOST_NUMBERS = 2**31
"""States times features, up to which a sum for all lengths is taken before annealing for each."""


def default_method(
    energy: AbstractEnergy, *, method: str = "auto", base=None
) -> AbstractLogZMethod:
    """The method that `log_z` takes: the cheapest exact one that fits, else annealing.

    Exact: a known normaliser or a closed form; Kaufman's formula, transfer matrix or elimination
    for sums over pairs of sites (Ising, Potts); the smaller layer of an RBM summed, up to 2²⁴
    states; every state summed, up to 2²⁴; quadrature in up to three continuous coordinates;
    products of independent parts that each have one of these. A `ModelMixture` asks its components.

    **Raises:** ValueError for an unknown name, or an exact method that does not fit, with its cost.
    """
    if method in _ESTIMATES:
        return _ESTIMATES[method](base=base)
    if method in EXACT:
        return EXACT[method]()
    if method not in ("auto", "exact"):
        names = ", ".join([*EXACT, *_ESTIMATES])
        raise ValueError(f"method is auto, exact, {names}; got {method!r}")
    exact = exact_method(energy)
    if exact is not None:
        return exact
    if method == "auto" and isinstance(energy, ModelMixture):
        return Components()
    if method == "exact":
        raise ValueError(
            f"no exact method fits {type(energy).__name__} on {energy.space}:\n- "
            + "\n- ".join(refusals(energy))
            + "\nUse method='auto' for an estimate with error bars."
        )
    return AIS(base=base)


class Components(AbstractLogZMethod):
    """log Z of a `ModelMixture`, log Σ_k (w_k / Ẑ_k) Z_k, each Z_k by `log_z` of its component.

    The errors are independent: std_err² = Σ_k r_k² std_err_k², r_k the component's share of the sum
    (the delta method; Owen 2013, section 2.7).
    """

    def cost(self, energy):
        if not isinstance(energy, ModelMixture):
            return np.inf
        return sum(default_method(component).cost(component) for component in energy.components)

    def run(self, energy, *, key, precision=0.25, max_seconds=None, progress=False):
        if not isinstance(energy, ModelMixture):
            raise TypeError(f"Components sums a ModelMixture, got {type(energy).__name__}")
        clock, found = Clock(max_seconds), []
        for i, component in enumerate(energy.components):
            left = None
            if max_seconds is not None:
                left = max(clock.max_seconds - clock.seconds, 0.0) / (len(energy.components) - i)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnreliableResult)  # the whole says it
                z = log_z(
                    component,
                    key=jax.random.fold_in(key, i),
                    precision=precision,
                    max_seconds=left,
                    progress=progress,
                )
            clock.num_evaluations += z.num_evaluations
            found.append(z)
        each = np.asarray(energy.log_offsets, np.float64) + [z.value for z in found]
        value = log_sum_exp(each)
        std_err = max(z.std_err for z in found)
        if np.isfinite(value):
            share = np.exp(each - value)
            std_err = float(np.sqrt(np.sum((share * [z.std_err for z in found]) ** 2)))
        return answer(
            value,
            std_err,
            clock,
            method="components: " + ", ".join(dict.fromkeys(z.method for z in found)),
            reasons=energy.doubts(found),  # a component is over `precision` if the whole is
            ess=min(z.ess for z in found),
            time_limited=any(z.time_limited for z in found),
            details={f"component {i}": z.value for i, z in enumerate(found)},
        )


def log_z(
    energy: AbstractEnergy,
    *,
    key: Key[Array, ""],
    method: str | AbstractLogZMethod = "auto",
    precision: float = 0.25,
    base: AbstractNormalised | None = None,
    max_seconds: float | None = None,
    progress: bool = False,
) -> LogZ:
    """log Z = log ∫ exp(f(x)) dx with standard error, interval, bracket and verdict.

    **Arguments:**

    - `method`: "auto"; "exact", or one of those by name: "known", "closed form", "kaufman",
      "transfer matrix", "elimination", "summed side", "enumeration", "quadrature", "parts";
      "estimate" (no exact method), "ais", "bridge", "mbar", "thermodynamic integration", "smc";
      or a method object such as `AIS(num_chains=500)`; see `default_method`.
    - `precision`: the largest standard error, in nats, that may be called reliable.
    - `base`: an AbstractNormalised on the same space for annealing to start from.
    - `max_seconds`: optional limit; a result that hit it says `time_limited`.

    **Returns:** LogZ; an unreliable one comes with its reasons and an `UnreliableResult` warning.

    **Raises:** ValueError for a method that does not fit, with what it would cost.
    """
    check_scalar(energy)
    check_one_distribution(energy, "log_z")
    if not precision > 0:
        raise ValueError(f"precision: expected a positive number of nats, got {precision}")
    key = as_key(key)
    if isinstance(method, str):
        chosen = default_method(energy, method=method, base=base)
    else:
        chosen = method
    try:
        result = chosen.run(
            energy, key=key, precision=precision, max_seconds=max_seconds, progress=progress
        )
    except NoStart as error:
        result = answer(-np.inf, np.inf, Clock(), method="none", reasons=[str(error)], ess=0.0)
    Verdict(result.reasons).warn("log Z")
    return result


def log_z_by_length(
    energy: AbstractOfLengths,
    lengths: Iterable[int],
    *,
    key: Key[Array, ""],
    method: str = "auto",
    max_seconds: float | None = None,
    **options,
) -> dict[int, LogZ]:
    """log Z of each of these lengths, {length: LogZ}, where each is a distribution of its own.

    One sum over the hidden states serves all lengths, up to 2³¹ states times features ("exact": up
    to any number). Else each length is estimated by `log_z` of its hidden units alone
    (`energy.hidden_of_length`), with `method`, `precision` and its other options.

    **Arguments:** `max_seconds`: of all lengths together.

    **Raises:** TypeError for another energy.
    """
    check_scalar(energy)
    if not isinstance(energy, AbstractOfLengths):
        raise TypeError(
            f"log_z_by_length is for energies such as ReplicatedSoftmax, got "
            f"{type(energy).__name__}: log_z gives its one log Z"
        )
    distinct = [int(n) for n in np.unique(np.asarray(list(lengths), int))]
    states, key = energy.num_summed_states, as_key(key)
    few = states is not None and states * energy.space.num_sites <= _MOST_NUMBERS
    clock, found = Clock(max_seconds), {}
    if method == "exact" or (method == "auto" and few):
        with jax.enable_x64(True):
            sums = eqx.filter_jit(lambda e, n: e.log_z_by_length(n))
            values = np.asarray(sums(in_float64(energy), np.asarray(distinct, np.float64)))
        clock.num_evaluations = states or 0
        for n, value in zip(distinct, values, strict=True):
            found[n] = answer(value, 0.0, clock, method="summed side", reasons=[])
    else:
        for i, n in enumerate(distinct):
            left = None
            if max_seconds is not None:
                left = max(clock.max_seconds - clock.seconds, 0.0) / (len(distinct) - i)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UnreliableResult)  # all are told together
                found[n] = log_z(
                    energy.hidden_of_length(n),
                    key=jax.random.fold_in(key, n),
                    method=method,
                    max_seconds=left,
                    **options,
                )
    doubts = [f"length {n}: {reason}" for n, z in found.items() for reason in z.reasons]
    Verdict(tuple(doubts)).warn("log Z by length")
    return found
