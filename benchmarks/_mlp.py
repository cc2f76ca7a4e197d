"""The energy that the sampling questions share: 2 inputs, two hidden layers of 128, SiLU.

The same weights, made by NumPy, in every library's own form; each `setup` starts from the same x.
"""

from itertools import pairwise

import numpy as np

SIZES = (2, 128, 128, 1)


def weights() -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight (in, out), bias (out,)) of each layer, float32."""
    rng = np.random.default_rng(0)
    layers = []
    for num_in, num_out in pairwise(SIZES):
        weight = rng.normal(size=(num_in, num_out)) / np.sqrt(num_in)
        bias = 0.1 * rng.normal(size=num_out)
        layers.append((weight.astype(np.float32), bias.astype(np.float32)))
    return layers


def starts(num_chains: int) -> np.ndarray:
    """(num_chains, 2), float32."""
    return np.random.default_rng(1).normal(size=(num_chains, 2)).astype(np.float32)


def jax_energy():
    """E(x) of one point, or of a batch (leading axes), in plain JAX."""
    import jax
    import jax.numpy as jnp

    layers = [(jnp.asarray(weight), jnp.asarray(bias)) for weight, bias in weights()]

    def energy(x):
        for weight, bias in layers[:-1]:
            x = jax.nn.silu(x @ weight + bias)
        weight, bias = layers[-1]
        return (x @ weight + bias)[..., 0]

    return energy


def torch_energy():
    """ebmkit's own MLP with these weights: (batch, 2) -> (batch,)."""
    import ebm
    import torch

    energy = ebm.nets.MLPEnergy(dim=SIZES[0], hidden=SIZES[1:-1])
    linear = [module for module in energy.net if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        for module, (weight, bias) in zip(linear, weights(), strict=True):
            module.weight.copy_(torch.from_numpy(weight.T))
            module.bias.copy_(torch.from_numpy(bias))
    return energy


def energax_energy():
    """energax's own MLP with these weights (its readout has no bias, which only shifts E)."""
    import equinox as eqx
    import jax.numpy as jnp

    from energax import random
    from energax.energies import MLP
    from energax.spaces import Real

    *hidden, (readout, _) = weights()
    energy = MLP(Real((SIZES[0],)), SIZES[1], len(hidden), key=random.key(0), base=None)
    return eqx.tree_at(
        lambda e: (e.weights, e.biases, e.readout),
        energy,
        (
            tuple(jnp.asarray(weight) for weight, _ in hidden),
            tuple(jnp.asarray(bias) for _, bias in hidden),
            jnp.asarray(readout[:, 0]),
        ),
    )
