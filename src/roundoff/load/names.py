"""The wording of messages: near names for a name that is not there, and what a value is."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


def near(name: str, names: Iterable[str]) -> str:
    """`` Did you mean Model or ModelConv?``, or nothing where no name is near.

    >>> near("Modle", ["Model", "torch"])
    ' Did you mean Model?'
    >>> near("x", ["Model"])
    ''
    """
    lower = {n.lower(): n for n in names}
    found = [lower[m] for m in get_close_matches(name.lower(), lower, n=3, cutoff=0.7)]
    return f" Did you mean {' or '.join(found)}?" if found else ""


def near_files(path: Path) -> str:
    """The names in the folder of ``path`` that are near its own, as :func:`near` words them."""
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist."
    return near(path.name, [p.name for p in path.parent.iterdir()])


def a(value: object) -> str:
    """The kind of ``value`` with its article.

    >>> a(3), a([]), a(None)
    ('an int', 'a list', 'None')
    """
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
