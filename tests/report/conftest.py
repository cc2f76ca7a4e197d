"""A real browser, Debian's Chromium without a head, and two reports for it to open.

Without a browser the tests that want one are skipped; with ENERGAX_NEEDS_BROWSER=1, as CI sets it,
they fail.
"""

import importlib.util
import os
import shutil
import time

import numpy as np
import pytest

from energax import cli
from tests.report.seen import KINDS

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def _lacking(what):
    if os.environ.get("ENERGAX_NEEDS_BROWSER") == "1":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def chromium():
    """The path of a browser. Asked for first, so that nothing is trained where there is none."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        _lacking(f"none of {', '.join(BROWSERS)} is here: apt-get install chromium")
    if importlib.util.find_spec("playwright") is None:
        _lacking("the tests of pages need playwright: pip install energax[test]")
    return path


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        # root has no sandbox; the driver is Playwright's, the browser is Debian's
        found = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


def _command(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    assert not stop.value.code


def _write_reports(folder):
    """Small quick trainings and their reports: points in two dimensions, images of 4×4 bits."""
    rng = np.random.default_rng(0)
    left, right = rng.normal([-2, 0], [0.5, 0.8], (150, 2)), rng.normal([2, 1], 0.6, (100, 2))
    np.save(folder / "points.npy", np.concatenate([left, right]))
    bits = (rng.random((200, 16)) < 0.3).astype(float)
    bits[:, 8:] = np.where(rng.random((200, 8)) < 0.1, 1 - bits[:, :8], bits[:, :8])
    np.save(folder / "images.npy", bits)
    options = {
        "points": ["--objective", "denoising", "--hidden", 8],
        "images": ["--objective", "pcd:1", "--hidden", 4],
    }
    for kind in KINDS:
        run = folder / kind
        fit = ["fit", folder / f"{kind}.npy", "--out", run, "--num-steps", 200, *options[kind]]
        _command(*fit, "--json")
        _command("report", run, "--json")


@pytest.fixture(scope="session")
def reports(chromium, tmp_path_factory):
    """The folder of the reports, which one worker of several writes for all."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "reports"
    written, failed = folder / "written", folder / "failed"
    try:
        folder.mkdir()
    except FileExistsError:
        limit = time.monotonic() + 800
        while not written.exists() and not failed.exists() and time.monotonic() < limit:
            time.sleep(0.5)
    else:
        try:
            _write_reports(folder)
        except BaseException:
            failed.touch()
            raise
        written.touch()
    assert written.exists(), "the reports were not written: see the worker that tried"
    return folder
