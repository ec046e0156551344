"""The distribution of this checkout, built once for all processes of a run."""

import fcntl
from pathlib import Path

import pytest

from tests.package.distributions import BUILDER, Built, build, copy_of_sources, interpreter
from tests.package.former import is_former_release_here


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine has no other Python for, or this clone no history.

    No provision can mend that, so it is no skip, which is a failure where skips are. The others run.
    """
    lacking: list[pytest.Item] = []
    for item in items:
        version = getattr(item, "callspec", None) and item.callspec.params.get("version")  # type: ignore[attr-defined]
        if (version and not interpreter(version)) or (
            item.path.name == "test_former_release.py" and not is_former_release_here()
        ):
            lacking.append(item)
    if lacking:
        config.hook.pytest_deselected(items=lacking)
        items[:] = [item for item in items if item not in lacking]


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
