"""Every control of docs/threat-model.md, and how to take it away.

An entry is a name, the one in bold on the page, and edits of the source: in this file, this text
becomes that one. `make controls` makes them in a copy, and the tests of that row have to fail
there. The text must stand exactly once in the file; a test sees to that.

To add a row: write it on the page, write a `Control` here, and run `make controls ARGS='--only NAME'`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Edit:
    """In this file, this text becomes that one."""

    file: str
    text: str
    by: str


@dataclass(frozen=True, slots=True)
class Control:
    """Something that stands between a threat and what is to be protected."""

    name: str
    edits: tuple[Edit, ...]


def _without(name: str, *edits: tuple[str, str, str]) -> Control:
    return Control(name, tuple(Edit(*edit) for edit in edits))


_CLIENT: Final = "client/ringkeeper"
_COMPACT: Final = f"{_CLIENT}/compact.py"
_DAEMON: Final = "daemon/ringkeeperd"
_ALGORITHMS: Final = f"{_CLIENT}/algorithms.py"
_FILES: Final = f"{_CLIENT}/secret_files.py"
_FOLLOWER: Final = f"{_CLIENT}/follower.py"
_REPLICA: Final = f"{_CLIENT}/replica.py"
_SEALING: Final = f"{_CLIENT}/sealing.py"
_TOKENS: Final = f"{_CLIENT}/tokens.py"
_TOKEN_CACHE: Final = f"{_CLIENT}/token_cache.py"
_TRUST: Final = f"{_CLIENT}/trust.py"
_REQUESTS: Final = f"{_DAEMON}/requests.py"
_RESEALING: Final = f"{_DAEMON}/resealing.py"
_DOCTOR: Final = f"{_DAEMON}/doctor.py"
_LOADING: Final = f"{_DAEMON}/loading.py"
_TERM: Final = f"{_DAEMON}/term.py"
_TRAIL: Final = f"{_DAEMON}/trail.py"
_LIMITS: Final = f"{_DAEMON}/limits.py"
_INTAKE: Final = f"{_DAEMON}/intake.py"
_RING_FILES: Final = f"{_DAEMON}/ring_files.py"
_FILE_SET: Final = f"{_DAEMON}/file_set.py"
_ON_CHANGE: Final = f"{_DAEMON}/on_change.py"
_PUBLISH: Final = f"{_DAEMON}/lua/publish.lua"
_TROUBLES: Final = f"{_DAEMON}/troubles.py"
_WEB: Final = f"{_DAEMON}/web.py"
_PAGE: Final = f"{_DAEMON}/page"

CONTROLS: Final = (
    # --- who reads Redis -------------------------------------------------------------------------
    _without(
        "sealing",
        (
            _SEALING,
            'header = {**_HEADER, "kid": self.kid}',
            'header = {**_HEADER, "kid": self.kid, "cty": json.dumps(private.secret_jwk())}',
        ),
        (
            _SEALING,
            'by = header.pop("kid")',
            'by = header.pop("kid")\n        header["cty"] = "jwk+json"',
        ),
    ),
    # --- who writes Redis ------------------------------------------------------------------------
    _without(
        "signature of the trust root",
        (
            _TRUST,
            "opened = jws.deserialize_compact(document, key, registry=_REGISTRY)",
            "opened = jws.extract_compact(document.encode())",
        ),
    ),
    _without("a type for each kind", (_TRUST, 'if header.get("typ") != kind.typ:', "if False:")),
    _without("the ring's own name", (_REPLICA, "if ring.name != self.name:", "if False:")),
    _without("the ring's own id", (_REPLICA, "if ring.id != held.id:", "if False:")),
    _without("order of versions", (_REPLICA, "if ring.version < held.version:", "if False:")),
    _without("one snapshot for a version", (_REPLICA, "if ring.version == held.version:", "if 0:")),
    _without("proof at a cold start", (_REPLICA, "if not held.may_sign(now):", "if False:")),
    _without(
        "max_staleness",
        (_REPLICA, "return self.staleness(now) <= self.ring.policy.max_staleness", "return True"),
    ),
    _without(
        "no proof of the future",
        (
            _REPLICA,
            "is_early = opened.at > now + self.held.ring.policy.clock_skew",
            "is_early = False",
        ),
    ),
    _without(
        "public half in the snapshot", (_SEALING, "if private.public_jwk != key.public:", "if 0:")
    ),
    _without(
        "version of a request", (_REQUESTS, "if request.version != ring.version:", "if False:")
    ),
    _without(
        "end of a request",
        (_REQUESTS, "if self._term.now() > request.until + ring.policy.clock_skew:", "if False:"),
    ),
    _without(
        "ring of a request",
        (_REQUESTS, "if (request.ring_id, request.name) != (ring.id, ring.name):", "if False:"),
    ),
    _without(
        "tombstones",
        (
            f"{_DAEMON}/merge.py",
            "is_revoked = KeyState.REVOKED in (mine.state, theirs.state)",
            "is_revoked = mine.state is KeyState.REVOKED",
        ),
    ),
    _without(
        "a backup signed as a whole",
        (
            f"{_DAEMON}/backup_file.py",
            'if told.get("digest") != _digest(members) or told.get("rings") != len(members):',
            "if False:",
        ),
    ),
    _without(
        "a backup of this very ring",
        (f"{_DAEMON}/restore.py", "if there and there.ring.id != saved.ring.id:", "if False:"),
    ),
    _without(
        "a witness of this ring alone",
        (f"{_CLIENT}/witness.py", "if theirs.id != ring.id:", "if False:"),
    ),
    _without(
        "what cannot be read is left alone",
        (
            f"{_DAEMON}/healing.py",
            'return open_testimony(replace(stored, proof=""), name, roots)',
            (
                'with suppress(DocumentError):\n        return open_testimony(replace(stored, proof=""), '
                "name, roots)\n    return None"
            ),
        ),
    ),
    _without(
        "an end of waiting for confirmations",
        (
            f"{_DAEMON}/rotation.py",
            "limit = start + policy.confirmation_timeout",
            "limit = start + 1000 * policy.cryptoperiod",
        ),
    ),
    _without(
        "publication interval",
        (
            f"{_DAEMON}/transitions.py",
            (
                "ready_at=max(now + policy.publication_interval, ring.caches_until or now),\n"
                "        token_validity"
            ),
            "ready_at=now,\n        token_validity",
        ),
    ),
    # --- two leaders -----------------------------------------------------------------------------
    _without(
        "fencing",
        (_PUBLISH, "if redis.call('GET', KEYS[3]) ~= ARGV[1] then", "if false then"),
        (_PUBLISH, "if epoch > tonumber(ARGV[2]) then", "if false then"),
    ),
    _without("compare and set", (_PUBLISH, "if not is_there(ARGV[3]) then", "if false then")),
    # --- revocation ------------------------------------------------------------------------------
    _without(
        "revocation",
        (
            f"{_CLIENT}/ring.py",
            "return self.state is not KeyState.REVOKED",
            "return True",
        ),
    ),
    _without(
        "the whole version in the message",
        (_FOLLOWER, "await self._receive(message)", "pass"),
    ),
    _without(
        "poll",
        (
            _FOLLOWER,
            'if await self.refresh():\n                self._troubles.end("hearing")',
            "if True:\n                pass",
        ),
    ),
    # --- who holds a token -----------------------------------------------------------------------
    _without(
        "the key's own algorithm", (_TOKENS, "if header.algorithm != key.algorithm:", "if 0:")
    ),
    _without(
        "signature of a token",
        (_TOKENS, "if not (header.is_sound and verifies(verifying.public, token)):", "if False:"),
    ),
    _without(
        "times of a token",
        (
            _TOKENS,
            "    if now >= expires + held.skew:\n        raise _untimely",
            "    if 0:\n        raise _untimely",
        ),
        (
            _TOKENS,
            "    if since > now + held.skew:\n        raise _untimely",
            "    if 0:\n        raise _untimely",
        ),
    ),
    _without(
        "times of a token that is known",
        (
            _TOKENS,
            "            raise _untimely(signed.expires, now,",
            "            print(now,",
        ),
    ),
    _without(
        "the key of a token that is known",
        (_TOKENS, "verifying and verifying is signed.verifying:", "verifying:"),
    ),
    _without(
        "room for tokens that are known",
        (_TOKEN_CACHE, "(is_crowded or not staying):", "not staying:"),
    ),
    _without(
        "size of a token",
        (
            _COMPACT,
            "if len(token) > MAX_TOKEN:\n        raise MalformedToken",
            "if 0:\n        raise MalformedToken",
        ),
    ),
    _without(
        "depth of claims",
        (
            _COMPACT,
            "    _check_depth(octets)\n    msgspec = codec()\n    try:",
            "    msgspec = codec()\n    try:",
        ),
    ),
    _without(
        "refusals that quote nothing",
        (
            _TOKENS,
            'f"the signature is not one of {key.kid}: the token was changed on its way',
            'f"the signature is not one of {key.kid}: {token} was changed on its way',
        ),
    ),
    _without(
        "one read for an unknown kid",
        (_FOLLOWER, "if kid in self._unknown or just_read or hangs:", "if hangs:"),
    ),
    _without(
        "few unknown kids remembered",
        (_FOLLOWER, "if is_answered and len(self._unknown) < _UNKNOWN_MOST:", "if is_answered:"),
    ),
    # --- who holds a host ------------------------------------------------------------------------
    _without(
        "no private root in an app",
        (_FILES, 'if any("d" in member', 'if False and any("d" in member'),
    ),
    _without(
        "no root where lead is false",
        (
            f"{_DAEMON}/own_secrets.py",
            "if not configuration.lead:\n        root, pinned",
            "if False:\n        root, pinned",
        ),
    ),
    _without(
        "private halves are let go",
        (
            _REPLICA,
            "{kid: signing[kid] for kid in signing if kid in signers}",
            "{kid: signing[kid] for kid in signing}",
        ),
    ),
    _without(
        "undumpable",
        (
            f"{_DAEMON}/undumpable.py",
            "ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)",
            "pass",
        ),
    ),
    _without(
        "no core dump",
        (f"{_DAEMON}/cli.py", "    leave_no_dumps()\n", "    leave_no_dumps  # noqa: B018\n"),
    ),
    _without(
        "repr that shows nothing",
        (
            _ALGORITHMS,
            'return f"<PrivateKey {self.algorithm.name}, secret>"',
            "return repr(self.secret_jwk())",
        ),
    ),
    _without(
        "neither pickled nor copied",
        (
            f"{_CLIENT}/jwk_set.py",
            "def __reduce_ex__(self, protocol: object) -> NoReturn:",
            "def __reduce_not__(self, protocol: object) -> NoReturn:",
        ),
    ),
    _without(
        "no plaintext in a traceback",
        (
            _SEALING,
            (
                "except Exception as error:  # noqa: BLE001 - whatever it is, its traceback holds the plaintext\n"
                '            return SealBroken(f"a fresh key'
            ),
            'except ZeroDivisionError as error:\n            return SealBroken(f"a fresh key',
        ),
    ),
    _without(
        "defects told by kind and place",
        (
            f"{_CLIENT}/errors.py",
            'cls(f"{type(error).__name__} at {where}',
            'cls(f"{error!r} at {where}',
        ),
    ),
    _without("mode of secret files", (_FILES, "if mode & _TOO_OPEN:", "if False:")),
    _without(
        "mode of the public root",
        (_FILES, "if not is_secret and mode & stat.S_IWOTH:", "if False:"),
    ),
    # --- clients of HTTP -------------------------------------------------------------------------
    _without(
        "time for a header",
        (
            _LIMITS,
            "for connection in [each for each in self._quiet if each.due <= now]:",
            "for connection in list[Connection]():",
        ),
    ),
    _without(
        "time for an answer",
        (
            _LIMITS,
            "async with asyncio.timeout(ANSWER_WITHIN):",
            "async with asyncio.timeout(None):",
        ),
    ),
    _without("places", (_LIMITS, "if len(self._taken) >= self._most:", "if False:")),
    _without(
        "the quietest makes room",
        (_LIMITS, "quiet = next(iter(self._quiet), None)", "quiet: Connection | None = None"),
    ),
    _without("rate", (_LIMITS, "if not self._may_ask(request):", "if False:")),
    _without(
        "health is never limited", (_LIMITS, "if request.path in _NEVER_LIMITED:", "if False:")
    ),
    _without(
        "bounded table of clients", (_LIMITS, "if len(self._left) > CLIENTS_KNOWN:", "if False:")
    ),
    _without(
        "size of a header",
        (_LIMITS, "max_line_size=MAX_LINE,", "max_line_size=10**6,"),
        (_LIMITS, "max_field_size=MAX_FIELD,", "max_field_size=10**6,"),
        (_LIMITS, "max_headers=MAX_FIELDS,", "max_headers=10**6,"),
    ),
    _without("size of a body", (_LIMITS, "client_max_size=MAX_BODY)", "client_max_size=10**9)")),
    _without("size of what is sent ahead", (_LIMITS, "if self.taken > MAX_TAKEN:", "if False:")),
    _without(
        "constant words",
        (
            _TROUBLES,
            'return classified(trouble).words if trouble else ""',
            'return str(trouble) if trouble else ""',
        ),
    ),
    _without("instances without ids", (_WEB, '{"role": i.role,', '{"id": i.id, "role": i.role,')),
    _without(
        "names for this host alone",
        (
            f"{_PAGE}/serving.py",
            "is_from_here(request) and not speaks_for_others(request)",
            "is_from_here(request)",
        ),
    ),
    _without(
        "text is no markup",
        (
            f"{_PAGE}/html.py",
            'tostring(document, encoding="unicode", method="html")',
            '__import__("html").unescape(tostring(document, "unicode", method="html"))',
        ),
    ),
    _without("a page runs what is its own", (f"{_PAGE}/serving.py", "script-src 'self'; ", "")),
    _without(
        "one page for a crowd", (f"{_PAGE}/serving.py", "_MADE_FOR: Final = 1.0", "_MADE_FOR = 0.0")
    ),
    _without(
        "one budget for all pages",
        (f"{_PAGE}/serving.py", "if not self._budget.is_left(now):", "if False:"),
    ),
    _without(
        "a failing page shows nothing",
        (
            _LIMITS,
            'refused(500, "failed", "this page failed; the log tells why")',
            'refused(500, "failed", str(error))',
        ),
    ),
    _without("security headers", (_LIMITS, "response.headers.setdefault(name, value)", "pass")),
    _without("no name of a library", (_LIMITS, 'response.headers.popall("Server", None)', "pass")),
    # --- refreshes -------------------------------------------------------------------------------
    _without(
        "refreshes from this host alone",
        (_INTAKE, "refusal = _without_token(request) if token", "refusal = None if token"),
    ),
    _without(
        "revoked tokens are genuine",
        (
            _TOKENS,
            "if is_theirs and verifies(revoked.public, token):",
            "if True:",
        ),
    ),
    _without("a token for other hosts", (_INTAKE, "Secret(given.strip()) == token", "True")),
    _without("numbers that can be", (_INTAKE, "if not 0 <= whole <= MOST_TOLD:", "if False:")),
    _without(
        "counts or nothing",
        (f"{_DAEMON}/leader_store.py", 're.fullmatch("[0-9]+", str(value), re.ASCII)', "True"),
    ),
    _without(
        "the highest number was told last",
        (
            f"{_DAEMON}/spike_events.py",
            "sorted(events, key=lambda each: each.number, reverse=True)",
            "events",
        ),
    ),
    # --- the supply chain ------------------------------------------------------------------------
    _without(
        "hashed requirements",
        (
            "Makefile",
            "--quiet --no-deps --require-hashes -r requirements/build.txt",
            "--quiet --no-deps -r requirements/build.txt",
        ),
    ),
    _without(
        "advisories asked for",
        ("requirements/audit.py", "return 1 if found else 0", "return 0"),
    ),
    _without(
        "bill of materials",
        ("requirements/sbom.py", "if name not in there and not is_conditional", "if False"),
    ),
    # --- a careless operator ---------------------------------------------------------------------
    _without(
        "no ring where one is known",
        (f"{_DAEMON}/founding.py", "if is_kept:", "if False:"),
    ),
    _without(
        "no fresh secret for a ring that exists",
        (
            f"{_DAEMON}/making.py",
            "if not is_there(path) and await any_ring(configuration):",
            "if False:",
        ),
    ),
    _without(
        "made once",
        (
            _FILES,
            "_written(path, jwk, mode, path.hardlink_to)",
            "_written(path, jwk, mode, lambda t: t.rename(path))",
        ),
    ),
    _without(
        "who cannot open does not lead",
        (_LOADING, "self._leader.kek.unseal(blobs[key.kid], key)", "pass"),
        (_LOADING, "if kek and kek not in self._leader.kek.kids:", "if False:"),
    ),
    _without(
        "a bad reload changes nothing",
        (
            f"{_DAEMON}/daemon.py",
            "load, self.configuration.path, os.environ)\n        except ConfigurationError",
            "load, self.configuration.path, os.environ)\n        except ZeroDivisionError",
        ),
    ),
    _without(
        "audit",
        (_TERM, "events=tuple(sign_event(each, root) for each in told),", "events=(),"),
    ),
    # --- secrets that are changed ----------------------------------------------------------------
    _without(
        "another KEK under way",
        (
            _RESEALING,
            "put[key.kid] = kek.seal(kek.unseal(blobs[key.kid], key))",
            "kek.unseal(blobs[key.kid], key)",
        ),
    ),
    _without(
        "another root under way",
        (
            _TERM,
            "leader, root = self.leader, by or self.root",
            "leader, root = self.leader, self.root",
        ),
    ),
    _without(
        "who could follow is asked first",
        (
            _RESEALING,
            "behind = lacking(instances, kek=kek.kid, root=root.kid)",
            "behind: dict[str, str] = {}",
        ),
    ),
    _without(
        "the ring says which KEK it is sealed by",
        (_LOADING, "if kek and kek not in self._leader.kek.kids:", "if False:"),
    ),
    _without(
        "nobody takes over from a root that is trusted",
        (
            _LOADING,
            "if behind or not instances or now - leader.rootless_since < window.total_seconds():",
            "if False:",
        ),
    ),
    _without(
        "what stands behind takes nothing over",
        (_LOADING, "if pinned.index(own) > pinned.index(signed_by):", "if False:"),
    ),
    _without(
        "who could not go on is named",
        (f"{_DAEMON}/secret_changes.py", "elif self.lacking:", "elif False:"),
    ),
    _without(
        "modes are looked at again",
        (
            f"{_CLIENT}/watched.py",
            "status.st_mtime_ns, status.st_ino, status.st_size, status.st_mode",
            "status.st_mtime_ns, status.st_ino, status.st_size",
        ),
    ),
    _without(
        "doctor looks at the password, too",
        (f"{_DAEMON}/doctor_facts.py", "if path.stat().st_mode & _OTHERS_MAY:", "if False:"),
    ),
    _without(
        "a dropped root stands in nobody's way",
        (_REPLICA, "if self.held and self.is_disowned:", "if False:"),
    ),
    _without(
        "the newest edition says which root",
        (_LOADING, "return max(signed)[1]", "return signed[0][1]"),
    ),
    _without(
        "seals of the ring's own KEK",
        (_LOADING, 'if sealed_by not in ("", kek_of(blob)):', "if False:"),
    ),
    _without(
        "messages count sealed by the ring's own KEK",
        (
            f"{_CLIENT}/private_halves.py",
            'told = {kid: blob for kid, blob in told.items() if sealed_by in ("", kek_of(blob))}',
            "told = dict(told)",
        ),
    ),
    _without(
        "only what was opened is kept",
        (
            f"{_CLIENT}/private_halves.py",
            "good |= {kid: at_hand[kid] for kid in opened}",
            "good |= {kid: told.get(kid, at_hand[kid]) for kid in opened}",
        ),
    ),
    _without(
        "what was kept gives way to nothing but a ring",
        (
            _FOLLOWER,
            (
                "self.replica.offer(stored.snapshot, stored.proof, self._clock.now())\n"
                "        except (DocumentError, InfrastructureError):"
            ),
            "pass\n        except (DocumentError, InfrastructureError):",
        ),
    ),
    _without(
        "misfits are told at once",
        (_FOLLOWER, "        if misfit:\n", "        if False:\n"),
    ),
    _without(
        "no root that is to come is dropped",
        (f"{_DAEMON}/secret_changes.py", "if pinned.kid not in root.kids:", "if False:"),
    ),
    _without(
        "a proof of just this",
        (
            f"{_DAEMON}/operator.py",
            "if (proof.ring_id, proof.name, proof.version, proof.digest) == vouched:",
            "if vouched:",
        ),
    ),
    _without(
        "a stream that went back is told",
        (f"{_DAEMON}/watch.py", "if _place(newest) >= _place(self._after):", "if True:"),
    ),
    _without("a mark in the table", (_TERM, "if not is_whole:", "if False:")),
    _without(
        "the mark is read by itself",
        (
            f"{_DAEMON}/lua/instances.lua",
            "local mark = is_short and redis.call('HGET', KEYS[1], '') or ''",
            "local mark = #live < 40000 and redis.call('HGET', KEYS[1], '') or ''",
        ),
    ),
    _without(
        "secret files are read again",
        (f"{_CLIENT}/watched.py", "if seen == self._seen:", "if True:"),
    ),
    # --- the audit -------------------------------------------------------------------------------
    _without("numbered events", (_TRAIL, "if last and event.number > last + 1:", "if False:")),
    _without("no number twice", (_TRAIL, "if last and event.number <= last:", "if False:")),
    _without(
        "events counted by each proof",
        (_TRAIL, "if proof.events <= self.last:", "if True:"),
    ),
    # --- the transport ---------------------------------------------------------------------------
    _without(
        "TLS 1.2 at least",
        (
            f"{_CLIENT}/tls.py",
            "context.minimum_version = ssl.TLSVersion.TLSv1_2",
            "context.minimum_version = ssl.TLSVersion.TLSv1",
        ),
    ),
    _without(
        "a CA of one's own",
        (
            f"{_CLIENT}/tls.py",
            'context = ssl.create_default_context(cafile=_readable(files.ca_file, "CA file"))',
            "context = ssl.create_default_context()\n        context.check_hostname = False\n        context.verify_mode = ssl.CERT_NONE",
        ),
    ),
    _without(
        "users of their own in Redis",
        (
            f"{_DAEMON}/acl.py",
            "Role.VERIFIER: (*_READING, *_CONFIRMING, *_COUNTING, *_WITNESSING),",
            "Role.VERIFIER: (*_READING_SEALED, *_CONFIRMING, *_COUNTING, *_WITNESSING),",
        ),
    ),
    _without(
        "a password that nothing prints",
        (
            f"{_CLIENT}/secret.py",
            "    def __repr__(self) -> str:\n        return _SHOWN",
            "    def __repr__(self) -> str:\n        return self.reveal()",
        ),
    ),
    _without("lengths before values", (f"{_CLIENT}/store.py", "if length > most", "if False")),
    _without(
        "sealed keys put back",
        (_LOADING, "if others and not self._opens(blob, keys[kid], sealed_by):", "if False:"),
    ),
    # --- what bites one day ----------------------------------------------------------------------
    _without(
        "doctor",
        (_DOCTOR, 'if policy == "noeviction" or limit == "0":', "if True:"),
    ),
    _without(
        "what was kept is laid beside the first message",
        (
            _FOLLOWER,
            "if self.replica.held is None:\n                await self.refresh()",
            "if False:\n                await self.refresh()",
        ),
    ),
    # --- the files that an operator asks for -----------------------------------------------------
    _without(
        "memory alone for a signing key",
        (_FILE_SET, "return kind.split()[0] in _MEMORY", "return True"),
    ),
    _without(
        "a signing key is withdrawn",
        (
            _RING_FILES,
            "return not -_SKEW <= now - dated <= self._max_staleness",
            "return False",
        ),
        (_RING_FILES, "and private and held.may_sign(now))", "and private)"),
    ),
    _without(
        "a signing key's file stays closed",
        (_FILE_SET, "mode & (0o770 if is_closed else 0o777)", "mode"),
    ),
    _without(
        "a command gets nothing of the daemon's",
        (_ON_CHANGE, "if not name.startswith(PREFIX) and name not in (*_OURS, kek)", "if name"),
    ),
    _without(
        "a URL is shown by its host",
        (_ON_CHANGE, "return next(words, type(error).__name__)", "return repr(error)"),
    ),
)
