"""Arrays from files. What is in a file is data: no code in it is ever run."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.load.names import a, near_files

#: The kinds of file that are read, by how their names end.
SUFFIXES = (".pt", ".pth", ".npy", ".npz", ".safetensors")


def read_arrays(path: str | Path) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The arrays in a file, on the CPU: those without a name of their own, in order, and those with one.

    One array alone counts as one without a name. Raises RoundoffError where there is no such file, where it
    is empty or broken, where it holds something else than arrays, and where names in it cannot be keywords.
    """
    file = existing_file(path)
    suffix = file.suffix.lower()
    if suffix == ".npy":
        return [_tensor(_numpy(file), file)], {}
    if suffix == ".npz":
        found: Any = {name: _tensor(array, file, name) for name, array in _numpy(file).items()}
        if list(found) == [f"arr_{i}" for i in range(len(found))]:  # what numpy.savez calls nameless ones
            found = list(found.values())
    else:
        found = read_safetensors(file) if suffix == ".safetensors" else read_pt(file)
    if isinstance(found, Tensor):
        return [found], {}
    if isinstance(found, (list, tuple)):
        named, positional = {}, list(found)
    elif isinstance(found, Mapping):
        named, positional = dict(found), []
    else:
        raise RoundoffError(f"{path} holds {a(found)}, not arrays. Save a tensor, or a dict of tensors.")
    for name, value in [*named.items(), *enumerate(positional)]:
        if not isinstance(value, Tensor):
            raise RoundoffError(
                f"{path} holds {a(value)} at {name!r}, not an array. Save tensors alone: a tensor, a list, or a dict."
            )
    if not named and not positional:
        raise RoundoffError(f"{path} holds no array. Save the input in it, or leave it away.")
    if len(named) == 1:
        return list(named.values()), {}
    bad = [name for name in named if not (isinstance(name, str) and name.isidentifier())]
    if bad:
        raise RoundoffError(
            f"{path} holds {len(named)} arrays, which are passed as keyword arguments, but {bad[0]!r} "
            "cannot be a keyword. "
            "Save each under the name of a parameter of the network's forward."
        )
    return positional, named


def existing_file(path: str | Path) -> Path:
    """``path`` if it is a file that is not empty, else RoundoffError."""
    file = Path(path).expanduser()
    if file.is_dir():
        raise RoundoffError(f"{path} is a folder. Name a file in it.")
    if not file.is_file():
        raise RoundoffError(f"There is no file {path}. Name a file that exists.{near_files(file.absolute())}")
    if file.stat().st_size == 0:
        raise RoundoffError(f"The file {path} is empty (0 bytes). Save it again.")
    return file


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors in a ``.safetensors`` file, by name."""
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RoundoffError(f"{file} cannot be read as .safetensors: {error}. Save it again.") from error


def read_pt(file: Path) -> Any:
    """What a ``.pt`` file holds, read with ``weights_only=True``: a file that wants to run code is
    refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken archive leads to
        text = str(error)
        wanted = re.search(r"(?:GLOBAL|global:?|Unsupported operand|Trying to load unsupported) (\S*\.\S+)", text)
        if "TorchScript" in text:
            what = "it is a TorchScript program, which is code"
        elif wanted:
            what = f"it holds more than tensors ({wanted[1].strip('.')}), and loading that would run code"
        elif "weights_only" in text and "Unsupported" in text:
            what = "it holds more than tensors, and loading that would run code"
        else:
            what = "it cannot be read: " + (text.splitlines() or [type(error).__name__])[0].rstrip(".")
        raise RoundoffError(
            f"{file} was refused: {what}. Save tensors alone, with torch.save(tensor, ...) or "
            "torch.save(model.state_dict(), ...)."
        ) from error


def _numpy(file: Path) -> Any:
    try:
        loaded = np.load(file, allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except Exception as error:  # whatever a broken file leads to
        if "pickle" in str(error):
            what = "it holds Python objects (a pickle, or an array of them), and loading these may run code"
        else:
            what = f"it cannot be read: {(str(error).splitlines() or [type(error).__name__])[0].rstrip('.')}"
        raise RoundoffError(
            f"{file} was refused: {what}. Save arrays of numbers, with numpy.save or numpy.savez."
        ) from error


def _tensor(array: Any, file: Path, name: str = "") -> Tensor:
    if not isinstance(array, np.ndarray):
        raise RoundoffError(f"{file} does not hold an array, though its name says so. Save it with numpy.save.")
    try:
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except TypeError:
        where = f" at {name!r}" if name else ""
        raise RoundoffError(
            f"{file} holds an array of dtype {array.dtype}{where}, for which PyTorch has no dtype. Save "
            "numbers: float32, int64, ..."
        ) from None
