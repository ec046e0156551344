"""What is remembered of tokens changes no verdict, takes no more room than it may, and is of use."""

import gc
import json
import sys
import threading
import tracemalloc
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringkeeper import Keyring, compact, testing, tokens
from ringkeeper.algorithms import PrivateKey, PublicKey
from ringkeeper.errors import (
    ClaimMismatch,
    ExpiredToken,
    ImmatureToken,
    InvalidSignature,
    KindMismatch,
    MalformedToken,
    RevokedKid,
    StaleRing,
    TokenError,
)
from ringkeeper.replica import Verifying, _loaded
from ringkeeper.signed_token import SignedToken
from ringkeeper.token_cache import BYTES_AN_ENTRY, MOST_ENTRIES, TokenCache, checked_size
from tests.crowd import check, crowd

CLAIMS: dict[str, Any] = {
    "sub": "alice",
    "roles": ["a", "b"],
    "in": {"deep": [{"x": 1}], "n": None},
}
KEY = PublicKey(PrivateKey.generate("EdDSA").public_jwk, "EdDSA")


@pytest.fixture
def ring() -> Iterator[testing.MemoryKeyring]:
    with testing.keyring(access_token_validity=3600, max_verify_staleness="off") as ring:
        yield ring


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tokens whose signature was checked, each time that it was."""
    found: list[str] = []
    verifies = PublicKey.verifies

    def counted(self: PublicKey, token: str) -> bool:
        found.append(token)
        return verifies(self, token)

    monkeypatch.setattr(PublicKey, "verifies", counted)
    return found


# --- it is of use --------------------------------------------------------------------------------


def test_a_signature_is_checked_once(checked: list[str], ring: testing.MemoryKeyring) -> None:
    token = ring.sign(CLAIMS)
    for _ in range(5):
        assert ring.verify(token) == ring.verify(token)
        assert ring.verify(token)["in"] == CLAIMS["in"]
    assert checked == [token]
    assert ring.token_cache[2:] == (14, 1)
    ring.advance("1m")
    ring.verify(token)
    assert checked == [token], "a proof makes nobody check anew"


def test_what_is_remembered_dies_with_the_ring_s_change(
    checked: list[str], ring: testing.MemoryKeyring
) -> None:
    """Whatever changed: the next version was not asked about that token yet."""
    other = tokens.kid_in(ring.sign({}))
    ring.rotate()
    token = ring.sign(CLAIMS)
    for change in (ring.rotate, lambda: ring.revoke(other), ring.rotate):
        ring.verify(token)
        known, checked[:] = ring.token_cache, []
        change()
        for _ in range(3):
            assert ring.verify(token)["sub"] == "alice"
        assert checked == [token]
        assert ring.token_cache.entries == known.entries, "in the place that it had"
        assert ring.token_cache[2:] == (known.hits + 2, known.misses + 1)


def test_who_still_holds_the_former_version_has_no_word_in_the_next(
    checked: list[str], ring: testing.MemoryKeyring
) -> None:
    """Another thread may verify by it while the ring changes."""
    token = ring.sign(CLAIMS)
    former, now = ring._held(), ring._clock.timestamp()
    how: Any = (None, None, False, None, PublicKey.verifies, ring._cache)
    ring.rotate()
    tokens.judge(former, token, now, *how)
    ring.verify(token)
    assert checked == [token, token]
    ring.revoke(tokens.kid_in(token))
    tokens.judge(former, token, now, *how)
    with pytest.raises(RevokedKid):
        ring.verify(token)


def test_a_proof_or_a_private_half_that_is_opened_makes_no_other_version_of_a_key(
    ring: testing.MemoryKeyring,
) -> None:
    """Or else each of them would empty the cache."""
    before = ring._held()
    opened = before.with_keys({"d-x": "sealed"}, dict(before.signing))
    ring.advance("1m")
    for after in (opened, ring._held()):
        assert after is not before
        assert [*after.verifying] == [*before.verifying]
        for kid, verifying in after.verifying.items():
            assert verifying is before.verifying[kid]


@pytest.mark.parametrize("claims", [{"roles": ["a"]}, {"in": {"x": 1}}, {"in": [[1]]}])
def test_a_list_that_a_program_changes_is_its_own(
    ring: testing.MemoryKeyring, claims: dict[str, Any]
) -> None:
    token = ring.sign(claims)
    for _ in range(3):
        (name,) = claims
        mine = ring.verify(token)[name]
        assert mine == claims[name]
        if mine == [[1]]:
            mine[0].append(2)
        mine.clear()


def test_what_a_program_does_to_claims_is_its_own(ring: testing.MemoryKeyring) -> None:
    token = ring.sign(CLAIMS)
    whole = ring.verify(token)
    for _ in range(3):
        claims = ring.verify(token)
        assert claims == whole
        claims["sub"] = "mallory"
        claims["roles"].append("admin")
        claims["in"]["n"] = 1
        claims["in"]["deep"][0]["x"] = 2
        claims["in"]["deep"].clear()
        claims.clear()


@pytest.mark.parametrize(
    ("payload", "strict_readings"),
    [
        (b'{"sub":"a","x":[1,2.5]}', 0),
        (b'{ "sub":"a", "x":[1, 2] }', 1),
        (b'{"sub":"a","x":"\\u00e9","y":[{}]}', 1),
        (b'{"sub":"a","x":1E2,"y":-0,"z":18446744073709551617}', 1),
        (b'{"sub":"a","x":"\\ud800","y":[]}', 4),
    ],
)
def test_what_another_issuer_wrote_in_its_own_way_is_read_alike_each_time(
    ring: testing.MemoryKeyring,
    payload: bytes,
    strict_readings: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once strictly, and then as quickly as others, unless nobody could write it as it is."""
    read: list[bytes] = []
    strictly = compact._strictly

    def counted(octets: bytes) -> dict[str, Any]:
        read.append(octets)
        return strictly(octets)

    monkeypatch.setattr(compact, "_strictly", counted)
    now = int(ring._clock.timestamp())
    text = payload.replace(b"{", b'{"iat":%d,"exp":%d,' % (now, now + 60), 1)
    key = ring._held().signers[None]
    assert key
    head = compact.written(key.kid, key.algorithm, None, {})[0].partition(".")[0]
    token = ring._held().signing[key.kid].signed(f"{head}.{compact.base64url(text)}")
    for _ in range(4):
        claims = ring.verify(token)
        assert repr(claims) == repr(json.loads(text))
        claims.clear()
    assert ring.token_cache[2:] == (3, 1)
    assert len(read) == strict_readings


