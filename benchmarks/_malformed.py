"""Requests that a scoring service must refuse, of many kinds, as the bytes that are sent."""

import json
from collections.abc import Callable, Iterator

import numpy as np

_HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
LEAVES = "the client leaves half-way"
"""The kind that waits for no answer."""


def requests(seed: int, num: int, columns: int) -> Iterator[tuple[str, bytes]]:
    """`num` times (kind, bytes), each kind as likely as any other, for a model of real columns."""
    rng = np.random.default_rng(seed)
    kinds = list(KINDS)
    for _ in range(num):
        kind = kinds[rng.integers(len(kinds))]
        yield kind, KINDS[kind](rng, columns)


def good(rng: np.random.Generator, columns: int, rows: int = 3) -> bytes:
    """A body that a service answers."""
    return json.dumps({"rows": rng.normal(size=(rows, columns)).tolist()}).encode()


def post(body: bytes, path: str = "/score", length: int | None = None, more: str = "") -> bytes:
    """`body` as a request; `length` is what Content-Length claims, `more` are other headers."""
    head = _HEAD.format(path=path) + more
    return (
        head + f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    ).encode() + (body)


def _edited(rng: np.random.Generator, columns: int) -> bytes:
    body = bytearray(good(rng, columns))
    pieces = [
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b",",
        b":",
        b"-",
        b"e",
        b"NaN",
        b"null",
        b"\x00",
        b"\xff",
    ]
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(0, len(body)))
        body[at : at + int(rng.integers(0, 4))] = pieces[rng.integers(len(pieces))]
    return bytes(body)


def _with(value: str) -> Callable[[np.random.Generator, int], bytes]:
    """A good row but for one value, anywhere in it."""

    def made(rng: np.random.Generator, columns: int) -> bytes:
        row = [f"{x:.4f}" for x in rng.normal(size=columns)]
        row[rng.integers(columns)] = value
        return post(f'{{"rows":[[{",".join(row)}]]}}'.encode())

    return made


def _nested(rng: np.random.Generator, columns: int) -> bytes:
    depth = int(rng.integers(3, 100_000))
    opening, closing = (b"[", b"]") if rng.random() < 0.5 else (b'{"a":', b"}")
    return post(b'{"rows":' + opening * depth + b"1" + closing * depth + b"}")


def _wide(rng: np.random.Generator, columns: int) -> bytes:
    wrong = int(rng.integers(0, 2 * columns))
    rows = rng.normal(size=(2, wrong + (wrong == columns))).tolist()
    return post(json.dumps({"rows": rows}).encode())


def _keys(rng: np.random.Generator, columns: int) -> bytes:
    name = "".join(chr(rng.integers(32, 0x2FFF)) for _ in range(rng.integers(0, 200)))
    return post(good(rng, columns)[:-1] + b"," + json.dumps(name).encode() + b":1}")


def _headers(*lines: str) -> Callable[[np.random.Generator, int], bytes]:
    """A good body under one of these heads."""

    def made(rng: np.random.Generator, columns: int) -> bytes:
        body = good(rng, columns)
        line = lines[rng.integers(len(lines))].replace("LENGTH", str(len(body)))
        return line.encode("latin-1") + b"\r\n\r\n" + body

    return made


_START = "POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_JSON = _START + "Content-Type: application/json\r\n"
KINDS: dict[str, Callable[[np.random.Generator, int], bytes]] = {
    "random bytes": lambda rng, n: post(rng.bytes(int(rng.integers(0, 5_000)))),
    "cut short": lambda rng, n: post(good(rng, n)[: int(rng.integers(0, 20 * n))]),
    "edited": lambda rng, n: post(_edited(rng, n)),
    "NaN": _with("NaN"),
    "Infinity": _with("-Infinity"),
    "a string": _with('"1.0"'),
    "null": _with("null"),
    "true": _with("true"),
    "an object": _with('{"x":1}'),
    "a list": _with("[1]"),
    "1e999": _with("1e999"),
    "1e300": _with("1e300"),
    "a thousand digits": _with("9" * 1_000),
    "nested deeply": _nested,
    "wrong width": _wide,
    "ragged": lambda rng, n: post(json.dumps({"rows": [[0.5] * n, [0.5] * (n - 1)]}).encode()),
    "unknown key": _keys,
    "key twice": lambda rng, n: post(good(rng, n)[:-1] + b"," + good(rng, n)[1:]),
    "no object": lambda rng, n: post([b"[]", b"null", b"1", b'"rows"', b"{}"][rng.integers(5)]),
    "no rows": lambda rng, n: post(
        [b'{"rows":[]}', b'{"rows":null}', b'{"rows":1}'][rng.integers(3)]
    ),
    "too many rows": lambda rng, n: post(b'{"rows":[' + b"[0]," * 20_000 + b"[0]]}"),
    "too long": lambda rng, n: post(good(rng, n), length=int(rng.integers(2**24, 2**62))),
    "another coding": lambda rng, n: post(good(rng, n).decode().encode("utf-16")),
    "a wrong question": lambda rng, n: post(
        *[
            (b'{"num":-1}', "/sample"),
            (b'{"num":1000000000}', "/sample"),
            (b'{"num":"all"}', "/sample"),
            (b'{"num":1,"seed":1e9}', "/sample"),
            (good(rng, n), "/denoise"),
            (good(rng, n)[:-1] + b',"flip_rate":0.1}', "/denoise"),
            (good(rng, n)[:-1] + b',"noise_sd":-1}', "/denoise"),
        ][rng.integers(7)]
    ),
    "wrong method": _headers(
        *(
            f"{word} /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: LENGTH"
            for word in ("GET", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW")
        )
    ),
    "wrong path": _headers(
        *(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: LENGTH"
            for path in ("/scores", "/score/", "/%00", "//score", "/../score", "/score%2f", "*")
        )
    ),
    "wrong type": _headers(
        _START + "Content-Length: LENGTH",
        _START + "Content-Type: text/plain\r\nContent-Length: LENGTH",
        _START + "Content-Type: application/json; charset=latin-1\r\nContent-Length: LENGTH",
        _JSON + "Content-Encoding: gzip\r\nContent-Length: LENGTH",
    ),
    "wrong length": _headers(
        _JSON + "Content-Length: 9",
        _JSON + "Content-Length: -1",
        _JSON + "Content-Length: LENGTHx",
        _JSON + "Content-Length: 1\r\nContent-Length: 2",
        _JSON + "Content-Length: 0",
        _JSON + "Transfer-Encoding: chunked\r\n\r\nzz",
        _JSON + "Transfer-Encoding: gzip",
        _JSON + "Transfer-Encoding: chunked\r\nContent-Length: LENGTH\r\n\r\n-1",
    ),
    "another host": _headers(
        "POST /score HTTP/1.1\r\nContent-Length: LENGTH",
        "POST /score HTTP/1.1\r\nHost: evil.example\r\nContent-Length: LENGTH",
        "POST /score HTTP/1.1\r\nHost: [::\r\nContent-Length: LENGTH",
    ),
    "no HTTP": _headers(
        "\x16\x03\x01\x02\x00\x01\x00",
        "POST /score",
        "POST  /score  HTTP/1.1",
        "POST /score HTTP/9.9\r\nHost: 127.0.0.1",
        _START + "no colon",
        _START + "X\x00: 1",
        _START + "X: " + "y" * 100_000,
    ),
    LEAVES: lambda rng, n: post(good(rng, n), length=10_000),
}
