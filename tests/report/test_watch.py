"""A page that follows a training: while it runs, to its end, and where there is none."""

import json
import re
import threading
import time

import numpy as np
import pytest

from energax import cli, report
from energax.training import ProgressFile
from tests.report.seen import opened, panel_called, steadily, ticks, until


@pytest.fixture
def quick_looks(monkeypatch):
    monkeypatch.setattr("energax.report.choose._LOOK_SECONDS", 0.02)


def title_of(page):
    return re.search(r"<title>(.*?)</title>", page.read_text()).group(1)


def test_a_page_follows_a_training_to_its_end(tmp_path, quick_looks):
    page = tmp_path / "page.html"
    ended = []

    def watch():
        ended.append(report.watch(tmp_path, page, every_seconds=0.05, max_seconds=60.0))

    watching = threading.Thread(target=watch)
    watching.start()
    seen = []

    def until(words, train=lambda: None):
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            train()
            if page.is_file() and words in title_of(page):
                seen.append(page.read_text())
                return
            time.sleep(0.02)
        raise AssertionError(f"no page said {words!r}")

    until("no news yet, still training")
    with ProgressFile(tmp_path / "progress.json", num_steps=900, every_seconds=0.0) as file:
        for step in (300, 600):
            metrics = {"step": step - 1.0, "loss": 1.0 / step, "gradient_norm": 0.5}
            until(f"step {step} of 900, still training", lambda: file(step, metrics))  # noqa: B023
    watching.join(60)
    assert ended == ["ended"] and "its report is on the way" in title_of(page)
    for text in seen:
        assert '<meta http-equiv="refresh" content="1">' in text and 'data-reload="1"' in text
    data = [re.search(r'application/json">(.*?)</script>', text) for text in seen]
    assert data[0] is None
    steps = [json.loads(found.group(1))["panels"][0]["series"][0]["x"] for found in data[1:]]
    assert steps == [[300], [300, 600]]


@pytest.mark.parametrize(
    ("state", "process", "end"),
    [
        ("interrupted", None, "interrupted"),
        ("failed", None, "failed"),
        ("training", 2**22 + 1, "lost"),
        ("training", None, "running"),
    ],
)
def test_a_watch_ends_where_training_does_not(tmp_path, quick_looks, state, process, end):
    path, page = tmp_path / "progress.json", tmp_path / "page.html"
    with ProgressFile(path) as file:
        file(7, {"loss": 1.0})
    told = json.loads(path.read_text()) | {"state": state}
    told |= {} if process is None else {"process": process}  # above the largest there can be
    path.write_text(json.dumps(told))
    assert report.watch(tmp_path, page, max_seconds=0.1) == end
    text = page.read_text()
    assert "step 7" in text and 'http-equiv="refresh"' not in text and "data-reload" not in text


