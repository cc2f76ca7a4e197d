"""Layer after layer: the start of a deep Boltzmann machine."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from energax.energies.boltzmann import BernoulliRBM, DeepBoltzmannMachine, TiedRBM
from energax.objectives.chains import PersistentCD
from energax.random import as_key
from energax.spaces import Binary
from energax.training.loop.choose import fit


def pretrain(
    data: Any,
    sizes: Sequence[int],
    *,
    key: Any,
    scale: float = 0.01,
    num_gibbs_steps: int = 1,
    **options: Any,
) -> DeepBoltzmannMachine:
    """A deep Boltzmann machine whose layers were trained one by one, each on what the one below it
    makes of the data.

    Salakhutdinov & Hinton 2009, section 3.1: every layer is trained as an RBM, with a second copy
    of the layer that will have another neighbour in the whole, so that its units get from the copy
    what they will get from there. Biases that two RBMs give are averaged. It is a start: train it
    with `fit`.

    **Arguments:** `data`: (rows, visible) of 0 and 1. `sizes`: units of hidden layers 1, 2, ….
    `scale`: sd of the first weights. `num_gibbs_steps`: of the chains an update. `options`: of
    `fit` (`num_steps=`, `learning_rate=`, …), for each layer.

    **Raises:** ValueError for data that are not rows of 0 and 1, or fewer than two sizes.
    """
    key = as_key(key)
    if len(sizes) < 2:
        raise ValueError(f"sizes: expected two or more hidden layers, got {list(sizes)}")
    first = np.asarray(data)
    rows = Binary(first.shape[1:]).validate(first, batch=True, name="data")
    if rows.ndim != 2:
        raise ValueError(f"data: expected (rows, visible), got {rows.shape}; flatten images")
    weights, biases = [], [np.zeros(rows.shape[1])]
    for i, size in enumerate(sizes):
        key_start, key_fit, key_hidden = jax.random.split(jax.random.fold_in(key, i), 3)
        last = i == len(sizes) - 1
        start = BernoulliRBM.random(rows.shape[1], size, key=key_start, data=rows, scale=scale)
        copies = (1 if last else 2, 1 if i == 0 else 2)
        tied = TiedRBM(start.weight, start.visible_bias, start.hidden_bias, copies)
        doubled = np.tile(rows, (1, copies[0]))
        objective = PersistentCD(num_steps=num_gibbs_steps)
        trained = fit(tied, doubled, objective, key=key_fit, **options).energy
        weights.append(trained.shared)
        below = np.asarray(trained.visible_bias)
        biases[-1] = below if i == 0 else (biases[-1] + below) / 2
        biases.append(np.asarray(trained.hidden_bias))
        hidden = trained.sample_hidden(jnp.asarray(doubled), key=key_hidden)
        rows = np.asarray(hidden[:, :size])
    return DeepBoltzmannMachine(weights, biases)
