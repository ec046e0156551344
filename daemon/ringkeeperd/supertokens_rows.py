"""SuperTokens' signing keys, as rows of its two tables.

`session_access_token_signing_keys` has the dynamic keys, `jwt_signing_keys` the static ones. Both
keep a key as two parts in base64: the public half as SubjectPublicKeyInfo, `|`, the private half as
PKCS #8. Cores before version 5 wrote `;` for dynamic keys, and kids without `s-` for static ones.
"""

from __future__ import annotations

import base64
import csv
import io
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ringkeeper.clock import LATEST_MS, from_ms
from ringkeeper.errors import KeyUnusable
from ringkeeper.ring import KeyKind
from ringkeeperd.key_formats import Candidate, private_from_der, public_from_der

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

_APP: Final = "public"
_DYNAMIC: Final = {"created_at_time", "value"}
_STATIC: Final = {"key_id", "key_string"}
_DYNAMIC_ALGORITHM: Final = "RS256"  # it knows no other
_NOT_READ: Final = "export it anew, as docs/import.md shows"
_NOTHING: Final = ("", "NULL", "\\N")
_MILLISECONDS: Final = re.compile(r"[1-9][0-9]{0,15}")


class Row(NamedTuple):
    """One row: where it stands, and its cells by column."""

    where: str
    cells: Mapping[str, str]

    def has(self, columns: set[str]) -> bool:
        """Whether it has all of these."""
        return columns <= self.cells.keys()


def is_table(text: str) -> bool:
    """Whether `text` begins with the names of columns that one of the two tables has."""
    first = text.lstrip().partition("\n")[0]
    return _is_header(re.split(r"[,\t]", first.replace('"', "").strip()))


def rows_of_table(text: str) -> list[Row]:
    """The rows of CSV (psql) or of columns parted by tabs (mysql); the first line names them.

    Two tables may follow each other, each under its own names.

    Raises:
        KeyUnusable: a line that is no row of its table.
    """
    text = text.lstrip()
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    rows: list[Row] = []
    header: list[str] = []
    try:
        for cells in reader:
            if _is_header(cells):
                header = [cell.strip().lower() for cell in cells]
            elif len(cells) == len(header):
                named = dict(zip(header, cells, strict=True))
                rows.append(Row(f"line {reader.line_num}: ", named))
            elif cells:
                raise KeyUnusable(
                    f"line {reader.line_num}: has {len(cells)} columns of {len(header)}; "
                    f"{_NOT_READ}"
                )
    except csv.Error:
        raise KeyUnusable(f"line {reader.line_num}: is no CSV; {_NOT_READ}") from None
    return rows


def rows_of_json(documents: Sequence[tuple[str, object]]) -> list[Row]:
    """The rows of objects in JSON, each with where it stands.

    Raises:
        KeyUnusable: one is no object.
    """
    return [Row(where, _cells(where, document)) for where, document in documents]


def from_rows(rows: Sequence[Row], app: str) -> list[Candidate]:
    """The keys of one app: of `app`, or of the only one in the file, or of `public`.

    Raises:
        KeyUnusable: a row that cannot be read, or none of that app.
    """
    for row in rows:
        if not row.has(_DYNAMIC) and not row.has(_STATIC):
            raise KeyUnusable(
                f"{row.where}lacks columns: dynamic keys have {_listed(_DYNAMIC)}, static ones "
                f"{_listed(_STATIC)}; {_NOT_READ}"
            )
    apps = {row.cells.get("app_id", _APP) for row in rows}
    wanted = app or (next(iter(apps)) if len(apps) == 1 else _APP)
    chosen = [row for row in rows if row.cells.get("app_id", wanted) == wanted]
    if not chosen:
        # Not quoted: in a file that is damaged, the app's column may hold anything.
        named = f"the app {app!r}" if app else f"the app {_APP!r}"
        raise KeyUnusable(f"has no row of {named} among {len(rows)}; say with --app which one")
    return [_candidate(row) for row in chosen]


def _is_header(cells: Sequence[str]) -> bool:
    names = {cell.strip().lower() for cell in cells}
    return names >= _DYNAMIC or names >= _STATIC


def _listed(columns: set[str]) -> str:
    return " and ".join(sorted(columns))


def _cells(where: str, document: object) -> dict[str, str]:
    if not isinstance(document, dict):
        raise KeyUnusable(f"{where}is no object of JSON; {_NOT_READ}")
    return {name.lower(): _cell(value) for name, value in document.items()}


def _cell(value: object) -> str:
    """A value as CSV would have it; what no column of these tables holds becomes nothing."""
    is_plain = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value) if is_plain else ""


def _candidate(row: Row) -> Candidate:
    try:
        if row.has(_STATIC):
            return _static(row)
        return _dynamic(row)
    except KeyUnusable as error:
        raise KeyUnusable(f"{row.where}{error}") from None


def _dynamic(row: Row) -> Candidate:
    made = row.cells["created_at_time"].strip()
    made_at = _instant(made)
    if made_at is None:
        raise KeyUnusable(f"has no time in created_at_time, which makes the kid; {_NOT_READ}")
    private, public = _halves(row.cells["value"])
    return Candidate(
        row.where, private, public, f"d-{made}", _DYNAMIC_ALGORITHM, KeyKind.DYNAMIC, made_at
    )


def _static(row: Row) -> Candidate:
    private, public = _halves(row.cells["key_string"])
    algorithm, created = row.cells.get("algorithm", ""), row.cells.get("created_at", "").strip()
    made_at = _instant(created)
    if made_at is None and created not in _NOTHING:
        raise KeyUnusable(f"has no time in created_at; {_NOT_READ}")
    return Candidate(
        row.where, private, public, row.cells["key_id"], algorithm, KeyKind.STATIC, made_at
    )


def _instant(text: str) -> datetime | None:
    """The instant of that many milliseconds; None if it is none."""
    if not _MILLISECONDS.fullmatch(text) or int(text) > LATEST_MS:
        return None
    return from_ms(int(text))


def _halves(value: str) -> tuple[Any, Any]:
    parts = re.split(r"[;|]", value.strip())
    if len(parts) != 2:  # noqa: PLR2004 - two halves
        raise KeyUnusable(f"holds no pair of a public and a private key; {_NOT_READ}")
    try:
        public, private = (base64.b64decode(part, validate=True) for part in parts)
    except ValueError:
        raise KeyUnusable(
            f"holds a key that is no base64: cut short, perhaps; {_NOT_READ}"
        ) from None
    loaded = public_from_der(public)
    if loaded is None:
        raise KeyUnusable(f"holds a public key that cannot be loaded; {_NOT_READ}")
    return private_from_der(private), loaded