def run(*arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    out = capsys.readouterr()
    return stop.value.code or 0, out.out, out.err


def test_the_command_watches_and_then_reports(tmp_path, capsys, monkeypatch, quick_looks):
    rows = (np.random.default_rng(0).random((80, 5)) < 0.4).astype(float)
    np.save(tmp_path / "rows.npy", rows)
    folder = tmp_path / "run"
    fit = ["fit", tmp_path / "rows.npy", "--out", folder, "--num-steps", 30, "--hidden", 3]
    assert run(*fit, "--json", capsys=capsys)[0] == 0
    progress = folder / "progress.json"
    whole = progress.read_text()
    assert json.loads(whole)["state"] == "ended" and json.loads(whole)["num_steps"] == 30

    progress.write_text(json.dumps(json.loads(whole) | {"state": "training"}))
    watch = ["report", folder, "--watch", "--json"]
    status, out, _ = run(*watch, "--max-seconds", "0.1", "--strict", capsys=capsys)
    answer = json.loads(out)
    assert status == 3 and answer["training"] == "running" and not answer["reliable"]

    def interrupt(seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("energax.report.choose.time.sleep", interrupt)
        assert run(*watch, capsys=capsys)[0] == 130
    page = folder / "report.html"
    assert "no longer watched" in title_of(page) and "data-reload" not in page.read_text()

    progress.write_text(whole)
    status, out, err = run(*watch, capsys=capsys)
    answer = json.loads(out)
    assert status == 0 and answer["training"] == "ended" and str(page) in err
    assert "What the hidden units see" in page.read_text()
    numbers_told = {int(n) for n in re.findall(r'<th scope="row">(\d+)</th>', page.read_text())}
    order = np.random.default_rng(0).permutation(80)
    assert numbers_told == set(order[:16].tolist())  # the held-out rows, as numbered in the file


def test_what_cannot_be_watched_is_told(tmp_path, capsys):
    status, _, err = run("report", tmp_path, "--watch", capsys=capsys)
    assert status == 2 and "found no run.json" in err and not list(tmp_path.iterdir())
    status, _, err = run("report", tmp_path, "--max-seconds", "3", capsys=capsys)
    assert status == 2 and "--max-seconds says how long to --watch for" in err


def test_a_watched_page_loads_itself_again_and_is_seen_as_it_was(browser, tmp_path):
    path = tmp_path / "page.html"
    wrong, ended = [], []

    def watch():
        ended.append(report.watch(tmp_path, path, every_seconds=2.0, max_seconds=240.0))

    def tell(file, step):
        for at in range(step - 100, step):
            file(at, {"step": at - 1.0, "loss": 1.0 / at, "gradient_norm": 0.5 + at})

    def wait_for(words):
        limit = time.monotonic() + 60
        while not (path.is_file() and words in path.read_text()):
            assert time.monotonic() < limit, words
            time.sleep(0.05)

    watching = threading.Thread(target=watch)
    with ProgressFile(tmp_path / "progress.json", num_steps=900) as file:
        tell(file, 200)
        file._write("training")
        watching.start()
        wait_for("step 199 of 900")
        context = browser.new_context(viewport={"width": 400, "height": 300}, offline=True)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(path.as_uri())
        panel = panel_called(page, "Training")
        panel.locator("svg").focus()
        page.keyboard.press("+")
        page.keyboard.press("+")
        zoomed = ticks(panel)
        page.evaluate("scrollTo(0, 260)")
        tell(file, 300)
        file._write("training")
        until(page, "document.title.includes('step 299 of 900')")
        panel = page.locator(".panel").first
        until(page, "scrollY === 260")
        assert steadily(lambda: ticks(panel)) == zoomed
        assert steadily(lambda: page.evaluate("document.activeElement.tagName")) == "svg"
        for _ in range(20):  # a key may fall between two loadings
            page.keyboard.press("0")
            if steadily(lambda: ticks(panel))[-1] > zoomed[-1]:
                break
        else:
            raise AssertionError("0 does not show the whole of a page that was loaded again")

        pause = page.get_by_role("button", name="Pause updates of this page")
        pause.click()
        tell(file, 400)
        file._write("training")
        wait_for("step 399 of 900")
        page.wait_for_timeout(3_000)
        assert "step 299" in page.title()
        page.get_by_role("button", name="Go on updating of this page").click()
        until(page, "document.title.includes('step 399 of 900')")
        file._write("interrupted")
        until(page, "document.title.includes('interrupted')")
        watching.join(60)
        assert ended == ["interrupted"]
        page.evaluate("window.stays = true")
        page.wait_for_timeout(3_000)
        assert page.evaluate("window.stays") and page.locator("#pause").count() == 0
        context.close()
    assert wrong == []


def test_a_page_of_a_training_is_followed_without_scripts_too(browser, tmp_path):
    path = tmp_path / "page.html"
    report.Page("first", reload_seconds=1).write(path)
    with opened(browser, path, java_script_enabled=False) as page:
        report.Page("second").write(path)
        until(page, "document.title === 'second'")