def test_none_is_remembered_where_none_may_be(checked: list[str]) -> None:
    with testing.keyring() as ring:
        ring._cache = TokenCache(0)
        token = ring.sign(CLAIMS)
        assert ring.verify(token) == ring.verify(token)
        assert checked == [token, token]
        assert ring.token_cache == (0, 0, 0, 2)


# --- it changes no verdict -----------------------------------------------------------------------


def test_times_are_asked_each_time(ring: testing.MemoryKeyring) -> None:
    ring._time.now_is = ring._time.now_is.replace(microsecond=0)
    token = ring.sign(CLAIMS)
    ring.verify(token)
    ring.advance(timedelta(minutes=61) - timedelta(milliseconds=1))
    ring.verify(token)
    ring.advance(timedelta(milliseconds=1))
    with pytest.raises(ExpiredToken):
        ring.verify(token)
    ring._time.now_is -= timedelta(hours=3)
    with pytest.raises(ImmatureToken):
        ring.verify(token)


def test_a_revocation_counts_at_once_and_for_tokens_that_are_known(
    ring: testing.MemoryKeyring,
) -> None:
    token = ring.sign(CLAIMS)
    ring.verify(token)
    ring.revoke(tokens.kid_in(token))
    for _ in range(2):
        with pytest.raises(RevokedKid):
            ring.verify(token)
    assert ring.verify(ring.sign(CLAIMS)), "the others go on"


