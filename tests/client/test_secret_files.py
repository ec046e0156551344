"""Secrets on disk: complete or absent, and open to nobody else."""

from pathlib import Path

import pytest

from ringkeeper.errors import SecretError
from ringkeeper.sealing import Kek
from ringkeeper.secret_files import create, read_kek, read_pinned_roots
from ringkeeper.trust import TrustRoot


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
