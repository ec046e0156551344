"""The `ringkeeper` command: exit 0 done, 1 refused or failed, 2 wrong usage.

`run` also exits 2 where its configuration cannot work, so that whoever supervises it need not try
again. Whatever fails says so in one line on standard error: what, why,
what to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ringkeeper
from ringkeeper.errors import ConfigurationError, RequestRefused, RingkeeperError
from ringkeeperd.undumpable import leave_no_dumps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime

    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeperd.operator import Operator

_DEFAULT_CONFIGS = (Path("config.yaml"), Path("/etc/ringkeeper/config.yaml"))
_LOAD_WITHIN = 3.0
_LONGEST_KID = 64
_MOST_EVENTS = 20_000
_BAD_CONFIGURATION = 2
_WORTH_WAITING = timedelta(minutes=2)
_SOON = timedelta(seconds=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    leave_no_dumps()
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_run(given))


def _run(arguments: Sequence[str]) -> int:
    try:
        parsed = _parser(is_demo=arguments[:1] == ["demo"]).parse_args(arguments)
        code: int = parsed.run(parsed)
    except ConfigurationError as error:
        for problem in error.problems:
            _complain(problem)
        return _BAD_CONFIGURATION if arguments[:1] == ["run"] else 1
    except RingkeeperError as error:
        _complain(str(error))
        return 1
    except ModuleNotFoundError as error:
        _complain(
            f"{error.name} is not installed; the daemon and the command need an extra: "
            "pip install '/path/to/ringkeeper[daemon]', with the path of its source"
        )
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    return code


def _complain(line: str) -> None:
    print(f"ringkeeper: {line}", file=sys.stderr)


# --- the commands, and what --help teaches about them --------------------------------------------


def _parser(*, is_demo: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ringkeeper",
        description="Turns the keys that sign your access tokens, and logs nobody out doing so.",
        epilog="A first look: ringkeeper run, then in another terminal: ringkeeper status",
    )
    parser.add_argument("--version", action="version", version=ringkeeper.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str,
        run: Callable[[argparse.Namespace], int],
        text: str,
        *,
        as_json: bool = False,
        default_ring: str = "the one at the top level of the configuration",
    ) -> argparse.ArgumentParser:
        """A command with the options that all of them have."""
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="the configuration (default: $RINGKEEPER_CONFIG, ./config.yaml, or "
            "/etc/ringkeeper/config.yaml; environment variables override it)",
        )
        if default_ring:
            told = f"which ring (default: {default_ring})"
            sub.add_argument("--ring", default="", metavar="NAME", help=told)
        if as_json:
            sub.add_argument("--json", action="store_true", help="for programs")
        sub.set_defaults(run=run)
        return sub

    text = "Run the daemon: turn keys, serve JWKS, metrics and health."
    command("run", _run_daemon, text, default_ring="")
    text = "Make all rings and their secrets, once; what exists is never touched."
    making = command("init", _init, text, default_ring="")
    another = making.add_mutually_exclusive_group()
    another.add_argument(
        "--new-root",
        action="store_true",
        help="put a fresh trust root in front of the present one, into both files; nothing uses it "
        "before ringkeeper rewrap",
    )
    another.add_argument(
        "--new-kek",
        action="store_true",
        help="put a fresh KEK in front of the present one; nothing uses it before rewrap",
    )
    command(
        "check",
        _check,
        "Check configuration, secrets, Redis and rings without changing anything. Exit 1 if "
        "something is wrong; that nobody leads, or nothing is made yet, is only remarked on.",
        as_json=True,
        default_ring="all",
    )
    command(
        "status",
        _status,
        "Show a ring: keys, leader, instances, who is behind and who is waited for.",
        as_json=True,
        default_ring="all; with --json the one at the top level, which names the others",
    )
    command("jwks", _jwks, "Print the ring's JWK Set.")
    examining = command(
        "doctor",
        _doctor,
        "Look at everything that bites one day: this host's files, Redis, each ring. A line each: "
        "ok, warn or fail, and the remedy. Exit 1 on a fail. It changes nothing.",
        as_json=True,
        default_ring="all",
    )
    examining.add_argument(
        "--acl",
        action="store_true",
        help="print Redis users for daemons, sidecars, apps and operators, who may do what each of "
        "them has to and nothing else (docs/redis.md), and look at nothing",
    )

    _add_requests(command)
    _add_secrets_and_audit(command)

    text = "Watch keys turn under a thousand users, on this machine alone."
    demo = commands.add_parser("demo", help=text, description=text)
    if is_demo:  # it draws a live view: nobody else pays for loading that
        from ringkeeperd import demo as module  # noqa: PLC0415

        module.add_arguments(demo)
        demo.set_defaults(run=module.main)

    text = "Sign or verify a token by hand."
    token = commands.add_parser("token", help=text, description=text)
    actions = token.add_subparsers(metavar="ACTION", required=True)
    commands = actions
    signing = command("sign", _token_sign, "Print a token with these claims, signed by the ring.")
    signing.add_argument(
        "--claims", default="{}", metavar="JSON", help="""e.g. '{"sub":"alice"}'"""
    )
    signing.add_argument(
        "--lifetime", type=positive, metavar="SECONDS", help="default: access_token_validity"
    )
    verifying = command("verify", _token_verify, "Print the claims of a good token; exit 1 if bad.")
    verifying.add_argument("token", metavar="TOKEN", help="the token, or - to read it from stdin")
    verifying.add_argument("--audience", help="must be named in aud")
    verifying.add_argument("--issuer", help="must be iss")

    return parser


def _add_requests(command: Callable[..., argparse.ArgumentParser]) -> None:
    rotating = command("rotate", _rotate, "Let the next key sign, at the earliest safe moment.")
    rotating.add_argument(
        "--now",
        action="store_true",
        help="shorten the standby's publication interval to jwks_max_age: verifiers that cache "
        "the JWKS longer than it allows may refuse tokens for a while",
    )
    rotating.add_argument("--reason", default="", help="for the audit")
    rotating.add_argument(
        "--no-wait",
        action="store_true",
        help="do not wait for the next key to sign, even if it does within 2 minutes",
    )

    _add_patience(rotating)

    revoking = command(
        "revoke",
        _revoke,
        "Refuse every token of a key from now on; its users must log in or refresh.",
    )
    revoking.add_argument(
        "kid", type=_kid, metavar="KID", help="the key, as ringkeeper status shows it"
    )
    revoking.add_argument(
        "--reason", required=True, type=_reason, help="for the audit, e.g. 'leaked in a backup'"
    )

    _add_patience(revoking)


def _add_secrets_and_audit(command: Callable[..., argparse.ArgumentParser]) -> None:
    rewrapping = command(
        "rewrap",
        _rewrap,
        "Let the leader seal all private keys by the first KEK of its file, and sign by the first "
        "root. It refuses while a live instance does not have them.",
        default_ring="all",
    )
    how = rewrapping.add_mutually_exclusive_group()
    how.add_argument(
        "--check",
        action="store_true",
        help="change nothing; exit 1 if anything still needs a former KEK or root",
    )
    how.add_argument(
        "--drop-former",
        action="store_true",
        help="take the former KEK and root out of the files of this host, once --check is content",
    )
    how.add_argument(
        "--now",
        action="store_true",
        help="even though a live instance lacks the new secrets: it signs, or learns of new "
        "keys, no more until it has them",
    )
    rewrapping.add_argument("--reason", default="", help="for the audit")
    _add_patience(rewrapping)

    watching = command(
        "watch",
        _watch,
        "Print what happens to a ring as it happens, and whether its audit is whole: each event is "
        "signed and numbered, and a gap, a repetition or a forgery is pointed out.",
    )
    watching.add_argument("--json", action="store_true", help="for programs: one object a line")
    watching.add_argument(
        "--last",
        type=_count,
        default=10,
        metavar="N",
        help="begin with the newest N that are there (default: 10)",
    )
    watching.add_argument(
        "--no-follow",
        action="store_true",
        help="do not wait for more; exit 1 if something was wrong",
    )


def positive(text: str) -> float:
    """A number above 0, for argparse."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def _count(text: str) -> int:
    number = int(text)
    if not 0 < number <= _MOST_EVENTS:
        raise ValueError(text)
    return number


