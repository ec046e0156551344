"""A ring with its daemon, for the apps of a stack; and the way that each of them goes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import jwt

from ringkeeper import Keyring
from tests.plugins.daemons import Site, clean_environment, eventually
from tests.plugins.servers import free_port

RULES: dict[str, Any] = {
    "access_token_dynamic_signing_key_update_interval": 1,
    "access_token_validity": 600,
    "publication_interval": "1s",
    "jwks_max_age": "1s",
    "poll_interval": "500ms",
    "confirmation_timeout": "10s",
    "algorithm": "ES256",
}
"""Nobody waits: a standby may sign after a second."""


class Stage:
    """A site with one leading daemon."""

    def __init__(self, site: Site, **settings: Any) -> None:
        self.site = site
        self.folder = site.folder
        self.daemon = site.daemon(init=True, **{**RULES, **settings})
        self.jwks_url = f"http://127.0.0.1:{self.daemon.port}/.well-known/jwks.json"
        self._processes: list[subprocess.Popen[Any]] = []
        self._rings: list[Keyring] = []

    @property
    def environment(self) -> dict[str, str]:
        """What tells an app with `Keyring.from_env()` where the ring is; it signs, too."""
        return {
            **clean_environment(),
            "RINGKEEPER_REDIS__URL": self.site.redis_url,
            "RINGKEEPER_TRUST_ROOT_PUBLIC": str(self.folder / "root.pub.jwk"),
            "RINGKEEPER_KEK": str(self.folder / "kek.jwk"),
        }

    def keyring(self) -> Keyring:
        """A ring that is followed in this process, and signs."""
        ring = Keyring.connect(
            self.site.redis_url,
            trust_root=self.folder / "root.pub.jwk",
            kek=self.folder / "kek.jwk",
        )
        self._rings.append(ring)
        return ring

    def start(self, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """A process that ends with the test; what it prints is in `NAME.log` of the folder."""
        name = f"process{len(self._processes)}.log"
        with (self.folder / name).open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # its workers end with it
                **{"env": self.environment, **options},
            )
        self._processes.append(process)
        return process

    def log(self, number: int = 0) -> str:
        """What the process printed that was started as the `number`th."""
        return (self.folder / f"process{number}.log").read_text()

    @property
    def signer(self) -> str:
        return str(self.site.status()["signer"])

    def rotate(self) -> str:
        """Let the next key sign, and wait for it; its kid."""
        self.site.done("rotate", "--wait", "--reason", "a test")
        return self.signer

    def revoke(self, kid: str) -> None:
        """And wait until the daemon's JWKS is without it."""
        self.site.done("revoke", kid, "--reason", "a test")
        eventually(lambda: kid not in self.daemon.get("/.well-known/jwks.json")[2].decode())

    def change_algorithm(self, algorithm: str) -> str:
        """Set it and turn until a key of it signs; its kid."""
        self.site.done("set", "algorithm", algorithm)
        for _ in range(3):
            kid = self.rotate()
            keys = self.site.status()["keys"]
            if next(k for k in keys if k["kid"] == kid)["algorithm"] == algorithm:
                return kid
        raise AssertionError(self.site.status())

    def close(self) -> None:
        for ring in self._rings:
            ring.close()
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def kid_in(token: str) -> str:
    """Which key signed it."""
    return str(jwt.get_unverified_header(token)["kid"])


def go_through(
    stage: Stage,
    issue: Callable[[], str],
    accepts: Callable[[str], bool],
    *,
    algorithms: tuple[str, ...] = ("RS256",),
    within: float = 15.0,
) -> None:
    """Issue and verify tokens across a rotation, changes of algorithm, and a revocation.

    `issue` makes a token, `accepts` presents one. A good token is never refused on the way. A
    revoked one is refused `within` so many seconds: at once, or when a cache of HTTP runs out.
    """
    good = [issue()]
    assert accepts(good[0])

    def signs_by(kid: str) -> bool:
        return kid_in(issue()) == kid

    def takes_all() -> None:
        for token in good:
            assert accepts(token), (kid_in(token), [kid_in(each) for each in good])

    turns: list[Callable[[], str]] = [stage.rotate]
    turns += [partial(stage.change_algorithm, each) for each in algorithms]
    for turn in turns:
        signer = turn()
        eventually(partial(signs_by, signer), within)
        good.append(issue())
        takes_all()
    revoked = good[1]
    stage.revoke(kid_in(revoked))
    # More than once: each worker of a server knows it by itself.
    eventually(lambda: not any(accepts(revoked) for _ in range(12)), within)
    good[:] = [token for token in good if kid_in(token) != kid_in(revoked)]
    assert len(good) > 1
    takes_all()


__all__ = ["RULES", "Stage", "eventually", "free_port", "go_through", "kid_in"]
