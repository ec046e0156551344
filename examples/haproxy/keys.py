#!/usr/bin/env python3
"""Make what HAProxy needs of a JWKS: `keys.py FOLDER`, a PEM for each kid, and keys.cfg.

The daemon runs it when keys changed (`on_change.command`), with its own Python: joserfc is there.
"""

import json
import os
import sys
from pathlib import Path

from joserfc.jwk import ECKey, RSAKey

ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384")  # HAProxy 2.6 has no PS256, and no EdDSA
KINDS: dict[str, type[RSAKey | ECKey]] = {"RSA": RSAKey, "EC": ECKey}
HEAD = """\
# Written by keys.py; HAProxy finds its keys when it starts, or is reloaded.
defaults keys
    mode http
    timeout client 30s
    timeout connect 5s
    timeout server 30s
"""
RULE = """\
    http-request set-var(txn.valid) http_auth_bearer,jwt_verify({alg},"{pem}") \
if {{ http_auth_bearer,jwt_header_query('$.kid') -m str {kid} }} \
{{ http_auth_bearer,jwt_header_query('$.alg') -m str {alg} }}
"""


def replace(path: Path, text: str) -> None:
    """Put a file in the place of its former version, whole at any moment."""
    fresh = path.with_name(f".{path.name}.fresh")
    fresh.write_text(text)
    fresh.rename(path)


def main(folder: Path) -> None:
    """Write the PEMs, then the configuration that names them, then drop what it names no more."""
    files = Path(os.environ.get("RINGKEEPER_FILES", "/run/ringkeeper"))
    jwks = json.loads((files / "jwks.json").read_text())
    keys = {key["kid"]: key for key in jwks["keys"] if key["alg"] in ALGORITHMS}
    folder.mkdir(parents=True, exist_ok=True)
    rules = ""
    for kid, key in keys.items():
        pem = folder.absolute() / f"{kid}.pem"
        replace(pem, KINDS[key["kty"]].import_key(key).as_pem(private=False).decode())
        rules += RULE.format(kid=kid, alg=key["alg"], pem=pem)
    replace(folder / "keys.cfg", HEAD + rules)
    for pem in folder.glob("*.pem"):
        if pem.stem not in keys:
            pem.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
