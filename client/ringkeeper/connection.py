"""What a live keyring needs to know to connect, wherever it was told."""

from __future__ import annotations

import os
import random
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ringkeeper import notices
from ringkeeper.algorithms import PublicKey
from ringkeeper.clock import SystemClock
from ringkeeper.compact import codec
from ringkeeper.errors import ConfigurationError
from ringkeeper.follower import Follower
from ringkeeper.kek_variable import WHY_NOT, KekVariable, kek_from, kek_source
from ringkeeper.layout import DEFAULT_NAME, Layout, is_ring_name
from ringkeeper.presence import Presence
from ringkeeper.refreshes import RefreshTeller
from ringkeeper.sealing import Kek
from ringkeeper.secret import Secret
from ringkeeper.secret_files import Holdings, read_pinned_roots
from ringkeeper.state_file import StateFile
from ringkeeper.store import RedisStore
from ringkeeper.token_cache import DEFAULT_ENTRIES, checked_size
from ringkeeper.topology import connection_for
from ringkeeper.trust import PinnedRoots
from ringkeeper.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ringkeeper.clock import Clock
    from ringkeeper.meter import Meter
    from ringkeeper.refreshes import RefreshCounts, RefreshStore
    from ringkeeper.replica import Replica
    from ringkeeper.signed import SignedCounts
    from ringkeeper.tls import Tls


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a ring is, whom to trust, and (to sign) what opens its private halves."""

    url: Secret
    name: str
    secrets: Watched[Holdings]
    """Whom to trust, and what opens private halves; read again when their files change."""
    password: Secret | None = None
    tls: Tls | None = None
    cache_dir: Path | None = None
    strict_key_kind: bool = False
    use_dynamic: bool | None = None
    """What this app signs with; None leaves it to the ring's policy."""
    verifies: Callable[[PublicKey, str], bool] = PublicKey.verifies
    """Who checks a token's signature."""
    token_cache: int = DEFAULT_ENTRIES
    """How many verified tokens this app remembers."""
    clock: Clock = field(default_factory=SystemClock)

    @classmethod
    def of(  # noqa: PLR0913 - all but one by name
        cls,
        url: str | Secret,
        *,
        name: str = DEFAULT_NAME,
        trust_root: str | Path | PinnedRoots,
        kek: str | Path | KekVariable | Kek | None = None,
        password: str | Secret | None = None,
        tls: Tls | None = None,
        cache_dir: str | Path | None = None,
        strict_key_kind: bool = False,
        use_dynamic_access_token_signing_key: bool | None = None,
        verify: str = "own",
        token_cache: int = DEFAULT_ENTRIES,
    ) -> Connection:
        """From what a program was written with: paths are read, at once.

        Raises:
            ConfigurationError: no ring can have that name.
            SecretError: a file that is missing, unreadable, open to others or malformed.
        """
        # Hidden at once: error reporters ship the locals of all frames.
        url = Secret.of(url)
        password = None if password is None else Secret.of(password)
        if not is_ring_name(str(name)):
            why = "use up to 64 of a-z, 0-9, dot, dash and underscore, no mark at either end"
            raise ConfigurationError([f"name: {str(name)[:60]!r} is not a ring's name; {why}"])
        try:
            checked_size(token_cache)
        except ValueError as error:
            raise ConfigurationError([f"token_cache: {token_cache!r:.60} {error}"]) from None
        if use_dynamic_access_token_signing_key not in (True, False, None):
            why = "is True, False, or None for what the ring's policy says"
            raise ConfigurationError([f"use_dynamic_access_token_signing_key: {why}"])
        kek = kek_source(kek, os.environ) if isinstance(kek, str) else kek
        if isinstance(kek, KekVariable):
            notices.warn("kek in the environment", variable=kek.name, why=WHY_NOT)
        return cls(
            url=url,
            name=name,
            secrets=holdings_of(trust_root, kek),
            password=password,
            tls=tls,
            cache_dir=Path(cache_dir) if cache_dir else None,
            strict_key_kind=strict_key_kind,
            use_dynamic=use_dynamic_access_token_signing_key,
            verifies=_verifier(verify),
            token_cache=token_cache,
        )

    @classmethod
    def from_config(
        cls,
        path: str | Path | None,
        environ: Mapping[str, str] | None = None,
        *,
        name: str = "",
        strict_key_kind: bool = False,
        use_dynamic_access_token_signing_key: bool | None = None,
        verify: str = "own",
    ) -> Connection:
        """From a `config.yaml`, the same that the daemon reads, and the environment.

        The KEK is taken along if its file is there: an app that only verifies has none. Where the
        configuration says where it is, it must be there.

        Raises:
            ConfigurationError: every problem found, at once.
            SecretError: as `of`.
        """
        from ringkeeper.configuration import load  # noqa: PLC0415 - apps that do not use it do
        # not pay for it

        configuration = load(
            Path(path) if path else None, os.environ if environ is None else environ
        )
        kek, is_there = configuration.kek, False
        with suppress(PermissionError):  # where it lies nobody but the daemon may look
            is_there = kek.exists()
        return cls.of(
            configuration.redis_url,
            name=name or configuration.rings[0].name,
            trust_root=configuration.trust_root_public,
            kek=kek if configuration.is_kek_named or is_there else None,
            password=configuration.redis_password,
            tls=configuration.redis_tls,
            cache_dir=configuration.cache_dir,
            strict_key_kind=strict_key_kind,
            use_dynamic_access_token_signing_key=use_dynamic_access_token_signing_key,
            verify=verify,
            token_cache=configuration.token_cache,
        )

    def follower(
        self,
        replica: Replica | None = None,
        *,
        verified: Meter,
        known: Meter,
    ) -> tuple[Follower, RedisStore]:
        """A follower of the ring over a fresh connection; whoever runs it closes the store.

        `verified`: counts the tokens that are verified. `known`: those of them that were known.
        """
        codec()  # loaded now, and not while a request waits
        client = connection_for(
            self.url,
            key=Layout(self.name).keyring,
            password=self.password,
            name=f"ringkeeper:{self.name}",
            tls=self.tls,
        )
        own = self.secrets.value  # of now: after a fork they may be others than at the start
        hears_sealed = own.kek is not None
        store = RedisStore(client, self.name, clock=self.clock, hears_sealed=hears_sealed)
        follower = Follower(
            name=self.name,
            roots=own.roots,
            store=store,
            clock=self.clock,
            random=random.Random(),  # noqa: S311 - for jitter alone
            presence=Presence(
                id=instance_id(),
                role="sign" if own.kek else "verify",
                verified=verified,
                known=known,
            ),
            kek=own.kek,
            notice=notices.log,
            replica=replica,
            keeper=StateFile(self.cache_dir, self.name, "cache_dir") if self.cache_dir else None,
            source=self.secrets,
            use_dynamic=self.use_dynamic,
        )
        return follower, store

    def teller(
        self, counts: RefreshCounts, signed: SignedCounts, store: RefreshStore
    ) -> RefreshTeller:
        """What tells Redis of the refreshes and of the tokens that are counted there."""
        jitter = random.Random()  # noqa: S311
        return RefreshTeller(counts, store, self.clock, jitter, notices.log, signed)


def _verifier(name: str) -> Callable[[PublicKey, str], bool]:
    match name:
        case "own":
            return PublicKey.verifies
        case "joserfc":
            from ringkeeper import by_joserfc  # noqa: PLC0415 - few apps use it

            return by_joserfc.verifies
        case _:
            raise ConfigurationError([f'verify: {name!r:.60} is not offered; "own" or "joserfc"'])


def holdings_of(
    trust_root: str | Path | PinnedRoots, kek: Path | KekVariable | Kek | None
) -> Watched[Holdings]:
    """What an app holds: what is given as a value never changes, what is in a file may.

    Raises:
        SecretError: naming what cannot be used.
    """

    def read() -> Holdings:
        return Holdings(
            trust_root
            if isinstance(trust_root, PinnedRoots)
            else read_pinned_roots(Path(trust_root)),
            kek if isinstance(kek, Kek) or kek is None else kek_from(kek),
        )

    return Watched([path for path in (trust_root, kek) if isinstance(path, str | Path)], read)


def instance_id() -> str:
    """A name for this process that an operator recognises, and that no other process has."""
    return f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}"
