"""What each `ringkeeper` command does, once its arguments were read (`cli`).

Each returns the exit status: 0 done, 1 refused or failed. What fails is raised, for `cli` to tell
in one line.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ringkeeper
from ringkeeper.errors import ConfigurationError, RequestRefused, RingkeeperError
from ringkeeperd import probe
from ringkeeperd.misuse import Misused

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable

    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeperd.operator import Operator

_DEFAULT_CONFIGS = (Path("config.yaml"), Path("/etc/ringkeeper/config.yaml"))
_LOAD_WITHIN = 3.0
_OF_IMPORTS = ("signing", "into", "algorithm", "kid", "passphrase_file", "app")


def complain(line: str) -> None:
    """Tell `line` on standard error."""
    print(f"ringkeeper: {line}", file=sys.stderr)


def _configuration(parsed: argparse.Namespace) -> Configuration:
    from ringkeeper.configuration import load  # noqa: PLC0415 - --help does without

    found = _configuration_file(parsed)
    if found is None and "RINGKEEPER_REDIS__URL" not in os.environ:
        raise ConfigurationError(
            [f"there is no {' and no '.join(map(str, _DEFAULT_CONFIGS))}; name one with --config"]
        )
    if found:
        import yaml  # noqa: F401, PLC0415 - else `load` tells what an app would do without it

    return load(found, os.environ)


def _configuration_file(parsed: argparse.Namespace) -> Path | None:
    path = parsed.config or os.environ.get("RINGKEEPER_CONFIG")
    return Path(path) if path else next((p for p in _DEFAULT_CONFIGS if p.exists()), None)


# --- run, init, check ----------------------------------------------------------------------------


def run(parsed: argparse.Namespace) -> int:
    """Run the daemon until it is told to end."""
    from ringkeeperd import memory  # noqa: PLC0415

    with memory.nothing_collected():
        from ringkeeperd import logs  # noqa: PLC0415
        from ringkeeperd.daemon import Daemon  # noqa: PLC0415
        from ringkeeperd.supervisor import Supervisor  # noqa: PLC0415

    supervisor = Supervisor.taken_from(os.environ)
    try:
        configuration = _configuration(parsed)
        log = logs.set_up(configuration)
        asyncio.run(Daemon(configuration, log, supervisor).run())
    except RingkeeperError as error:
        # The journal was seen to lose track of whose last words these are.
        supervisor.status(f"cannot run: {error}")
        raise
    return 0


def init(parsed: argparse.Namespace) -> int:
    """Make rings and secrets; or put a fresh secret beside the present one."""
    from ringkeeperd.making import make_all  # noqa: PLC0415

    if parsed.secrets_only:
        return _make_secrets_alone(parsed)
    if parsed.directory:
        raise Misused(
            "--directory belongs to --secrets-only; where else secrets are is told by the "
            "configuration (docs/configuration.md)"
        )
    if not parsed.imports and any(getattr(parsed, name) for name in _OF_IMPORTS):
        raise Misused(
            "--signing, --into, --algorithm, --kid, --passphrase-file and --app say how files are "
            "imported; name one: init --import FILE"
        )
    configuration = _configuration(parsed)
    if parsed.new_root or parsed.new_kek or parsed.former_lost:
        return _add_secret(parsed, configuration)
    making = make_all(configuration, if_missing=parsed.if_missing)
    if parsed.imports:
        making = _moved(parsed, configuration)

    async def make() -> None:
        async for line in making:
            with suppress(OSError):  # whoever reads no further does not keep it from being made
                print(line, flush=True)

    asyncio.run(make())
    print("next: start the daemon (ringkeeper run); copy the public root to every app, and the")
    print("KEK to those that sign; keep both secrets somewhere safe, too")
    return 0


def _moved(parsed: argparse.Namespace, configuration: Configuration) -> AsyncIterator[str]:
    """Makes one ring, with keys that were made elsewhere; they are read before anything is."""
    from ringkeeper.secret_files import is_there, read_pinned_roots  # noqa: PLC0415
    from ringkeeperd.importing import check_no_root, read_move  # noqa: PLC0415
    from ringkeeperd.making import make_moved  # noqa: PLC0415
    from ringkeeperd.static_keys import offered, passphrase_in  # noqa: PLC0415

    ring = configuration.ring(parsed.into)
    move = read_move(
        [path for _, path in parsed.imports],
        ring.policy,
        signing=parsed.signing,
        algorithm=offered(parsed.algorithm),
        kid=parsed.kid or "",
        kids={path: kid for kid, path in parsed.imports if kid},
        passphrase=passphrase_in(parsed.passphrase_file),
        app=parsed.app,
    )
    if is_there(configuration.trust_root_public):
        roots = read_pinned_roots(configuration.trust_root_public).kids
        check_no_root(((key.fresh.kid, key.fresh.public) for key in move.keys), roots)
    return make_moved(configuration, ring, move)


def _make_secrets_alone(parsed: argparse.Namespace) -> int:
    from ringkeeperd import making  # noqa: PLC0415

    if parsed.directory:
        made = making.make_secrets_in(parsed.directory)
    else:
        made = making.make_secrets_alone(_configuration(parsed))
    for path in made:
        print(f"made {path}")
    if not made:
        print("all secrets are there already, and were left as they are")
    print("next: hand them to where daemons run, and make the ring there: ringkeeper init; keep")
    print("root.jwk and kek.jwk somewhere safe, too")
    return 0


def _add_secret(parsed: argparse.Namespace, configuration: Configuration) -> int:
    from ringkeeperd import secret_changes  # noqa: PLC0415

    if parsed.former_lost:
        if not parsed.new_root:
            raise Misused("--former-lost belongs to --new-root; a lost KEK has no remedy")
        public, private = secret_changes.replace_lost_root(configuration)
        print(f"made {private}; added to {public}, in front of what was there")
        print(f"next: copy {public} to every app and sidecar; when all have it, both to every")
        print("daemon that leads, not before: those that run still hold the former one in memory")
        return 0
    add = secret_changes.add_root if parsed.new_root else secret_changes.add_kek
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


def check(parsed: argparse.Namespace) -> int:
    """Say what is wrong with an installation."""
    from ringkeeperd.check import Findings, ask_daemon, ask_despite, look_over  # noqa: PLC0415

    place = probe.ALIVE if parsed.alive else probe.READY if parsed.ready else ""
    try:
        configuration = _configuration(parsed)
        if place:
            found = ask_daemon(configuration, place)
        else:
            found = look_over(configuration, _rings(parsed, configuration))
    except ConfigurationError as error:
        if place:
            found = ask_despite(error, _configuration_file(parsed), place)
        else:
            found = Findings(problems=list(error.problems))
    except RingkeeperError as error:
        found = Findings(problems=[str(error)])
    is_ok = not found.problems
    if parsed.json:
        told = {"ok": is_ok, "problems": found.problems, "remarks": found.remarks}
        print(json.dumps(told))
        return 0 if is_ok else 1
    for problem in found.problems:
        complain(problem)
    if is_ok and not place:
        rest = ", secrets, Redis and ring" if found.is_made else ""
        print(f"all is well: configuration{rest}")
    for remark in found.remarks:
        print(f"yet: {remark}")
    return 0 if is_ok else 1


def doctor(parsed: argparse.Namespace) -> int:
    """Say what would bite one day; or print Redis users."""
    from ringkeeperd.doctor import Level  # noqa: PLC0415
    from ringkeeperd.doctor_facts import examine  # noqa: PLC0415

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


def status(parsed: argparse.Namespace) -> int:
    """Show rings: each whole, or many in a table."""
    from ringkeeper.clock import SystemClock  # noqa: PLC0415
    from ringkeeperd import status as drawing  # noqa: PLC0415
    from ringkeeperd import status_table  # noqa: PLC0415
    from ringkeeperd.many import at_rings  # noqa: PLC0415
    from ringkeeperd.operator import without_past  # noqa: PLC0415

    configuration = _configuration(parsed)
    rings = _rings(parsed, configuration)
    if parsed.json and not parsed.all:
        rings = rings[:1]
    is_table = len(rings) > status_table.FEW and not (parsed.json or parsed.all)
    survey = at_rings(
        configuration, rings, lambda each, _: each.look() if is_table else each.survey()
    )
    now, whole = SystemClock().now(), []
    failures = sum(isinstance(seen, RingkeeperError) for seen in survey.values())
    if is_table:
        status_table.show(survey, now)
        return 1 if failures else 0
    for number, (name, seen) in enumerate(survey.items()):
        if isinstance(seen, RingkeeperError):
            complain(str(seen))
        elif parsed.json:
            others = [other.name for other in configuration.rings if other.name != name]
            shown = [] if parsed.all else others
            whole.append(drawing.as_json(without_past(seen), now, shown))
        else:
            print(end="\n" if number else "", flush=True)
            drawing.show(without_past(seen), now)
    if parsed.json and (parsed.all or whole):
        print(json.dumps({"rings": whole} if parsed.all else whole[0], indent=2))
    return 1 if failures else 0


def plan(parsed: argparse.Namespace) -> int:
    """Show a ring's future, and what a change would make of it."""
    from ringkeeperd import plan as module  # noqa: PLC0415

    planned = module.planned(parsed, _configuration(parsed))
    if parsed.svg:
        module.write_svg(planned, parsed.svg)
        if parsed.svg == Path("-"):
            return 0
    if parsed.json:
        print(json.dumps(module.as_json(planned), indent=2))
    else:
        module.show(planned)
        if parsed.svg:
            print(f"\nwrote {parsed.svg}")
    return 0


