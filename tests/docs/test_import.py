"""docs/import.md, walked through as it is written."""

import json
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta

import jwt
import pytest

from ringkeeper.clock import SystemClock
from tests.docs.pages import ROOT
from tests.docs.test_docs import Place, blocks, commands
from tests.plugins.brought_keys import (
    PASSPHRASE,
    PRIVATE_FORMS,
    Issuer,
    StaticRow,
    as_csv,
    as_tsv,
    halves,
    in_json,
    jwk,
    made,
    public_pem,
    put,
)
from tests.plugins.daemons import eventually

PAGE = (ROOT / "docs/import.md").read_text()
POSTGRESQL, MYSQL, MAKE, LOOK, PEM, SET, NEXT_KEY, AWAY = blocks(PAGE, "console")
CLIENT = """#!/bin/sh
# Prints the table that was asked for, as this client of a database prints it.
case "$*" in
*"$(head -1 dynamic.of | tr ,'\\t' '  ' | sed 's/ /, /g') "*FROM\\ session_access_token_signing_keys) cat dynamic.of;;
*"$(head -1 static.of | tr ,'\\t' '  ' | sed 's/ /, /g') "*FROM\\ jwt_signing_keys) cat static.of;;
*) echo "no such query: $*" >&2; exit 1;;
esac
"""


class Walk:
    """One who follows the page, in a folder of his own."""

    def __init__(self) -> None:
        self.place = Place()
        self.folder = self.place.folder
        self.issuer = Issuer(timedelta(days=7), timedelta(), now=SystemClock().now())
        self.static = made("RS256")
        self.place.environment |= {
            "PATH": f"{self.folder}/bin:{self.place.environment['PATH']}",
            "SUPERTOKENS_DB": "postgresql://nowhere/supertokens",
            "TOKEN": self.issuer.sign(),
        }
        (self.folder / "bin").mkdir()

    def database(self, client: str) -> None:
        """A database of SuperTokens' behind `client`."""
        export = as_csv if client == "psql" else as_tsv
        put(self.folder / "dynamic.of", export(self.issuer.rows))
        rows = [StaticRow("public", "s-1", halves(self.static), "RS256", 1_790_000_000_000)]
        put(self.folder / "static.of", export(rows))
        put(self.folder / "bin" / client, CLIENT.encode(), 0o700)

    def run(self, *shown: str) -> str:
        """What the commands of these blocks print."""
        lines = [line for block in shown for line in commands(f"```console\n{block}```")]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
            cwd=self.folder,
            env=self.place.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        """The daemon, as the page says between two blocks."""
        self.place.start("ringkeeper", "run")
        eventually(lambda: self.place.answers(self.place.port, "/readyz")[0] == 200, within=30)


@pytest.fixture
def walk() -> Iterator[Walk]:
    made_here = Walk()
    try:
        yield made_here
    finally:
        made_here.place.close()


@pytest.mark.runs("docs/import.md", 1, 3, 4, 7, 8)
def test_a_system_moves_here_and_away_as_the_page_says(walk: Walk) -> None:
    walk.database("psql")
    former, signing = walk.issuer.keys
    said = walk.run(POSTGRESQL, MAKE)
    assert f"made ring access-token: {signing} signs" in said
    assert f"{former} (RS256) verifies what it signed, until" in said
    assert not list(walk.folder.glob("*.csv"))
    walk.start()
    looked = walk.run(LOOK)
    assert looked.count(signing) > 1
    assert '"sub": "alice"' in looked.splitlines()[-1]

    # Their next key, while both sign.
    kid = walk.issuer.turn(SystemClock().now())
    put(walk.folder / "dynamic2.csv", as_csv(walk.issuer.rows))
    walk.place.environment |= {"KID": kid, "TOKEN": walk.issuer.sign()}
    assert f"{kid} (RS256) verifies now" in walk.run(NEXT_KEY)
    assert '"sub": "alice"' in walk.run(LOOK).splitlines()[-1]

    put(walk.folder / "next.pem", public_pem(made("RS256", 1)), 0o644)
    assert "next-1 (RS256) verifies now" in walk.run(AWAY)
    handed = jwt.PyJWKSet.from_json((walk.folder / "ringkeeper-jwks.json").read_text())
    assert {former, signing, kid, "s-1", "next-1"} < {key.key_id for key in handed.keys}
    static = jwt.encode({"sub": "a"}, walk.static, "RS256")
    assert jwt.decode(static, (walk.folder / "static.pem").read_text(), ["RS256"])


@pytest.mark.runs("docs/import.md", 2, 3)
def test_the_export_from_mysql_makes_the_same_ring(walk: Walk) -> None:
    walk.database("mysql")
    assert f"ring access-token: {list(walk.issuer.keys)[-1]} signs" in walk.run(MYSQL, MAKE)


@pytest.mark.runs("docs/import.md", 5)
def test_a_pem_moves_as_the_page_says(walk: Walk) -> None:
    put(walk.folder / "key.pem", PRIVATE_FORMS["PKCS #8, encrypted"](made("RS256")))
    put(walk.folder / "passphrase", PASSPHRASE.encode())
    assert "ring access-token: main signs" in walk.run(PEM)


@pytest.mark.runs("docs/import.md", 6)
def test_a_jwk_set_moves_as_the_page_says(walk: Walk) -> None:
    keys = [jwk(made("ES256", n), kid=f"k{n}") for n in (1, 2)]
    put(walk.folder / "keys.json", in_json({"keys": keys}))
    put(walk.folder / "public.pem", public_pem(made("ES384")), 0o644)
    said = walk.run(SET)
    assert "ring access-token: k2 signs" in said
    assert "(ES384) verifies only" in said


def test_what_the_page_says_of_times_is_so(walk: Walk) -> None:
    """A token of 30 days is refused on the second one, if nobody says how long they live."""
    put(walk.folder / "dynamic.csv", as_csv(walk.issuer.rows))
    (block,) = [line for line in MAKE.splitlines() if "init" in line]
    walk.run(block.replace(" --import static.csv", "") + "\n")
    walk.start()
    told = json.loads(walk.run("$ ringkeeper status --json\n"))["keys"]
    (retired,) = [key for key in told if key["state"] == "retired"]
    left = datetime.fromisoformat(retired["remove_at"]) - walk.issuer.now
    assert timedelta(hours=25) < left < timedelta(hours=26)
