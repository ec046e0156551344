"""How a ring reaches programs that follow it neither in Redis nor over HTTP: files, and a nudge."""

from __future__ import annotations

import grp
import os
from typing import TYPE_CHECKING, Any

from ringkeeper.errors import ConfigurationError, FilesUnusable
from ringkeeper.kek_variable import KekVariable
from ringkeeperd.file_set import FileSet
from ringkeeperd.on_change import Command, News, OnChange, Post, Signal
from ringkeeperd.ring_files import KEY_FILES, RingFiles, check_in_memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from structlog.stdlib import BoundLogger

    from ringkeeper.clock import Clock
    from ringkeeper.configuration import Configuration, RingConfiguration
    from ringkeeper.notices import Notice
    from ringkeeper.replica import Held
    from ringkeeperd.metrics import Metrics
    from ringkeeperd.on_change import Action


class HandingOn:
    """Hands one ring on, as the configuration says; perhaps not at all."""

    def __init__(
        self,
        ring: RingConfiguration,
        configuration: Configuration,
        held: Callable[[], Held | None],
        clock: Clock,
        log: BoundLogger,
        notice: Notice,
        metrics: Metrics,
    ) -> None:
        """Touch nothing yet; `held` says what there is to be handed on."""
        self._ring = ring.name
        self._held = held
        self._digest = ""
        self.files: RingFiles | None = None
        """Where each version has to be before it is confirmed."""
        self._on_change: OnChange | None = None
        directory = files_of(ring, configuration)
        actions = _actions(configuration)
        if actions:
            self._on_change = OnChange(
                actions,
                lambda: self._news(str(directory or "")),
                within=configuration.on_change_timeout.total_seconds(),
                log=log,
                count=lambda is_done: metrics.on_change.labels(ring.name, _result(is_done)).inc(),
            )
        if directory:
            self.files = RingFiles(
                directory,
                has_key=configuration.files_signing_key,
                may_be_on_disk=configuration.files_signing_key_on_disk,
                group=_group(configuration),
                max_staleness=ring.policy.max_staleness,
                clock=clock,
                notice=notice,
                on_write=lambda is_done: metrics.file_writes.labels(
                    ring.name, _result(is_done)
                ).inc(),
                on_change=self._nudge,
            )

    def heard(self, _: object) -> None:
        """There is another version, or a younger proof."""
        held = self._held()
        if self.files:
            self.files.wake.set()
        elif held and held.digest != self._digest:
            self._digest = held.digest
            self._nudge()

    @property
    def is_failing(self) -> bool:
        """Whether what is to be done after a change does not work at the moment."""
        return self._on_change is not None and self._on_change.is_failing

    def work(self) -> list[Any]:
        """What has to run meanwhile."""
        files = [self.files.run(self._held)] if self.files else []
        return [*files, *([self._on_change.run()] if self._on_change else [])]

    def _nudge(self) -> None:
        if self._on_change:
            self._on_change.changed.set()

    def _news(self, files: str) -> News:
        held = self._held()
        signer = held.ring.signer if held else None
        version = held.ring.version if held else 0
        return News(self._ring, version, signer.kid if signer else "", files)


def files_of(ring: RingConfiguration, configuration: Configuration) -> Path | None:
    """Where the files of `ring` are; None where there are to be none."""
    directory = configuration.files_directory
    if directory is None or ring.name == configuration.rings[0].name:
        return directory
    return directory / "rings" / ring.name


def remove_orphans(configuration: Configuration) -> None:
    """Remove signing keys of rings that are not configured any more: nobody else would.

    Raises:
        FilesUnusable: one of them is still there.
    """
    known = {files_of(ring, configuration) for ring in configuration.rings}
    if configuration.files_directory:
        for folder in configuration.files_directory.glob("rings/*"):
            if folder not in known and folder.is_dir():
                FileSet(folder).withdraw(KEY_FILES)


def check_files(configuration: Configuration) -> None:
    """Whether the files may stand where the configuration wants them.

    Raises:
        ConfigurationError: a signing key would be on a disk, and that was not allowed; or for a
            group that there is not.
    """
    _group(configuration)
    directory = configuration.files_directory
    if (
        directory
        and configuration.files_signing_key
        and not configuration.files_signing_key_on_disk
    ):
        try:
            check_in_memory(directory)
        except FilesUnusable as error:
            raise ConfigurationError([f"files.signing_key: {error}"]) from None


def _group(configuration: Configuration) -> int | None:
    """The number of the group that may read the key.

    Raises:
        ConfigurationError: this host knows none of that name.
    """
    name = configuration.files_group
    try:
        return None if not name else int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        told = f"files.group: {name!r} is no group of this host; make it (groupadd {name}), or "
        raise ConfigurationError([told + "write its number"]) from None


def _actions(configuration: Configuration) -> list[Action]:
    kek = configuration.kek.name if isinstance(configuration.kek, KekVariable) else ""
    actions: list[Action] = []
    if configuration.on_change_command:
        within = configuration.on_change_timeout.total_seconds()
        actions.append(Command(configuration.on_change_command, os.environ, kek, within))
    if configuration.on_change_pid_file:
        name = configuration.on_change_signal
        actions.append(Signal(configuration.on_change_pid_file, name))
    if configuration.on_change_url:
        actions.append(Post(configuration.on_change_url))
    return actions


def _result(is_done: bool) -> str:  # noqa: FBT001 - the callbacks hand it on
    return "success" if is_done else "failure"
