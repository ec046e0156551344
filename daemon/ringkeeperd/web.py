"""HTTP: the JWKS for every verifier, health for orchestrators, metrics for Prometheus."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from ringkeeper.clock import ZERO
from ringkeeper.wire import SNAPSHOT
from ringkeeperd.lean import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ringkeeper.replica import Held
    from ringkeeper.ring import Key
    from ringkeeperd.metrics import Metrics
    from ringkeeperd.service import RingService

_SECURITY: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class Pages:
    """What one daemon serves."""

    def __init__(self, services: Mapping[str, RingService], metrics: Metrics, issuer: str) -> None:
        """Serve these rings; the first one at the well-known places."""
        self._services = services
        self._metrics = metrics
        self._issuer = issuer
        self._jwks: dict[str, tuple[str, bytes, str]] = {}

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(middlewares=[_secured], client_max_size=64 * 1024)
        application.add_routes(
            [
                web.get("/.well-known/jwks.json", self.jwks),
                web.get("/rings/{ring}/.well-known/jwks.json", self.jwks),
                web.get("/.well-known/openid-configuration", self.discovery),
                web.get("/metrics", self.metrics),
                web.get("/healthz", self.healthz),
                web.get("/readyz", self.readyz),
                web.get("/v1/keyring", self.keyring),
            ]
        )
        return application

    async def jwks(self, request: web.Request) -> web.Response:
        """The JWK Set; never an empty one."""
        service = self._service(request)
        held = service.follower.replica.held if service else None
        if service is None:
            raise web.HTTPNotFound(text="there is no such ring here\n")
        if held is None or not held.ring.jwks()["keys"]:
            return _unavailable("the ring is not loaded yet")
        body, tag = self._jwks_of(service.name, held)
        left = held.ring.policy.jwks_max_age - held.staleness(service.clock.now())
        headers = {
            "Cache-Control": f"public, max-age={int(max(ZERO, left).total_seconds())}",
            "ETag": tag,
        }
        if request.headers.get("If-None-Match", "") in (tag, f"W/{tag}", "*"):
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def discovery(self, _: web.Request) -> web.Response:
        """OpenID discovery, as far as it concerns keys."""
        held = self._first().follower.replica.held
        if not self._issuer:
            raise web.HTTPNotFound(text="no issuer is configured\n")
        if held is None:
            return _unavailable("the ring is not loaded yet")
        algorithms = sorted({key.algorithm for key in held.ring.keys if key.may_verify})
        return web.json_response(
            {
                "issuer": self._issuer,
                "jwks_uri": f"{self._issuer.rstrip('/')}/.well-known/jwks.json",
                "id_token_signing_alg_values_supported": algorithms,
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
            }
        )

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus' text format."""
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def healthz(self, _: web.Request) -> web.Response:
        """Whether this process lives. Redis being down is told, and is no reason to kill us."""
        rings = {
            name: {
                "leading": service.state.is_leading,
                "trouble": service.state.trouble or str(service.follower.trouble or ""),
            }
            for name, service in self._services.items()
        }
        return web.json_response({"status": "alive", "rings": rings})

    async def readyz(self, _: web.Request) -> web.Response:
        """Whether every ring here is loaded and fresh enough to rely on."""
        problems = [problem for s in self._services.values() for problem in _not_ready(s)]
        if problems:
            return _unavailable("; ".join(problems))
        return web.json_response({"status": "ready"})

    async def keyring(self, _: web.Request) -> web.Response:
        """The rings' public state."""
        return web.json_response({name: described(s) for name, s in self._services.items()})

    def _service(self, request: web.Request) -> RingService | None:
        name = request.match_info.get("ring")
        return self._services.get(name) if name else self._first()

    def _first(self) -> RingService:
        return next(iter(self._services.values()))

    def _jwks_of(self, name: str, held: Held) -> tuple[bytes, str]:
        """The body and its ETag, made once for each version."""
        digest, body, tag = self._jwks.get(name, ("", b"", ""))
        if digest != held.digest:
            body = json.dumps(held.ring.jwks(), separators=(",", ":")).encode()
            tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            self._jwks[name] = (held.digest, body, tag)
        return body, tag


def described(service: RingService) -> dict[str, Any]:
    """One ring's public state: what `status` draws."""
    held = service.follower.replica.held
    state = service.state
    answer: dict[str, Any] = {
        "leading": state.is_leading,
        "trouble": state.trouble or str(service.follower.trouble or ""),
    }
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
        answer["instances"] = [
            {"id": i.id, "role": i.role, "version": i.version, "epoch": i.epoch}
            for i in state.instances
        ]
        at = state.wait.activation_at if state.wait else None
        answer["next_activation_at"] = at.isoformat() if at else None
    return answer


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


def _not_ready(service: RingService) -> list[str]:
    held = service.follower.replica.held
    if held is None:
        return [f"ring {service.name}: {service.follower.trouble or 'not loaded yet'}"]
    if not held.may_sign(service.clock.now()):
        return [f"ring {service.name}: its newest proof of freshness is too old"]
    return []


def _unavailable(why: str) -> web.Response:
    return web.json_response(
        {"status": "unavailable", "why": why}, status=503, headers={"Cache-Control": "no-store"}
    )


@web.middleware
async def _secured(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    response = await handler(request)
    response.headers.update(_SECURITY)
    return response
