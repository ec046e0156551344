"""`make wycheproof VECTORS=…`: another project's vectors, held against what verifies here.

Wycheproof's `json_web_signature_test.json` is not kept here, for it is somebody else's; its newest
is the one to try. Its payloads are no claims, so what is tried is what a token meets before these
are read: its three parts, its header, the key's own algorithm, its signature.

What it has of HMAC and of algorithms that no ring has is told as left out; so are keys that say
themselves that they are for something else, for none of that kind comes into a ring.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ringkeeper.algorithms import ALGORITHMS, PublicKey
from ringkeeper.compact import header_in, octets_in
from ringkeeper.errors import MalformedToken

if TYPE_CHECKING:
    from collections.abc import Iterator

FORGIVEN: Final = {
    "InvalidCharacterInsertedInHeader": "valid there, though no base64url: here it is refused",
    "InvalidCharacterInsertedInPayload": "valid there, though no base64url: here it is refused",
    "Figure20": "valid there, though the key says PS256 and the token PS384: here it is refused",
}
_FROM: Final = "the one in testvectors_v1 of the project C2SP/wycheproof"
_PUBLIC: Final = frozenset(("kty", "n", "e", "crv", "x", "y"))


def is_taken(public: PublicKey, token: str) -> bool:
    """Whether `public` is said to have signed `token`."""
    try:
        head, payload, _ = token.split(".")
        octets_in(payload)
        header = header_in(head)
    except (ValueError, MalformedToken):
        return False
    is_its_own = header.is_sound and header.algorithm == public.algorithm.name
    return is_its_own and public.verifies(token)


def tried(vectors: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What came of each: "agreed", "left out" or "differs"; and about which."""
    for group in vectors["testGroups"]:
        jwk = group.get("public", {})
        algorithm = jwk.get("alg")
        is_ours = algorithm in ALGORITHMS and jwk.get("use", "sig") == "sig"
        for each in group["tests"]:
            about = f"{each['tcId']} ({group['comment']}: {each['comment']})"
            if not is_ours or each["comment"] in FORGIVEN:
                yield "left out", about
                continue
            members = tuple((name, jwk[name]) for name in sorted(_PUBLIC & jwk.keys()))
            public = PublicKey(members, algorithm)
            agrees = is_taken(public, each["jws"]) == (each["result"] == "valid")
            yield ("agreed" if agrees else "differs"), about


def main(arguments: list[str]) -> int:
    """Try the vectors in the file that `arguments` names; 1 if any differs."""
    if len(arguments) != 1:
        print(f"name the file, {_FROM}: make wycheproof VECTORS=json_web_signature_test.json")
        return 2
    try:
        results = list(tried(json.loads(Path(arguments[0]).read_text())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"{arguments[0]} is not {_FROM} ({type(error).__name__}); name that one")
        return 2
    counts = Counter(result for result, _ in results)
    for result, about in results:
        if result == "differs":
            print(f"differs: {about}")
    print(", ".join(f"{counts[name]} {name}" for name in ("agreed", "differs", "left out")))
    return 1 if counts["differs"] or not counts["agreed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
