"""The pages say what is so: their Python runs, their sessions and commands print what they show.

Numbers are masked before commands are compared, because the last bits of a result belong to a machine's
kernels; an ellipsis stands for any text, as in a doctest.
"""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the line it starts at (from 0), and its text."""

    language: str
    line: int
    text: str


def blocks(page: str) -> list[Block]:
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    return [Block(m[1], page.count("\n", 0, m.start()) + 1, m[2]) for m in found]


def mask(text: str) -> str:
    """Without what a machine's kernels or a terminal's width decide: numbers, and the lines of tables."""
    text = re.sub(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?", "#", text)
    return re.sub(r"[─━═┄╌]+", "─", text)


def run_python(block: Block, name: str, namespace: dict[str, Any]) -> None:
    code = "\n" * block.line + block.text  # so that a traceback names the page's own line
    exec(compile(code, name, "exec"), namespace)


def run_session(block: Block, name: str, namespace: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, namespace, name, name, block.line)
    test.globs = namespace  # the parser takes a copy
    said: list[str] = []
    failed = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append, clear_globs=False).failed
    assert not failed, "".join(said)


def run_console(block: Block, name: str, folder: Path) -> None:
    """Run each ``$ roundoff`` and ``$ python`` line. It exits with 0, or what a following ``$ echo $?`` shows."""
    turns = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, flags=re.MULTILINE)
    for (command, want), (after, code) in zip(turns, [*turns[1:], ("", "")], strict=True):
        program, *arguments = shlex.split(command)
        if program not in ("roundoff", "python"):
            continue
        line = [str(Path(sys.executable).with_name(program)), *arguments]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
        got = done.stdout + done.stderr
        assert done.returncode == (int(code) if after == "echo $?" else 0), f"{name}: {command}\n{got}"
        if want.strip():
            assert doctest.OutputChecker().check_output(mask(want), mask(got), FLAGS), f"{command}\n{got}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # what the pages write goes beside it
    monkeypatch.chdir(tmp_path)
    name = str(page.relative_to(ROOT))
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    for block in blocks(page.read_text()):
        if block.language == "python":
            run_python(block, name, namespace)
        elif block.language == "pycon":
            run_session(block, name, namespace)
        elif block.language == "console":
            run_console(block, name, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_a_wrong_page_is_caught(tmp_path: Path) -> None:
    python, session, console = blocks(
        "text\n```python\nx = 1\nassert x == 2\n```\n"
        "```pycon\n>>> 1 + 1\n3\n```\n"
        "```console\n$ roundoff no-such-command\n$ echo $?\n0\n```\n"
    )
    with pytest.raises(AssertionError) as raised:
        run_python(python, "page.md", {})
    assert raised.traceback[-1].lineno + 1 == 4
    with pytest.raises(AssertionError, match="Expected"):
        run_session(session, "page.md", {})
    with pytest.raises(AssertionError, match="no-such-command"):
        run_console(console, "page.md", tmp_path)


def test_numbers_and_rules_are_masked() -> None:
    assert mask("different by 1.5e-07 (12 ulp) ────") == mask("different by -3 (1,024 ulp) ──")
    assert mask("identical") != mask("roundoff")
