"""What saved files may name, and energies and objectives out of them."""

import inspect

import equinox as eqx

from energax import io
from energax.energies._base import AbstractEnergy
from energax.objectives._base import AbstractObjective


def registry() -> dict[str, type]:
    """The classes that a saved file may name: the concrete modules of energax itself.

    Private ones that share a name are left out: no energy or objective is made of them.
    """
    found: dict[str, type] = {}
    shared: set[str] = set()

    def visit(cls: type) -> None:
        for child in cls.__subclasses__():
            visit(child)
            if child.__module__.split(".")[0] == "energax" and not inspect.isabstract(child):
                other = found.setdefault(child.__name__, child)
                if other is not child and other.__module__ != child.__module__:
                    if not child.__name__.startswith("_"):
                        raise RuntimeError(f"two classes of energax are called {child.__name__}")
                    shared.add(child.__name__)

    visit(eqx.Module)
    return {name: cls for name, cls in found.items() if name not in shared}


def energy_of(
    archive: io.Archive, energy: AbstractEnergy | None, tree: str = "energy"
) -> AbstractEnergy:
    """The energy saved as `tree`; `energy` is needed where its code is the user's own."""
    if energy is not None:
        return archive.fill(tree, energy)
    try:
        return archive.build(tree, registry())
    except io.UnknownTree as error:
        raise ValueError(
            f"{error}. Pass energy=: the energy that was trained, with any parameters"
        ) from error


def objective_of(archive: io.Archive, tree: str = "objective") -> AbstractObjective | None:
    """The objective, or None where it is the user's own class."""
    try:
        return archive.build(tree, registry())
    except io.UnknownTree:
        return None
