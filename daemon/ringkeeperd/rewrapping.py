"""A ring under other secrets: sealed by another KEK, signed by another root. Promise 4. Pure.

A KEK or a root is changed as a signing key is: first everybody has the next one beside the present
one, then it is used, then the former one goes. A file says what a process *may* use, the ring says
what *is* used: the KEK stands in the signed snapshot, the root above it. So files may be changed
in any order, on any host, at any time; what moves the ring is one request, and the leader refuses
it while a live instance could not follow.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ringkeeper.sealing import kek_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ringkeeper.ring import Key, Ring
    from ringkeeperd.rotation import Instance


def lacking(
    instances: Iterable[Instance], *, kek: str, root: str
) -> tuple[tuple[Instance, str], ...]:
    """The live instances that could not follow a ring under `kek` and `root`, and what they lack.

    They are in the order of their ids. An empty `kek` stands for any. Who has no KEK at all only
    verifies, and needs none.
    """
    found: list[tuple[Instance, str]] = []
    for instance in sorted(instances, key=lambda instance: instance.id):
        if root not in instance.roots:
            found.append((instance, f"does not have the root {root}"))
        elif kek and instance.keks and kek not in instance.keks:
            found.append((instance, f"does not have the KEK {kek}"))
    return tuple(found)


def sealed_otherwise(ring: Ring, blobs: Mapping[str, str], kek: str) -> list[Key]:
    """The keys of `ring` whose private half in `blobs` is not sealed by `kek`."""
    return [k for k in ring.keys if k.kid in blobs and kek_of(blobs[k.kid]) != kek]


def rewrapped(ring: Ring, *, kek: str, epoch: int) -> Ring:
    """The next version of `ring`: the same keys, sealed by `kek`."""
    return replace(ring, version=ring.version + 1, epoch=epoch, kek=kek)
