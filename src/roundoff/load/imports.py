"""Import a Python file or module that somebody names, and leave ``sys.path`` as it was.

Two versions of a project often hold files of the same names, and each must find its own: so whatever a file
imports from its own folder is put aside while files of another folder load.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from roundoff.errors import RoundoffError
from roundoff.load.names import near, near_files

_LOCAL: dict[Path, dict[str, ModuleType]] = {}  # root folder: the modules that were found there


def import_file(path: Path) -> ModuleType:
    """The module in ``path``; a file that was loaded before is not loaded again.

    A file in a package (its folder holds an ``__init__.py``) is imported as a part of it, so that its
    relative imports work. Raises RoundoffError where there is no such file, and where it raises.
    """
    path = path.expanduser().resolve()
    if not path.is_file():
        raise RoundoffError(f"There is no file {path}. Name a Python file that exists.{near_files(path)}")
    root, dotted = _package_of(path)
    with importing_from(path):
        for name in (dotted, f"roundoff_target_{path.stem}"):
            known = sys.modules.get(name)
            if known is not None and _is_file(known, path):
                return known
            if _is_free(name, root):  # a file called torch.py must not take the place of torch
                break
        with _explained(str(path), path):
            if root != path.parent and "." in name:
                return importlib.import_module(name)
            return _execute(path, name)


def import_module(name: str) -> ModuleType:
    """The module ``name``, looked for in the working directory first. Raises RoundoffError as
    :func:`import_file` does."""
    with importing_from(Path.cwd() / "_"), _explained(name, None):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            file = Path(*name.split(".")).with_suffix(".py")
            hint = f"Write {file}:... for the file." if file.is_file() else "Write file.py:name for a file."
            if Path(name).is_file():
                raise RoundoffError(f"{name} is not a Python file, nor a module. {hint}") from None
            choice = near(name.partition(".")[0], [p.stem for p in Path.cwd().glob("*.py")])
            raise RoundoffError(
                f"There is no module {name}: no module named {error.name} is installed or lies in "
                f"{Path.cwd()}."
                f"{choice} {hint}"
            ) from None


@contextmanager
def importing_from(file: Path) -> Iterator[None]:
    """Imports find what lies beside ``file`` first, and nothing of another project that was loaded from a
    file.

    ``sys.path`` is restored at the end, also after an exception. Modules that came from elsewhere stay as
    they are.
    """
    file = file.expanduser().resolve()
    root, _ = _package_of(file)
    path = list(sys.path)
    installed = root != Path.cwd() and root in {Path(p).resolve() for p in path if p}
    ours = {} if installed else _LOCAL.setdefault(root, {})
    others = {name: m for r, modules in _LOCAL.items() if r != root for name, m in modules.items()}
    for name, module in others.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    sys.modules.update(ours)
    before = dict(sys.modules)
    sys.path[:] = [str(root), *path, *([str(file.parent)] if file.parent != root else [])]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            if before.get(name) is not module and _top_folder(name, module) in (root, file.parent):
                ours[name] = module
        for name, module in others.items():
            sys.modules.setdefault(name, module)


def _package_of(path: Path) -> tuple[Path, str]:
    """The folder from which ``path`` is imported, and its dotted name there; ``""`` where it has none."""
    folder, parts = path.parent, [] if path.stem == "__init__" else [path.stem]
    while (folder / "__init__.py").is_file() and folder.name.isidentifier() and folder.parent != folder:
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts) if all(part.isidentifier() for part in parts) else ""


def _top_folder(name: str, module: ModuleType) -> Path | None:
    """The folder in which the top-level package of ``module``, called ``name``, was found."""
    top = sys.modules.get(name.partition(".")[0], module)
    file = getattr(top, "__file__", None)
    if file is None:
        return next((Path(p).resolve().parent for p in getattr(top, "__path__", [])), None)
    place = Path(file).resolve()
    return place.parent.parent if place.stem == "__init__" else place.parent


def _is_free(name: str, root: Path) -> bool:
    """True when a module of ``root`` may be called ``name`` without hiding one from elsewhere."""
    top = name.partition(".")[0]
    if not name or top in sys.stdlib_module_names:
        return False
    return name not in sys.modules and (top not in sys.modules or _top_folder(name, sys.modules[top]) == root)


def _is_file(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path


def _execute(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RoundoffError(f"{path} is not a Python file. Name one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


@contextmanager
def _explained(what: str, path: Path | None) -> Iterator[None]:
    """Whatever an import raises comes out as a RoundoffError that names the exception and the line."""
    try:
        yield
    except RoundoffError:
        raise
    except SystemExit as error:
        raise RoundoffError(
            f"{what} ends the program while it is imported (sys.exit({error.code!r})). "
            "Put what is to run only as a script under `if __name__ == '__main__':`."
        ) from error
    except Exception as error:
        message = error.msg if isinstance(error, SyntaxError) else error
        raise RoundoffError(
            f"{what} raised {type(error).__name__} while it was imported{where_raised(error, path)}: "
            f"{message}. It must import without an error."
        ) from error


def where_raised(error: BaseException, path: Path | None) -> str:
    """``, at net.py, line 3 (x = 1 / 0)``: the innermost line of ``path`` that led to ``error``, else of any
    file."""
    if isinstance(error, SyntaxError) and error.filename:
        return f", at {Path(error.filename).name}, line {error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    frames = [f for f in frames if Path(f.filename).resolve().parent != Path(__file__).resolve().parent]
    inside = [f for f in frames if path is not None and Path(f.filename).resolve() == path]
    if not (inside or frames):
        return ""
    frame = (inside or frames)[-1]
    return f", at {Path(frame.filename).name}, line {frame.lineno}" + (f" ({frame.line})" if frame.line else "")
