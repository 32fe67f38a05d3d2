"""What the commands print, and how they end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from threading import Timer
from traceback import print_exc
from typing import NoReturn

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from roundoff.errors import RoundoffError

ERROR, INTERRUPTED = 2, 130

Tell = Callable[[int, int | None, str], None]


def end(work: Callable[[], int], traceback: bool = False) -> NoReturn:
    """Do ``work`` and exit with its code; an error is a message on standard error, its traceback only if asked for."""
    try:
        code = work()
    except KeyboardInterrupt:
        _complain("Interrupted.", "")
        code = INTERRUPTED
    except RoundoffError as error:
        _complain("Error: ", str(error), traceback=traceback)
        code = ERROR
    except BrokenPipeError:  # whoever read this has stopped reading; nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ERROR
    except Exception as error:
        hint = "" if traceback else " --traceback shows where."
        words = f"{type(error).__name__}: {error}\nThis was not foreseen, so it may be a fault of roundoff.{hint}"
        _complain("Error: ", words, traceback=traceback)
        code = ERROR
    raise typer.Exit(code)


def _complain(title: str, text: str, *, traceback: bool = False) -> None:
    if traceback:
        print_exc()
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text.assemble((title, "bold red"), text))


def show(*pages: RenderableType) -> None:
    """Print on standard output: with colours in a terminal, else as plain text."""
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(*pages)
        return
    plain = Console(file=StringIO(), width=120, highlight=False)
    with plain.capture() as captured:
        plain.print(*pages)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)


def check_writable(path: Path) -> None:
    """Fail now and not after a long run."""
    why = "it is a folder" if path.is_dir() else ""
    if not path.absolute().parent.is_dir():
        why = f"there is no folder {path.parent}"
    if why:
        raise RoundoffError(f"Cannot write {path}: {why}. Give a path to a file.")


@contextmanager
def progress() -> Iterator[Tell | None]:
    """What to tell of the work: a bar on standard error, from the second second on; None where nobody watches."""
    console = Console(stderr=True)
    if not console.is_interactive:
        yield None
        return
    columns = (BarColumn(bar_width=20), TextColumn("{task.description}"), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
    task = bar.add_task("loading", total=None)
    timer = Timer(1.0, bar.start)
    timer.daemon = True

    def tell(done: int, total: int | None, text: str) -> None:
        bar.update(task, completed=done, total=total, description=text)

    timer.start()
    try:
        yield tell
    finally:
        timer.cancel()
        timer.join()
        bar.stop()
