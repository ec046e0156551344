"""Who could follow a ring under other secrets, and what is sealed by which KEK."""

from dataclasses import replace
from datetime import timedelta

import pytest

from ringkeeperd.rewrapping import lacking, rewrapped, sealed_otherwise
from ringkeeperd.rotation import Instance
from tests.core.builders import NOW, new_ring

SIGNER = Instance("signer", "sign", 1, 1, NOW, ("k1", "k2"), ("r1", "r2"))
VERIFIER = Instance("verifier", "verify", 1, 1, NOW, (), ("r1",))


@pytest.mark.parametrize(
    ("kek", "root", "behind"),
    [
        ("k1", "r1", {}),
        ("k2", "r1", {}),
        ("k3", "r1", {"signer": "does not have the KEK k3"}),
        ("k1", "r2", {"verifier": "does not have the root r2"}),
        ("", "r1", {}),
        (
            "k3",
            "r3",
            {"signer": "does not have the root r3", "verifier": "does not have the root r3"},
        ),
    ],
)
def test_who_lacks_what_is_named(kek: str, root: str, behind: dict[str, str]) -> None:
    told = lacking([VERIFIER, SIGNER], kek=kek, root=root)
    assert {instance.id: what for instance, what in told} == behind
    assert [instance.id for instance, _ in told] == sorted(behind)


def test_an_instance_that_tells_nothing_of_its_secrets_counts_as_lacking_them() -> None:
    silent = replace(SIGNER, keks=(), roots=())
    assert lacking([silent], kek="k1", root="r1") == ((silent, "does not have the root r1"),)


@pytest.mark.parametrize(
    ("silent_for", "told"),
    [(-10.0, "0s"), (0.0, "0s"), (2.9, "2s"), (75.0, "1m 15s")],
)
def test_an_instance_is_named_with_the_time_since_it_was_heard_of(
    silent_for: float, told: str
) -> None:
    """It may have ended since, or its host's clock be ahead."""
    named = SIGNER.named(NOW + timedelta(seconds=silent_for))
    assert named == f"signer (last heard of {told} ago)"


def test_the_next_version_has_the_same_keys_under_another_kek() -> None:
    ring = new_ring()
    after = rewrapped(ring, kek="k2", epoch=7)
    assert (after.version, after.epoch, after.kek) == (ring.version + 1, 7, "k2")
    assert replace(after, version=ring.version, epoch=ring.epoch, kek=ring.kek) == ring


def test_what_is_no_sealed_key_is_sealed_otherwise() -> None:
    ring = new_ring()
    first, second, third = ring.keys
    by_k1 = "eyJhbGciOiJkaXIiLCJlbmMiOiJBMjU2R0NNIiwiY3R5IjoiandrK2pzb24iLCJraWQiOiJrMSJ9.x"
    assert sealed_otherwise(ring, {first.kid: by_k1, second.kid: "garbage"}, "k1") == [second]
    assert sealed_otherwise(ring, {third.kid: by_k1}, "k2") == [third]
