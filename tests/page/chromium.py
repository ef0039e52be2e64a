"""Chromium, driven by playwright, with records of the page's requests and errors."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

# The names of the program on Debian and Ubuntu, and the name of Google's build.
NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60_000  # milliseconds


@contextmanager
def chromium() -> Iterator[Browser]:
    """Starts this machine's Chromium without a window."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, "Chromium is not installed; script/test --browser installs it"
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work in most containers. The tests open only their own page.
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


class Visit:
    """A user with a browser profile of their own.

    Attributes:
        page: playwright's page.
        hosts: every host and port that was asked for anything.
        errors: errors of the page's scripts.
    """

    def __init__(self, browser: Browser, url: str, **options) -> None:
        self.url = url
        self.context = browser.new_context(accept_downloads=True, **options)
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        self.context.on("request", lambda request: self._asked(request.url))
        self.page = self.open()

    def open(self) -> Page:
        """A new tab with the page, ready to be used."""
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.goto(self.url)
        page.wait_for_selector("#generate:not([disabled])")
        page.wait_for_selector("#gallery p, #gallery button")
        return page

    def _asked(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        if scheme not in ("data", "blob"):
            self.hosts.add(rest.partition("/")[0])

    def value(self, selector: str) -> str:
        """The value that a field shows."""
        return self.page.input_value(selector)

    def drop(self, selector: str, file: str, kind: str = "image/png") -> dict[str, bool]:
        """Drops a file on an element, as a user drags it from a folder.

        Returns, for the last two events, whether the browser was kept from opening the file.
        """
        import base64
        from pathlib import Path

        content = base64.b64encode(Path(file).read_bytes()).decode()
        transfer = self.page.evaluate_handle(
            """([content, name, kind]) => {
                const bytes = Uint8Array.from(atob(content), each => each.charCodeAt(0));
                const transfer = new DataTransfer();
                transfer.items.add(new File([bytes], name, {type: kind}));
                return transfer;
            }""",
            [content, Path(file).name, kind],
        )
        return self.page.eval_on_selector(
            selector,
            """(element, transfer) => {
                const sent = {bubbles: true, cancelable: true, dataTransfer: transfer};
                const kept = name => !element.dispatchEvent(new DragEvent(name, sent));
                kept('dragenter');
                return {dragover: kept('dragover'), drop: kept('drop')};
            }""",
            transfer,
        )
