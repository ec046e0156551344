"""A real Prometheus, and what it is asked."""

import json
import signal
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

from tests.plugins.daemons import clean_environment
from tests.plugins.servers import free_port


class Prometheus:
    """A real one, that looks at a daemon every second."""

    def __init__(self, folder: Path, target: int) -> None:
        self.port = free_port()
        scrape = {
            "job_name": "ringkeeper",
            "static_configs": [{"targets": [f"127.0.0.1:{target}"]}],
        }
        every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config = folder / "prometheus.json"  # JSON is YAML
        config.write_text(json.dumps({"global": every, "scrape_configs": [scrape]}))
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

    def asked(self, query: str) -> dict[str, float]:
        """The newest values of `query`, by the labels that tell them apart."""
        url = (
            f"http://127.0.0.1:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        )
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                found = json.load(answer)["data"]["result"]
        except OSError:  # it has just begun
            return {}
        return {
            row["metric"].get("cause", row["metric"].get("reason", "")): float(row["value"][1])
            for row in found
        }

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
