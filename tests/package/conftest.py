"""The distribution of this checkout, built once for all processes of a run."""

import fcntl
from pathlib import Path

import pytest

from tests.package.distributions import BUILDER, Built, build, copy_of_sources


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Built:
    if not BUILDER.exists():
        pytest.skip("build is not installed: run make .venv/package/made")
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    folder = shared / "distribution"
    with Path(shared / "distribution.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            source = copy_of_sources(shared / "sources")
            build(source, shared / "building")
            (shared / "building").rename(folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)
