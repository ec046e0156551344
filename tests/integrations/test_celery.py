"""examples/celery_app.py: a worker that forks, and what is asked of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.integrations.stage import Stage, eventually, go_through
from tests.integrations.table import COLUMNS
from tests.integrations.test_python import EXAMPLES

pytestmark = pytest.mark.integrations


def test_tasks_sign_and_verify(stage: Stage, shows: Callable[..., None]) -> None:
    from celery import Celery
    from celery.exceptions import TimeoutError as Late

    broker = stage.site.redis_url.replace("unix://", "redis+socket://")

    environment = {**stage.environment, "BROKER": broker}
    environment["RINGKEEPER_CONFIG"] = str(stage.folder / "config.yaml")
    worker = stage.start(
        sys.executable, "-m", "celery", "--workdir", str(EXAMPLES), "-A", "celery_app", "worker",
        "-c", "2", "--without-gossip", "--without-mingle", "--without-heartbeat",
        env=environment, cwd=stage.folder,
    )  # fmt: skip
    tasks = Celery("tasks", broker=broker, backend=broker)

    def asked(task: str, argument: str, within: float = 20) -> Any:
        assert worker.poll() is None, stage.log()
        return tasks.send_task(f"celery_app.{task}", [argument]).get(timeout=within)

    def accepts(token: str) -> bool:
        try:
            return bool(asked("act", token) == "done for alice")
        except Late:
            raise
        except Exception as error:
            if type(error).__name__ != "RevokedKid":
                raise
            return False

    try:
        eventually(lambda: asked("sign", "alice"), within=30)
        go_through(stage, lambda: str(asked("sign", "alice")), accepts)
    finally:
        tasks.close()
    shows("Celery", *COLUMNS)
