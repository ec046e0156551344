"""What `ringkeeper backup` and `ringkeeper restore` say, once their arguments were read (`cli`)."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

from ringkeeper.clock import SystemClock
from ringkeeperd.backup import STDOUT, in_words, look_into, made, save, what_it_lacks
from ringkeeperd.commands import complain
from ringkeeperd.restore import Became, Outcome, restore

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeperd.backup_file import Backup
    from ringkeeperd.backup_sources import Findings

_GOOD = (Became.HEALED, Became.NOTHING, Became.WOULD)


def back_up(
    parsed: argparse.Namespace, configuration: Configuration, rings: Sequence[RingConfiguration]
) -> int:
    """Write a file, or look at one."""
    if parsed.check:
        backup, found = look_into(configuration, rings, parsed.check)
        in_words(backup, SystemClock().now(), print)
        print(what_it_lacks(backup))
        return _told(found)
    path, backup, found = save(configuration, rings, parsed.out)
    aside = sys.stderr if path == STDOUT else sys.stdout
    count = f"{len(backup.rings)} rings" if len(backup.rings) > 1 else "1 ring"
    print(f"saved {count} to {path}", file=aside)
    print(what_it_lacks(backup), file=aside)
    return _told(found, is_aside=path == STDOUT)


def bring_back(
    parsed: argparse.Namespace, configuration: Configuration, rings: Sequence[RingConfiguration]
) -> int:
    """Show a file to the leaders."""
    telling = _Telling(parsed, {ring.name for ring in rings})
    restore(
        configuration,
        rings,
        parsed.file,
        wait=timedelta(seconds=parsed.answer_within),
        is_dry=parsed.dry_run,
        takes_back=parsed.take_back,
        begin=telling.begin,
        tell=telling.tell,
    )
    return telling.end()


class _Telling:
    """Says what becomes of each ring as it comes, and the sum of it."""

    def __init__(self, parsed: argparse.Namespace, wanted: set[str]) -> None:
        self._parsed = parsed
        self._wanted = wanted
        self._there: set[str] = set()
        self._became = Counter[Became]()

    @property
    def _total(self) -> int:
        return len(self._wanted & self._there)

    def begin(self, backup: Backup, found: Findings) -> None:
        """The file is good."""
        self._there = {saved.ring.name for saved in backup.rings}
        print(f"{self._parsed.file}: made {made(backup, SystemClock().now())}")
        print("whatever was revoked since, and nobody here knows of any more, revoke again")
        _told(found)

    def tell(self, outcome: Outcome) -> None:
        """One ring is done."""
        self._became[outcome.became] += 1
        line = f"[{self._became.total()}/{self._total}] ring {outcome.name}: {outcome.words}"
        if outcome.became in _GOOD:
            print(line, flush=True)
        else:
            complain(line)

    def end(self) -> int:
        """All are done; the exit status."""
        for name in sorted(self._wanted - self._there):
            print(f"yet: ring {name} is not in the backup")
        left_out = set() if self._parsed.ring else self._there - self._wanted
        for name in sorted(left_out):
            complain(f"ring {name}: left out, it is not in the configuration; name it there")
        failed = sum(self._became[became] for became in Became if became not in _GOOD)
        if self._parsed.dry_run:
            lack = f"{self._became[Became.WOULD]} of {self._total} rings lack something"
            print(f"{lack}; nothing is changed")
        else:
            healed = f"{self._became[Became.HEALED]} of {self._total} rings healed"
            print(f"{healed}, {self._became[Became.NOTHING]} lacked nothing, {failed} failed")
        return 1 if failed or left_out else 0


def _told(found: Findings, *, is_aside: bool = False) -> int:
    """Say what was found; the exit status."""
    for remark in found.remarks:
        print(f"yet: {remark}", file=sys.stderr if is_aside else sys.stdout)
    for problem in found.problems:
        complain(problem)
    return 1 if found.problems else 0