def _kid(text: str) -> str:
    if not 0 < len(text) <= _LONGEST_KID or not text.isprintable():
        raise argparse.ArgumentTypeError("that is no kid; ringkeeper status shows those there are")
    return text


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is blank; say why, for whoever reads the audit")
    return text


def _add_patience(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--answer-within",
        type=positive,
        default=15.0,
        metavar="SECONDS",
        help="how long to wait for the leader's answer (default: 15)",
    )


def _configuration(parsed: argparse.Namespace) -> Configuration:
    from ringkeeper.configuration import load  # noqa: PLC0415 - --help does without

    path = parsed.config or os.environ.get("RINGKEEPER_CONFIG")
    found = Path(path) if path else next((p for p in _DEFAULT_CONFIGS if p.exists()), None)
    if found is None and "RINGKEEPER_REDIS__URL" not in os.environ:
        raise ConfigurationError(
            [f"there is no {' and no '.join(map(str, _DEFAULT_CONFIGS))}; name one with --config"]
        )
    return load(found, os.environ)


# --- run, init, check ----------------------------------------------------------------------------


def _run_daemon(parsed: argparse.Namespace) -> int:
    from ringkeeperd import logs  # noqa: PLC0415
    from ringkeeperd.daemon import Daemon  # noqa: PLC0415

    configuration = _configuration(parsed)
    log = logs.set_up(configuration)
    asyncio.run(Daemon(configuration, log).run())
    return 0


