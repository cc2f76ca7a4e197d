"""Convolutions of which the gradients are fast in loops on CPUs too.

JAX's own gradients of a convolution are convolutions of other layouts, which XLA brings into the
one that it is fast in on CPUs outside loops only (jaxlib 0.10.2). Inside, as in every chain and
training here, a net of three layers took 3 times as long for ∇ₓE, and 25 times for ∇E of its
kernels. Here they are that layout's, and a matrix product. A primitive of its own, as
`jax.custom_vjp` would refuse derivatives forwards.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def correlate(
    h: Float[Array, "height width _"], kernel: Float[Array, "side side _ _"]
) -> Float[Array, "height width _"]:
    """Σ_ij h(y + i − c, x + j − c) kernel_ij at every pixel, c = ⌊(side − 1)/2⌋, h = 0 outside."""
    dtype = jnp.result_type(h, kernel)  # XLA wants equal ones
    before = (kernel.shape[0] - 1) // 2
    return _correlate.bind(h[None].astype(dtype), kernel.astype(dtype), before=before)[0]


_correlate = Primitive("correlate")


@_correlate.def_impl
def _lowered(h: Array, kernel: Array, *, before: int) -> Array:
    after = kernel.shape[0] - 1 - before
    return jax.lax.conv_general_dilated(
        h,
        kernel,
        window_strides=(1, 1),
        padding=((before, after), (before, after)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@_correlate.def_abstract_eval
def _shaped(h: Any, kernel: Any, *, before: int) -> Any:
    return h.update(shape=(*h.shape[:3], kernel.shape[3]))


mlir.register_lowering(_correlate, mlir.lower_fun(_lowered, multiple_results=False))


def _transposed_in_h(slope: Array, h: Any, kernel: Array, *, before: int) -> Array:
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _correlate.bind(slope, turned, before=kernel.shape[0] - 1 - before)


def _transposed_in_kernel(slope: Array, h: Array, kernel: Any, *, before: int) -> Array:
    """One product, of all that each pixel sees and the slope at it."""
    side, _, num_in, num_out = kernel.aval.shape
    around = (before, side - 1 - before)
    padded = jnp.pad(h, ((0, 0), around, around, (0, 0)))
    height, width = h.shape[1:3]
    seen = [padded[:, i : i + height, j : j + width] for i in range(side) for j in range(side)]
    # The narrower of the two first: XLA then takes two thirds of the time.
    product = jnp.tensordot(slope, jnp.concatenate(seen, axis=3), ((0, 1, 2), (0, 1, 2)))
    return product.reshape(num_out, side, side, num_in).transpose(1, 2, 3, 0)


ad.defbilinear(_correlate, _transposed_in_h, _transposed_in_kernel)


def _batched(operands: Any, axes: Any, *, before: int) -> tuple[Array, int]:
    h, kernel = operands
    if axes[1] is not None:  # a kernel for each: groups of channels

        def one(h, kernel):
            return _lowered(h, kernel, before=before)

        return jax.vmap(one, tuple(axes))(h, kernel), 0
    h = jnp.moveaxis(h, axes[0], 0)
    out = _correlate.bind(h.reshape(-1, *h.shape[2:]), kernel, before=before)
    return out.reshape(*h.shape[:2], *out.shape[1:]), 0


batching.primitive_batchers[_correlate] = _batched
