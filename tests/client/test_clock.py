"""The clocks that everything else is handed."""

import time

from ringkeeper.clock import SystemClock


def test_the_time_that_only_grows_goes_on_while_the_machine_is_suspended() -> None:
    """A lease must run out while a laptop sleeps."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    before = time.clock_gettime(clock)
    assert before <= SystemClock().monotonic() <= time.clock_gettime(clock)
    assert SystemClock.monotonic.args == (clock,)  # type: ignore[attr-defined]
