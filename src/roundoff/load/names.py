"""Near names, for messages about a name that is not there."""

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
    found = [lower[m] for m in get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]
    return f" Did you mean {' or '.join(found)}?" if found else ""


def near_files(path: Path) -> str:
    """The names in the folder of ``path`` that are near its own, as :func:`near` words them."""
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist."
    return near(path.name, [p.name for p in path.parent.iterdir()])
