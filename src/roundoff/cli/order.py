"""``roundoff order``: in which order does a kernel add?"""

from __future__ import annotations

import ast
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from sys import stderr
from typing import Annotated, Any

import torch
import typer

from roundoff.api import reveal_order
from roundoff.cli import options
from roundoff.cli.console import check_writable, end, progress, show
from roundoff.errors import RoundoffError
from roundoff.load import load_device
from roundoff.order.kernels import DTYPES
from roundoff.report.json import as_json, write
from roundoff.report.order import orders_as_dict, orders_page
from roundoff.version import __version__

VARIED = ("batch", "threads", "layout", "bias", "out", "dtype")
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES}


@dataclass(frozen=True)
class _Asked:
    """What is asked of :func:`roundoff.reveal_order`."""

    op: str
    k: int
    bias: bool
    batch: int
    out: int
    dtype: torch.dtype
    layout: str
    threads: int | None
    op_args: dict[str, Any]
    device: torch.device


Operator = Annotated[
    str,
    typer.Argument(
        metavar="OP",
        show_default=False,
        help="linear, conv1d, conv2d, conv3d, tensordot, matmul, bmm, einsum, sum or mean.",
    ),
]
K = Annotated[int, typer.Option("--k", help="How many products each output adds.")]
Bias = Annotated[bool, typer.Option("--bias/--no-bias", help="With a bias, which is one of the summands.")]
Batch = Annotated[int, typer.Option(help="The number of rows.")]
Out = Annotated[int, typer.Option(help="The number of outputs.")]
Dtype = Annotated[str, typer.Option(help=f"{', '.join(_DTYPES)}.")]
Layout = Annotated[str, typer.Option(help="contiguous, transposed, or channels_last for convolutions.")]
Threads = Annotated[
    int | None, typer.Option(show_default=False, help="How many threads; as they are set if not given.")
]
Arg = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="NAME=VALUE", show_default=False, help="An option of OP, such as kernel_size=3."),
]
Vary = Annotated[
    str | None,
    typer.Option(metavar="NAMES", show_default=False, help=f"Does the order change with them? Of {', '.join(VARIED)}."),
]
Against = Annotated[
    str | None,
    typer.Option(
        metavar="OP[:LAYOUT]",
        show_default=False,
        help="Another operator at the same shape: what differs between the two?",
    ),
]
Svg = Annotated[Path | None, typer.Option(metavar="FILE", show_default=False, help="Draw the tree as SVG.")]
Json = Annotated[str | None, typer.Option(metavar="FILE", show_default=False, help="Write JSON; - is standard output.")]


def order_command(
    op: Operator,
    k: K = 256,
    bias: Bias = True,
    batch: Batch = 16,
    out: Out = 64,
    dtype: Dtype = "float32",
    layout: Layout = "contiguous",
    threads: Threads = None,
    arg: Arg = None,
    vary: Vary = None,
    against: Against = None,
    device: options.Device = "cpu",
    json: Json = None,
    svg: Svg = None,
    traceback: options.Traceback = False,
) -> None:
    """In which order does a kernel add? Held against the kernel's own bits.

    Example: roundoff order linear --k 256 --vary batch,threads,layout
    """

    def work() -> int:
        for path in filter(None, (svg, Path(json) if json not in (None, "-") else None)):
            check_writable(path)
        if dtype not in _DTYPES:
            raise RoundoffError(f"There is no dtype {dtype!r} here. Give one of {', '.join(_DTYPES)}.")
        asked = _Asked(
            op, k, bias, batch, out, _DTYPES[dtype], layout, threads, _arguments(arg or []), load_device(device)
        )
        with redirect_stdout(stderr) if json == "-" else nullcontext(), progress() as tell:
            cases = [("as given", asked), *_varied(asked, vary or ""), *_other(asked, against)]
            orders = []
            for i, (name, case) in enumerate(cases):
                if tell is not None:
                    tell(i, len(cases), name)
                orders.append((name, reveal_order(**vars(case))))
        data = orders_as_dict(orders, __version__)
        if svg is not None:
            orders[0][1].to_svg(svg)
        if json == "-":
            print(as_json(data), end="", flush=True)
            return 0
        show(orders_page(orders))
        if json is not None:
            write(as_json(data), json)
        return 0

    end(work, traceback)


def _arguments(texts: list[str]) -> dict[str, Any]:
    """``kernel_size=3`` and ``size=(9,9)`` as Python values; what is no literal is text."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise RoundoffError(f"--arg {text} is not of the form NAME=VALUE. Write --arg kernel_size=3.")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _other(asked: _Asked, against: str | None) -> list[tuple[str, _Asked]]:
    """The case of another operator; it takes the options of the first only where it is the same."""
    if against is None:
        return []
    op, _, layout = against.partition(":")
    op_args = asked.op_args if op == asked.op else {}
    return [(against, replace(asked, op=op, layout=layout or "contiguous", op_args=op_args))]


def _varied(asked: _Asked, names: str) -> list[tuple[str, _Asked]]:
    """The cases in which one thing differs from what was asked."""
    found = []
    for name in filter(None, names.split(",")):
        if name not in VARIED:
            raise RoundoffError(f"--vary {names}: {name!r} cannot be varied. Give some of {', '.join(VARIED)}.")
        for value in _values(asked, name):
            if value != getattr(asked, name):
                told = str(value).removeprefix("torch.").lower()
                found.append((f"{name} {told}", replace(asked, **{name: value})))
    return found


def _values(asked: _Asked, name: str) -> tuple[Any, ...]:
    other = "channels_last" if asked.op.startswith("conv") else "transposed"
    return {
        "batch": (1, 2, 3, 16, 64),
        "threads": tuple(n for n in (1, 2, 4, 8) if n <= max(2, torch.get_num_threads())),
        "layout": ("contiguous", other),
        "bias": (True, False),
        "out": (1, 4, 64, 65),
        "dtype": DTYPES,
    }[name]
