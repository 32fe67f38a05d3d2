"""Importing files: once, each from its own folder, and sys.path as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from roundoff.errors import RoundoffError
from roundoff.load.imports import import_file, import_module
from roundoff.load.target import load_target


@pytest.fixture(autouse=True)
def restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield
    assert sys.path == path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(path: str, text: str) -> Path:
    file = Path.cwd() / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_two_versions_of_a_project_each_find_their_own_modules() -> None:
    for version in ("old", "new"):
        write(f"{version}/layers.py", f"VERSION = {version!r}\n")
        write(f"{version}/net.py", "import layers\ndef version(x): return layers.VERSION\n")
    old, new = load_target("old/net.py:version"), load_target("new/net.py:version")
    assert (old(0), new(0)) == ("old", "new")
    again = load_target("old/net.py:version")
    assert again is old


def test_a_folder_within_a_folder() -> None:
    write("layers.py", "VERSION = 'new'\n")
    write("net.py", "import layers\ndef version(x): return layers.VERSION\n")
    write("backup/layers.py", "VERSION = 'backup'\n")
    write("backup/net.py", "import layers\ndef version(x): return layers.VERSION\n")
    new, backup = load_target("net:version"), load_target("backup/net.py:version")
    assert (new(0), backup(0)) == ("new", "backup")


def test_a_constructor_may_import_what_lies_beside_its_file() -> None:
    write("late/part.py", "VALUE = 3\n")
    write("late/net.py", "def make():\n    import part\n    return lambda x: x + part.VALUE\n")
    assert load_target("late/net.py:make")(1) == 4


def test_relative_imports_in_a_package() -> None:
    write("pkg/__init__.py", "")
    write("pkg/sub/__init__.py", "")
    write("pkg/base.py", "VALUE = 5\n")
    write("pkg/sub/net.py", "from ..base import VALUE\ndef net(x): return VALUE\n")
    assert load_target("pkg/sub/net.py:net")(0) == 5
    assert import_file(Path("pkg/sub/net.py")) is import_module("pkg.sub.net")


@pytest.mark.parametrize("name", ["torch", "json", "wave", "my-net", "net.v2"])
def test_a_file_may_have_any_name(name: str) -> None:
    known = sys.modules.get(name)
    file = write(f"{name}.py", "import torch\ndef net(x): return torch.relu(x)\n")
    assert import_file(file) is import_file(file)
    assert torch.equal(load_target(f"{name}.py:net")(torch.ones(1)), torch.ones(1))
    assert sys.modules.get(name) is known
    assert import_module("torch") is torch


def test_modules_that_are_installed_are_not_loaded_again() -> None:
    write("a/net.py", "import safetensors.torch as st\ndef net(x): return st\n")
    write("b/net.py", "import safetensors.torch as st\ndef net(x): return st\n")
    assert load_target("a/net.py:net")(0) is load_target("b/net.py:net")(0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n\ny = 1 / 0\n", "raised ZeroDivisionError while it was imported, at net.py, line 3 (y = 1 / 0)"),
        ("x = 1\ndef (:\n", "raised SyntaxError while it was imported, at net.py, line 2: invalid syntax."),
        ("import nothere\n", "raised ModuleNotFoundError while it was imported, at net.py, line 1"),
        ("import sys\nsys.exit(3)\n", "ends the program while it is imported (sys.exit(3))"),
        ("import helper\n", "raised RuntimeError while it was imported, at net.py, line 1 (import helper)"),
    ],
)
def test_a_file_that_raises_at_import(text: str, words: str) -> None:
    write("helper.py", "raise RuntimeError('deep')\n")
    file = write("net.py", text)
    for _ in range(2):  # a half-loaded module is not kept
        with pytest.raises(RoundoffError) as caught:
            import_file(file)
        assert words in str(caught.value)
        assert str(file) in str(caught.value)
    assert caught.value.__cause__ is not None  # for --traceback


def test_an_interrupt_goes_through() -> None:
    file = write("net.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        import_file(file)


def test_a_file_that_is_mended_loads() -> None:
    file = write("net.py", "1 / 0\n")
    with pytest.raises(RoundoffError):
        import_file(file)
    file.write_text("def net(x): return 12\n")
    assert load_target("net.py:net")(0) == 12
