"""The guides docs/howto-*.md, walked through as they are written, beside a real daemon."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import jwt
import pytest

from ringkeeper import Keyring
from ringkeeper.errors import RevokedKid
from ringkeeper.tokens import kid_in
from tests.docs.pages import ROOT
from tests.docs.test_docs import Place, blocks, commands, kid_of
from tests.plugins.brought_keys import PRIVATE_FORMS, made, public_pem, put
from tests.plugins.daemons import eventually

pytestmark = pytest.mark.long
LEAKED = (ROOT / "docs/howto-leaked-key.md").read_text()
HARDCODED = (ROOT / "docs/howto-from-a-hardcoded-key.md").read_text()
PYJWKCLIENT = (ROOT / "docs/howto-from-pyjwkclient.md").read_text()
PYJWT_ERRORS = re.findall(r"^\| `(\w+)`(?:, `(\w+)`)?.*? \| ", PYJWKCLIENT, re.MULTILINE)


class Walk:
    """One who follows a page, in a folder of their own."""

    def __init__(self) -> None:
        self.place = Place()
        self.folder = self.place.folder

    def start(self) -> None:
        self.place.start("ringkeeper", "run")
        eventually(lambda: self.place.answers(self.place.port, "/readyz")[0] == 200)

    def adapted(self, text: str) -> str:
        return text.replace(":9465", f":{self.place.port}")

    def does(self, *shown: str, **variables: str) -> str:
        """What these blocks print, together with what the page says that they print."""
        lines = [line for block in shown for line in commands(f"```console\n{block}```")]
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.adapted("\n".join(lines))],
            cwd=self.folder,
            env=self.place.environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr + self.place.told()
        rest = done.stdout
        for line in [each for block in shown for each in block.splitlines() if each[:2] != "$ "]:
            _, found, rest = rest.partition(f"{line}\n")
            assert found, (line, done.stdout)
        return done.stdout

    def runs(self, code: str) -> dict[str, Any]:
        """The names that a snippet makes, with the files of this folder."""
        names: dict[str, Any] = {}
        text = self.adapted(code)
        for file in ("./var", "var/root.pub.jwk", "config.yaml"):
            text = text.replace(f'"{file}"', f'"{self.folder}/{file}"')
        exec(text.replace("embedded:./var", f"embedded:{self.folder}/var"), names)  # noqa: S102
        return names

    def all_keys(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = json.loads(self.does("$ ringkeeper status --json\n"))["keys"]
        return told

    def keys(self, state: str) -> list[str]:
        return [
            key["kid"]
            for key in self.all_keys()
            if key["state"] == state and key["kind"] == "dynamic"
        ]


@pytest.fixture
def walk() -> Iterator[Walk]:
    made_here = Walk()
    try:
        yield made_here
    finally:
        made_here.place.close()


# --- a key leaked --------------------------------------------------------------------------------


@pytest.mark.runs("docs/howto-leaked-key.md")
def test_a_leaked_key_is_of_no_use_any_more_after_what_the_page_says(walk: Walk) -> None:
    which, refuse, see, change_kek, go = blocks(LEAKED, "console")
    walk.start()
    token = walk.does("""$ ringkeeper token sign --claims '{"sub":"alice"}'\n""").strip()
    kid = kid_in(token)
    (standby,) = walk.keys("published")
    folder = walk.folder / "var"
    with Keyring.connect(f"embedded:{folder}", trust_root=folder / "root.pub.jwk") as ring:
        assert ring.verify(token)["sub"] == "alice"
        assert walk.does(which, token=token).splitlines()[-1] == kid
        told = walk.does(refuse, kid=kid)
        assert f"{standby} signs" in told
        with pytest.raises(RevokedKid):
            ring.verify(token)
        assert f"kid={kid}" in walk.does(see, token=token, kid=kid)

        # Whoever had the KEK opens no key that is made from then on.
        (signer,), (standby,) = walk.keys("active"), walk.keys("published")
        before = (folder / "kek.jwk").read_text()
        change(walk, change_kek)
        assert before != (folder / "kek.jwk").read_text()
        had = {each["kid"] for each in walk.all_keys() if each["state"] != "revoked"}
        assert any(each.startswith("s-") for each in had)
        others = " ".join(had - {standby, signer})
        walk.does(go, standby=standby, signer=signer, others=others)
        left = {each["kid"] for each in walk.all_keys() if each["state"] != "revoked"}
        assert left
        assert not left & had, "each of them they may have opened"
        fresh = walk.does("$ ringkeeper token sign\n").strip()
        assert ring.verify(fresh)


def test_who_kept_a_copy_of_the_configuration_revokes_with_a_broken_one(walk: Walk) -> None:
    """As the page and the README say; and without a copy a file of one line does."""
    readme = (ROOT / "README.md").read_text()
    (copying,) = set(re.findall(r"`(cp -p [^`]+)`", LEAKED)) & set(
        re.findall(r"`(cp -p [^`]+)`", readme)
    )
    walk.start()
    walk.does(f"$ {copying}\n")
    (first,), (second,) = walk.keys("active"), walk.keys("published")
    (walk.folder / "config.yaml").write_text("redis: [")
    with pytest.raises(AssertionError, match=r"config\.yaml"):
        walk.does(f"$ ringkeeper revoke {first} --reason leaked\n")
    assert f"{second} signs" in walk.does(
        f"$ ringkeeper revoke {first} --reason leaked --config last-good.yaml\n"
    )
    (walk.folder / "least.yaml").write_text("redis: {url: 'embedded:./var'}\n")
    walk.does(f"$ ringkeeper revoke {second} --reason leaked --config least.yaml\n")


def change(walk: Walk, block: str) -> None:
    """Change the KEK as the page says, asking again until the daemon has read the file."""
    make, *rest = [f"$ {line}\n" for line in commands(f"```console\n{block}```")]
    walk.does(make)
    walk.place.processes[0].send_signal(signal.SIGHUP)  # it looks by itself, only later

    def is_done() -> bool:
        try:
            walk.does(*rest)
        except AssertionError as error:
            if not re.search("it reads them within seconds|ask again after", str(error)):
                raise
            return False
        return True

    eventually(is_done, within=60)


# --- from a hardcoded key ------------------------------------------------------------------------


@pytest.mark.runs("docs/howto-from-a-hardcoded-key.md")
def test_a_hardcoded_key_moves_and_turns_and_nobody_logs_in_again(walk: Walk) -> None:
    naming, at_one_app = blocks(HARDCODED, "python")
    make, same, shred, look, turn, replace = blocks(HARDCODED, "console")
    key = made("RS256")
    put(walk.folder / "key.pem", PRIVATE_FORMS["PKCS #8"](key))
    hardcoded = public_pem(key).decode()
    now = int(subprocess.check_output(["date", "+%s"]))
    former = walk.runs(naming)["signed"]({"sub": "alice", "iat": now, "exp": now + 600}, key)

    (yaml,) = blocks(HARDCODED, "yaml")
    config = walk.folder / "config.yaml"
    text = config.read_text()
    for line in yaml.splitlines():
        name = line.partition(":")[0]
        text, count = re.subn(rf"^{name}:.*$", line, text, flags=re.MULTILINE)
        assert count == 1, name
    config.write_text(text)
    assert "s-2024 signs" in walk.does(make)
    assert (walk.folder / "key.pem").exists(), "the app still signs with it"
    walk.start()
    walk.does(same)

    folder = walk.folder / "var"
    root, kek = folder / "root.pub.jwk", folder / "kek.jwk"
    with Keyring.connect(f"embedded:{folder}", trust_root=root, kek=kek) as ring:
        assert ring.verify(former)["sub"] == "alice"
        ours = ring.sign({"sub": "bob"}, lifetime=timedelta(minutes=5))
        for token in (former, ours):  # who hardcodes the key takes both
            assert jwt.decode(token, hardcoded, ["RS256"])["sub"] in {"alice", "bob"}
        walk.does(shred)
        assert (walk.folder / "ring.backup").exists()
        assert not (walk.folder / "key.pem").exists()
        assert '"kid":"s-2024"' in walk.does(look)

        walk.does(turn)
        turned = eventually(lambda: next((t for t in [ring.sign({})] if kid_in(t)[0] == "d"), None))
        for token in (former, ours, turned):
            assert ring.verify(token)
        with walk.runs(at_one_app)["ring"] as other:
            assert kid_of(other.sign({})) == "s-2024"
        told = walk.does(replace)
        (next_one,) = set(re.findall(r"s-[\w-]{22}", told.splitlines()[-1] + told)) - {"s-2024"}
        public = walk.does(f"$ ringkeeper static public {next_one}\n")
        assert public.startswith("-----BEGIN PUBLIC KEY-----")


# --- from PyJWKClient ----------------------------------------------------------------------------


@pytest.mark.runs("docs/howto-from-pyjwkclient.md")
@pytest.mark.parametrize("step", [0, 1, 2])
def test_each_step_away_from_pyjwkclient_takes_the_tokens_of_a_key_that_turned(
    walk: Walk, step: int
) -> None:
    walk.start()
    names = walk.runs(blocks(PYJWKCLIENT, "python")[step])
    sign = """$ ringkeeper token sign --claims '{"sub":"alice"}'\n"""
    before = walk.does(sign).strip()
    assert names["claims_of"](before)["sub"] == "alice"
    walk.does("$ ringkeeper rotate --now --reason test\n")
    after = walk.does(sign).strip()
    assert kid_of(after) != kid_of(before)
    for token in (before, after):
        assert names["claims_of"](token)["sub"] == "alice"
    walk.does(f"$ ringkeeper revoke {kid_of(before)} --reason leaked\n")
    if step == 0:  # as the page says: until its lifespan is over
        assert names["claims_of"](before)
        names = walk.runs(blocks(PYJWKCLIENT, "python")[step])
    error = RevokedKid if step == 2 else jwt.PyJWKClientError
    with pytest.raises(error):
        names["claims_of"](before)
    assert names["claims_of"](after)["sub"] == "alice"
    if step:
        names["ring"].close()


def test_what_the_page_says_of_pyjwt_is_there() -> None:
    errors = {name for pair in PYJWT_ERRORS for name in pair if name.endswith("Error")}
    assert len(errors) == 6
    for name in errors:
        assert issubclass(getattr(jwt, name), jwt.PyJWTError)
    defaults = jwt.PyJWKClient.__init__.__defaults__ or ()
    arguments = jwt.PyJWKClient.__init__.__code__.co_varnames[: len(defaults) + 2]
    by_itself = dict(zip(reversed(arguments), reversed(defaults), strict=False))
    assert by_itself["cache_keys"] is False


# --- why not Redlock -----------------------------------------------------------------------------


def test_what_is_said_of_the_fencing_is_what_was_measured() -> None:
    page = (ROOT / "docs/why-not-redlock.md").read_text()
    measured = (ROOT / "docs/guarantees.md").read_text()
    rows = dict(re.findall(r"^\| (\w[\w ]*?) \|(?:.*\|)? ([\d,]+) \|", measured, re.MULTILINE))
    assert (rows["seeds"], rows["violations"]) == ("20,000", "0")
    assert "none was in twenty thousand" in page
    assert int(rows["fencing"]) <= 10
    assert "within a hundred" in page
    assert int(rows["version check"]) <= 100
    script = (ROOT / "daemon/ringkeeperd/lua/publish.lua").read_text()
    for refusal in ("the lease is not ours any more", "another leadership came after ours"):
        assert refusal in script
