"""From ``float32[16,5,256]`` or ``x.npy`` to the inputs of a network."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.load.files import SUFFIXES, read_arrays
from roundoff.load.names import near

_FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
_COMPLEX = ("complex128", "complex64", "complex32")
_INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")
#: The dtypes that can be drawn.
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in (*_FLOATS, *_COMPLEX, *_INTEGERS, "bool")}
#: Where integers are drawn from when no range is given; small, so that most embeddings have these rows.
DEFAULT_RANGE = (0, 10)

_FORMS = (
    "Write a file (.pt, .npy, .npz, .safetensors), or a dtype and sizes to draw: float32[16,5,256], "
    "int64[2,16]:0..30522."
)
_KEYWORD = re.compile(r"([A-Za-z_]\w*)=(.+)", re.DOTALL)
_DRAWN = re.compile(r"(?P<dtype>[A-Za-z_]\w*)\s*\[(?P<sizes>[^\]]*)\](?P<rest>.*)", re.DOTALL)
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf":({_NUMBER})\.\.({_NUMBER})")


def load_args(
    specs: Sequence[str], seed: int = 0, device: torch.device | str = "cpu"
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments that ``specs`` describe, on ``device``.

    Each is ``SPEC``, or ``name=SPEC`` for a keyword argument. A SPEC is one of

    - a file ``.pt``, ``.npy``, ``.npz`` or ``.safetensors``. With one array in it (and no name of its own to
      keep) it is a positional argument; with several it gives a keyword argument for each, under their names
      in the file; a list, or what ``numpy.savez`` stores without names, gives positional arguments in order.
      No code in a file is ever run.
    - ``dtype[sizes]``, drawn from ``seed``: normal numbers of mean 0 and variance 1 for floating point and
      complex dtypes, integers from 0 (included) to 10 (excluded), fair coins for ``bool``.
    - ``dtype[sizes]:low..high``: integers, from low (included) to high (excluded); or floating-point numbers,
      uniform in between and then rounded to the dtype.

    The numbers are drawn on the CPU in the order of ``specs``, so they are the same on every device. Raises
    RoundoffError, naming what was given, what was expected and the next move.

    >>> args, kwargs = load_args(["float32[2,3]", "ids=int64[4]:0..100"], seed=0)
    >>> args[0].shape, kwargs["ids"].dtype
    (torch.Size([2, 3]), torch.int64)
    """
    generator = torch.Generator().manual_seed(seed)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for spec in specs:
        match = _KEYWORD.fullmatch(spec)
        keyword, text = (match[1], match[2]) if match else ("", spec)
        positional, named = _load(text, spec, generator)
        if keyword:
            if len(positional) + len(named) != 1:
                raise RoundoffError(
                    f"{spec!r}: the file holds {len(positional) + len(named)} arrays, but {keyword}= takes "
                    "one. Leave the name away to pass each under its own, or save the array alone."
                )
            positional, named = [], {keyword: (positional or list(named.values()))[0]}
        for name in named:
            if name in kwargs:
                raise RoundoffError(f"{spec!r}: the keyword argument {name} is given twice. Give it once.")
        args += [x.to(device) for x in positional]
        kwargs |= {name: x.to(device) for name, x in named.items()}
    return tuple(args), kwargs


def _load(text: str, spec: str, generator: torch.Generator) -> tuple[list[Tensor], dict[str, Tensor]]:
    if "[" in text and not text.lower().endswith(SUFFIXES):
        return [_draw(text, spec, generator)], {}
    if text.lower().endswith(SUFFIXES):
        return read_arrays(text)
    hint = f" For numbers to draw, add the sizes: {text}[16,256]." if text in DTYPES else ""
    raise RoundoffError(f"{spec!r} describes no input.{hint} {_FORMS}")


def _draw(text: str, spec: str, generator: torch.Generator) -> Tensor:
    match = _DRAWN.fullmatch(text)
    if match is None:
        raise RoundoffError(f"{spec!r} describes no input. {_FORMS}")
    name = match["dtype"]
    if name not in DTYPES:
        choice = near(name, DTYPES) or f" Known are {', '.join(DTYPES)}."
        raise RoundoffError(f"{spec!r}: {name} is no dtype that can be drawn.{choice}")
    sizes = _sizes(match["sizes"], spec)
    limits = _limits(match["rest"], name, spec)
    try:
        return _numbers(name, sizes, limits, generator)
    except (RuntimeError, TypeError, OverflowError) as error:  # more than there is memory for
        raise RoundoffError(
            f"{spec!r} cannot be drawn: {str(error).splitlines()[0]} Ask for fewer elements or a smaller range."
        ) from None


def _sizes(text: str, spec: str) -> list[int]:
    sizes = []
    for part in text.split(",") if text.strip() else []:
        if not re.fullmatch(r"\s*[+-]?[0-9]+\s*", part):
            raise RoundoffError(
                f"{spec!r}: the size {part.strip() or '(nothing)'!s} is not a number. "
                "Sizes are whole numbers with commas in between, as in float32[16,5,256]."
            )
        if int(part) < 0:
            raise RoundoffError(f"{spec!r}: the size {int(part)} is negative. Sizes are 0 or more.")
        sizes.append(int(part))
    return sizes


def _limits(rest: str, name: str, spec: str) -> tuple[float, float] | None:
    """The range after the sizes, checked against the dtype; None where none is given."""
    if not rest:
        return DEFAULT_RANGE if name in _INTEGERS else None
    if name in _COMPLEX or name == "bool":
        raise RoundoffError(f"{spec!r}: {name} takes no range. Leave {rest} away.")
    match = _RANGE.fullmatch(rest)
    if match is None:
        raise RoundoffError(
            f"{spec!r}: {rest} is not a range. It is written :low..high, high excluded, as in int64[2,16]:0..30522."
        )
    if name in _FLOATS:
        low, high = float(match[1]), float(match[2])
        info: Any = torch.finfo(DTYPES[name])
    else:
        if not all(re.fullmatch(r"[+-]?\d+", limit) for limit in match.groups()):
            raise RoundoffError(f"{spec!r}: the range of {name} is from one whole number to another, as in :0..30522.")
        low, high = int(match[1]), int(match[2])
        info = torch.iinfo(torch.int64 if name == "uint64" else DTYPES[name])
    if low >= high:
        raise RoundoffError(
            f"{spec!r}: the range {match[1]}..{match[2]} is empty: low must be less than high, which is excluded."
        )
    if low < info.min or high - (name not in _FLOATS) > info.max:
        raise RoundoffError(f"{spec!r}: {name} holds {info.min} to {info.max}. Choose a range within.")
    return low, high


def _numbers(name: str, sizes: list[int], limits: tuple[float, float] | None, generator: torch.Generator) -> Tensor:
    dtype = DTYPES[name]
    if name == "bool":
        return torch.randint(0, 2, sizes, generator=generator).to(dtype)
    if name in _INTEGERS and limits is not None:
        return torch.randint(int(limits[0]), int(limits[1]), sizes, generator=generator).to(dtype)
    if name in _COMPLEX:
        drawn = torch.complex128 if name == "complex128" else torch.complex64
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch calls complex32 experimental
            return torch.randn(sizes, generator=generator, dtype=drawn).to(dtype)
    drawn = torch.float64 if name == "float64" else torch.float32
    if limits is None:
        return torch.randn(sizes, generator=generator, dtype=drawn).to(dtype)
    low, high = limits
    return torch.rand(sizes, generator=generator, dtype=torch.float64).mul_(high - low).add_(low).to(dtype)