def test_for_whom_a_token_is_is_asked_each_time(ring: testing.MemoryKeyring) -> None:
    token = ring.sign({"aud": ["shop"], "iss": "us"})
    for _ in range(2):
        assert ring.verify(token, audience="shop", issuer="us")
        with pytest.raises(ClaimMismatch):
            ring.verify(token, audience="bank")
        with pytest.raises(ClaimMismatch):
            ring.verify(token, issuer="them")


def test_the_kind_that_signs_is_asked_each_time() -> None:
    with testing.keyring(strict_key_kind=True) as ring:
        token = ring.sign(CLAIMS)
        assert ring.verify(token)
        ring._use_dynamic = False
        with pytest.raises(KindMismatch):
            ring.verify(token)


def test_how_old_the_ring_is_is_asked_each_time() -> None:
    rules = {"max_staleness": "1h", "max_verify_staleness": "1h", "access_token_validity": 36000}
    with testing.keyring(**rules) as ring:  # type: ignore[arg-type]
        token = ring.sign(CLAIMS)
        assert ring.verify(token)
        ring.advance("2h", led=False)
        with pytest.raises(StaleRing):
            ring.verify(token)


def test_a_token_counts_for_the_key_that_signed_it_and_no_other_of_its_kid(
    ring: testing.MemoryKeyring,
) -> None:
    """What another issuer's key is called is that issuer's affair."""
    token = ring.sign(CLAIMS)
    ring.verify(token)
    held = ring._held()
    kid = tokens.kid_in(token)
    other = PublicKey(PrivateKey.generate("ES256").public_jwk, "ES256")
    changed = {**held.verifying, kid: held.verifying[kid]._replace(public=other)}
    asked = (token, ring._clock.timestamp(), None, None, False, None)
    how: Any = (*asked, PublicKey.verifies, ring._cache)
    assert tokens.judge(held, *how)
    with pytest.raises(InvalidSignature):
        tokens.judge(replace(held, verifying=changed), *how)


def test_a_key_that_goes_on_with_another_algorithm_is_loaded_anew() -> None:
    """Another issuer may do that to its own: the numbers are the same, the padding is not."""
    jwk = PrivateKey.generate("RS256").public_jwk
    key: Any = SimpleNamespace(public=jwk, algorithm="RS256")
    before = Verifying(key, PublicKey(jwk, "RS256"))
    assert _loaded(key, before) is before.public
    after = _loaded(SimpleNamespace(public=jwk, algorithm="PS256"), before)  # type: ignore[arg-type]
    assert (after.algorithm.name, before.public.algorithm.name) == ("PS256", "RS256")


