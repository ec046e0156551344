"""A program that forks, as gunicorn's prefork does. Run by test_live_keyring.py.

Each process prints lines of JSON, and leaves when its line on standard input or its deadline
comes. Argument: JSON with url, root, kek.
"""

import json
import os
import sys
import threading
import time

from ringkeeper import Keyring
from ringkeeper.sealing import Kek
from ringkeeper.trust import PinnedRoots


def tell(**fields: object) -> None:
    line = json.dumps({"pid": os.getpid(), **fields}) + "\n"
    os.write(1, line.encode())


def wait_for(ring: Keyring, version: int) -> None:
    deadline = time.monotonic() + 10
    while ring.version < version and time.monotonic() < deadline:
        time.sleep(0.005)
    tell(version=ring.version, signed=ring.sign({"sub": "later"}))


def main() -> None:
    given = json.loads(sys.argv[1])
    ring = Keyring.connect(
        given["url"],
        trust_root=PinnedRoots.from_jwk(given["root"]),
        kek=Kek.from_secret_jwk(given["kek"]),
    )
    token = ring.sign({"sub": "parent"})
    pid = os.fork()
    role = "parent" if pid else "child"
    sub = ring.verify(token)["sub"]
    threads = [t.name for t in threading.enumerate() if t.name == "ringkeeper"]
    tell(role=role, sub=sub, signed=ring.sign({"sub": role}), threads=len(threads))
    wait_for(ring, 2)
    if not pid:
        return  # the interpreter ends as usual: nothing of it may hurt the parent
    os.waitpid(pid, 0)
    tell(child_is_gone=True)
    wait_for(ring, 3)


main()
