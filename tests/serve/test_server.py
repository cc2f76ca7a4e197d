"""The server and its command: how they start, serve and end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest

from energax import cli, serve
from tests.serve.service import GOOD, ask_once, bits, raw, slow_model, strict, tight


def test_it_ends_by_itself_or_when_told_and_answers_till_then(model):
    for ending in ("lifetime", signal.SIGINT, signal.SIGTERM):
        app, sock = serve.create_app(model), serve.bind("127.0.0.1", 0)
        host, port = sock.getsockname()[:2]
        found = []

        def ask(host=host, port=port, found=found, ending=ending):
            found.append(ask_once(host, port))
            if ending != "lifetime":
                os.kill(os.getpid(), ending)

        thread = threading.Thread(target=ask)
        start = time.monotonic()
        idle = serve.run(
            app,
            sock,
            max_lifetime=1.0 if ending == "lifetime" else 60.0,
            on_start=thread.start,
        )
        thread.join()
        assert idle and found[0][0] == 200 and len(found[0][1]["energy"]) == 2
        assert time.monotonic() - start < 30
        with pytest.raises(OSError):
            ask_once(host, port)


def test_who_still_waits_when_it_ends_is_told(model, monkeypatch):
    began, may = slow_model(model, monkeypatch, tight(max_seconds=100.0))
    app, sock = serve.create_app(model), serve.bind("127.0.0.1", 0)
    monkeypatch.setattr(serve.server, "GRACE_SECONDS", 0.5)
    found = []

    def ask():
        found.append(ask_once(*sock_name))
        may.set()

    sock_name = sock.getsockname()[:2]
    thread = threading.Thread(target=ask)
    serve.run(app, sock, max_lifetime=1.0, on_start=thread.start)
    thread.join()
    status, told = found[0]
    assert status == 503 and "told to end" in told["error"] and began == [1]


def test_the_command_serves_until_sigterm(folder):
    command = [sys.executable, "-m", "energax.cli", "serve", str(folder / "run"), "--json"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--max-seconds", "2", "--max-lifetime", "400"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = strict(process.stdout.readline())
        assert told["reliable"] and told["num_columns"] == 5
        host, port = urlsplit(told["url"]).hostname, urlsplit(told["url"]).port
        status, answer = ask_once(host, port)
        rows = bits(200, 4)
        held_out = set(np.random.default_rng(0).permutation(200)[:40])
        p = rows[[i for i in range(200) if i not in held_out]].mean(0)
        asked_for = np.array(json.loads(GOOD)["rows"])
        truth = (asked_for * np.log(p) + (1 - asked_for) * np.log(1 - p)).sum(1)
        assert status == 200
        np.testing.assert_allclose(answer["log_prob"], truth, rtol=1e-4)
        assert len(answer["p_value"]) == 2
        head = b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        for lines, wanted in (
            (b"Content-Length: 9\r\n\r\n" + GOOD, b" 400 "),  # too short: the rest is no request
            (b"Content-Length: -1\r\n\r\n" + GOOD, b" 400 "),
            (b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + GOOD, b" 400 "),
            (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + GOOD, b" 400 "),
            (b"X: " + b"y" * 100_000 + b"\r\n\r\n", b" 400 "),
        ):
            answered = raw(host, port, head + lines)
            assert wanted in answered.split(b"\r\n")[0] and b"Traceback" not in answered
        assert b" 400 " in raw(host, port, b"\x16\x03\x01\x02\x00\r\n\r\n")
        assert b" 408 " in raw(host, port, head + b"Content-Length: 900\r\n\r\n" + GOOD)
        assert ask_once(host, port)[0] == 200
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0 and out == "" and "Traceback" not in err, err
    assert "the service has ended" in err


def ended(*arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    return stop.value.code or 0, capsys.readouterr()


def test_wrong_usage_is_one_line(folder, capsys):
    run = folder / "run"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, status, words in (
            (["serve", folder, "--port", 0], 2, "energax fit"),
            (["serve", run, "--host", "0.0.0.0"], 2, "--expose"),
            (["serve", run, "--host", "no.such.host.invalid"], 2, "no such host"),
            (["serve", run, "--max-seconds", 0], 2, "max_seconds"),
            (["serve", run, "--port", 70_000], 2, "--port"),
            (["serve", run, "--max-lifetime", "nan"], 2, "--max-lifetime"),
            (["serve", run, "--port", port], 1, "Address already in use"),
        ):
            code, said = ended(*arguments, capsys=capsys)
            assert code == status and words in said.err and said.out == "", said.err
            assert len(said.err.strip().splitlines()) == 1


def test_strict_does_not_serve_what_is_not_reliable(tmp_path, capsys):
    np.save(tmp_path / "few.npy", bits(12))
    options = ["--model", "independent", "--objective", "moments", "--space", "binary"]
    ended("fit", tmp_path / "few.npy", "--out", tmp_path / "run", *options, capsys=capsys)
    code, said = ended("serve", tmp_path / "run", "--port", 0, "--strict", capsys=capsys)
    assert code == 3 and "held-out rows cannot give" in said.err and said.out == ""


def test_without_its_data_it_serves_all_but_p_values(folder, tmp_path, capsys):
    np.save(tmp_path / "rows.npy", bits(60, 2))
    options = ["--model", "independent", "--objective", "moments", "--space", "binary"]
    ended("fit", tmp_path / "rows.npy", "--out", tmp_path / "run", *options, capsys=capsys)
    (tmp_path / "rows.npy").unlink()
    command = ["serve", tmp_path / "run", "--port", 0, "--json", "--max-lifetime", 0.1]
    code, said = ended(*command, capsys=capsys)
    assert code == 0 and "gone or has changed" in said.err
    assert strict(said.out)["reliable"]
