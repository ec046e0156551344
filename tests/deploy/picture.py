"""`python -m tests.deploy.picture docs/status-page.png` makes the picture in the docs (Debian).

A page as it is after some weeks, which no test waits for: of the same values as tests/core.
"""

import importlib.resources
import sys
from typing import Any

from ringkeeperd.page.document import rendered
from tests.core.views import LATER, instances, lived, page_view, ring_view

_ORIGIN = "http://ringkeeper.example"


def main() -> None:
    from playwright.sync_api import sync_playwright

    seen = instances(("api-1-4711-3f09aa", "api-2-4711-90be12", "daemon-1-99-77c0d4"), behind=0)
    ring = ring_view(lived(), LATER, instances=seen)
    page = rendered(page_view(ring))
    folder = importlib.resources.files("ringkeeperd.page")

    def answer(route: Any) -> None:
        name = route.request.url.removeprefix(f"{_ORIGIN}/")
        if name == "status.css":
            route.fulfill(body=folder.joinpath(name).read_bytes(), content_type="text/css")
        elif name:
            route.abort()
        else:
            route.fulfill(body=page, content_type="text/html; charset=utf-8")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-lcd-text"]
        )
        window = browser.new_page(viewport={"width": 900, "height": 800})
        window.route("**/*", answer)
        window.goto(f"{_ORIGIN}/")
        below = window.locator(".session-refreshes .marks").bounding_box()
        height = below["y"] if below else 800
        window.screenshot(
            path=sys.argv[1],
            full_page=True,
            clip={"x": 0, "y": 0, "width": 900, "height": height},
        )
        browser.close()


if __name__ == "__main__":
    main()
