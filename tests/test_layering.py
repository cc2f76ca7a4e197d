"""Imports in energax go down only, and the core stays light. Read off the AST; nothing is run."""

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "energax"

# Bottom first. A room may import rooms of a lower level, never one of its own level.
LEVELS = [
    ["compiler"],
    ["results", "random"],
    ["diagnostics", "io"],
    ["spaces"],
    ["energies"],
    ["samplers"],
    ["partition"],
    ["objectives"],
    ["training"],
    ["tasks"],
    ["estimators"],
    ["jobs"],  # what a run on disk is; the command line and the report share it
    ["report"],
    ["serve"],  # its page is a report's
    ["demo"],  # writes a report
    ["cli"],  # starts all of them
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

# The core (all rooms but these) imports with JAX, Equinox and NumPy alone, and fast.
OUTER = {"estimators", "report", "serve", "demo", "cli"}
CORE_AT_IMPORT = {"jax", "jaxlib", "equinox", "jaxtyping", "numpy"}
CORE_IN_FUNCTIONS = {
    "optax", "tensorboardX",  # fit
    "safetensors", "pyarrow", "PIL",  # io
    "arviz_base", "arviz_stats",  # Draws.to_arviz
    "blackjax",  # NUTS as an optional backend
    "scipy",  # comes with JAX
    "rich",  # the progress bar, where it is installed
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """`module` as an absolute dotted name; `deferred` when it runs at no import (or never)."""

    module: str
    deferred: bool
    line: int


def imports_of(source: str, module: str, is_package: bool) -> list[Import]:
    """Every import in `source`, under its absolute name; `from a import b` gives a.b."""
    found: list[Import] = []
    here = module.split(".") if is_package else module.split(".")[:-1]

    def visit(node: ast.AST, deferred: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, deferred, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            found.extend(
                Import(".".join([*base, alias.name]), deferred, node.lineno) for alias in node.names
            )
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, True)
            for child in node.orelse:
                visit(child, deferred)
        else:
            inner = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for child in ast.iter_child_nodes(node):
                visit(child, inner)

    visit(ast.parse(source), False)
    return found


def violations(source: str, path: str) -> list[str]:
    """What the file at `path` (relative to energax/, as "energies/neural.py") does wrong."""
    parts = path.removesuffix(".py").split("/")
    is_package = parts[-1] == "__init__"
    names = parts[:-1] if is_package else parts
    if not names:
        return []  # energax/__init__.py re-exports from everywhere; test_imports.py times it
    room, stem = names[0], parts[-1]
    if room not in LEVEL:
        return [f"{path}: {room} is no room; the rooms are {', '.join(LEVEL)}"]
    wrong: list[str] = []
    for found in imports_of(source, ".".join(["energax", *names]), is_package):
        where = f"{path}:{found.line}: {found.module}"
        target = found.module.split(".")
        if target[0] != "energax":
            external = target[0]
            allowed = CORE_AT_IMPORT | (CORE_IN_FUNCTIONS if found.deferred else set())
            if room not in OUTER and external not in allowed | set(sys.stdlib_module_names):
                place = "in a function" if found.deferred else "at import"
                wrong.append(f"{where} imported {place} by the core, which must do without")
        elif len(target) == 1 or target[1] not in LEVEL:
            wrong.append(f"{where} is the package itself; import from the room that defines it")
        elif target[1] != room:
            if LEVEL[target[1]] >= LEVEL[room]:
                wrong.append(f"{where} is not below {room}")
        elif len(names) > 1 or is_package:
            # a family too big for one file is a package in its room, with a _base of its own
            own = ["energax", *names]
            bases = [[*own[:depth], "_base"] for depth in range(2, len(own))]
            shared = any(target[: len(base)] == base for base in bases)
            if not is_package and stem not in ("choose", "__main__") and not shared:
                wrong.append(f"{where} is a sibling; what siblings share goes to {room}/_base.py")
    return wrong


def test_imports_go_down_only():
    files = sorted(PACKAGE.rglob("*.py"))
    assert files
    wrong = [
        line
        for file in files
        for line in violations(file.read_text(), file.relative_to(PACKAGE).as_posix())
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("spaces.py", "from energax.energies import Tempered"),
        ("spaces.py", "def f():\n    from energax.samplers.choose import sample"),
        ("spaces.py", "from .energies import _base"),
        ("spaces.py", "from . import samplers"),
        ("io.py", "import energax.diagnostics"),
        ("random.py", "from energax import results"),
        ("energies/neural.py", "from energax.energies.boltzmann import BernoulliRBM"),
        ("energies/neural.py", "from .boltzmann import BernoulliRBM"),
        ("energies/neural.py", "from . import boltzmann"),
        ("energies/neural.py", "from energax.energies import BernoulliRBM"),
        ("energies/neural.py", "from energax.energies.family._base import check"),
        ("energies/family/big.py", "from energax.energies.family.small import check"),
        ("energies/_base.py", "from energax.energies.neural import MLP"),
        ("samplers/gibbs.py", "from energax.samplers.choose import sample"),
        ("tasks/ratio.py", "import energax as ex"),
        ("tasks/ratio.py", "from energax import sample"),
        ("report/page.py", "from energax.cli import main"),
        ("helpers.py", "import numpy"),
        ("energies/_base.py", "import optax"),
        ("training.py", "import optax"),
        ("training.py", "if x:\n    from optax import adam"),
        ("training.py", "def fit():\n    import sklearn.datasets"),
        ("results.py", "def to_frame(self):\n    import pandas as pd"),
    ],
)
def test_a_violation_is_found(path: str, source: str):
    assert len(violations(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("__init__.py", "from energax.cli import main"),
        ("energies/neural.py", "from energax.energies._base import AbstractEnergy"),
        ("energies/neural.py", "from ._base import AbstractEnergy\nfrom ..spaces import Real"),
        ("energies/__init__.py", "from energax.energies.neural import MLP"),
        ("energies/__init__.py", "from .neural import MLP"),
        ("energies/family/big.py", "from energax.energies.family._base import check"),
        ("energies/family/big.py", "from energax.energies._base import AbstractEnergy"),
        ("samplers/choose.py", "from energax.samplers.gibbs import BlockGibbs"),
        ("samplers/choose.py", "from energax.energies import AbstractEnergy"),
        ("training.py", "def fit():\n    import optax"),
        ("training.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import optax"),
        ("spaces.py", "import math\nimport jax.numpy as jnp\nfrom energax import random"),
        ("cli.py", "import typer\nfrom energax.report import write"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str):
    assert violations(source, path) == []
