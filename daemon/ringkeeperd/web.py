"""HTTP: the JWKS for every verifier, health for orchestrators, metrics for Prometheus.

Who may read them is not known here. So they name no host, no file and no library, and quote no
error: `ringkeeper check`, `ringkeeper status` and the log do that.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from ringkeeper.clock import ZERO
from ringkeeper.layout import BUCKET
from ringkeeper.wire import SNAPSHOT
from ringkeeperd.exposition import CONTENT_TYPE, Exposition
from ringkeeperd.intake import Intake, TokenMissing
from ringkeeperd.lean import web
from ringkeeperd.limits import refused
from ringkeeperd.page.serving import StatusPage
from ringkeeperd.spike_events import begin_of, shown_spike
from ringkeeperd.troubles import (
    NOT_LOADED,
    SEE,
    not_fresh,
    not_handed_on,
    not_loaded,
    not_usable,
    reservation,
    trouble_of,
    unheard,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ringkeeper.replica import Held
    from ringkeeper.ring import Key
    from ringkeeper.secret import Secret
    from ringkeeperd.metrics import Metrics
    from ringkeeperd.service import RingService

_COUNT: Final = "/v1/refreshes"
_FEW: Final = 50
"""Rings whose metrics are written in no time."""
_ASIDE: Final = ThreadPoolExecutor(1, thread_name_prefix="metrics")


class Pages:
    """What one daemon serves."""

    def __init__(
        self,
        services: Mapping[str, RingService],
        metrics: Metrics,
        issuer: str,
        rejected: Callable[[], str],
        warnings: Callable[[], Sequence[str]] = tuple,
        token: Callable[[], Secret | TokenMissing | None] = lambda: None,
    ) -> None:
        """Serve these rings; the first one at the well-known places.

        `rejected` says why an edited configuration is not in force; nothing if all is well.
        `token` gives the bearer token with which refreshes may be counted.
        """
        self._services = services
        self._issuer = issuer
        self._rejected = rejected
        self._warnings = warnings
        self._exposition = Exposition(metrics.registry)
        self._jwks: dict[str, tuple[str, bytes, str]] = {}
        self._places = {
            "/": self.index,
            "/.well-known/jwks.json": self.jwks,
            "/rings/{ring}/.well-known/jwks.json": self.jwks,
            "/.well-known/openid-configuration": self.discovery,
            "/metrics": self.metrics,
            "/healthz": self.healthz,
            "/readyz": self.readyz,
            "/v1/keyring": self.keyring,
            "/v1/refreshes/series": self.series,
        }
        self._told = {
            path: (page.__doc__ or "").split("\n")[0]
            for path, page in self._places.items()
            if issuer or page != self.discovery  # without one there is nothing at its place
        }
        self._page = StatusPage(
            services,
            self._concerns,
            {path: told for path, told in self._told.items() if path != "/"},
        )
        self._intake = Intake(lambda: {name: each.counts for name, each in services.items()}, token)

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application()
        application.add_routes([web.get(path, page) for path, page in self._places.items()])
        application.add_routes([web.post(_COUNT, self._intake.post), *self._page.routes()])
        return application

    async def index(self, request: web.Request) -> web.Response:
        """The rings at a glance, for a browser; as JSON, what there is to be read here."""
        asked = request.headers.get("Accept", "")
        if "application/json" not in asked or "text/html" in asked:
            return await self._page.page(request)
        places = {"places": self._told, "POST": {_COUNT: self._intake.post.__doc__}}
        return web.json_response(places, headers={"Vary": "Accept"})

    async def jwks(self, request: web.Request) -> web.Response:
        """The JWK Set; never an empty one."""
        service = self._service(request)
        held = service.follower.replica.held if service else None
        if service is None:
            raise web.HTTPNotFound(text="there is no such ring here")
        body, tag = self._jwks_of(service.name, held) if held else (b"", "")
        if held is None or not body:
            return _unavailable(NOT_LOADED)
        if not held.may_verify(service.clock.now()):
            return _unavailable("the ring is too old to verify by")
        headers = {**_cacheable(service, held), "ETag": f'"{tag}"'}
        if any(known.value in (tag, "*") for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def discovery(self, _: web.Request) -> web.Response:
        """OpenID discovery, as far as it concerns keys."""
        service = self._first()
        held = service.follower.replica.held
        if not self._issuer:
            raise web.HTTPNotFound(text="no issuer is configured")
        if held is None:
            return _unavailable(NOT_LOADED)
        algorithms = sorted({key.algorithm for key in held.ring.keys if key.may_verify})
        return web.json_response(
            {
                "issuer": self._issuer,
                "jwks_uri": f"{self._issuer.rstrip('/')}/.well-known/jwks.json",
                "id_token_signing_alg_values_supported": algorithms,
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
            },
            headers=_cacheable(service, held),
        )

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus' text format."""
        if len(self._services) <= _FEW:
            body = self._exposition.text()
        else:  # a second of work, in which leases are renewed
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(_ASIDE, self._exposition.text)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def healthz(self, _: web.Request) -> web.Response:
        """Whether this process lives. Redis being down is told, and is no reason to kill us."""
        rings = {
            name: {
                "leading": service.state.is_leading,
                "trouble": trouble_of(service),
                "on_change": not_handed_on(service),
            }
            for name, service in self._services.items()
        }
        return web.json_response(
            {"status": "alive", "configuration": self._rejected(), "rings": rings}
        )

    async def readyz(self, _: web.Request) -> web.Response:
        """Whether to send requests here: 503 only where there is no JWKS to serve, either."""
        services = list(self._services.values())
        unloaded, unusable = map(not_loaded, services), list(map(not_usable, services))
        # A ring that grew old is no reason to take the others' verifiers away.
        problems = [*filter(None, unloaded), *(unusable if all(unusable) else ())]
        if problems:
            return _unavailable("; ".join([*problems, SEE]))
        # Ready, and yet: who looks here sees what would bite one day (ringkeeper doctor).
        asked = (not_fresh, reservation, unheard)
        told = [*unusable, *(ask(each) for ask in asked for each in services)]
        warnings = [*self._warnings(), *filter(None, told)]
        return web.json_response({"status": "ready", "warnings": warnings})

    async def keyring(self, _: web.Request) -> web.Response:
        """The rings' public state."""
        return web.json_response({name: described(s) for name, s in self._services.items()})

    async def series(self, _: web.Request) -> web.Response:
        """Session refreshes of the last hour, from whoever leads."""
        return web.json_response({name: refreshes_of(s) for name, s in self._services.items()})

    def _concerns(self) -> list[str]:
        """What is not as it should be with this daemon, whatever the ring."""
        rejected = self._rejected()
        return [*([f"configuration: {rejected}"] if rejected else []), *self._warnings()]

    def _service(self, request: web.Request) -> RingService | None:
        name = request.match_info.get("ring")
        return self._services.get(name) if name else self._first()

    def _first(self) -> RingService:
        return next(iter(self._services.values()))

    def _jwks_of(self, name: str, held: Held) -> tuple[bytes, str]:
        """The body and its ETag, made once for each version; no body where no key verifies."""
        digest, body, tag = self._jwks.get(name, ("", b"", ""))
        if digest != held.digest:
            jwks = held.ring.jwks()
            body = json.dumps(jwks, separators=(",", ":")).encode() if jwks["keys"] else b""
            tag = hashlib.sha256(body).hexdigest()[:32]
            self._jwks[name] = (held.digest, body, tag)
        return body, tag


