"""A world of apps, outages and emergencies, in which no valid token may ever be refused.

The leader may die after each of its steps; apps may be cut off, come back, sign late; operators
revoke, rotate and edit the policy. Real rings, virtual time, no crypto: a token is the key that
signed it and when it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ringkeeper.errors import RequestRefused
from ringkeeper.policy import CAPACITY
from ringkeeper.ring import KeyKind, KeyState, Ring
from ringkeeper.testimony import History
from ringkeeperd.merge import merge
from ringkeeperd.operations import (
    add,
    call_off,
    call_off_drain,
    reinstate,
    retire,
    revocation_wants,
    revoke,
    rollback,
    rotate,
)
from ringkeeperd.rotation import Activate, Confirmations, Instance, WaitUntil, apply, next_step
from ringkeeperd.transitions import FreshKey
from tests.core.builders import HOUR, MINUTE, NOW, fresh, new_ring, policy, public_jwk
from tests.plugins.examples import examples


@dataclass
class App:
    """An instance: the edition it holds, since when it hears nothing, and what it has confirmed."""

    ring: Ring
    heard_at: datetime
    activations_missed: int = 0
    is_cut_off: bool = False


@dataclass(frozen=True)
class Token:
    kid: str
    expires_at: datetime
    signed_by_version: int


def is_turned(former: Ring, ring: Ring, kind: KeyKind) -> bool:
    before, after = former.active(kind), ring.active(kind)
    return after is not None and (before is None or before.kid != after.kid)


POLICIES = [
    policy(),
    policy(cryptoperiod=24 * HOUR),
    policy(cryptoperiod=24 * HOUR, access_token_validity=6 * HOUR),
    policy(cryptoperiod=48 * HOUR, algorithm="ES256"),
    policy(use_dynamic=False),
    policy(max_staleness=2 * HOUR, publication_interval=HOUR),
]


class Lifecycle(RuleBasedStateMachine):
    @initialize(rules=st.sampled_from(POLICIES))
    def begin(self, rules: object) -> None:
        self.now = NOW
        self.policy = rules
        self.ring: Ring = new_ring(rules)  # type: ignore[arg-type]
        self.epoch = 1
        self.trusted_from = NOW
        self.apps = {name: App(self.ring, NOW) for name in "abc"}
        self.confirmed = dict.fromkeys(self.apps, (1, 1))
        self.tokens: set[Token] = set()
        self.revoked: set[str] = set()
        self.drained: set[str] = set()
        self.public_since = {key.kid: NOW for key in self.ring.keys}
        self.is_emergency = False

    # --- the leader ------------------------------------------------------------------------------

    def confirmations(self) -> Confirmations:
        """A cut-off app is live until one liveness window after it was last heard."""
        window = self.ring.policy.liveness_window
        live = [
            Instance(name, "sign", *self.confirmed[name], app.heard_at)
            for name, app in self.apps.items()
            if not app.is_cut_off or app.heard_at + window > self.now
        ]
        return Confirmations(tuple(live), self.trusted_from)

    def step(self) -> bool:
        """One step of the leader; whether it changed anything."""
        step = next_step(self.ring, self.policy, self.confirmations(), self.now)  # type: ignore[arg-type]
        if isinstance(step, WaitUntil):
            assert step.when > self.now
            return False
        if isinstance(step, Activate):
            self.check_activation(step)
        made = fresh(step.wants) if step.wants else None
        self.publish(apply(self.ring, step, now=self.now, epoch=self.epoch, fresh=made))
        return True

    def check_activation(self, step: Activate) -> None:
        """Promise 2: public long enough and confirmed, or an emergency."""
        key = self.ring.key(step.kid)
        assert key
        if self.ring.active(key.kind) is None and key.kind is KeyKind.DYNAMIC:
            return
        public_for = self.now - self.public_since[step.kid]
        assert (
            public_for >= min(self.ring.policy.publication_interval, self.ring.policy.jwks_max_age)
            or key.ready_at == NOW
        )
        assert self.now >= key.ready_at
        missing = self.confirmations().missing(key)
        assert set(missing) == set(step.forced)
        if missing:
            waited_since = max(key.ready_at, self.trusted_from)
            assert self.now >= waited_since + self.ring.policy.confirmation_timeout

    def publish(self, ring: Ring) -> None:
        """One commit: every app that is connected has it at once, and confirms it."""
        former, self.ring = self.ring, ring
        assert ring.version > former.version
        for key in ring.keys:
            self.public_since.setdefault(key.kid, self.now)
        turned = int(is_turned(former, ring, KeyKind.DYNAMIC))
        # There is always a standby, and no static one: who is cut off may not know what follows.
        turned += 2 * is_turned(former, ring, KeyKind.STATIC)
        for name, app in self.apps.items():
            if app.is_cut_off:
                app.activations_missed += turned
            else:
                self.hear(name)

    def hear(self, name: str) -> None:
        self.apps[name].ring = self.ring
        self.apps[name].heard_at = self.now
        self.apps[name].activations_missed = 0
        self.confirmed[name] = (self.ring.epoch, self.ring.version)

    def settle(self) -> None:
        for _ in range(60):
            if not self.step():
                return
        raise AssertionError("the leader never comes to rest")

    def pass_time(self, until: datetime, *, led: bool) -> None:
        """Time passes in strides; the leader, if there is one, does what falls due on the way."""
        while self.now < until:
            stride = timedelta(minutes=20) if led else until - self.now
            self.now = min(until, self.now + stride)
            for app in self.apps.values():
                if not app.is_cut_off and led:
                    app.heard_at = self.now  # the heartbeat
            self.tokens = {t for t in self.tokens if t.expires_at > self.now}
            if led:
                self.settle()
                self.sign()

    def sign(self) -> None:
        """Every app that may signs a token that lives as long as its own edition allows."""
        for app in self.apps.values():
            rules = app.ring.policy
            signer = app.ring.signer
            if self.now - app.heard_at <= rules.max_staleness and signer:
                expires_at = self.now + rules.access_token_validity
                self.tokens.add(Token(signer.kid, expires_at, app.ring.version))

    # --- what may happen ---------------------------------------------------------------------------

    @rule(minutes=st.integers(1, 60 * 24 * 9))
    def hours_pass(self, minutes: int) -> None:
        self.pass_time(self.now + minutes * MINUTE, led=True)

    @rule(minutes=st.integers(1, 60 * 24 * 2))
    def nobody_leads_for_a_while(self, minutes: int) -> None:
        self.sign()
        self.pass_time(self.now + minutes * MINUTE, led=False)
        self.another_leads()

    @rule()
    def the_leader_dies_after_one_step(self) -> None:
        self.step()
        self.another_leads()

    def another_leads(self) -> None:
        self.epoch += 1
        self.trusted_from = self.now + self.ring.policy.liveness_window

    @rule(rules=st.sampled_from(POLICIES))
    def the_configuration_is_edited(self, rules: object) -> None:
        self.policy = rules
        self.settle()

    @rule(hasten=st.booleans())
    def an_operator_rotates(self, hasten: bool) -> None:
        try:
            self.publish(rotate(self.ring, now=self.now, epoch=self.epoch, hasten=hasten))
        except RequestRefused:
            return
        self.settle()

    @rule(pick=st.integers(0, 31))
    def an_operator_revokes(self, pick: int) -> None:
        kid = self.ring.keys[pick % len(self.ring.keys)].kid
        wanted = revocation_wants(self.ring, kid, self.now)
        made = fresh(wanted) if wanted else None
        try:
            ring = revoke(self.ring, kid, reason="test", now=self.now, epoch=self.epoch, fresh=made)
        except RequestRefused:
            return
        self.revoked.add(kid)
        for app in self.apps.values():
            if app.is_cut_off:
                app.activations_missed += 2  # an emergency: beyond promise 1 for the cut off
        self.publish(ring)
        self.settle()

    @rule()
    def an_operator_rolls_back(self) -> None:
        self.ask(lambda: rollback(self.ring, now=self.now, epoch=self.epoch))

    @rule()
    def an_operator_calls_a_turn_off(self) -> None:
        self.ask(lambda: call_off(self.ring, now=self.now, epoch=self.epoch))

    @rule(pick=st.integers(0, 31), minutes=st.integers(1, 90))
    def an_operator_drains(self, pick: int, minutes: int) -> None:
        """A precaution: whoever holds the ring goes on signing and verifying all the while."""
        kid = self.ring.keys[pick % len(self.ring.keys)].kid
        wanted = revocation_wants(self.ring, kid, self.now)
        made = fresh(wanted) if wanted else None
        signed_by = self.ring.active()
        self.ask(
            lambda: revoke(
                self.ring,
                kid,
                reason="test",
                now=self.now,
                epoch=self.epoch,
                fresh=made,
                drain=minutes * MINUTE,
                confirmed=self.confirmations(),
            ),
            then=lambda: self.drained.add(kid),
        )
        if signed_by and kid in self.drained and signed_by.kid == kid:
            for app in self.apps.values():
                held = app.ring.signer_for(True)
                # Who hears, signs with a key that all who are live have confirmed.
                assert app.is_cut_off or (held and held.kid != kid)

    @rule(pick=st.integers(0, 31))
    def an_operator_calls_a_drain_off(self, pick: int) -> None:
        """Every token of that key counts again, whatever merges come."""
        kid = self.ring.keys[pick % len(self.ring.keys)].kid
        self.ask(
            lambda: call_off_drain(self.ring, kid, now=self.now, epoch=self.epoch),
            then=lambda: self.drained.discard(kid),
        )

    @rule(kind=st.sampled_from([KeyKind.STATIC, KeyKind.FOREIGN]))
    def an_operator_adds_a_key(self, kind: KeyKind) -> None:
        made = FreshKey(kind, "ES256", public_jwk("ES256"))
        self.ask(lambda: add(self.ring, made, now=self.now, epoch=self.epoch))

    @rule(pick=st.integers(0, 31))
    def an_operator_retires_a_key(self, pick: int) -> None:
        kid = self.ring.keys[pick % len(self.ring.keys)].kid
        self.ask(
            lambda: retire(
                self.ring, kid, now=self.now, epoch=self.epoch, confirmed=self.confirmations()
            )
        )

    @rule(pick=st.integers(0, 31))
    def an_operator_reinstates_a_key(self, pick: int) -> None:
        kid = self.ring.keys[pick % len(self.ring.keys)].kid
        self.ask(lambda: reinstate(self.ring, kid, now=self.now, epoch=self.epoch))

    def ask(self, change: Callable[[], Ring], then: Callable[[], None] = lambda: None) -> None:
        """What an operator asks for, done or refused."""
        try:
            ring = change()
        except RequestRefused:
            return
        then()
        self.publish(ring)
        self.settle()

    @rule(name=st.sampled_from("abc"))
    def an_app_is_cut_off(self, name: str) -> None:
        self.apps[name].is_cut_off = True

    @rule(name=st.sampled_from("abc"))
    def an_app_is_back(self, name: str) -> None:
        self.apps[name].is_cut_off = False
        self.hear(name)

    @rule(versions=st.integers(1, 3))
    def redis_loses_acknowledged_writes_and_a_leader_goes_on(self, versions: int) -> None:
        """Two leaderships write different successors of one version; then they are merged."""
        mine = self.ring
        lost = [mine]
        for _ in range(versions):
            step = next_step(lost[-1], self.policy, Confirmations((), self.now), self.now)  # type: ignore[arg-type]
            if isinstance(step, WaitUntil):
                break
            made = fresh(step.wants) if step.wants else None
            lost.append(apply(lost[-1], step, now=self.now, epoch=self.epoch, fresh=made))
        self.another_leads()
        self.publish(
            merge(
                History(mine, self.now), History(lost[-1], self.now), now=self.now, epoch=self.epoch
            )
        )
        # Called off by one leadership, and begun anew or over by then with the other one.
        self.drained |= {key.kid for key in self.ring.keys if key.drained_until}
        self.settle()

    # --- what must hold ------------------------------------------------------------------------------

    @invariant()
    def a_valid_token_verifies_wherever_promise_1_says_so(self) -> None:
        for token in self.tokens:
            if token.kid in self.revoked | self.drained:
                continue
            for name, app in self.apps.items():
                if app.is_cut_off and app.activations_missed > 1:
                    continue
                key = app.ring.key(token.kid)
                assert key, f"{name} at {app.ring.version} lacks {token}"
                assert key.may_verify

    @invariant()
    def no_key_went_while_a_token_of_its_lives(self) -> None:
        known = {key.kid for key in self.ring.keys}
        assert {t.kid for t in self.tokens} <= known

    @invariant()
    def a_revoked_key_never_verifies_again(self) -> None:
        for kid in self.revoked:
            key = self.ring.key(kid)
            assert key is None or key.state is KeyState.REVOKED

    @invariant()
    def a_drained_key_signs_no_more(self) -> None:
        for kid in self.drained:
            key = self.ring.key(kid)
            assert key is None or key.state in (KeyState.RETIRED, KeyState.REVOKED)
            if key and key.state is KeyState.RETIRED:
                assert key.drained_until

    @invariant()
    def the_ring_stays_small_and_somebody_signs(self) -> None:
        assert len(self.ring.keys) <= CAPACITY
        assert self.ring.signer

    @invariant()
    def the_signer_was_not_made_by_anyone_else(self) -> None:
        for kind in KeyKind:
            assert len(self.ring.in_state(KeyState.ACTIVE, kind)) <= 1
        assert replace(self.ring) == self.ring


Lifecycle.TestCase.settings = settings(
    max_examples=examples(250),
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestLifecycle = Lifecycle.TestCase