def jwks(parsed: argparse.Namespace) -> int:
    """Print a JWK Set."""
    seen = _with_operator(parsed, lambda operator: operator.look())
    print(json.dumps(seen.ring.jwks(), indent=2))
    return 0


def asking(do: str) -> Callable[[argparse.Namespace], int]:
    """The command `do` of those that ask a leader for a change."""
    return lambda parsed: _of_module("asking", do, parsed)


def static(do: str) -> Callable[[argparse.Namespace], int]:
    """The command `do` of those about static keys."""
    return lambda parsed: _of_module("static_keys", do, parsed)


def _of_module(name: str, do: str, parsed: argparse.Namespace) -> int:
    """Load what --help does without, and do it."""
    module = importlib.import_module(f"ringkeeperd.{name}")
    code: int = getattr(module, do)(parsed, _configuration(parsed))
    return code


# --- other secrets, and the audit ---------------------------------------------------------------


def rewrap(parsed: argparse.Namespace) -> int:
    """Move rings to the newest secrets, or say what keeps them from it."""
    from ringkeeperd import secret_changes  # noqa: PLC0415

    configuration = _configuration(parsed)
    rings = _rings(parsed, configuration)
    if parsed.drop_former:
        return _drop_former(parsed, configuration)
    if parsed.check:
        found = secret_changes.look(configuration, rings)
    else:
        found = secret_changes.rewrap(
            configuration,
            rings,
            reason=parsed.reason,
            wait=timedelta(seconds=parsed.answer_within),
            is_forced=parsed.now,
        )
    # The leader may not have read the newest files yet; who is behind is only a matter of time.
    is_bad = any(w.problems and (parsed.check or not w.is_done) for w in found)
    if parsed.json:
        print(json.dumps({"ok": not is_bad, "rings": [w.as_json() for w in found]}, indent=2))
        return 1 if is_bad else 0
    for wrapping in found:
        ring = wrapping.ring
        print(
            f"ring {ring.name}: version {ring.version}, {len(wrapping.sealed)} private keys sealed"
        )
        print(f"  by the KEK {ring.kek}, signed by the root {wrapping.seen.signed_by}")
    problems = [problem for wrapping in found for problem in wrapping.problems]
    if not problems:
        print("nothing needs another KEK or root than these")
        if max(len(holder.kids) for holder in secret_changes.held(configuration)) > 1:
            print("next: ringkeeper rewrap --drop-former takes the former one out of the files")
        return 0
    for problem in problems:
        if is_bad:
            complain(problem)
        else:
            print(f"yet: {problem}")
    return 1 if is_bad else 0


