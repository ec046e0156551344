"""Celery: `celery --workdir examples -A celery_app worker`; tasks act for whom a token names."""

import os

from celery import Celery

from ringkeeper import Keyring

BROKER = os.environ.get("BROKER", "redis://localhost:6379")
app = Celery("tasks", broker=BROKER, backend=BROKER)
ring = Keyring.from_config(os.environ.get("RINGKEEPER_CONFIG", "config.yaml"))
"""One for the worker: each process that it forks follows the ring by itself."""


@app.task
def sign(subject: str) -> str:
    """A token with which a task may call another service."""
    return ring.sign({"sub": subject})


@app.task(throws=(Exception,))
def act(token: str) -> str:
    """Done in the name of the user whose token came along; it may have waited in the queue."""
    return f"done for {ring.verify(token)['sub']}"
