"""What describes the service: its OpenAPI document, and one page of it that needs no network."""

import json
from typing import Any

import msgspec

from energax.report import Page
from energax.serve._base import (
    DenoiseAnswer,
    DenoiseRequest,
    Health,
    Limits,
    ModelAnswer,
    Refused,
    SampleAnswer,
    SampleRequest,
    ScoreAnswer,
    ScoreRequest,
)

_ASKED = {
    "/score": (ScoreRequest, ScoreAnswer),
    "/denoise": (DenoiseRequest, DenoiseAnswer),
    "/sample": (SampleRequest, SampleAnswer),
}
_TOLD = {"/health": Health, "/model": ModelAnswer}
_REFUSALS = {
    "400": "no JSON, or a body that was cut short",
    "408": "the body did not come in time",
    "413": "the body, or the number of rows, is over the limit",
    "415": "not application/json",
    "421": "the Host is none of this machine's names",
    "422": "JSON, but not what was expected: shape, values, keys",
    "429": "too many requests are in line",
    "503": "no answer in the time allowed, or the service ends",
}


def openapi(about: ModelAnswer, limits: Limits) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a service, from the types that its messages are read by."""
    types = [kind for pair in _ASKED.values() for kind in pair] + [*_TOLD.values(), Refused]
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    for kind in (ScoreRequest, DenoiseRequest):
        rows = schemas[kind.__name__]["properties"]["rows"]
        rows["maxItems"] = limits.max_rows
        rows["items"] |= {"minItems": about.num_columns, "maxItems": about.num_columns}
        schemas[kind.__name__]["examples"] = [_example(kind, about)]
    schemas["SampleRequest"]["properties"]["num"]["maximum"] = limits.max_rows
    schemas["SampleRequest"]["examples"] = [_example(SampleRequest, about)]
    paths: dict[str, Any] = {}
    for path, (request, answer) in _ASKED.items():
        refusals = {status: _refusal(words) for status, words in _REFUSALS.items()}
        paths[path] = {
            "post": {
                "summary": _first_line(answer),
                "requestBody": {"required": True, "content": _content(request)},
                "responses": {"200": _answer(answer)} | refusals,
            }
        }
    for path, answer in _TOLD.items():
        paths[path] = {
            "get": {"summary": _first_line(answer), "responses": {"200": _answer(answer)}}
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"energax: {about.energy} on {about.space}",
            "version": about.version,
            "description": "In a list of numbers null is an infinite value, as of a row of density "
            "0: no answer holds NaN or Infinity.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }


def html(document: dict[str, Any]) -> str:
    """The document as one page, with nothing in it that a browser would fetch."""
    page = Page(document["info"]["title"])
    here = "URL=http://127.0.0.1:8000  # the address of this page"
    page.section("The service", text=[document["info"]["description"], "", here])
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        ((method, told),) = methods.items()
        text = [told["summary"]]
        table = [["", "field", "type", ""]]
        if "requestBody" in told:
            name = _name_of(told["requestBody"])
            example = json.dumps(schemas[name]["examples"][0])
            text += ["", f"curl -s $URL{path} -H 'Content-Type: application/json' \\"]
            text += [f"    -d '{example}'"]
            table += [["sent", *row] for row in _fields(schemas[name])]
        else:
            text += ["", f"curl -s $URL{path}"]
        answered = schemas[_name_of(told["responses"]["200"])]
        table += [["answered", *row] for row in _fields(answered)]
        page.section(f"{method.upper()} {path}", text=text, table=table)
    rows = [[status, words] for status, words in _REFUSALS.items()]
    page.section("Refusals", table=[["status", "why"], *rows])
    return page.html()


def _example(kind: type, about: ModelAnswer) -> dict[str, Any]:
    if kind is SampleRequest:
        return {"num": 10}
    given: dict[str, Any] = {"rows": [about.example]}
    if kind is DenoiseRequest and about.noise is not None:
        given[about.noise] = 0.1
    return given


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").splitlines()[0]


def _content(kind: type) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}


def _answer(kind: type) -> dict[str, Any]:
    return {"description": _first_line(kind), "content": _content(kind)}


def _refusal(words: str) -> dict[str, Any]:
    return {"description": words, "content": _content(Refused)}


def _name_of(part: dict[str, Any]) -> str:
    return part["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]


def _fields(schema: dict[str, Any]) -> list[list[str]]:
    """(name, type, description) of each field."""
    required = schema.get("required", [])
    return [
        [name if name in required else f"{name} (may be left out)", _type(field), _words(field)]
        for name, field in schema["properties"].items()
    ]


def _words(field: dict[str, Any]) -> str:
    parts = [field.get("description", "")]
    parts += [part.get("description", "") for part in field.get("anyOf", [])]
    return next((words for words in parts if words), "")


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(part) for part in field["anyOf"]))
    if "items" in field:
        inner = _type(field["items"])
        return f"list of ({inner})" if " " in inner else f"list of {inner}"
    return str(field["type"])
