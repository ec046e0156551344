"""Elements of a document, made one inside the other. Pure.

No text ever becomes markup: elements are made as such, and written out by the standard library,
which escapes what they hold. So whoever chose a text, it is shown as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, tostring

if TYPE_CHECKING:
    from datetime import datetime

Child = Element | str | None


def el(tag: str, *children: Child, **attributes: str | float | None) -> Element:
    """An element. `class_` is its class, `aria_label` its aria-label; None is left out."""
    made = Element(
        tag,
        {
            name.rstrip("_").replace("_", "-"): f"{value:g}"
            if isinstance(value, float)
            else str(value)
            for name, value in attributes.items()
            if value is not None
        },
    )
    for child in children:
        if isinstance(child, str):
            _append_text(made, child)
        elif child is not None:
            made.append(child)
    return made


def _append_text(parent: Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text


def written(document: Element) -> bytes:
    """The whole document, in UTF-8."""
    markup: str = tostring(document, encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{markup}".encode(errors="xmlcharrefreplace")


def moment(at: datetime, shape: str = "%Y-%m-%d %H:%M:%S") -> Element:
    """A time that is shown in that shape, and can be read by programs."""
    return el("time", f"{at:{shape}}", datetime=f"{at:%Y-%m-%dT%H:%M:%SZ}")


def code(text: str) -> Element:
    """A kid, or a name that somebody else chose: its direction is its own affair."""
    return el("bdi", text, class_="code")
