"""`ringkeeper init` in parts: secrets without Redis, and a ring that may be there already."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ringkeeper import Keyring
from ringkeeper.sealing import Kek
from tests.plugins.daemons import Site, clean_environment, command, eventually
from tests.plugins.servers import Server

NAMES = ("root.jwk", "root.pub.jwk", "kek.jwk")
KEYRING = "ringkeeper:{access-token}:keyring"
WITNESS = "ringkeeper:{access-token}:witness"


def made(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ringkeeper init` where there is no configuration at all."""
    return command("init", *arguments, cwd=folder)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


# --- secrets alone -------------------------------------------------------------------------------


def test_secrets_are_made_without_a_configuration_and_only_once(tmp_path: Path) -> None:
    first = made(tmp_path, "--secrets-only", "--directory", "secrets")
    assert first.returncode == 0, first.stderr
    secrets = tmp_path / "secrets"
    before = contents(secrets)
    assert set(before) == set(NAMES)
    modes = {path.name: path.stat().st_mode & 0o777 for path in secrets.iterdir()}
    assert modes == {"root.jwk": 0o600, "root.pub.jwk": 0o644, "kek.jwk": 0o600}
    again = made(tmp_path, "--secrets-only", "--directory", "secrets")
    assert (again.returncode, contents(secrets)) == (0, before)
    assert "left as they are" in again.stdout
    shown = first.stdout + again.stdout
    assert not any(json.loads(before[name])[part] in shown for name, part in PRIVATE)


PRIVATE = (("root.jwk", "d"), ("kek.jwk", "k"))


@pytest.mark.parametrize("lost", ["root.jwk", "kek.jwk"])
def test_one_secret_without_the_other_is_lost_and_not_new(tmp_path: Path, lost: str) -> None:
    """Promise 7: nobody asked Redis whether a ring was made with it."""
    made(tmp_path, "--secrets-only", "--directory", ".")
    (tmp_path / lost).unlink()
    before = contents(tmp_path)
    again = made(tmp_path, "--secrets-only", "--directory", ".")
    assert again.returncode == 1
    assert f"{lost}: is not there, but" in again.stderr
    assert len(again.stderr.splitlines()) == 1
    assert contents(tmp_path) == before


def test_the_public_root_can_always_be_had_from_the_private_one(tmp_path: Path) -> None:
    made(tmp_path, "--secrets-only", "--directory", ".")
    before = contents(tmp_path)
    (tmp_path / "root.pub.jwk").unlink()
    assert made(tmp_path, "--secrets-only", "--directory", ".").returncode == 0
    assert contents(tmp_path) == before


def test_files_that_do_not_belong_together_are_found_when_secrets_are_made(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        made(tmp_path, "--secrets-only", "--directory", folder)
    (tmp_path / "one/root.pub.jwk").write_text((tmp_path / "two/root.pub.jwk").read_text())
    again = made(tmp_path, "--secrets-only", "--directory", "one")
    assert again.returncode == 1
    assert "is not the private half of" in again.stderr


def test_a_directory_belongs_to_secrets_alone(tmp_path: Path) -> None:
    refused = made(tmp_path, "--directory", ".")
    assert (refused.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "--directory belongs to --secrets-only" in refused.stderr


def test_secrets_alone_are_made_where_redis_cannot_be_reached(site: Site) -> None:
    for name in NAMES:
        (site.folder / name).unlink()
    config = site.configure("away.yaml", redis={"url": "redis://127.0.0.1:1"})
    site.done("init", "--secrets-only", config=config.name)
    assert {path.name for path in site.folder.glob("*.jwk")} == set(NAMES)
    site.configure(lead=False)
    assert "lead is false here" in site.refused("init", "--secrets-only")


def test_no_fresh_secret_where_a_ring_is_kept(site: Site) -> None:
    site.daemon(init=True).stop()
    for name in NAMES:
        (site.folder / name).unlink()
    said = site.refused("init", "--secrets-only", config="daemon0.yaml")
    assert "a ring is known on this host" in said
    assert not list(site.folder.glob("*.jwk"))


def test_a_ring_is_made_with_secrets_that_cannot_be_written(site: Site) -> None:
    """As Kubernetes mounts them."""
    mounted = site.folder / "mounted"
    mounted.mkdir()
    for name in NAMES:
        (site.folder / name).rename(mounted / name)
    config = site.configure(
        trust_root="mounted/root.jwk",
        trust_root_public="mounted/root.pub.jwk",
        kek="mounted/kek.jwk",
    )
    # Root may write everywhere but in a file system that is read-only: a namespace of its own.
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c",
         'mount --bind mounted mounted && mount -o remount,bind,ro mounted && exec "$@"', "sh",
         sys.executable, "-m", "ringkeeperd", "init", "--config", config.name],
        cwd=site.folder, capture_output=True, text=True, check=False, env=clean_environment(),
    )  # fmt: skip
    if "unshare" in done.stderr or os.geteuid():
        pytest.skip("mounts need root")
    assert done.returncode == 0, done.stderr
    assert "made ring access-token" in done.stdout


