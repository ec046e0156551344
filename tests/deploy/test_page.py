"""The status page in a real browser: make deploy-test PART=page.

With RINGKEEPER_SCREENSHOTS=FOLDER it leaves there how it looks.
"""

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ringkeeper import Keyring
from ringkeeper.clock import SystemClock
from ringkeeper.errors import RevokedKid
from ringkeeper.layout import Layout
from ringkeeperd.spike_events import bucket_at
from tests.plugins.daemons import Daemon, Site, eventually
from tests.plugins.servers import VALKEY, Server

pytestmark = pytest.mark.deploy

CHROMIUM = "/usr/bin/chromium"
QUIET = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
FAST_TURNS: dict[str, Any] = {"publication_interval": "2s", "access_token_validity": 3600}
"""So that a key turns within seconds; and tokens that are still good when it is revoked."""
SCHEMES, WIDTHS = ("light", "dark"), (360, 768, 1280)
HOSTILE = (
    "<script>document.title='taken'</script>",
    "'\"><img src=x onerror=\"document.title='taken'\">",
    "\N{RIGHT-TO-LEFT OVERRIDE}\N{HEBREW LETTER ALEF}\x1b[2J",
    "z" * 10_000,
)
CROWD = 400


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not shutil.which(CHROMIUM):
        pytest.skip("chromium is not installed: run tests/provision deploy")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


class Look:
    """One window, and whatever it had to complain of."""

    def __init__(self, browser: Any, daemon: Daemon, width: int = 1280, **settings: Any) -> None:
        viewport = {"width": width, "height": 800}
        self.context = browser.new_context(viewport=viewport, **settings)
        self.origin = f"http://127.0.0.1:{daemon.port}"
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path: str = "/") -> Any:
        self.page.goto(f"{self.origin}{path}")
        return self.page

    def assert_in_order(self) -> None:
        """No error, nothing that the policy forbade, nothing asked of anybody else."""
        assert self.complaints == []
        assert [url for url in self.asked if not url.startswith((f"{self.origin}/", "data:"))] == []
        width, room = self.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert width <= room, "it has to be scrolled sideways"


@pytest.fixture
def look(chromium: Any) -> Iterator[Callable[..., Look]]:
    """Opens windows."""
    made: list[Look] = []

    def make(daemon: Daemon, width: int = 1280, **settings: Any) -> Look:
        made.append(Look(chromium, daemon, width, **settings))
        return made[-1]

    yield make
    for each in made:
        each.context.close()


@pytest.fixture(scope="module")
def stage() -> Iterator[Daemon]:
    """A daemon with a past: a usual hour, a rotation, a revocation, and the crowd that followed."""
    server = Server(VALKEY)
    site = Site(server.url)
    try:
        now, layout = bucket_at(SystemClock().now()), Layout("access-token")
        with server.client() as client, client.pipeline() as adding:
            for ago in range(1, 355):
                adding.hincrby(
                    layout.refreshes(now - ago), f"{now - ago}:expired", 20 + ago * 7 % 9
                )
            adding.execute()
        daemon = site.daemon(init=True, **FAST_TURNS)
        with Keyring.connect(
            site.redis_url, trust_root=site.folder / "root.pub.jwk", kek=site.folder / "kek.jwk"
        ) as ring:
            lead_through(site, daemon, ring)
            yield daemon
    finally:
        site.close()
        server.stop()


def lead_through(site: Site, daemon: Daemon, ring: Keyring) -> None:
    eventually(lambda: daemon.metric("session_refresh_baseline"), within=30)
    first = ring.snapshot.signer
    assert first
    site.done("rotate", "--now", "--reason", "for the picture")
    eventually(lambda: ring.snapshot.signer not in (None, first), within=20)
    second = ring.snapshot.signer
    assert second
    tokens = [ring.sign({"sub": f"u{n}"}, lifetime=timedelta(minutes=50)) for n in range(CROWD)]
    site.done("revoke", second.kid, "--reason", "leaked by mallory")
    for token in tokens:
        with pytest.raises(RevokedKid):
            ring.verify(token)
        ring.record_refresh("revoked_kid")
    eventually(lambda: daemon.events("refresh spike began"), within=60)


def kept(page: Any, name: str) -> None:
    """Leave a picture, if that was asked for."""
    if folder := os.environ.get("RINGKEEPER_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_fits_and_asks_nothing_of_anybody_else_and_keeps_nobody_out(
    look: Callable[..., Look], stage: Daemon, scheme: str, width: int
) -> None:
    """On a phone and on a desk, by day and by night; axe finds nothing."""
    from axe_playwright_python.sync_playwright import Axe

    window = look(stage, width, color_scheme=scheme)
    page = window.open()
    assert page.locator("h2", has_text="access-token").is_visible()
    kept(page, f"status-{scheme}-{width}")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    window.assert_in_order()


def test_it_shows_what_happened(look: Callable[..., Look], stage: Daemon) -> None:
    page = look(stage).open()
    text = page.inner_text("main")
    for words in (
        "next change in ",
        "this daemon",
        "2 live instances, none behind",
        "cause: revocation",
        "key revoked",
        "refresh spike began",
        "rotation manual",
        "leaked by mallory",
        socket.gethostname(),
        "too many sessions are refreshed",
    ):
        assert words in text, text
    assert page.locator("rect.active").count() >= 3
    assert page.locator("rect.planned").count() >= 2
    assert page.locator(".axis .cross").count() == 1
    assert page.locator("rect.spike").count() == 1
    marks = " ".join(page.locator(".marks li").all_inner_texts())
    assert "rotation" in marks
    assert "revocation" in marks