def described(service: RingService) -> dict[str, Any]:
    """One ring's public state: what `status` draws."""
    held = service.follower.replica.held
    state = service.state
    answer: dict[str, Any] = {"leading": state.is_leading, "trouble": trouble_of(service)}
    if held is None:
        return answer
    ring = held.ring
    answer |= {
        "schema": SNAPSHOT.typ,
        "id": ring.id,
        "version": ring.version,
        "epoch": ring.epoch,
        "proof_age_seconds": held.staleness(service.clock.now()).total_seconds(),
        "signer": ring.signer.kid if ring.signer else None,
        "keys": [_key(key) for key in ring.keys],
    }
    if state.is_leading:
        # Without their ids, which name hosts: ringkeeper status shows those to who may read Redis.
        answer["instances"] = [
            {"role": i.role, "version": i.version, "epoch": i.epoch} for i in state.instances
        ]
        at = state.wait.activation_at if state.wait else None
        answer["next_activation_at"] = at.isoformat() if at else None
    return answer


def refreshes_of(service: RingService) -> dict[str, Any]:
    """The refreshes of one ring, bucket by bucket, and what is said of them."""
    view = service.state.refreshes
    if not service.state.is_leading:
        return {"leading": False, "why": "whoever leads shows them; ringkeeper status says who"}
    first = view.buckets[0].number if view.buckets else None
    reasons = dict.fromkeys(reason for bucket in view.buckets for reason in bucket.counts)
    return {
        "leading": True,
        "bucket_seconds": BUCKET,
        "first": begin_of(first).isoformat() if first is not None else None,
        "refreshes": {
            reason: [bucket.counts.get(reason, 0) for bucket in view.buckets]
            for reason in sorted(reasons)
        },
        "rate": round(view.rate, 3),
        "baseline_rate": None if view.baseline is None else round(view.baseline, 3),
        "spike": shown_spike(view.spike) if view.spike else None,
        "changes": [
            {"at": begin_of(change.bucket).isoformat(), "cause": change.cause.value}
            for change in sorted(view.changes)
        ],
    }


def _key(key: Key) -> dict[str, Any]:
    times = {
        name: getattr(key, name)
        for name in ("published_at", "ready_at", "activated_at", "due_at", "retired_at")
    } | {"revoked_at": key.revoked_at, "remove_at": key.remove_at}
    return {
        "kid": key.kid,
        "kind": key.kind.value,
        "algorithm": key.algorithm,
        "state": key.state.value,
        **{name: time.isoformat() if time else None for name, time in times.items()},
    }


def _unavailable(why: str) -> web.Response:
    return refused(503, "unavailable", why)


def _cacheable(service: RingService, held: Held) -> dict[str, str]:
    """For as long as `jwks_max_age` says, less what the proof is old."""
    left = held.ring.policy.jwks_max_age - held.staleness(service.clock.now())
    return {"Cache-Control": f"public, max-age={int(max(ZERO, left).total_seconds())}"}
