"""The options of the commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from roundoff.load.files import SUFFIXES

_SPEC = re.compile(r"(\w+=)?(\w+\[.*|.*(" + "|".join(map(re.escape, SUFFIXES)) + "))", re.IGNORECASE | re.DOTALL)


class Command(TyperCommand):
    """Lets several inputs follow one ``--args``: ``--args X Y`` is ``--args X --args Y``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What click is to take apart, each input with an ``--args`` of its own."""
        spread: list[str] = []
        taking = False
        for i, arg in enumerate(args):
            taking = (taking or args[i - 1 : i] == ["--args"]) and _SPEC.fullmatch(arg) is not None
            follows = taking and spread[-1:] != ["--args"]
            spread += ["--args", arg] if follows else [arg]
        return super().parse_args(ctx, spread)


def _text(help: str, **more: Any) -> Any:
    return typer.Option(show_default=False, help=help, **more)


A = Annotated[
    str,
    typer.Argument(
        show_default=False, metavar="A", help="file.py:name or package.module:name; quote 'net.py:Model(256)'."
    ),
]
B = Annotated[str, typer.Argument(show_default=False, metavar="B", help="The other network, named in the same way.")]
MaybeA = Annotated[
    str | None, typer.Argument(show_default=False, metavar="[A]", help="A network, named as in compare.")
]
Specs = Annotated[
    list[str] | None,
    typer.Option(
        "--args",
        metavar="SPEC",
        show_default=False,
        help="An input: a .pt, .npy, .npz or .safetensors file, or float32[16,5,256] or int64[2,16]:0..30522 "
        "(high excluded), drawn from --seed. name=SPEC gives a keyword argument. Repeatable.",
    ),
]
MatchWeights = Annotated[
    bool,
    typer.Option(
        "--match-weights", help="First copy A's parameters into B, in order, where they fit up to reshape or transpose."
    ),
]
WeightsA = Annotated[Path | None, _text("Load A's weights from a .safetensors or .pt file.", metavar="FILE")]
WeightsB = Annotated[Path | None, _text("Load B's weights.", metavar="FILE")]
Prove = Annotated[
    bool, typer.Option("--prove", help="Hold the verdict against rigorous bounds for every element; takes longer.")
]
Explain = Annotated[bool, typer.Option("--explain", help="Say which operations made the largest difference.")]
Orders = Annotated[
    bool,
    typer.Option(
        "--orders",
        help="With the explanation, reveal in which orders the kernels of A and B add; takes seconds.",
    ),
]
Json = Annotated[
    str | None,
    _text("Write the comparison as JSON; - is standard output, and replaces the report.", metavar="FILE"),
]
Html = Annotated[Path | None, _text("Write the comparison, explained, as one self-contained page.", metavar="FILE")]
Seed = Annotated[
    int,
    typer.Option(
        min=0,
        max=2**32 - 1,
        metavar="SEED",
        help="Where weights and inputs are drawn from: A from SEED, B from SEED + 1, inputs from SEED + 2.",
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="cpu or cuda:0.")]
Mode = Annotated[
    bool | None,
    typer.Option(
        "--eval/--train", show_default=False, help="Set evaluation or training mode; without it, as constructed."
    ),
]
Grad = Annotated[bool, typer.Option("--grad/--no-grad", help="Run with or without gradients; the kernels may differ.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")]
