"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from roundoff.errors import RoundoffError


def write(text: str, path: str | os.PathLike[str]) -> None:
    """Write ``text`` to ``path``, whole or not at all. Raises RoundoffError where it cannot be written."""
    target = Path(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with part.open("x", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, target)
    except OSError as error:
        raise RoundoffError(
            f"Cannot write {target}: {error.strerror}. Give a path in a folder that exists and can be written."
        ) from error
    finally:
        part.unlink(missing_ok=True)
