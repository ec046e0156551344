"""A real Prometheus, and what it is asked."""

import json
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.plugins.daemons import clean_environment
from tests.plugins.servers import free_port


class Prometheus:
    """A real one, that looks at daemons every second, and at `rules` as often."""

    def __init__(self, folder: Path, *targets: int, rules: Sequence[Path] = ()) -> None:
        self.port = free_port()
        scrape = {
            "job_name": "ringkeeper",
            "static_configs": [{"targets": [f"127.0.0.1:{target}" for target in targets]}],
        }
        every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config = folder / "prometheus.json"  # JSON is YAML
        document = {
            "global": every,
            "scrape_configs": [scrape],
            "rule_files": list(map(str, rules)),
        }
        config.write_text(json.dumps(document))
        with (folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'prometheus'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
                env=clean_environment(),
            )

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5):
                return True
        except OSError:  # it has just begun
            return False

    def answer(self, path: str, **parameters: str) -> Any:
        """What its API says; raises OSError, with its words, if it refuses."""
        what = f"{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/api/v1/{what}", timeout=5
            ) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise OSError(f"{what}: {error.read().decode()}") from None

    def asked(self, query: str) -> dict[str, float]:
        """The newest values of `query`, by the labels that tell them apart."""
        try:
            found = self.answer("query", query=query)["result"]
        except OSError:  # it has just begun
            return {}
        return {
            row["metric"].get("cause", row["metric"].get("reason", "")): float(row["value"][1])
            for row in found
        }

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