def test_only_a_str_itself_is_looked_for_or_kept(ring: testing.MemoryKeyring) -> None:
    """What else compares itself as it likes."""

    class Sly(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = str.__hash__

    token = ring.sign(CLAIMS)
    assert ring.verify(Sly(token))["sub"] == CLAIMS["sub"]
    assert ring.token_cache.entries == 0
    ring.verify(token)
    assert ring._cache.recall(Sly(token)) is None


def test_a_child_of_a_fork_remembers_by_itself(ring: testing.MemoryKeyring) -> None:
    """Its parent's lock may be held by nobody."""
    live = object.__new__(Keyring)
    live._connection = SimpleNamespace(token_cache=7)  # type: ignore[assignment]
    live._count_anew()
    former = live._cache
    former._lock.acquire()
    live._forked()
    assert live._cache is not former
    assert live._follow(None)._cache is live._cache
    assert live._cache._most == 7
    assert not live._cache._lock.locked()


def test_the_kind_is_asked_last(ring: testing.MemoryKeyring) -> None:
    """Who is told to refresh for that had a good token until the switch."""
    token = ring.sign(CLAIMS)
    asked = (ring._held(), token, ring._clock.timestamp())
    for memory in (None, ring._cache, ring._cache):
        how: Any = ("elsewhere", None, True, False, PublicKey.verifies, memory)
        with pytest.raises(ClaimMismatch):
            tokens.judge(*asked, *how)
    with pytest.raises(KindMismatch):
        tokens.judge(*asked, None, None, True, False, PublicKey.verifies, ring._cache)


def test_statistics_may_be_looked_at_by_who_interrupts_whoever_looks() -> None:
    """A signal handler that reports them, say."""
    cache = TokenCache(10)
    with cache.hits._looking, cache._misses._looking:
        assert cache.statistics.hits == 0


def test_a_signature_alone_makes_no_token_known(ring: testing.MemoryKeyring) -> None:
    token, other = ring.sign(CLAIMS), ring.sign({**CLAIMS, "sub": "mallory"})
    ring.verify(token)
    forged = f"{other.rpartition('.')[0]}.{token.rpartition('.')[2]}"
    with pytest.raises(InvalidSignature):
        ring.verify(forged)
    odd: Any
    for odd in (token.encode(), [*token], None, 5, {}, memoryview(bytearray(b"x")), token[:0]):
        with pytest.raises(MalformedToken):
            ring.verify(odd)


DOES = st.sampled_from(
    ["sign", "verify", "verify", "verify", "rotate", "revoke", "minutes", "forge"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(DOES, st.integers(0, 10**6)), min_size=10, max_size=60))
def test_it_gives_the_verdicts_that_there_would_be_without_it(
    steps: list[tuple[str, int]],
) -> None:
    with testing.keyring(algorithm="EdDSA", access_token_validity=1200) as ring:
        ring._cache = TokenCache(6)
        known = [ring.sign({"sub": "0"})]
        assert ring.verify(known[0]) == ring.verify(known[0])
        assert ring.token_cache.hits == 1, "there is room for such tokens"
        for does, number in steps:
            token = known[number % len(known)]
            if does == "sign":
                known.append(ring.sign({"sub": str(number), "in": [number]}))
            elif does == "rotate":
                ring.rotate()
            elif does == "minutes":
                ring.advance(f"{1 + number % 9}m")
            elif does == "revoke" and number % 3 == 0:
                signer = ring.snapshot.signer
                assert signer
                ring.revoke(signer.kid)
            elif does == "forge":
                known.append(token[:-5] + "AAAAA")
            assert verdict(ring, token) == verdict_without(ring, token)


def verdict(ring: testing.MemoryKeyring, token: str) -> object:
    try:
        return ring.verify(token)
    except TokenError as error:
        return type(error), str(error)


def verdict_without(ring: testing.MemoryKeyring, token: str) -> object:
    try:
        return tokens.verify(ring._held(), token, ring._clock.now())
    except TokenError as error:
        return type(error), str(error)


# --- it takes no more room than it may ------------------------------------------------------------


def signed(name: object, *, padding: int = 0, claims: str = "") -> SignedToken:
    """As if `key` had signed it: the cache asks no key."""
    text = claims or f'{{"sub":"{name}","pad":"{"x" * padding}"}}'
    token = f"e30.{compact.base64url(text.encode())}.{str(name).rjust(80, '_')}"
    return made_of(token, text, 1e12)


def made_of(token: str, text: str, expires: float, key: PublicKey = KEY) -> SignedToken:
    claims = partial(compact.claims_in, text.encode())
    return SignedToken(token, "d-x", key, claims, 0.0, expires)


def seen(cache: TokenCache, each: SignedToken) -> bool:
    """As `verify` does: look for it, and remember it if it is not there."""
    if found := cache.recall(each.token):
        cache.hit()
        assert found.claims() == each.claims()
        return True
    text = compact.octets_in(each.token.split(".")[1]).decode()
    cache.remember(made_of(each.token, text, 1e12), 0.0)
    return False


SIZES = st.sampled_from([0, 0, 0, 900, 4000, 9000])


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 60), SIZES), max_size=300))
def test_its_bounds_hold_whatever_is_seen(most: int, steps: list[tuple[int, int]]) -> None:
    cache = TokenCache(most)
    for name, padding in steps:
        seen(cache, signed(f"{name}/{padding}", padding=padding))
        check(cache)


