"""Words of the command line to models and objectives."""

from typing import Any

import numpy as np

from energax import energies, objectives, spaces

_DEFAULT_MODELS = {
    spaces.Binary: "rbm",
    spaces.Spin: "ising",
    spaces.Count: "independent",
}


def build_model(
    name: str,
    space: spaces.AbstractArraySpace,
    rows: np.ndarray,
    hidden: int,
    temperature: float | None = None,
    *,
    key,
) -> energies.AbstractEnergy:
    """The untrained model that `name` names, started from the moments of `rows`.

    **Arguments:** `temperature`: at which a network is to be trained; its base is that of the rows
    there.
    """
    if name == "auto":
        name = _DEFAULT_MODELS.get(type(space), "mlp")
    flat = len(space.shape) == 1
    if temperature is not None and name not in ("mlp", "conv"):
        raise ValueError(f"--temperature is for networks, --model mlp or conv, got {name}")
    if temperature is not None and not 0 < temperature < np.inf:
        raise ValueError(f"--temperature: expected a positive number, got {temperature:g}")
    match name:
        case "rbm" if isinstance(space, spaces.Binary) and flat:
            return energies.BernoulliRBM.random(space.num_sites, hidden, key=key, data=rows)
        case "rbm":
            _check_rbm(space, rows)
            return energies.RBM.random(space, hidden, key=key, data=rows)
        case "ising" if isinstance(space, spaces.Spin) and flat:
            first, second = np.triu_indices(space.num_sites, 1)
            return energies.Ising(
                edges=np.stack([first, second], 1),
                couplings=np.zeros(len(first)),
                fields=np.arctanh(np.clip(rows.mean(0), -0.98, 0.98)),
                num_sites=space.num_sites,
            )
        case "ising":
            raise ValueError(f"--model ising wants rows of -1 and +1, got {space}")
        case "mlp":
            return energies.MLP(space, hidden, key=key, base=_base(space, rows, temperature))
        case "conv" if len(space.shape) in (2, 3) and not isinstance(space, spaces.Categorical):
            return energies.ConvNet(space, key=key, base=_base(space, rows, temperature))
        case "conv":
            raise ValueError(f"--model conv wants images (rows, height, width), got {space}")
        case "independent":
            return _independent_family(space).fit_moments(rows, space)
        case "gaussian" if isinstance(space, spaces.Real) and flat:
            return energies.MultivariateNormal.fit_moments(rows)
        case "gaussian":
            raise ValueError(f"--model gaussian wants rows of real numbers, got {space}")
    raise ValueError(
        f"--model {name}: expected auto, rbm, ising, mlp, conv, independent or gaussian"
    )


def _base(
    space: spaces.AbstractArraySpace, rows: np.ndarray, temperature: float | None
) -> energies.AbstractEnergy | None:
    """What a network is added to: fitted to the rows once it is divided by the temperature."""
    if space.num_states:
        return None
    base = energies.fitted_base(space, rows)
    return base if temperature is None else base.tempered(temperature)


def _check_rbm(space: spaces.AbstractArraySpace, rows: np.ndarray) -> None:
    """Raises ValueError where an RBM has no units for the space, or one rate cannot suit all."""
    kinds = spaces.Spin, spaces.Real, spaces.Count, spaces.Categorical
    if not isinstance(space, kinds) or rows.ndim != 2 + isinstance(space, spaces.Categorical):
        raise ValueError(
            "--model rbm wants rows of binary, spin, real, count or categorical columns, got "
            f"{space}"
        )
    if isinstance(space, spaces.Real):
        sd = rows.std(axis=0)
        wrong = np.flatnonzero((sd > 20) | ((sd > 0) & (sd < 0.05)))
        if len(wrong):
            raise ValueError(
                f"--model rbm wants real columns of comparable size, but the sd of column "
                f"{wrong[0]} is {sd[wrong[0]]:.3g} (expected 0.05 to 20): standardise the columns"
            )


def _independent_family(space: spaces.AbstractArraySpace) -> Any:
    """The exponential family of independent sites on `space`."""
    match space:
        case spaces.Binary():
            return energies.Bernoulli
        case spaces.Categorical():
            return energies.CategoricalFamily
        case spaces.Count():
            return energies.Poisson
        case spaces.Real():
            return energies.Normal
        case spaces.Box():
            low, high = np.asarray(space.low), np.asarray(space.high)
            if np.all(low == 0) and np.all(high == np.inf):
                return energies.Gamma
            if np.all(low == 0) and np.all(high == 1):
                return energies.Beta
    raise ValueError(
        f"--model independent knows binary, categorical, count, real, box:0:inf and box:0:1, "
        f"got {space}"
    )


_OBJECTIVES = {
    "auto": lambda: None,
    "moments": lambda: None,
    "likelihood": objectives.MaximumLikelihood,
    "pseudolikelihood": objectives.PseudoLikelihood,
    "ratio": objectives.RatioMatching,
    "flow": objectives.MinimumProbabilityFlow,
    "concrete": objectives.ConcreteScoreMatching,
    "score": objectives.ScoreMatching,
    "denoising": objectives.DenoisingScoreMatching,
    "multiscale": objectives.MultiscaleDenoising,
    "equilibrium": objectives.EquilibriumMatching,
    "transport": objectives.EnergyMatching,
}
_COUNTED = {
    "cd": lambda num=1: objectives.ContrastiveDivergence(num_steps=num),
    "pcd": lambda num=1: objectives.PersistentCD(num_steps=num),
    "replay": lambda num=20: objectives.ReplayCD(num_steps=num),
    "improved": lambda num=20: objectives.ImprovedCD(num_steps=num),
    "recovery": lambda num=20: objectives.RecoveryLikelihood(num_steps=num),
    "sliced": lambda num=1: objectives.SlicedScoreMatching(num_slices=num),
    "nce": lambda num=1: objectives.NoiseContrastive(num_noise=num),
    "conditional-nce": lambda num=1: objectives.ConditionalNCE(num_moves=num),
    "discrepancy": lambda num=16: objectives.EnergyDiscrepancy(num_moves=num),
}
"""With a number after a colon."""


def parse_objective(text: str) -> Any:
    """The objective that `text` names, None for the default of the energy."""
    kind, colon, number = text.partition(":")
    if kind not in _OBJECTIVES and kind not in _COUNTED:
        words = ", ".join([*_OBJECTIVES, *(f"{word}:K" for word in _COUNTED)])
        raise ValueError(f"--objective {text}: expected one of {words}")
    if not colon:
        return (_OBJECTIVES | _COUNTED)[kind]()
    if kind in _OBJECTIVES:
        raise ValueError(f"--objective {text}: {kind} takes no number")
    if not number.isdecimal() or int(number) < 1:
        raise ValueError(f"--objective {text}: expected a whole number from 1 after the colon")
    return _COUNTED[kind](int(number))
