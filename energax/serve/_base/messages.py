"""The messages, as types that the JSON is read by, written by and described by (OpenAPI)."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from energax.serve._base.limits import Limits, Refusal

Rows = Annotated[
    list[list[float]],
    Meta(min_length=1, description="rows of columns; images row by row, categories by number"),
]
Seed = Annotated[int, Meta(ge=0, lt=2**32, description="equal seeds give equal answers")]
Column = Annotated[
    Sequence[float | None] | None,
    Meta(description="one a row; null in a list is an infinite value, a row of density 0"),
]
Table = Sequence[Sequence[float | None]]
Reasons = Annotated[list[str], Meta(description="why it is not reliable, empty if it is")]


class _Request(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class ScoreRequest(_Request):
    """Rows to score."""

    rows: Rows


class DenoiseRequest(_Request):
    """Noisy rows, and the kind of noise that suits the model's space."""

    rows: Rows
    flip_rate: (
        Annotated[float, Meta(gt=0, lt=0.5, description="bits and spins: chance of a flip, each")]
        | UnsetType
    ) = UNSET
    noise_sd: (
        Annotated[float, Meta(gt=0, description="reals: standard deviation of Gaussian noise")]
        | UnsetType
    ) = UNSET
    seed: Seed | UnsetType = UNSET


class SampleRequest(_Request):
    """How many draws."""

    num: Annotated[int, Meta(ge=1, description="draws")]
    seed: Seed | UnsetType = UNSET


class ScoreAnswer(msgspec.Struct, kw_only=True):
    """f, E = -f, log p = f - log Z and the anomaly p-value of every row."""

    num_rows: int
    log_density: Column
    energy: Column
    log_prob: Column
    std_err: Annotated[Column, Meta(description="standard error of each log_prob")]
    log_z: float | None
    log_z_std_err: Annotated[float | None, Meta(description="the error that all rows share")]
    p_value: Column
    smallest_p: Annotated[float | None, Meta(description="that so many held-out rows can give")]
    reliable: bool
    reasons: Reasons
    missing: Annotated[dict[str, str], Meta(description="why a column is null as a whole")]


class DenoiseAnswer(msgspec.Struct, kw_only=True):
    """The posterior p(x | y) of every row y."""

    num_rows: int
    x: Annotated[Table, Meta(description="cleaned rows, the best value of each column")]
    mean: Table
    sd: Table
    std_err: Annotated[Table, Meta(description="Monte Carlo error of mean")]
    mode: Annotated[
        Table | None, Meta(description="a local maximum of p(x | y); null by Tweedie's formula")
    ]
    reliable_rows: list[bool]
    reliable: bool
    reasons: Reasons


class SampleAnswer(msgspec.Struct, kw_only=True):
    """Draws from the model, with the diagnostics of the whole run."""

    num: int
    x: Annotated[Table, Meta(description="rows of columns")]
    log_density: Column
    convergence: dict[str, Any]
    time_limited: Annotated[bool, Meta(description="ended by --max-seconds")]
    reliable: bool
    reasons: Reasons


class Health(msgspec.Struct, kw_only=True):
    """Whether the service answers, and what it has done."""

    status: str
    seconds: float
    num_requests: int
    num_refused: int
    waiting: Annotated[dict[str, int], Meta(description="requests in work or in line")]


class ModelAnswer(msgspec.Struct, kw_only=True):
    """What is served."""

    space: str
    shape: Annotated[list[int], Meta(description="of one point; rows are flat")]
    num_columns: int
    example: Annotated[list[float], Meta(description="some row that the model takes")]
    energy: Annotated[str, Meta(description="kind of energy")]
    noise: Annotated[str | None, Meta(description="the noise that /denoise takes off")]
    training: dict[str, Any]
    log_z: dict[str, Any] | None
    p_values: dict[str, Any] | None
    missing: dict[str, str]
    limits: dict[str, Any]
    version: str


class Refused(msgspec.Struct):
    """Why a request was not answered: what was expected, what arrived."""

    status: int
    error: str


_R = TypeVar("_R", bound=_Request)
_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (ScoreRequest, DenoiseRequest, SampleRequest)
}


def read_request(kind: type[_R], body: bytes, limits: Limits, num_columns: int) -> _R:
    """The request that `body` holds.

    Rows and numbers are bounded by their brackets and commas before any is made, so that memory is,
    too. A key given twice shows by its quotes: no valid request has a string but its keys.

    **Raises:** Refusal: 400 where it is no JSON, 413 where it is too much, 422 where it is another
    thing.
    """
    rows, numbers = body.count(b"[") - 1, body.count(b",")
    if rows > limits.max_rows:
        raise Refusal(
            413, f"expected at most {limits.max_rows:,} rows (--max-rows), got {rows:,} brackets"
        )
    if numbers > limits.max_rows * num_columns + len(kind.__struct_fields__):
        raise Refusal(
            413,
            f"expected at most {limits.max_rows:,} rows (--max-rows) of {num_columns:,} numbers, "
            f"got {numbers:,} commas",
        )
    try:
        request = _DECODERS[kind].decode(body)
    except msgspec.ValidationError as error:
        raise Refusal(422, str(error)) from None
    except ValueError as error:  # msgspec's, or of bytes that are no UTF-8
        raise Refusal(400, f"expected a JSON object: {error}") from None
    given = [f for f in kind.__struct_fields__ if getattr(request, f) is not UNSET]
    if body.count(b'"') != 2 * len(given):
        raise Refusal(422, f"expected each key once, got one of {', '.join(given)} twice")
    return request
