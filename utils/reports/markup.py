"""HTML from Python values, in which nothing is forgotten to be escaped.

    tag("p", "a < b", tag("b", name), class_="note")        # <p class="note">a &lt; b<b>...</b></p>

No template engine: the standard library escapes, functions repeat and choose, and one dependency less is needed.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

VOID = ("img", "meta", "br")  # elements without an end


class Html(str):
    """Text that is HTML already; every other text is escaped where it is put in."""


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. children: `Html`, or anything whose text is escaped; None is left out, a list is taken apart.
    attributes: values are escaped, None is left out; `class_` is `class`, `_` in names becomes `-`."""
    shown = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
                    for key, value in attributes.items() if value is not None)
    start = f"<{name}{shown}>"
    return Html(start) if name in VOID else Html(f"{start}{join(children)}</{name}>")


def join(children: Iterable[object]) -> Html:
    """Children as for `tag`, one after the other."""
    return Html("".join(map(_text, children)))


def _text(child: object) -> str:
    if child is None:
        return ""
    if isinstance(child, (list, tuple)):
        return join(child)
    return child if isinstance(child, Html) else html.escape(str(child), quote=True)


def table(header: Sequence[object], rows: Sequence[Sequence[object]], *, kind: str | None = None) -> Html:
    """A table that scrolls by itself where the page is too narrow; the first cell of each row names it.

    kind: its CSS class. Each cell knows its column's name, for a style that stacks the cells.
    """
    head = tag("thead", tag("tr", [tag("th", cell, scope="col") for cell in header]))
    body = tag("tbody", [
        tag("tr", tag("th", row[0], scope="row"),
            [tag("td", cell, data_label=name) for name, cell in zip(header[1:], row[1:], strict=True)])
        for row in rows
    ])
    return tag("div", tag("table", head, body, class_=kind), class_="scroll")
