"""docs/import.md, with SuperTokens' tables in real databases; make deploy-test."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.test_import import MAKE, MYSQL, POSTGRESQL, Walk
from tests.plugins.brought_keys import StaticRow, halves
from tests.plugins.daemons import eventually

pytestmark = pytest.mark.deploy

# As its core makes them; the columns that it has besides have nothing to do with keys.
TABLES = """
CREATE TABLE session_access_token_signing_keys (
    app_id VARCHAR(64) NOT NULL DEFAULT 'public', created_at_time BIGINT NOT NULL, value TEXT,
    PRIMARY KEY (app_id, created_at_time));
CREATE TABLE jwt_signing_keys (
    app_id VARCHAR(64) NOT NULL DEFAULT 'public', key_id VARCHAR(255) NOT NULL,
    key_string TEXT NOT NULL, algorithm VARCHAR(10) NOT NULL, created_at BIGINT,
    PRIMARY KEY (app_id, key_id));
"""


def filled(walk: Walk) -> str:
    """The tables, with the keys of one issuer."""
    static = StaticRow("public", "s-1", halves(walk.static), "RS256", 1_790_000_000_000)
    dynamic = "session_access_token_signing_keys"
    rows: list[tuple[str, tuple[object, ...]]] = [(dynamic, row) for row in walk.issuer.rows]
    rows.append(("jwt_signing_keys", static))
    lines = [f"INSERT INTO {table} VALUES {tuple(row)};" for table, row in rows]  # noqa: S608 - ours
    return TABLES + "\n".join(lines)


class Database:
    """A server of its own, at a socket in a folder of its own, that ends with the test."""

    def __init__(self) -> None:
        if os.geteuid():
            pytest.skip("servers with users of their own need root")
        self.folder = Path(tempfile.mkdtemp(prefix="rk-db-", dir="/tmp"))
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, user: str, prepare: list[str], run: list[str]) -> None:
        shutil.chown(self.folder, user)
        done = subprocess.run(
            prepare, user=user, group=user, cwd=self.folder, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        with (self.folder / "log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    run, user=user, group=user, cwd=self.folder, stdout=log, stderr=log
                )
            )

    def do(self, *command: str, text: str = "") -> bool:
        done = subprocess.run(
            command, input=text, text=True, capture_output=True, cwd=self.folder, check=False
        )
        return done.returncode == 0

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
            process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.close()


@pytest.fixture
def walk() -> Iterator[Walk]:
    made = Walk()
    yield made
    made.place.close()


def postgresql(database: Database, walk: Walk) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("no PostgreSQL: tests/provision deploy")
    programs, data = found[-1], str(database.folder / "data")
    listen = ["-c", "listen_addresses=", "-k", str(database.folder)]
    database.start(
        "postgres",
        [str(programs / "initdb"), "--auth=trust", "-D", data],
        [str(programs / "postgres"), "-D", data, *listen],
    )
    where = f"host={database.folder} user=postgres dbname=postgres"
    eventually(lambda: database.do("psql", where, "-c", "SELECT 1"), within=30)
    assert database.do("psql", where, "-v", "ON_ERROR_STOP=1", text=filled(walk))
    walk.place.environment["SUPERTOKENS_DB"] = where
    return POSTGRESQL


def mysql(database: Database, walk: Walk) -> str:
    server = shutil.which("mariadbd") or "/usr/sbin/mariadbd"
    if not Path(server).exists():
        pytest.skip("no MariaDB: tests/provision deploy")
    data, socket = f"--datadir={database.folder}/data", f"{database.folder}/socket"
    database.start(
        "mysql",
        ["mariadb-install-db", "--no-defaults", data, "--auth-root-authentication-method=normal"],
        [server, "--no-defaults", data, f"--socket={socket}", "--skip-networking"],
    )
    client = ("mysql", f"--socket={socket}")
    eventually(lambda: database.do(*client, "-e", "CREATE DATABASE supertokens"), within=30)
    assert database.do(*client, "supertokens", text=filled(walk))
    (walk.folder / ".my.cnf").write_text(f"[client]\nsocket={socket}\n")
    walk.place.environment["HOME"] = str(walk.folder)
    return MYSQL


@pytest.mark.parametrize("kept_in", [postgresql, mysql])
def test_what_a_database_exports_makes_the_ring(
    walk: Walk, database: Database, kept_in: Callable[[Database, Walk], str]
) -> None:
    export = kept_in(database, walk)
    former, signing = walk.issuer.keys
    said = walk.run(export, MAKE)
    assert f"made ring access-token: {signing} signs" in said
    assert f"{former} (RS256) verifies what it signed" in said
    assert "s-1 (RS256) signs where static keys are chosen" in said