# --- a ring that may be there --------------------------------------------------------------------


def test_what_is_run_again_is_content_with_the_ring_that_is_there(
    site: Site, valkey: Server
) -> None:
    site.configure()
    assert "made ring access-token" in site.done("init", "--if-missing")
    with valkey.client() as client:
        before = client.hgetall(KEYRING)
    assert "ring access-token exists, version 1" in site.done("init", "--if-missing")
    assert "exists already" in site.refused("init")
    site.configure(keyrings={"another": {}})
    said = site.done("init", "--if-missing")
    assert "ring access-token exists" in said
    assert "made ring another" in said
    with valkey.client() as client:
        assert client.hgetall(KEYRING) == before


def test_a_ring_that_these_secrets_do_not_open_is_no_success(site: Site, valkey: Server) -> None:
    site.configure()
    site.done("init")
    with valkey.client() as client:
        before = client.hgetall(KEYRING)
    (site.folder / "kek.jwk").write_text(json.dumps(Kek.generate().secret_jwk()))
    assert "give it the right KEK file" in site.refused("init", "--if-missing")
    with valkey.client() as client:
        assert client.hgetall(KEYRING) == before


def test_a_ring_that_was_lost_is_not_made_anew(site: Site, valkey: Server) -> None:
    """Promise 7: missing means that it never was. And what is run before the daemon may go on."""
    daemon = site.daemon(init=True)
    ring = site.status()["id"]
    daemon.stop()
    with valkey.client() as client:
        client.flushall()
        said = site.done("init", "--if-missing", config="daemon0.yaml")
        assert "ring access-token is known here, and Redis lost it: the daemon puts it back" in said
        assert "start the daemon to put it back" in site.refused("init", config="daemon0.yaml")
        assert not client.exists(KEYRING)
    site.daemons.append(daemon.again())
    eventually(site.daemons[-1].leads)
    assert site.status()["id"] == ring


def test_a_ring_that_only_an_app_knows_is_not_made_anew(site: Site, valkey: Server) -> None:
    """Promise 7: the daemon and its disk are gone, and users' tokens are good all the same."""
    daemon = site.daemon(init=True)
    with Keyring.connect(
        site.redis_url, trust_root=site.folder / "root.pub.jwk", kek=site.folder / "kek.jwk"
    ) as app:
        token = app.sign({"sub": "alice"})
        daemon.kill()
        shutil.rmtree(site.folder / "state0")
        with valkey.client() as client:
            client.flushall()
            eventually(lambda: client.exists(WITNESS))
            said = site.refused("init")
            assert "ring 'access-token' is known to an app that runs, and Redis lost it" in said
            assert "start the daemon to put it back" in said
            assert "the daemon puts it back" in site.done("init", "--if-missing")
            assert not client.exists(KEYRING)
        site.daemon()
        assert app.verify(token)["sub"] == "alice"


def test_a_witness_that_nobody_signed_keeps_no_ring_from_being_made(
    site: Site, valkey: Server
) -> None:
    """Whoever writes to Redis would else keep a new ring from being made for an hour."""
    site.configure()
    with valkey.client() as client:
        client.set(WITNESS, json.dumps({"snapshot": "a.b.c", "proof": "", "sealed": {}}))
    assert "made ring access-token" in site.done("init")


def test_what_is_kept_and_cannot_be_read_is_no_reason_to_go_on(site: Site, valkey: Server) -> None:
    site.configure()
    (site.folder / "state").mkdir()
    (site.folder / "state/state-access-token.json").write_text("torn")
    said = site.refused("init", "--if-missing")
    assert "does not hold a ring" in said
    assert "restore a backup" in said
    with valkey.client() as client:
        assert not client.exists(KEYRING)