def _drop_former(parsed: argparse.Namespace, configuration: Configuration) -> int:
    from ringkeeperd.secret_changes import drop_former  # noqa: PLC0415

    dropped = drop_former(configuration, configuration.rings)
    if parsed.json:
        print(json.dumps({"ok": True, "dropped": list(map(str, dropped))}))
        return 0
    for path in dropped:
        print(f"dropped the former one from {path}")
    if dropped:
        print("backups of before need the former ones: keep a copy of them as long as those")
    print("this host holds what the rings use, and nothing else")
    return 0


def watch(parsed: argparse.Namespace) -> int:
    """Print what happens."""
    from ringkeeperd.watch import Watch  # noqa: PLC0415

    watching = Watch(last=parsed.last, is_followed=not parsed.no_follow, as_json=parsed.json)
    _with_operator(parsed, watching.run)
    return 1 if watching.flaws else 0


def backup(parsed: argparse.Namespace) -> int:
    """Put rings into a file, or look into one."""
    from ringkeeperd.backup_commands import back_up  # noqa: PLC0415

    configuration = _configuration(parsed)
    return back_up(parsed, configuration, _rings(parsed, configuration))


def restore(parsed: argparse.Namespace) -> int:
    """Give the leader what a file holds."""
    from ringkeeperd.backup_commands import bring_back  # noqa: PLC0415

    configuration = _configuration(parsed)
    return bring_back(parsed, configuration, _rings(parsed, configuration))