def _init(parsed: argparse.Namespace) -> int:
    from ringkeeperd.daemon import any_ring, found_ring, make_secrets  # noqa: PLC0415

    configuration = _configuration(parsed)
    if parsed.new_root or parsed.new_kek:
        return _add_secret(parsed, configuration)

    async def make() -> int:
        async with _server_of(configuration):
            for path, what in (
                (configuration.kek, "there is no KEK"),
                (configuration.trust_root, "there is no trust root"),
            ):
                if not path.exists() and await any_ring(configuration):
                    raise RequestRefused(
                        f"{path}: {what} here, but a ring was made before; restore it from where "
                        "that was: a fresh one is of no use to that ring"
                    )
            for path in make_secrets(configuration):
                print(f"made {path}")
            refusal: RequestRefused | None = None
            for ring in configuration.rings:
                try:
                    made = await found_ring(configuration, ring)
                except RequestRefused as error:
                    refusal = error
                else:
                    print(f"made ring {made.name}: {made.signer.kid if made.signer else ''} signs")
            if refusal:
                raise refusal
        print("next: start the daemon (ringkeeper run); copy the public root to every app, and the")
        print("KEK to those that sign; keep both secrets somewhere safe, too")
        return 0

    return asyncio.run(make())


def _add_secret(parsed: argparse.Namespace, configuration: Configuration) -> int:
    from ringkeeperd import changing  # noqa: PLC0415

    add = changing.add_root if parsed.new_root else changing.add_kek
    for path in add(configuration):
        print(f"added to {path}, in front of what was there")
    if parsed.new_root:
        print(f"next: copy {configuration.trust_root_public} to every app and sidecar, and")
        print(f"{configuration.trust_root} to every daemon that leads; then ringkeeper rewrap")
    else:
        print(
            f"next: copy {configuration.kek} to every daemon that leads and every app that signs;"
        )
        print("then ringkeeper rewrap")
    return 0


def _check(parsed: argparse.Namespace) -> int:
    from ringkeeperd.check import Findings, look_over  # noqa: PLC0415

    try:
        configuration = _configuration(parsed)
        found = look_over(configuration, _rings(parsed, configuration))
    except ConfigurationError as error:
        found = Findings(problems=list(error.problems))
    except RingkeeperError as error:
        found = Findings(problems=[str(error)])
    is_ok = not found.problems
    if parsed.json:
        told = {"ok": is_ok, "problems": found.problems, "remarks": found.remarks}
        print(json.dumps(told))
        return 0 if is_ok else 1
    for problem in found.problems:
        _complain(problem)
    if is_ok:
        rest = ", secrets, Redis and ring" if found.is_made else ""
        print(f"all is well: configuration{rest}")
    for remark in found.remarks:
        print(f"yet: {remark}")
    return 0 if is_ok else 1


def _doctor(parsed: argparse.Namespace) -> int:
    from ringkeeperd.doctor import Level  # noqa: PLC0415
    from ringkeeperd.examining import examine  # noqa: PLC0415

    configuration = _configuration(parsed)
    if parsed.acl:
        return _print_acl(parsed, configuration)
    found = []
    for subject, finding in examine(configuration, _rings(parsed, configuration)):
        found.append((subject, finding))
        if not parsed.json:
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            line = f"{subject}, {finding.about}: {finding.what}{remedy}"
            print(f"{finding.level:<4}  {line}", flush=True)
    is_bad = any(finding.level is Level.FAIL for _, finding in found)
    if parsed.json:
        members = [{"subject": subject, **asdict(finding)} for subject, finding in found]
        print(json.dumps({"ok": not is_bad, "findings": members}, indent=2))
    return 1 if is_bad else 0


