"""Where a KEK may come from: a systemd credential, a Kubernetes Secret, and, better not, a variable."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from ringkeeper import Keyring
from tests.plugins.daemons import Site


def signs(site: Site) -> None:
    """A daemon leads with its KEK, and an app that reads the same file signs with it."""
    site.daemon(init=True, kek=None, trust_root=None, trust_root_public=None)
    with Keyring.from_config(site.folder / "config.yaml") as ring:
        assert ring.verify(ring.sign({"sub": "alice"}))["sub"] == "alice"


def test_a_credential_of_systemd(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As LoadCredential= hands it over: a directory of root's, readable by the unit's user alone."""
    handed = tmp_path / "credentials"
    handed.mkdir()
    for name in ("kek.jwk", "root.jwk", "root.pub.jwk"):
        shutil.move(site.folder / name, handed / name)
        (handed / name).chmod(0o400)
    handed.chmod(0o500)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(handed))
    signs(site)


def test_a_volume_of_a_kubernetes_secret(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to a folder that is replaced as a whole; fsGroup gives the files mode 0440."""
    volume = site.folder / "secret"
    first = volume / "..2026_11_25_01"
    first.mkdir(parents=True)
    shutil.move(site.folder / "kek.jwk", first / "kek.jwk")
    (first / "kek.jwk").chmod(0o440)
    (volume / "..data").symlink_to(first.name)
    (volume / "kek.jwk").symlink_to("..data/kek.jwk")
    site.daemon(init=True, kek="secret/kek.jwk").stop()
    # The kubelet writes the next version beside it, and swaps the link.
    second = volume / "..2026_11_25_02"
    shutil.copytree(first, second)
    (volume / "..data_tmp").symlink_to(second.name)
    (volume / "..data_tmp").rename(volume / "..data")
    shutil.rmtree(first)
    with Keyring.from_config(site.folder / "config.yaml") as ring:
        assert ring.verify(ring.sign({"sub": "alice"}))["sub"] == "alice"
    site.daemon(kek="secret/kek.jwk")
    site.leader()


def test_a_variable_works_and_is_warned_of_once_in_each_place(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jwk = (site.folder / "kek.jwk").read_text()
    (site.folder / "kek.jwk").unlink()
    monkeypatch.setenv("THE_KEK", jwk)
    daemon = site.daemon(init=True, kek="env:THE_KEK")
    site.leader()
    (warned,) = daemon.told("kek in the environment")
    assert (warned["level"], warned["variable"]) == ("warning", "THE_KEK")
    assert "yet: kek: env:THE_KEK: an environment leaks into" in site.done("check")
    with Keyring.from_config(site.folder / "config.yaml") as ring:
        assert ring.sign({"sub": "alice"})
    told = [r for r in caplog.records if "kek in the environment" in r.getMessage()]
    assert [r.levelno for r in told] == [logging.WARNING]
    with Keyring.connect(
        site.redis_url, trust_root=site.folder / "root.pub.jwk", kek="env:THE_KEK"
    ) as ring:
        assert ring.sign({"sub": "alice"})
    for text in (daemon.log, caplog.text):
        assert json.loads(jwk)["k"] not in text
    assert not (site.folder / "kek.jwk").exists()


def test_a_daemon_that_only_follows_reads_no_kek_and_is_not_warned(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_KEK", "{}")
    site.daemon(init=True)
    sidecar = site.daemon(lead=False, kek="env:THE_KEK")
    assert not sidecar.events("kek in the environment")
