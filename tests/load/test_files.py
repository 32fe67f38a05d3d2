"""Files are data: code in them is refused and never run, and what is broken is named."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from roundoff.errors import RoundoffError
from roundoff.load.files import SUFFIXES, read_arrays


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Touch:
    """Unpickling this makes the file ``ran``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def refused(path: str) -> str:
    with pytest.raises(RoundoffError) as caught:
        read_arrays(path)
    assert not Path("ran").exists()
    assert path in str(caught.value)
    return str(caught.value)


def test_touch_would_run() -> None:
    pickle.loads(pickle.dumps(Touch()))
    assert Path("ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pt_file_is_refused(zipped: bool) -> None:
    torch.save({"x": torch.ones(1), "y": Touch()}, "evil.pt", _use_new_zipfile_serialization=zipped)
    assert "would run code" in refused("evil.pt")


def test_a_bare_pickle_is_refused() -> None:
    for suffix in SUFFIXES:
        Path(f"evil{suffix}").write_bytes(pickle.dumps(Touch()))
        assert "Save" in refused(f"evil{suffix}")


def test_code_in_numpy_files_is_refused() -> None:
    array = np.array([Touch()], dtype=object)
    np.save("evil.npy", array, allow_pickle=True)
    assert "Python objects" in refused("evil.npy")
    np.savez("evil.npz", x=np.ones(2), y=array)
    assert "Python objects" in refused("evil.npz")


def test_a_whole_module_is_refused() -> None:
    torch.save(nn.Linear(2, 2), "module.pt")
    text = refused("module.pt")
    assert "torch.nn.modules.linear.Linear" in text and "would run code" in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_program_is_refused() -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), "script.pt")
    assert "TorchScript" in refused("script.pt")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_empty_missing_and_broken_files(suffix: str) -> None:
    Path(f"empty{suffix}").touch()
    assert "empty (0 bytes)" in refused(f"empty{suffix}")
    Path(f"text{suffix}").write_text("this is no such file\n" * 20)
    assert "Save" in refused(f"text{suffix}")
    Path(f"folder{suffix}").mkdir()
    assert "is a folder" in refused(f"folder{suffix}")
    assert f"There is no file input{suffix}" in refused(f"input{suffix}")
    Path(f"inputs{suffix}").write_text("x")
    assert f"Did you mean inputs{suffix}" in refused(f"input{suffix}")


def test_cut_off_files() -> None:
    torch.save(torch.ones(1000), "x.pt")
    np.save("x.npy", np.ones(1000))
    np.savez("x.npz", np.ones(1000))
    safetensors.torch.save_file({"x": torch.ones(1000)}, "x.safetensors")
    for name in ("x.pt", "x.npy", "x.npz", "x.safetensors"):
        data = Path(name).read_bytes()
        Path(name).write_bytes(data[: len(data) // 2])
        assert "Save" in refused(name)


def test_a_zip_that_is_neither() -> None:
    with zipfile.ZipFile("x.pt", "w") as archive:
        archive.writestr("readme", "hello")
    assert "Save" in refused("x.pt")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "holds no array"),
        ([], "holds no array"),
        ("hello", "holds a str, not arrays"),
        (3, "holds an int, not arrays"),
        ({"x": torch.ones(1), "n": 3}, "holds an int at 'n'"),
        ([torch.ones(1), [torch.ones(1)]], "holds a list at 1"),
        ({"a.b": torch.ones(1), "c": torch.ones(1)}, "'a.b' cannot be a keyword"),
        ({1: torch.ones(1), 2: torch.ones(1)}, "1 cannot be a keyword"),
    ],
)
def test_something_else_than_arrays(value: Any, words: str) -> None:
    torch.save(value, "x.pt")
    assert words in refused("x.pt")


def test_numpy_dtypes_that_pytorch_lacks() -> None:
    np.save("x.npy", np.array(["a", "b"]))
    assert "dtype <U1" in refused("x.npy")
    np.savez("x.npz", x=np.array(["2020-01-01"], dtype="datetime64[D]"))
    assert "at 'x'" in refused("x.npz")
    np.savez("none.npz")
    assert "holds no array" in refused("none.npz")
    Path("x.npy").write_bytes(Path("none.npz").read_bytes())
    assert "does not hold an array" in refused("x.npy")
