"""log_z(): the one function people call, and which method it takes."""

import numpy as np
from jaxtyping import Array, Key

from energax.energies._base import AbstractEnergy, AbstractNormalised, check_scalar
from energax.partition._base import AbstractLogZMethod
from energax.partition.annealed import AIS
from energax.partition.exact import Enumeration, Known, SummedSide
from energax.partition.quadrature import Quadrature
from energax.random import as_key
from energax.results import LogZ, Verdict

_EXACT = (Known, SummedSide, Enumeration, Quadrature)
_NAMES = {"enumeration": Enumeration, "quadrature": Quadrature, "summed side": SummedSide}


def default_method(
    energy: AbstractEnergy, *, method: str = "auto", base=None
) -> AbstractLogZMethod:
    """The method that `log_z` takes: the cheapest exact one that fits, else annealing.

    Exact: a known normaliser; the smaller layer of an RBM summed, up to 2²⁴ states; every state
    summed, up to 2²⁴; quadrature in up to three continuous coordinates.

    **Raises:** ValueError for an unknown name, or an exact method that does not fit, with its cost.
    """
    if method == "ais":
        return AIS(base=base)
    if method in _NAMES:
        return _NAMES[method]()
    if method not in ("auto", "exact"):
        raise ValueError(f"method is auto, exact, {', '.join(_NAMES)} or ais, got {method!r}")
    costs = {cls: cls().cost(energy) for cls in _EXACT}
    fitting = {cls: cost for cls, cost in costs.items() if cost <= 2**24 or cls is Quadrature}
    fitting = {cls: cost for cls, cost in fitting.items() if np.isfinite(cost)}
    if fitting:
        return min(fitting, key=fitting.__getitem__)()
    if method == "exact":
        cheapest = min(costs.values())
        price = "" if np.isinf(cheapest) else f": the cheapest would add up {cheapest:.3g} states"
        raise ValueError(
            f"no exact method fits {type(energy).__name__} on {energy.space}{price}; "
            "use method='auto' for an estimate with error bars"
        )
    return AIS(base=base)


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

    - `method`: "auto", "exact", "enumeration", "quadrature", "summed side", "ais", or a method
      object such as `AIS(num_chains=500)`; see `default_method`.
    - `precision`: the largest standard error, in nats, that may be called reliable.
    - `base`: an AbstractNormalised on the same space for annealing to start from.
    - `max_seconds`: optional limit; a result that hit it says `time_limited`.

    **Returns:** LogZ; an unreliable one comes with its reasons and an `UnreliableResult` warning.

    **Raises:** ValueError for a method that does not fit, with what it would cost.
    """
    check_scalar(energy)
    if not precision > 0:
        raise ValueError(f"precision: expected a positive number of nats, got {precision}")
    key = as_key(key)
    if isinstance(method, str):
        chosen = default_method(energy, method=method, base=base)
    else:
        chosen = method
    result = chosen.run(
        energy, key=key, precision=precision, max_seconds=max_seconds, progress=progress
    )
    Verdict(result.reasons).warn("log Z")
    return result
