"""Secrets on disk: complete or absent, and open to nobody else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ringkeeper.connection import Connection
from ringkeeper.errors import SecretError
from ringkeeper.sealing import Kek
from ringkeeper.secret_files import create, is_there, read_kek, read_pinned_roots, read_root
from ringkeeper.trust import TrustRoot
from tests.wire.test_sealing import told_by


def test_what_is_there_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "kek.jwk"
    first = Kek.generate()
    assert create(path, first.secret_jwk())
    assert not create(path, Kek.generate().secret_jwk())
    assert read_kek(path).kid == first.kid
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["kek.jwk"]


def test_a_file_where_the_directory_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("")
    with pytest.raises(SecretError, match=r"kek\.jwk: cannot be written"):
        create(tmp_path / "var" / "kek.jwk", Kek.generate().secret_jwk())


def test_a_public_root_that_anyone_may_change_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "root.pub.jwk"
    create(path, TrustRoot.generate().public_jwk(), mode=0o644)
    assert read_pinned_roots(path).kids
    path.chmod(0o666)
    with pytest.raises(SecretError, match="anyone may change the public trust root"):
        read_pinned_roots(path)


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ('{"kty": "oct", "k": "hush"}', 0o600),
        ('{"kty": "OKP", "crv": "Ed25519", "x": "hush", "d": "hush"}', 0o600),
        ('{"kty": "OKP", "crv": "Ed25519", "d": "hush', 0o600),
        ('["hush"]', 0o600),
        ("hush", 0o644),
        ("hush" * 20_000, 0o600),
    ],
    ids=["a short KEK", "odd halves", "cut short", "a list", "open to others", "too large"],
)
def test_what_a_secret_file_holds_is_no_local_of_the_traceback(
    tmp_path: Path, text: str, mode: int
) -> None:
    path = tmp_path / "secret.jwk"
    path.write_text(text)
    path.chmod(mode)
    for read in (read_kek, read_root):
        with pytest.raises(SecretError, match=r"secret\.jwk") as caught:
            read(path)
        assert "hush" not in told_by(caught.value)


@pytest.mark.parametrize("is_set", [False, True])
def test_the_private_root_is_not_taken_for_the_public_one(tmp_path: Path, is_set: bool) -> None:
    """An app that has it could sign what every app believes."""
    path, root = tmp_path / "root.jwk", TrustRoot.generate()
    create(path, {"keys": [root.secret_jwk()]} if is_set else root.secret_jwk())
    with pytest.raises(SecretError, match=r"is the private half, .*; give root\.pub\.jwk"):
        read_pinned_roots(path)
    if not is_set:
        assert read_root(path).kid == root.kid


@contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions mean nothing to root."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_where_this_user_may_not_look_there_may_be_a_file() -> None:
    with TemporaryDirectory() as made:
        folder, closed = Path(made), Path(made, "closed")
        folder.chmod(0o755)
        closed.mkdir(mode=0o000)
        with as_nobody():
            assert is_there(closed / "kek.jwk")
            assert not is_there(folder / "kek.jwk")
            with pytest.raises(SecretError, match="Permission denied"):
                read_kek(closed / "kek.jwk")
        closed.chmod(0o700)


def test_an_app_that_only_verifies_needs_no_leave_to_look_for_the_kek(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = tmp_path / "root.pub.jwk"
    create(public, TrustRoot.generate().public_jwk(), mode=0o644)
    environ = {
        "RINGKEEPER_REDIS__URL": "redis://127.0.0.1",
        "RINGKEEPER_TRUST_ROOT_PUBLIC": str(public),
    }

    def exists(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "exists", exists)
    assert Connection.from_config(None, environ).secrets.value.kek is None
