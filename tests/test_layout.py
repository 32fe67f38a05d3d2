"""The shape of the code: which way imports go, who prints, how long a file may be.

Each rule is a function over sources, so that a planted violation can show that it bites.
"""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import roundoff

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src"
LONGEST = 400

# Imports go one way: a part may import the parts of the rows above its own, and no other part of its own row.
ROWS: tuple[tuple[str, ...], ...] = (
    ("load", "tape"),
    ("rules",),
    ("replay",),
    ("judge", "forms", "order", "exact"),
    ("report",),
    ("api",),
    ("",),  # roundoff itself: the public names
    ("thread",),
    ("cli",),
)
LEVEL = {part: level for level, row in enumerate(ROWS, start=1) for part in row}
OUTPUT = {
    "print",
    "sys.stdout.write",
    "sys.stderr.write",
    "exit",
    "quit",
    "sys.exit",
    "os._exit",
    "SystemExit",
}
PRINTERS = {"cli"}
RENDERERS = {"cli", "thread", "report"}  # may hold a rich console
LEAF = 0  # every other file at the top: it imports leaves only

# Absolute paths of somebody's machine. The slashes stand apart so that this line does not match itself.
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:home|root|work|tmp|opt|mnt|Users)/\w|\b[A-Z]:\\\\?Users\b")


def part_of(module: str) -> str:
    """``roundoff.rules.registry`` belongs to ``rules``; ``roundoff`` itself to the empty part."""
    return module.split(".")[1] if "." in module else ""


def level_of(module: str) -> int:
    return LEVEL.get(part_of(module), LEAF)


def imports(module: str, tree: ast.Module, modules: set[str]) -> Iterator[tuple[int, str]]:
    """The line and the name of each import in a module, at the top or inside a function."""
    package = module if f"{module}.__init__" in modules else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                known = name in modules or f"{name}.__init__" in modules
                yield node.lineno, name if known else base


def wrong_imports(sources: dict[str, str]) -> list[str]:
    """Imports that go the wrong way. ``sources``: module to text; a package's own file is ``.__init__``."""
    found = []
    for name, text in sources.items():
        module = name.removesuffix(".__init__")
        for line, target in imports(module, ast.parse(text), set(sources)):
            if target.split(".")[0] != "roundoff" or part_of(target) == part_of(module):
                continue
            up, down = level_of(target), level_of(module)
            if up > down or (up == down and down != LEAF):
                found.append(f"{name}:{line} imports {target}")
    return found


def wrong_output(sources: dict[str, str]) -> list[str]:
    """Calls that print or exit outside the command line, and consoles outside the parts that render."""
    found = []
    for name, text in sources.items():
        part = part_of(name.removesuffix(".__init__"))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                allowed = PRINTERS if call in OUTPUT else RENDERERS
                if (call in OUTPUT or call.endswith(".print")) and part not in allowed:
                    found.append(f"{name}:{node.lineno} calls {call}")
    return found


def long_files(sources: dict[str, str]) -> list[str]:
    lengths = {name: len(text.splitlines()) for name, text in sources.items()}
    return [f"{name} has {n} lines" for name, n in lengths.items() if n > LONGEST]


def machine_paths(texts: dict[str, str]) -> list[str]:
    return [
        f"{name}:{number} {line.strip()}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]


def read_sources() -> dict[str, str]:
    files = sorted((SRC / "roundoff").rglob("*.py"))
    return {".".join(file.relative_to(SRC).with_suffix("").parts): file.read_text() for file in files}


def read_texts() -> dict[str, str]:
    """Every text file that is, or could be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    texts = {}
    for name in listed.stdout.splitlines():
        try:
            texts[name] = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # not text, or deleted and not yet committed
    return texts


def test_imports_go_one_way() -> None:
    assert wrong_imports(read_sources()) == []


def test_only_the_command_line_prints_and_exits() -> None:
    assert wrong_output(read_sources()) == []


def test_no_file_is_long() -> None:
    assert long_files(read_sources()) == []


def test_no_machine_is_named() -> None:
    assert machine_paths(read_texts()) == []


def test_the_version_is_one() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert roundoff.__version__ == stated
    assert f"## [{stated}]" in (ROOT / "CHANGELOG.md").read_text()


PARTS = [
    "__init__",
    "errors",
    "formats",
    "tape.__init__",
    "tape.watch",
    "rules.__init__",
    "judge.__init__",
    "cli",
]
SAMPLE = {f"roundoff.{part}": "" for part in PARTS}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("roundoff.formats", "from roundoff.tape import watch"),
        ("roundoff.formats", "import roundoff.tape.watch"),
        ("roundoff.formats", "from roundoff import tape"),
        ("roundoff.formats", "from .tape import watch"),
        ("roundoff.formats", "from roundoff import compare"),
        ("roundoff.tape.watch", "from roundoff.rules import lookup"),
        ("roundoff.tape.watch", "from ..rules import lookup"),
        ("roundoff.tape.__init__", "from .. import rules"),
        ("roundoff.tape.watch", "def f():\n    from roundoff.judge import verdict"),
        ("roundoff.load.specs", "from roundoff.tape import watch"),
        ("roundoff.forms.linear", "from roundoff.judge import verdict"),
        ("roundoff.order.tree", "from roundoff.judge import verdict"),
        ("roundoff.exact.linear", "from roundoff.api import compare"),
        ("roundoff.judge.verdict", "from roundoff import cli"),
        ("roundoff.api", "from roundoff.cli import main"),
    ],
)
def test_a_wrong_import_is_caught(module: str, line: str) -> None:
    assert len(wrong_imports({**SAMPLE, module: line})) == 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("roundoff.formats", "from roundoff.errors import RoundoffError"),
        ("roundoff.tape.watch", "from .storages import Storages"),
        ("roundoff.rules.__init__", "from roundoff.tape import watch"),
        ("roundoff.judge.verdict", "from roundoff.rules import lookup\nfrom roundoff import formats"),
        ("roundoff.__init__", "from roundoff.api import compare"),
        ("roundoff.cli", "from roundoff import compare\nimport roundoff.thread"),
        ("roundoff.tape.watch", "import torch, roundoffish"),
    ],
)
def test_a_right_import_passes(module: str, line: str) -> None:
    assert wrong_imports({**SAMPLE, module: line}) == []


@pytest.mark.parametrize(
    ("module", "line", "wrong"),
    [
        ("roundoff.judge.verdict", "print(1)", True),
        ("roundoff.report.terminal", "print(1)", True),
        ("roundoff.report.terminal", "console.print(1)", False),
        ("roundoff.tape.watch", "console.print(1)", True),
        ("roundoff.thread", "import sys\nsys.exit(1)", True),
        ("roundoff.api", "raise SystemExit(1)", True),
        ("roundoff.api", "pprint(1)", False),
        ("roundoff.cli", "import sys\nprint(1)\nsys.exit(1)", False),
    ],
)
def test_printing_is_caught(module: str, line: str, wrong: bool) -> None:
    assert bool(wrong_output({module: line})) is wrong


def test_a_long_file_is_caught() -> None:
    assert long_files({"a": "x\n" * LONGEST, "b": "x\n" * (LONGEST + 1)}) == ["b has 401 lines"]


def test_a_machine_path_is_caught() -> None:
    slash = "/"
    planted = {
        "a.py": f"open('{slash}home{slash}me{slash}x')",
        "b.md": f"see {slash}tmp{slash}w",
        "c.md": "https://example.org/home/page and ~/opt/x and src/opt/x",
    }
    assert [line.split(":")[0] for line in machine_paths(planted)] == ["a.py", "b.md"]
