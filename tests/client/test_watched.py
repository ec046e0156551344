"""Files are read again once they changed, and only then; a bad one is tried again."""

from pathlib import Path

import pytest

from ringkeeper.connection import Connection
from ringkeeper.errors import SecretError
from ringkeeper.meter import Meter
from ringkeeper.sealing import Kek
from ringkeeper.secret_files import create, read_kek
from ringkeeper.trust import TrustRoot
from ringkeeper.watched import Watched


def test_what_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    reads: list[str] = []

    def read() -> str:
        reads.append((tmp_path / "a").read_text())
        return reads[-1]

    watched = Watched([tmp_path / "a"], read)
    assert watched.renewed() is None
    (tmp_path / "a").write_text("22")
    assert watched.renewed() == watched.value == "22"
    assert watched.renewed() is None
    assert reads == ["1", "22"]


def test_what_changes_while_it_is_read_is_a_change(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")

    def read() -> str:
        text = path.read_text()
        if text == "1":
            path.write_text("22")  # this very moment
        return text

    watched = Watched([path], read)
    assert watched.value == "1"
    assert watched.renewed() == "22"


def test_a_file_that_was_opened_to_others_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "kek.jwk"
    create(path, Kek.generate().secret_jwk())
    watched = Watched([path], lambda: read_kek(path))
    assert watched.renewed() is None
    path.chmod(0o644)
    with pytest.raises(SecretError, match="is open to others"):
        watched.renewed()
    path.chmod(0o600)
    assert watched.renewed() is None, "and nothing is left of it"


def test_a_bad_one_is_tried_again_although_it_did_not_change_again(tmp_path: Path) -> None:
    """A mode that is set right changes neither time nor size."""
    path, kek = tmp_path / "kek.jwk", Kek.generate()
    create(path, kek.secret_jwk())

    def read() -> str:
        if path.stat().st_mode & 0o077:
            raise SecretError("open to others")
        return path.read_text()

    watched = Watched([path], read)
    former = watched.value
    path.write_text("{}")
    path.chmod(0o644)
    for _ in range(2):
        with pytest.raises(SecretError):
            watched.renewed()
        assert watched.value == former
    path.chmod(0o600)
    assert watched.renewed() == "{}"


def test_who_follows_anew_begins_with_what_the_files_hold_by_now(tmp_path: Path) -> None:
    """As a child of a fork does, in a program that has run for long: its parent was told before."""
    root, kek = TrustRoot.generate(), Kek.generate()
    create(tmp_path / "root.pub.jwk", root.public_jwk(), mode=0o644)
    create(tmp_path / "kek.jwk", kek.secret_jwk())
    connection = Connection.of(
        "redis://127.0.0.1:1", trust_root=tmp_path / "root.pub.jwk", kek=tmp_path / "kek.jwk"
    )
    parent, _ = connection.follower(verified=Meter(), known=Meter())
    (tmp_path / "kek.jwk").unlink()
    (tmp_path / "root.pub.jwk").unlink()
    fresh, other = Kek.generate().joined(kek), TrustRoot.generate()
    create(tmp_path / "kek.jwk", fresh.secret_jwk())
    create(tmp_path / "root.pub.jwk", other.joined(root).public_jwk(), mode=0o644)
    assert parent._source
    assert parent._source.renewed()
    child, _ = connection.follower(parent.replica, verified=Meter(), known=Meter())
    assert child._kek
    assert child._kek.kids == fresh.kids
    assert child.replica.roots.kids == (other.kid, root.kid)
    assert list(child._able) == [other.kid, root.kid]
