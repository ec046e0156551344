"""What fails is told once, and once that it is over."""

from ringkeeper.errors import RedisUnavailable, RingMissing, StateUnusable
from ringkeeper.troubles import Troubles

ONE, OTHER = RedisUnavailable("redis: reading: gone"), RedisUnavailable("redis: reading: gone, too")
DISK, LOST = StateUnusable("a full disk"), RingMissing("redis holds no ring")


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, event: str, /, **fields: object) -> None:
        assert fields.pop("ring") == "r"
        self.lines.append(" ".join([event, *map(str, fields.values())]))


def test_each_kind_is_told_once_until_all_is_well_again() -> None:
    told = Told()
    troubles = Troubles("r", told)
    for error in (ONE, OTHER, LOST, ONE):
        troubles.begin("reading", error)
    troubles.begin("keeping", DISK)
    assert told.lines == [
        "ring troubled reading redis: reading: gone",
        "ring troubled reading redis holds no ring",
        "ring troubled keeping a full disk",
    ]
    assert troubles.all == (ONE, DISK)
    del told.lines[:]
    for _ in range(2):
        troubles.end("reading")
    troubles.begin("keeping", DISK)
    assert told.lines == ["ring well again reading"], "what still fails is not told anew"
    assert (troubles.of("reading"), troubles.of("keeping")) == (None, DISK)
    troubles.begin("reading", ONE)
    assert told.lines[1:] == ["ring troubled reading redis: reading: gone"], (
        "but what fails again is"
    )


def test_what_never_failed_is_not_well_again() -> None:
    told = Told()
    troubles = Troubles("r", told)
    troubles.end("reading")
    assert (told.lines, troubles.all) == ([], ())


def test_redis_is_there_unless_something_says_otherwise() -> None:
    troubles = Troubles("r", Told())
    assert troubles.is_connected
    troubles.begin("keeping", DISK)
    assert troubles.is_connected
    troubles.begin("listening", ONE)
    assert not troubles.is_connected
    troubles.end("listening")
    assert troubles.is_connected
