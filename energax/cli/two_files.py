"""Commands that ask data files alone: `energax same X Y`."""

import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from energax import io
from energax.cli._base import (
    Answer,
    BadInput,
    Json,
    Part,
    Seed,
    Strict,
    app,
    key_of,
    read,
    users_fault,
)

_SHOWN = 5  # columns


@app.command()
def same(
    x: Annotated[Path, typer.Argument(metavar="X", help=".npy, .npz, .csv or .parquet")],
    y: Annotated[Path, typer.Argument(metavar="Y", help="a file of the same columns")],
    space: Annotated[
        str,
        typer.Option(help="real (any numbers, bits and counts too; gaps allowed), categorical:K"),
    ] = "real",
    num_permutations: Annotated[
        int, typer.Option("--num-permutations", min=19, help="p is at least 1/(1 + this)")
    ] = 999,
    array: Part = None,
    seed: Seed = 0,
    as_json: Json = False,
    strict: Strict = False,
) -> None:
    """Are the rows of two files from one distribution? p-value, how far apart, which columns."""
    from energax import jobs, spaces, tasks

    with users_fault():
        names, others = io.column_names(x), io.column_names(y)
    if names is not None and others is not None and names != others:
        raise BadInput(
            f"expected the same columns in both files, {_first_difference(names, others)}"
        )
    rows: list[Any] = [read(path, array, missing=True) for path in (x, y)]
    if rows[0].shape[1:] != rows[1].shape[1:]:
        raise BadInput(
            f"expected rows of the same columns, got {rows[0].shape} in {x} and {rows[1].shape} in "
            f"{y}"
        )
    with users_fault():
        if space == "auto":
            raise ValueError(
                "--space auto: say what the columns are; real suits all but categories"
            )
        known = jobs.parse_space(space, rows[0])
        if isinstance(known, spaces.Categorical):
            rows = [
                jobs.as_points(known, r, name=str(path))
                for r, path in zip(rows, (x, y), strict=True)
            ]
        found = tasks.same_distribution(
            *rows, key=key_of(seed), space=known, num_permutations=num_permutations
        )
    named = [_name(place, names or others) for place in found.columns]
    p_values = found.column_p_values
    clear = [f"{name} (p {p:.3g})" for name, p in zip(named, p_values, strict=True) if p <= 0.05]
    Answer(
        [
            f"p = {found.p_value:.4g} (smallest possible {found.smallest_p:.3g}), of "
            f"{found.num_rows[0]} and {found.num_rows[1]} rows",
            f"at least {found.divergence:.4f} nat apart (Jensen-Shannon, at most "
            f"{math.log(2):.4f}), 95 % interval [{found.lower:.4f}, {found.upper:.4f}]",
            f"columns that differ: {', '.join(clear[:_SHOWN]) or 'none for sure'}"
            + (f" and {len(clear) - _SHOWN} more" if len(clear) > _SHOWN else ""),
        ],
        {
            "p_value": found.p_value,
            "smallest_p": found.smallest_p,
            "statistic": found.statistic,
            "parts": found.parts,
            "divergence": found.divergence,
            "std_err": found.std_err,
            "lower": found.lower,
            "upper": found.upper,
            "columns": named,
            "column_p_values": np.asarray(p_values),
            "num_rows": found.num_rows,
            "num_permutations": found.num_permutations,
        },
        found.reliable,
        found.reasons,
    ).finish(as_json=as_json, strict=strict)


def _first_difference(names: list[str], others: list[str]) -> str:
    if len(names) != len(others):
        return f"got {len(names)} and {len(others)}"
    i = next(i for i, (a, b) in enumerate(zip(names, others, strict=True)) if a != b)
    return f"got {names[i]!r} and {others[i]!r} in place {i}"


def _name(place: tuple[Any, ...], names: list[str] | None) -> str:
    if names is not None and len(place) == 1:
        return names[place[0]]
    return ", ".join(map(str, place))