def _print_acl(parsed: argparse.Namespace, configuration: Configuration) -> int:
    from ringkeeper.redis_url import Fleet, fleet_of, is_fleet, server_of  # noqa: PLC0415
    from ringkeeperd.acl import acl_lines  # noqa: PLC0415

    if configuration.embedded:
        raise RequestRefused(
            "the embedded server has one user, behind a socket of its own; set another redis.url"
        )
    names = [ring.name for ring in _rings(parsed, configuration)]
    url = configuration.redis_url
    server = fleet_of(url) if is_fleet(url) else server_of(url)
    is_cluster = isinstance(server, Fleet) and server.is_cluster
    print(*acl_lines(names, is_cluster=is_cluster, database=server.db), sep="\n")
    return 0


# --- looking, and asking the leader --------------------------------------------------------------


def _rings(
    parsed: argparse.Namespace, configuration: Configuration
) -> tuple[RingConfiguration, ...]:
    """The ring that was asked for, or all of them."""
    return (configuration.ring(parsed.ring),) if parsed.ring else configuration.rings


def _with_operator(parsed: argparse.Namespace, work: Callable[[Operator], Any]) -> Any:
    """What `work` says, done with an operator at the chosen ring."""
    from ringkeeperd.operator import at_ring  # noqa: PLC0415

    configuration = _configuration(parsed)
    return at_ring(configuration, configuration.ring(parsed.ring).name, work)


@asynccontextmanager
async def _server_of(configuration: Configuration) -> AsyncIterator[None]:
    """The embedded server, running meanwhile, where it is the one configured."""
    from ringkeeperd.embedded import EmbeddedServer  # noqa: PLC0415

    if configuration.embedded is None:
        yield
        return
    server = await EmbeddedServer.start(configuration.embedded)
    try:
        yield
    finally:
        await server.stop()


def _status(parsed: argparse.Namespace) -> int:
    from ringkeeper.clock import SystemClock  # noqa: PLC0415
    from ringkeeperd import status  # noqa: PLC0415
    from ringkeeperd.operator import at_ring, without_past  # noqa: PLC0415

    configuration = _configuration(parsed)
    rings = _rings(parsed, configuration)
    failures = 0
    for number, ring in enumerate(rings[:1] if parsed.json else rings):
        try:
            seen = at_ring(configuration, ring.name, lambda operator: operator.look())
        except RingkeeperError as error:
            failures += 1
            _complain(str(error))
            continue
        seen, now = without_past(seen), SystemClock().now()
        if parsed.json:
            others = [other.name for other in configuration.rings if other.name != ring.name]
            print(json.dumps(status.as_json(seen, now, others), indent=2))
        else:
            print(end="\n" if number else "", flush=True)
            status.show(seen, now)
    return 1 if failures else 0


def _jwks(parsed: argparse.Namespace) -> int:
    seen = _with_operator(parsed, lambda operator: operator.look())
    print(json.dumps(seen.ring.jwks(), indent=2))
    return 0


def _rotate(parsed: argparse.Namespace) -> int:
    from ringkeeper.secret_files import read_root  # noqa: PLC0415
    from ringkeeper.wire import Command  # noqa: PLC0415
    from ringkeeperd.operator import outlook  # noqa: PLC0415
    from ringkeeperd.rotation import activation_at  # noqa: PLC0415

    root = read_root(_configuration(parsed).trust_root)
    command = Command.ROTATE_NOW if parsed.now else Command.ROTATE
    patience = timedelta(seconds=parsed.answer_within)

    async def turn(operator: Operator) -> int:
        former = (await operator.look()).ring.active()
        former_kid = former.kid if former else ""
        await operator.ask(root, command, reason=parsed.reason, wait=patience)
        seen, now = await operator.look(), operator.now()
        at = activation_at(seen.ring) or now
        if seen.ring.active() == seen.ring.key(former_kid):
            print(*outlook(seen, now), sep="\n", flush=True)
        if parsed.no_wait or at - now > _WORTH_WAITING:
            return 0
        return await _wait_for_turn(operator, former_kid, at)

    code: int = _with_operator(parsed, turn)
    return code


async def _wait_for_turn(operator: Operator, former: str, at: datetime) -> int:
    """Wait until another key than `former` signs, and say what for once it is due."""
    from ringkeeperd.operator import delay  # noqa: PLC0415

    limit, told = operator.now() + 2 * _WORTH_WAITING, ""
    while True:
        seen = await operator.look()
        active = seen.ring.active()
        if active and active.kid != former:
            print(f"{active.kid} signs now (version {seen.ring.version})")
            return 0
        if operator.now() > limit:
            _complain(f"it does not sign yet: {delay(seen)}; look again with ringkeeper status")
            return 1
        if operator.now() > at + _SOON and delay(seen) != told:
            told = delay(seen)
            print(told, flush=True)
        await asyncio.sleep(0.25)


