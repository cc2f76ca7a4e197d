"""Which coordinates of a point f really joins, read off its traced program.

f is separable, f(x) = Σ_g f_g(x_g) over disjoint groups g of coordinates, where no term of the sum
that f is joins two groups. Two passes over the program tell. The first goes forwards and notes, for
every number computed, which coordinates it can depend on (as the sparsity of a derivative is
detected: Griewank & Walther 2008, "Evaluating derivatives", chapter 7). The second goes backwards
from f through steps that are linear; where it stops, each number is one term of the sum, and joins
the coordinates it depends on. A step that neither pass knows depends on everything it is given and
is one term, so that what is not understood is never taken apart.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from energax.energies._base import AbstractEnergy
from energax.spaces import AbstractArraySpace, Record

_MOST_BITS = 2**23  # of "this number depends on that coordinate", for one step of the program


def groups(energy: AbstractEnergy) -> list[np.ndarray]:
    """Groups of sites between which f is a sum: ascending site numbers, every site once.

    The sites of a Record are numbered part after part. One group where nothing can be told.
    """
    num = energy.space.num_sites
    point = jax.tree.map(jnp.asarray, energy.space.example())
    try:
        joined = _Program(energy, point).joined()
    except Exception:  # a program that this reading was not made for
        return [np.arange(num)]
    return _components(joined)


def site_numbers(space: Any) -> Any:
    """The site number of every number in a point, of the structure of the point."""
    parts = space.parts if isinstance(space, Record) else {"": space}
    out, start = {}, 0
    for name, part in parts.items():
        assert isinstance(part, AbstractArraySpace)
        numbers = start + np.arange(part.num_sites)
        inner = int(np.prod(part.shape)) // part.num_sites  # k on one-hot sites
        out[name] = np.repeat(numbers, inner).reshape(part.shape)
        start += part.num_sites
    return out if isinstance(space, Record) else out[""]


def _components(joined: np.ndarray) -> list[np.ndarray]:
    """Connected components of a symmetric (n, n) matrix of booleans."""
    label = np.full(len(joined), -1)
    for root in range(len(joined)):
        if label[root] >= 0:
            continue
        label[root], waiting = root, [root]
        while waiting:
            near = np.flatnonzero(joined[waiting.pop()] & (label < 0))
            label[near] = root
            waiting += near.tolist()
    return [np.flatnonzero(label == root) for root in np.unique(label)]


@dataclasses.dataclass
class _Step:
    """One primitive with the numbers of its inputs and outputs in the table of values."""

    primitive: Any
    params: dict[str, Any]
    inputs: list[int]
    outputs: list[int]

    @property
    def name(self) -> str:
        return self.primitive.name

    def __call__(self, *values):
        return self.primitive.bind(*values, **self.params)


class _Program:
    """The flat list of steps of f, what of it is constant, and what the rest depends on."""

    def __init__(self, energy: AbstractEnergy, point: Any):
        closed = jax.make_jaxpr(energy.log_density)(point)
        self.num = energy.space.num_sites
        self.numbers = itertools.count()
        self.steps: list[_Step] = []
        self.shapes: dict[int, Any] = {}  # ShapeDtypeStruct of every value
        self.constants: dict[int, Any] = {}
        self.depends: dict[int, np.ndarray] = {}  # (sites, *shape)
        self.full: set[int] = set()
        inputs = [self._new(var.aval) for var in closed.jaxpr.invars]
        (self.output,) = self._inline(closed.jaxpr, closed.consts, inputs)
        leaves = jax.tree.leaves(site_numbers(energy.space))
        for i, sites in zip(inputs, leaves, strict=True):
            reach = np.arange(self.num).reshape(-1, *[1] * np.ndim(sites))
            self.depends[i] = np.asarray(np.equal(reach, sites))
        for step in self.steps:
            self._forwards(step)

    def _new(self, aval) -> int:
        number = next(self.numbers)
        self.shapes[number] = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
        return number

    def _constant(self, value) -> int:
        value = jnp.asarray(value)
        number = self._new(value)
        self.constants[number] = value
        return number

    def _inline(self, jaxpr, consts, inputs: list[int]) -> list[int]:
        """Adds the steps of `jaxpr`, calls unfolded; returns the numbers of its outputs."""
        known: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
        known |= {var: self._constant(c) for var, c in zip(jaxpr.constvars, consts, strict=True)}

        def number(atom) -> int:
            return self._constant(atom.val) if isinstance(atom, Literal) else known[atom]

        for eqn in jaxpr.eqns:
            arguments = [number(atom) for atom in eqn.invars]
            inner = next((eqn.params[k] for k in _CALLS.get(eqn.primitive.name, ())), None)
            if inner is not None:
                consts = getattr(inner, "consts", ())
                outputs = self._inline(getattr(inner, "jaxpr", inner), consts, arguments)
            else:
                outputs = [self._new(var.aval) for var in eqn.outvars]
                self.steps.append(_Step(eqn.primitive, eqn.params, arguments, outputs))
            known |= dict(zip(eqn.outvars, outputs, strict=True))
        return [number(atom) for atom in jaxpr.outvars]

    # Forwards: what depends on what ------------------------------------------------------------

    def _forwards(self, step: _Step) -> None:
        varying = [i for i in step.inputs if i not in self.constants]
        if not varying:
            values = step(*(self.constants[i] for i in step.inputs))
            values = values if step.primitive.multiple_results else [values]
            self.constants |= dict(zip(step.outputs, values, strict=True))
            return
        if any(i in self.full for i in varying):  # most of a network, after its first layer
            for out in step.outputs:
                self._fill(out)
            return
        sizes = [int(np.prod(self.shapes[i].shape)) for i in step.outputs]
        if self.num * sum(sizes) > _MOST_BITS:
            raise ValueError("too large to follow")
        rule = _rule(step)
        if rule == "moves" and self._moves_by_x(step):
            rule = ""
        if rule == "elementwise":
            (out,) = step.outputs
            total = np.zeros((self.num, *self.shapes[out].shape), bool)
            for i in varying:
                held = self.depends[i]
                total |= held if self.shapes[i].shape else held.reshape(-1, *[1] * (total.ndim - 1))
            self.depends[out] = total
        elif rule in ("moves", "reduces"):
            (out,) = step.outputs
            if rule == "reduces":
                (i,) = step.inputs
                axes = tuple(axis + 1 for axis in step.params["axes"])
                self.depends[out] = np.asarray(self.depends[i].any(axis=axes))
            else:
                moved = self._linear(step)
                arrays = [jnp.asarray(self.depends[i], jnp.float32) for i in varying]
                self.depends[out] = np.asarray(jax.vmap(moved)(*arrays)) > 0
        elif rule == "dot":
            (out,) = step.outputs
            left, right = (self._pattern(i) for i in step.inputs)
            total = np.zeros((self.num, *self.shapes[out].shape), bool)
            for place, i in enumerate(step.inputs):
                if i in self.constants:
                    continue
                ones = (left, right)[1 - place]

                def one(d, place=place, ones=ones):
                    return step(d, ones) if place == 0 else step(ones, d)

                held = jnp.asarray(self.depends[i], jnp.float32)
                total |= np.asarray(jax.vmap(one)(held)) > 0
            self.depends[out] = total
        else:
            reached = np.zeros(self.num, bool)
            for i in varying:
                reached |= self.depends[i].reshape(self.num, -1).any(1)
            for out in step.outputs:
                shape = self.shapes[out].shape
                spread = reached.reshape(-1, *[1] * len(shape))
                self.depends[out] = np.broadcast_to(spread, (self.num, *shape))
        for out in step.outputs:
            if self.depends[out].all():
                self._fill(out)

    def _fill(self, i: int) -> None:
        """All of this value depends on all of x."""
        self.full.add(i)
        self.depends[i] = np.broadcast_to(True, (self.num, *self.shapes[i].shape))

    def _moves_by_x(self, step: _Step) -> bool:
        """Whether where numbers go depends on x, not only what they are."""
        rest = step.inputs[_NUM_MOVED.get(step.name, len(step.inputs)) :]
        return any(i not in self.constants for i in rest)

    def _linear(self, step: _Step) -> Callable:
        """A step that moves numbers about, as a function of its varying inputs in float32."""

        def moved(*varying):
            given = iter(varying)
            values = []
            for place, i in enumerate(step.inputs):
                if i not in self.constants:
                    values.append(next(given))
                elif place >= _NUM_MOVED.get(step.name, len(step.inputs)):
                    values.append(self.constants[i])  # where to, not what
                else:
                    values.append(jnp.zeros(self.shapes[i].shape, jnp.float32))
            return step(*values)

        return moved

    def _pattern(self, i: int):
        """1.0 where a factor of a product may differ from 0."""
        if i in self.constants:
            return jnp.asarray(self.constants[i] != 0, jnp.float32)
        return jnp.ones(self.shapes[i].shape, jnp.float32)

    # Backwards: the terms of the sum -----------------------------------------------------------

    def joined(self) -> np.ndarray:
        """(sites, sites): whether some term of f depends on both."""
        joined = np.eye(self.num, dtype=bool)
        wanted: dict[int, np.ndarray] = {}

        def want(i: int, mask) -> None:
            if i in self.constants:
                return
            mask = np.broadcast_to(np.asarray(mask, bool), self.shapes[i].shape)
            wanted[i] = wanted[i] | mask if i in wanted else mask

        def term(depends: np.ndarray) -> None:
            rows = depends.reshape(self.num, -1).astype(np.float32)
            np.logical_or(joined, rows @ rows.T > 0, out=joined)

        want(self.output, True)
        for step in reversed(self.steps):
            for out in step.outputs:
                mask = wanted.pop(out, None)
                if mask is None or not mask.any():
                    continue
                if self._pull_back(step, mask, want, term):
                    continue
                if out in self.full:
                    return np.ones_like(joined)
                term(self.depends[out] & mask)
        return joined

    def _pull_back(self, step: _Step, mask: np.ndarray, want, term) -> bool:
        """Hands the wanted outputs of a linear step on to its inputs; False if it is not linear."""
        varying = [i for i in step.inputs if i not in self.constants]
        kinds = [np.dtype(self.shapes[i].dtype) for i in (*varying, *step.outputs)]
        if not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
            return False
        name = step.name
        if name in _SUMS:
            for i in varying:
                want(i, mask if self.shapes[i].shape else mask.any())
            return True
        divided = name == "div" and varying == step.inputs[:1]
        if divided or (name == "mul" and len(varying) == 1):
            want(varying[0], mask if self.shapes[varying[0]].shape else mask.any())
            return True
        if name == "select_n" and step.inputs[0] in self.constants:
            which = np.asarray(self.constants[step.inputs[0]]).astype(int)
            for case, i in enumerate(step.inputs[1:]):
                want(i, mask & (which == case))
            return True
        if _rule(step) == "moves" and not self._moves_by_x(step):
            self._want_sources(self._linear(step), varying, mask, want)
            return True
        if name == "dot_general":
            left, right = step.inputs
            if len(varying) == 1 and left != right:
                ones = self._pattern(right if varying[0] == left else left)

                def product(d):
                    return step(d, ones) if varying[0] == left else step(ones, d)

                self._want_sources(product, varying, mask, want)
                return True
            contracted, batch = step.params["dimension_numbers"]
            shapes = [self.shapes[i].shape for i in step.inputs]
            if shapes[0] == shapes[1] and not batch[0] and len(contracted[0]) == len(shapes[0]):
                # Every number of one times a number of the other: as many terms.
                order = np.argsort(contracted[0])
                second = [contracted[1][i] + 1 for i in order]
                turned = self.depends[right].transpose(0, *second)
                term(self.depends[left] | turned)
                return True
        return False

    def _want_sources(self, linear: Callable, varying: list[int], mask: np.ndarray, want) -> None:
        """Wants every number that a wanted one is the sum of (all weights being positive)."""
        zeros = [jnp.zeros(self.shapes[i].shape, jnp.float32) for i in varying]
        out, pull = jax.vjp(linear, *zeros)
        for i, sources in zip(varying, pull(jnp.asarray(mask, out.dtype)), strict=True):
            want(i, np.asarray(sources) > 0)


# Calls, and the parameter that holds what is called.
_CALLS = {
    "jit": ("jaxpr",),
    "pjit": ("jaxpr",),
    "closed_call": ("call_jaxpr",),
    "core_call": ("call_jaxpr",),
    "custom_jvp_call": ("call_jaxpr",),
    "custom_vjp_call": ("call_jaxpr",),
    "remat2": ("jaxpr",),
    "checkpoint": ("jaxpr",),
}
# Every output number from the input numbers at its own place.
_ELEMENTWISE = {
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "convert_element_type", "copy",
    "copy_p", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2",
    "expm1", "floor", "ge", "gt", "igamma", "igammac", "integer_pow", "is_finite", "le",
    "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "nextafter",
    "not", "or", "pow", "reduce_precision", "regularized_incomplete_beta", "rem", "round",
    "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub", "tan",
    "tanh", "xor",
}  # fmt: skip
# Numbers carried to other places, or added up.
_MOVES = {
    "broadcast_in_dim", "concatenate", "dynamic_slice", "expand_dims", "gather", "pad",
    "reduce_sum", "reshape", "rev", "slice", "squeeze", "transpose",
}  # fmt: skip
# How many of its inputs are moved, where the others say whereto.
_NUM_MOVED = {"gather": 1, "dynamic_slice": 1, "broadcast_in_dim": 1, "reshape": 1}
_REDUCES = {
    "argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod",
}  # fmt: skip
_SUMS = {
    "add", "add_any", "convert_element_type", "copy", "copy_p", "neg", "stop_gradient", "sub",
}  # fmt: skip


def _rule(step: _Step) -> str:
    if len(step.outputs) > 1:
        return ""
    if step.name in _ELEMENTWISE:
        return "elementwise"
    if step.name in _REDUCES:
        return "reduces"
    if step.name == "dot_general":
        return "dot"
    return "moves" if step.name in _MOVES else ""
