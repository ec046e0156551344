"""Until when the certificates for TLS to Redis hold: what expires unnoticed cuts a daemon off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509

from ringkeeper.watched import signature

if TYPE_CHECKING:
    from datetime import datetime

    from ringkeeper.tls import Tls


class Certificates:
    """The certificates in the files of `redis.tls`, read anew once a file was replaced."""

    def __init__(self, files: Tls) -> None:
        """Read nothing yet. Files are called `ca` and `cert`: who sees a metric sees no path."""
        named = {"ca": files.ca_file, "cert": files.cert_file}
        self._paths = {name: Path(path) for name, path in named.items() if path}
        self._seen: dict[str, tuple[int, ...]] = {}
        self._expiries: dict[str, datetime] = {}

    def expiries(self) -> dict[str, datetime]:
        """When the first certificate in each file expires; of an unreadable one, what it was."""
        for name, path in self._paths.items():
            seen = signature(path)
            if seen == self._seen.get(name):
                continue
            try:
                found = x509.load_pem_x509_certificates(path.read_bytes())
            except (OSError, ValueError, x509.InvalidVersion):  # perhaps half written: look again
                continue
            self._seen[name] = seen
            self._expiries[name] = min(each.not_valid_after_utc for each in found)
        return self._expiries