def test_a_flood_of_other_tokens_pushes_out_none_that_is_in_use() -> None:
    cache = TokenCache(200)
    used = [signed(n) for n in range(100)]
    for each in used * 2:
        seen(cache, each)
    for number in range(20_000):
        seen(cache, signed(f"flood {number}"))
        if number % 100 == 0:
            assert seen(cache, used[number // 100 % 100])
    check(cache)
    assert all(seen(cache, each) for each in used)


def test_nor_does_one_of_large_ones() -> None:
    """They take the room of a few: by their bytes, too, they are on probation in a tenth of it."""
    cache = TokenCache(200)
    used = [signed(n) for n in range(100)]
    for each in used * 2:
        seen(cache, each)
    for number in range(1000):
        seen(cache, signed(f"large {number}", padding=18_000))
        check(cache)
    assert all(seen(cache, each) for each in used)


def test_those_in_use_before_make_room_for_those_in_use_now() -> None:
    cache = TokenCache(100)
    for group in range(5):
        used = [signed(f"{group}/{n}") for n in range(80)]
        for _ in range(6):
            found = [seen(cache, each) for each in used]
        assert all(found), group
        check(cache)


def test_one_that_comes_back_soon_after_its_probation_stays() -> None:
    cache = TokenCache(20)
    for number in range(20):
        for _ in range(2):
            seen(cache, signed(number))
    first = signed("first")
    seen(cache, first)
    for number in range(3):
        seen(cache, signed(f"other {number}"))
    assert cache.recall(first.token) is None, "it was not seen again in time"
    seen(cache, first)
    again = cache.recall(first.token)
    assert again and again.is_staying
    check(cache)


def brought(cache: TokenCache, name: object, now: float, expires: float) -> bool:
    """Whether it was known; it is now."""
    each = signed(name)
    if cache.recall(each.token):
        return True
    text = '{"sub":"x"}'
    cache.remember(made_of(each.token, text, expires), now)
    return False


@pytest.mark.parametrize("uses", [1, 3])
@pytest.mark.parametrize("room", [10_000, 300])
def test_what_is_held_is_about_what_is_in_use(room: int, uses: int) -> None:
    """A hundred users, whose tokens live for a hundred seconds: an app of any age holds those."""
    cache, held = TokenCache(room), list[int]()
    for now in range(2000):
        for _ in range(uses):
            brought(cache, now, now, now + 100)
        check(cache)
        held.append(cache.statistics.entries)
    assert max(held[200:]) <= 100 * 1.5
    cache = TokenCache(room)
    for now in range(2000):
        brought(cache, now, 0, 100)
    assert cache.statistics.entries == min(room, 2000), "none of them has expired"


def test_who_stays_goes_too_once_it_has_expired() -> None:
    cache = TokenCache(20)
    for _ in range(2):
        for name in range(4):
            brought(cache, name, 0, 100)
    for name in range(100, 125):
        brought(cache, name, 0, 1000)
    assert [signed.is_staying for signed in cache._staying] == [True] * 4
    for name in range(200, 210):
        brought(cache, name, 100, 1000)
        check(cache)
    assert not cache._staying
    assert not brought(cache, 0, 100, 1000)


def test_those_in_use_are_known_although_all_are_replaced() -> None:
    """As many users as there is room: what has expired takes none of it away."""
    users, lives, chance = 300, 2000, Random(1)
    cache, hits, asked = TokenCache(users), 0, 0
    until, number = [0] * users, [0] * users
    for now in range(40_000):
        user = chance.choices(range(users), cum_weights=_ZIPF[:users])[0]
        is_new = until[user] <= now
        if is_new:
            until[user], number[user] = now + chance.randrange(lives // 2, lives), now
        is_hit = brought(cache, (user, number[user]), now, until[user])
        if now > 10_000 and not is_new:
            hits, asked = hits + is_hit, asked + 1
    check(cache)
    assert hits / asked > 0.98


_ZIPF = [sum(1 / rank for rank in range(1, n + 1)) for n in range(1, 301)]


def test_a_token_that_would_take_much_of_the_room_is_not_remembered() -> None:
    cache = TokenCache(16)
    seen(cache, signed("large", padding=BYTES_AN_ENTRY))
    assert cache.statistics.entries == 0
    seen(cache, signed("small"))
    assert cache.statistics.entries == 1


NASTY = [
    "{" + ",".join(f'"{chr(0x4E00 + n)}{chr(0x5E00 + n)}":"\\u4e00"' for n in range(300)) + "}",
    '{"sub":"alice","roles":["a","b"],"email":"alice@example.org"}',
    "{" + ",".join(f'"{n}":{n}' for n in range(150)) + "}",
    '{"a":[' + ",".join("[]" for _ in range(60)) + "]}",
    '{"a":[' + ",".join('{"b":1}' for _ in range(60)) + "]}",
    '{"a":"' + "\\u4e00" * 100 + '"}',
    '{"a":"' + "x" * 600 + '\N{GRINNING FACE}"}',
    '{"a":[' + ",".join("1.5" for _ in range(300)) + "]}",
    '{"a":' + "[" * 60 + "]" * 60 + "}",
    "{" + ",".join(f'"\N{GRINNING FACE}{n}":{n}' for n in range(150)) + "}",
]


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_it_takes_no_more_memory_than_it_says(text: str) -> None:
    cache = TokenCache(2000)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(4000):
            claims = text.replace("{", f'{{"n":{number},', 1)
            each = f"e30.{compact.base64url(claims.encode())}.{str(number).rjust(80, '_')}"
            for _ in range(2):
                if not cache.recall(each):
                    cache.remember(made_of(each, claims, 1e12), 0.0)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.statistics.entries > 100
    assert taken <= cache.statistics.bytes * 1.1 + 2**20
    assert cache.statistics.bytes <= 2000 * BYTES_AN_ENTRY


def test_a_token_is_known_anew_where_its_key_was_loaded_anew(
    ring: testing.MemoryKeyring,
) -> None:
    """After a change of roots the ring is loaded again; it is the same key, in another object."""
    token = ring.sign(CLAIMS)
    assert ring.verify(token) == ring.verify(token)
    kid, held = tokens.kid_in(token), ring._held()
    again = PublicKey(held.verifying[kid].public.jwk, held.verifying[kid].key.algorithm)
    verifying = {**held.verifying, kid: held.verifying[kid]._replace(public=again)}
    anew = replace(held, verifying=verifying)
    asked = (token, ring._clock.timestamp(), None, None, False, None)
    how: Any = (*asked, PublicKey.verifies, ring._cache)
    for _ in range(3):
        assert tokens.judge(anew, *how)
    assert ring.token_cache.misses == 2


def test_of_two_tokens_with_one_end_the_first_stays_and_neither_is_taken_for_the_other() -> None:
    cache = TokenCache(10)
    each = signed("a")
    other = made_of(f"x{each.token}", '{"sub":"b"}', 1e12)
    seen(cache, each)
    other.verifying = object()
    cache.remember(other, 0.0)
    check(cache)
    assert cache.recall(other.token) is None
    found = cache.recall(each.token)
    assert found and found.claims() == each.claims()
    assert found.verifying is each.verifying


def test_whoever_finds_it_taken_goes_on() -> None:
    """A signal, or the end of an object, may come while this very thread is at it."""
    cache = TokenCache(10)
    each, known = signed("a"), signed("known")
    seen(cache, known)
    with cache._lock:
        assert not seen(cache, each)
        assert seen(cache, known), "to look takes no lock"
    check(cache)
    assert not seen(cache, each), "it was not remembered"
    assert seen(cache, each)


class _Stop(BaseException):
    pass


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_what_stops_it_in_the_middle_does_no_lasting_harm(seed: int) -> None:
    """Ctrl-C, or a worker's time limit: they may come between any two lines."""
    cache, chance = TokenCache(12), Random(seed)

    def stop(frame: Any, event: str, argument: object) -> Any:
        if frame.f_code.co_filename.endswith("ringkeeper/token_cache.py"):
            if event == "line" and chance.random() < 0.02:
                raise _Stop
            return stop
        return None

    for number in range(150):
        former = sys.gettrace()
        sys.settrace(stop)
        try:
            seen(cache, signed(chance.randrange(30)))
        except _Stop:
            pass
        finally:
            sys.settrace(former)
            if cache._lock.locked():  # stopped just behind taking it: then it learns nothing more
                cache._lock.release()
        seen(cache, signed(f"after {number}"))
        check(cache)


def test_pushing_one_out_takes_no_longer_the_more_there_are() -> None:
    """All were of use lately: some are passed over, and then one goes."""
    cache = TokenCache(4000)
    for number in range(4000):
        seen(cache, signed(number))
    looked = 0

    class Counted(deque[SignedToken]):
        def popleft(self) -> SignedToken:
            nonlocal looked
            looked += 1
            return super().popleft()

    cache._staying = Counted(cache._on_probation)  # as if each had been seen again
    cache._on_probation.clear()
    cache._probation_bytes = 0
    for each in cache._staying:
        each.is_staying = each.is_seen = True
    seen(cache, signed("one more"))
    assert looked == 1000
    check(cache)


def test_nothing_of_it_shows_a_token() -> None:
    cache = TokenCache(10)
    each = signed("secret")
    seen(cache, each)
    assert "secret" not in f"{cache!r} {each!r} {cache.statistics!r}"


def test_a_ring_for_tests_turns_on_once_it_is_closed(ring: testing.MemoryKeyring) -> None:
    """An app under test closes it in its own time."""
    ring.close()
    ring.rotate()
    ring.advance("30d")


# --- threads -------------------------------------------------------------------------------------


def test_many_threads_share_one(ring: testing.MemoryKeyring) -> None:
    ring._cache = TokenCache(16)
    issued = [ring.sign({"sub": str(n), "in": {"n": [n]}}) for n in range(40)]
    wrong: list[object] = []

    def work(start: int) -> None:
        for number in range(400):
            which = (start * 7 + number * number) % len(issued)
            claims = ring.verify(issued[which])
            if claims["sub"] != str(which) or claims["in"] != {"n": [which]}:
                wrong.append(claims)
            claims["in"]["n"].append("x")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    check(ring._cache)
    assert sum(ring.token_cache[2:]) == 8 * 400


@pytest.mark.parametrize("room", [16, 500, 10_000])
def test_a_crowd_of_threads_breaks_nothing(room: int) -> None:
    """`make free-threaded` tries it without a global lock."""
    came = crowd(room, 3000)
    assert came.wrong == []
    assert came.statistics.hits > 50


@pytest.mark.parametrize("size", [0, 1, 10_000.0, MOST_ENTRIES])
def test_a_size_is_a_whole_number(size: float) -> None:
    assert checked_size(size) == size


@pytest.mark.parametrize(
    ("size", "why"),
    [
        (True, "is not a number"),
        ("10000", "is not a number"),
        (None, "is not a number"),
        (-1, "is no whole number up to"),
        (0.5, "is no whole number up to"),
        (float("nan"), "is no whole number up to"),
        (MOST_ENTRIES + 1, "is no whole number up to"),
    ],
)
def test_what_is_no_size_is_refused(size: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        checked_size(size)
