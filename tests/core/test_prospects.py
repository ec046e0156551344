"""What a change will do to sessions is said before it, from what apps counted."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from ringkeeper.ring import KeyKind
from ringkeeperd.forecast import Outstanding
from ringkeeperd.planning import Wish
from ringkeeperd.prospects import prospects
from tests.core.builders import NOW, new_ring, policy

RING = new_ring()
AT = int(NOW.timestamp())


def counted(count: int, kid: str = "") -> Outstanding:
    """So many tokens of the key that signs, or of another, that expire evenly over an hour."""
    signer = RING.signer
    assert signer
    return Outstanding({kid or signer.kid: {AT + 60 * n: count // 60 for n in range(1, 61)}}, NOW)


def revoking(drain: timedelta | None = None) -> Wish:
    assert RING.signer
    return Wish(revoke=RING.signer.kid, drain=drain)


@pytest.mark.parametrize(
    ("tokens", "drain", "verifies", "wanted"),
    [
        (3600, None, 50.0, r"about 3,5\d\d refreshes, 4\d\.\d a second at the peak, 4\d\.\d times"),
        (3600, None, 0.0, "about 3,600 refreshes; how fast is not known, for no app tells"),
        (3600, timedelta(minutes=30), 50.0, r"\d\d\d refreshes, 2\.\d a second at the peak, 2\.\d"),
    ],
)
def test_of_a_revocation_its_refreshes_are_expected(
    tokens: int, drain: timedelta | None, verifies: float, wanted: str
) -> None:
    (line,) = prospects(RING, RING.policy, revoking(drain), counted(tokens), verifies=verifies)
    assert re.match(f"expected: .*{wanted}", line), line


def test_a_single_refresh_is_one() -> None:
    one = Outstanding({revoking().revoke: {AT + 60: 1}}, NOW)
    (line,) = prospects(RING, RING.policy, revoking(), one, verifies=0)
    assert line.startswith("expected: about one refresh; ")


@pytest.mark.parametrize("was_dynamic", [True, False])
def test_of_a_switch_it_is_said_where_it_does_something(was_dynamic: bool) -> None:
    ring = new_ring(policy(use_dynamic=was_dynamic))
    (of_ours, elsewhere) = prospects(
        ring,
        replace(ring.policy, use_dynamic=not was_dynamic),
        Wish(),
        counted(3600, ring.signer.kid if ring.signer else ""),
        verifies=50.0,
    )
    assert of_ours.startswith("expected: no refreshes where both kinds verify")
    assert re.match(r"expected where SuperTokens' SDK .*: about 3,5\d\d refreshes", elsewhere)


def test_where_nobody_counted_nothing_is_expected() -> None:
    assert RING.standby
    (static,) = (key for key in RING.keys if key.kind is KeyKind.STATIC)
    switched = replace(RING.policy, use_dynamic=not RING.policy.use_dynamic)
    for wish, counts in (
        (Wish(revoke=RING.standby.kid), counted(60)),
        (Wish(revoke="d-unknown"), counted(60)),
        (Wish(), counted(60)),
    ):
        assert prospects(RING, RING.policy, wish, counts, verifies=50.0) == ()
    assert prospects(RING, switched, Wish(), counted(60, static.kid), verifies=50.0) == ()
