"""`make wycheproof`, on vectors made here in the form of Wycheproof's."""

import json
from pathlib import Path
from typing import Any

import pytest

from ringkeeper.algorithms import PrivateKey
from tests import wycheproof
from tests.adversary.forging import b64, hs256


def group(comment: str, public: dict[str, Any], *tests: tuple[str, str, str]) -> dict[str, Any]:
    listed = [
        {"tcId": number, "comment": each, "jws": token, "result": result, "flags": []}
        for number, (each, token, result) in enumerate(tests, 1)
    ]
    return {"type": "JsonWebSignature", "comment": comment, "public": public, "tests": listed}


def vectors() -> dict[str, Any]:
    """Payloads are no claims there, and keys say what they are for."""
    key = PrivateKey.generate("ES256")
    jwk = {**dict(key.public_jwk), "alg": "ES256", "use": "sig", "kid": "a"}
    message = f"{b64(json.dumps({'alg': 'ES256', 'kid': 'a'}))}.{b64('foo')}"
    good = key.signed(message)
    confused = f"{b64(json.dumps({'alg': 'HS256', 'kid': 'a'}))}.{b64('foo')}"
    confused = f"{confused}.{b64(hs256(jwk['x'].encode())(confused.encode()))}"
    other = ("valid", good, "valid")
    return {
        "testGroups": [
            group(
                "es256",
                jwk,
                ("acceptsValid", good, "valid"),
                ("rejectsMissingSignature", f"{message}.", "invalid"),
                ("rejectsExtraComponent", f"{good}.foo", "invalid"),
                ("rejectsSymmetryConfusion", confused, "invalid"),
                ("InvalidCharacterInsertedInPayload", good.replace(".", "?.", 1), "valid"),
            ),
            group("hs256", {}, other),
            group("es521", {**jwk, "alg": "ES521"}, other),
            group("for encryption", {**jwk, "use": "enc"}, other),
        ]
    }


def run(folder: Path, said: dict[str, Any]) -> int:
    (folder / "vectors.json").write_text(json.dumps(said))
    return wycheproof.main([str(folder / "vectors.json")])


def test_what_is_as_it_should_be_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, vectors()) == 0
    assert capsys.readouterr().out == "4 agreed, 0 differs, 4 left out\n"


@pytest.mark.parametrize("number", range(4))
def test_what_differs_is_named(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = vectors()
    one = said["testGroups"][0]["tests"][number]
    one["result"] = {"valid": "invalid", "invalid": "valid"}[one["result"]]
    assert run(tmp_path, said) == 1
    assert f"differs: {number + 1} (es256: {one['comment']})" in capsys.readouterr().out


def test_a_file_without_any_of_ours_is_no_success(tmp_path: Path) -> None:
    assert run(tmp_path, {"testGroups": []}) == 1
    assert wycheproof.main([]) == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"testGroups": [{}]}', '{"testGroups": 5}'])
def test_another_file_is_named_in_a_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.json"
    assert wycheproof.main([str(file)]) == 2
    file.write_text(text)
    assert wycheproof.main([str(file)]) == 2
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2
    assert all(line.startswith(f"{file} is not the one in testvectors_v1") for line in told)