# --- tokens by hand ------------------------------------------------------------------------------


def token_sign(parsed: argparse.Namespace) -> int:
    """Sign a token."""
    try:
        claims = json.loads(parsed.claims)
    except ValueError:
        claims = None
    if not isinstance(claims, dict):
        raise Misused("""--claims is not a JSON object; write e.g. '{"sub":"alice"}'""")
    lifetime = timedelta(seconds=parsed.lifetime) if parsed.lifetime is not None else None
    with _keyring(parsed, signs=True) as ring:
        print(ring.sign(claims, lifetime=lifetime))
    return 0


def token_verify(parsed: argparse.Namespace) -> int:
    """Verify a token."""
    token = sys.stdin.read().strip() if parsed.token == "-" else parsed.token  # noqa: S105
    with _keyring(parsed, signs=False) as ring:
        claims = ring.verify(token, audience=parsed.audience, issuer=parsed.issuer)
    print(json.dumps(claims))
    return 0


def _keyring(parsed: argparse.Namespace, *, signs: bool) -> ringkeeper.Keyring:
    from ringkeeper.connection import Connection  # noqa: PLC0415

    configuration = _configuration(parsed)
    connection = Connection.of(
        configuration.redis_url,
        name=configuration.ring(parsed.ring).name,
        trust_root=configuration.trust_root_public,
        kek=configuration.kek if signs else None,
        password=configuration.redis_password,
        tls=configuration.redis_tls,
    )
    # What is wrong is told once, as the command's error.
    logging.getLogger("ringkeeper").addHandler(logging.NullHandler())
    logging.getLogger("ringkeeper").propagate = False
    return ringkeeper.Keyring(connection).start(_LOAD_WITHIN)
