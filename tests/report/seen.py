"""A report as a browser shows it: opened offline, pointed at, and read."""

import contextlib

KINDS = ("points", "images")  # of the two reports


@contextlib.contextmanager
def opened(browser, path, *, width=1400, **options):
    """The page at `path`, offline; anything it asks for or complains of fails the test."""
    options = {"reduced_motion": "reduce", **options}
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
    wrong = []
    page = context.new_page()
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if not is_local(asked.url) else None)
    page.goto(path.as_uri())
    try:
        yield page
    finally:
        context.close()
    assert not wrong


def until(page, expression, seconds=60):
    """Waits for a script's answer. (Playwright's own way needs eval, which the page forbids.)"""
    for _ in range(20 * seconds):
        if steadily(lambda: page.evaluate(expression)):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def steadily(ask):
    """What `ask` finds on a page that may load itself again in the middle of it."""
    from playwright.sync_api import Error

    for _ in range(20):
        try:
            return ask()
        except Error as error:
            if "context was destroyed" not in str(error):
                raise
    return ask()


def is_local(url):
    return url.startswith(("file:", "data:", "blob:"))


def panel_called(page, title):
    found = page.locator(".panel").filter(has=page.locator(f".title:text-is('{title}')")).first
    found.scroll_into_view_if_needed()
    return found


def ticks(panel, axis="x"):
    return [float(t.replace("−", "-")) for t in panel.locator(f"text.{axis}").all_text_contents()]


def readout(panel):
    return panel.locator(".readout").text_content()


def point_at(page, panel, across, up=0.5):
    """Moves the mouse to a share of the panel's drawing."""
    box = panel.locator("svg").bounding_box()
    page.mouse.move(box["x"] + across * box["width"], box["y"] + up * box["height"])