def test_strangers_are_shown_no_host(look: Callable[..., Look], stage: Daemon) -> None:
    page = look(stage, extra_http_headers={"X-Forwarded-For": "192.0.2.1"}).open()
    text = page.content()
    assert "2 live instances, none behind" in page.inner_text("main")
    # Not the bare name of the host: a short one may stand in a kid by chance.
    for secret in (
        f"{socket.gethostname()}-",
        f">{socket.gethostname()}",
        "mallory",
        "for the picture",
        str(stage.site.folder),
    ):
        assert secret not in text


def test_without_a_script_it_shows_the_same_and_loads_itself_again(
    look: Callable[..., Look], stage: Daemon
) -> None:
    with_script = look(stage).open().locator("main h2, main h3, main th, main dt").all_inner_texts()
    window = look(stage, java_script_enabled=False)
    page = window.open()
    assert page.locator("main h2, main h3, main th, main dt").all_inner_texts() == with_script
    assert "cause: revocation" in page.inner_text("main")
    assert page.locator("noscript meta").get_attribute("content") == "30"
    assert window.complaints == []


# --- as time goes by -----------------------------------------------------------------------------


def test_a_rotation_appears_by_itself_and_what_one_was_doing_stays(
    look: Callable[..., Look], site: Site
) -> None:
    daemon = site.daemon(
        init=True, **FAST_TURNS, keyrings={"refresh-token": {}, "another": {}, "last": {}}
    )
    assert daemon is site.leader()
    window = look(daemon, 360)
    page = window.open()
    page.evaluate("window.stays = true")
    before = page.locator("#ring-access-token-details dd .code").first.inner_text()
    page.locator("#ring-refresh-token-summary").click()
    page.locator("#ring-last-summary").click()
    page.locator("#ring-another-summary").focus()
    page.evaluate("window.scrollTo(0, 240)")
    site.done("rotate", "--now", "--reason", "seen in a browser")
    signs = page.locator("#ring-access-token-details dd .code").first
    eventually(lambda: signs.inner_text() != before, within=30)
    assert page.evaluate("window.stays"), "it was loaded anew"
    assert page.evaluate("document.activeElement.id") == "ring-another-summary"
    assert page.evaluate("window.scrollY") == 240
    is_open = page.locator("details").evaluate_all("all => all.map(each => each.open)")
    assert is_open == [True, False, True, True]
    kept(page, "rings-light-360")
    window.assert_in_order()


def test_it_says_when_the_daemon_does_not_answer_and_when_it_does_again(
    look: Callable[..., Look], site: Site
) -> None:
    daemon = site.daemon(init=True)
    page = look(daemon).open()
    said = page.locator("#connection")
    assert said.inner_text() == ""
    daemon.signal(signal.SIGSTOP)
    eventually(lambda: "; the daemon does not answer." in said.inner_text(), within=20)
    assert said.inner_text().startswith("As of ")
    assert not page.locator(".verdict").is_visible(), "nobody knows whether all is well"
    kept(page, "cut-off-light-1280")
    daemon.signal(signal.SIGCONT)
    eventually(lambda: said.inner_text() == "", within=20)


def test_nobody_is_asked_while_nobody_looks(look: Callable[..., Look], site: Site) -> None:
    daemon = site.daemon(init=True)
    window = look(daemon)
    window.page.clock.install()
    page = window.open()
    hidden = "Object.defineProperty(document, 'hidden', {get: () => %s, configurable: true});"
    turned = "document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(hidden % "true" + turned)
    before = len(window.asked)
    page.clock.run_for(60_000)
    assert len(window.asked) == before
    page.evaluate(hidden % "false" + turned)
    eventually(lambda: page.evaluate("1") and len(window.asked) > before)


def test_names_that_somebody_wrote_to_redis_are_harmless(
    look: Callable[..., Look], site: Site, valkey: Server
) -> None:
    daemon = site.daemon(init=True, **FAST_TURNS)
    layout = Layout("access-token")
    with valkey.client() as client:
        (now, _) = client.time()
        for name in HOSTILE:
            client.hset(layout.instances, name, '{"role": "<b>x", "epoch": 1, "version": 1}')
            client.zadd(layout.seen, {name: now * 1000 + 600_000})
    site.done("rotate", "--now", "--reason", "<i>to have them looked at</i>")
    for scheme, width in (("light", 360), ("dark", 1280)):
        window = look(daemon, width, color_scheme=scheme)
        page = window.open()
        eventually(lambda page=page: "5 live instances" in page.reload().text(), within=20)  # type: ignore[misc]
        text = page.inner_text("main")
        assert HOSTILE[0] in text
        assert HOSTILE[1] in text
        assert "<b>x" in text
        assert "z" * 80 in text
        assert "z" * 120 not in text
        assert "\x1b" not in page.content()
        assert page.title().startswith("ringkeeper")
        assert page.locator("main script, main img, main i, main b").count() == 0
        kept(page, f"hostile-{scheme}-{width}")
        window.assert_in_order()