def _revoke(parsed: argparse.Namespace) -> int:
    from ringkeeper.secret_files import read_root  # noqa: PLC0415
    from ringkeeper.wire import Command  # noqa: PLC0415

    root = read_root(_configuration(parsed).trust_root)

    patience = timedelta(seconds=parsed.answer_within)

    async def refuse(operator: Operator) -> int:
        await operator.ask(
            root,
            Command.REVOKE,
            kid=parsed.kid,
            reason=parsed.reason,
            wait=patience,
        )
        ring = (await operator.look()).ring
        print(f"{parsed.kid} is revoked (version {ring.version}): its tokens are refused")
        if ring.signer:
            print(f"{ring.signer.kid} signs")
        return 0

    code: int = _with_operator(parsed, refuse)
    return code


# --- other secrets, and the audit ---------------------------------------------------------------


def _rewrap(parsed: argparse.Namespace) -> int:
    from ringkeeperd import changing  # noqa: PLC0415

    configuration = _configuration(parsed)
    rings = _rings(parsed, configuration)
    if parsed.drop_former:
        for path in changing.drop_former(configuration, configuration.rings):
            print(f"dropped the former one from {path}")
        print("this host holds what the rings use, and nothing else")
        return 0
    if parsed.check:
        found = changing.look(configuration, rings)
    else:
        found = changing.rewrap(
            configuration,
            rings,
            reason=parsed.reason,
            wait=timedelta(seconds=parsed.answer_within),
            is_forced=parsed.now,
        )
    for wrapping in found:
        ring = wrapping.ring
        print(
            f"ring {ring.name}: version {ring.version}, {len(wrapping.sealed)} private keys sealed"
        )
        print(f"  by the KEK {ring.kek}, signed by the root {wrapping.seen.signed_by}")
    problems = [problem for wrapping in found for problem in wrapping.problems]
    if not problems:
        print("nothing needs another KEK or root than these")
        if max(len(holder.kids) for holder in changing.held(configuration)) > 1:
            print("next: ringkeeper rewrap --drop-former takes the former one out of the files")
        return 0
    # The leader may not have read the newest files yet; who is behind is only a matter of time.
    is_bad = parsed.check or not all(wrapping.is_done for wrapping in found)
    for problem in problems:
        if is_bad:
            _complain(problem)
        else:
            print(f"yet: {problem}")
    return 1 if is_bad else 0


def _watch(parsed: argparse.Namespace) -> int:
    from ringkeeperd.watch import Watch  # noqa: PLC0415

    watch = Watch(last=parsed.last, is_followed=not parsed.no_follow, as_json=parsed.json)
    _with_operator(parsed, watch.run)
    return 1 if watch.flaws else 0


# --- tokens by hand ------------------------------------------------------------------------------


def _token_sign(parsed: argparse.Namespace) -> int:
    try:
        claims = json.loads(parsed.claims)
    except ValueError:
        claims = None
    if not isinstance(claims, dict):
        raise RequestRefused("""--claims is not a JSON object; write e.g. '{"sub":"alice"}'""")
    lifetime = timedelta(seconds=parsed.lifetime) if parsed.lifetime is not None else None
    with _keyring(parsed) as ring:
        print(ring.sign(claims, lifetime=lifetime))
    return 0


def _token_verify(parsed: argparse.Namespace) -> int:
    token = sys.stdin.read().strip() if parsed.token == "-" else parsed.token  # noqa: S105
    with _keyring(parsed) as ring:
        claims = ring.verify(token, audience=parsed.audience, issuer=parsed.issuer)
    print(json.dumps(claims))
    return 0


def _keyring(parsed: argparse.Namespace) -> ringkeeper.Keyring:
    from ringkeeper.connection import Connection  # noqa: PLC0415

    configuration = _configuration(parsed)
    connection = Connection.of(
        configuration.redis_url,
        name=configuration.ring(parsed.ring).name,
        trust_root=configuration.trust_root_public,
        kek=configuration.kek if configuration.kek.exists() else None,
        password=configuration.redis_password,
        tls=configuration.redis_tls,
    )
    # What is wrong is told once, as the command's error.
    logging.getLogger("ringkeeper").addHandler(logging.NullHandler())
    logging.getLogger("ringkeeper").propagate = False
    return ringkeeper.Keyring(connection).start(_LOAD_WITHIN)


if __name__ == "__main__":
    main()
