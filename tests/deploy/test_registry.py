"""deploy/k8s/README.md's image, by docker's own client: built, pushed, pulled, and run for secrets."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.deploy.engines import REGISTRY, Docker, Registry, checkout
from tests.deploy.images import ROOT
from tests.docs.test_docs import blocks, commands

USER = 1000
"""Who types: no root, and none that the image knows."""
INSTALL = blocks((ROOT / "deploy/k8s/README.md").read_text(), "console")[0]
LINES = [
    line for line in commands(f"```console\n{INSTALL}```") if line.startswith(("docker ", "mkdir "))
]


@pytest.mark.deploy
@pytest.mark.timeout(900)
def test_an_image_is_built_and_pushed_and_makes_the_secrets(
    docker: Docker, make_docker: Callable[..., Docker], registry: Registry, base_image: str
) -> None:
    """Word for word; a node that has nothing else then pulls it."""
    words = [" ".join(line.split()[:2]) for line in LINES]
    assert words == ["docker build", "docker push", "mkdir -m", "docker run"]
    image = LINES[1].split()[-1]
    host, name, tag = image.replace(":", "/").split("/")
    assert host == REGISTRY
    folder = checkout(docker.folder / "checkout", base_image)
    subprocess.run(["chown", "--recursive", f"{USER}:{USER}", str(folder)], check=True)
    assert registry.tags(name) == []
    for line in LINES:
        docker.does(line, folder, USER)

    assert registry.tags(name) == [tag]
    made = {each.name: each.stat() for each in (folder / "secrets").iterdir()}
    assert {name: status.st_mode & 0o777 for name, status in made.items()} == {
        "root.jwk": 0o600,
        "root.pub.jwk": 0o644,
        "kek.jwk": 0o600,
    }
    assert {(status.st_uid, status.st_gid) for status in made.values()} == {(USER, USER)}
    node = make_docker(images=False)
    assert node.does("docker images --quiet") == ""
    assert node.does(f"docker run --rm {image} --version") == tag
