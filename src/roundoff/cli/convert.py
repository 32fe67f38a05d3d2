"""The command ``convert``: a network in another form, written as weights or as a program."""

from __future__ import annotations

import os
import secrets
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text
from safetensors.torch import save_file
from torch import nn
from torch.export import Dim

from roundoff.api import convert
from roundoff.cli import options
from roundoff.cli.console import check_writable, end, progress, show
from roundoff.cli.networks import check_inputs, load_network
from roundoff.errors import NotSame, RoundoffError
from roundoff.forms import Conversion
from roundoff.forms.dense import larger
from roundoff.load import load_args, load_device, seed_all
from roundoff.records import Verdict

_SUFFIXES = (".safetensors", ".pt2", ".onnx")

To = Annotated[str, typer.Option("--to", metavar="FORM", show_default=False, help="conv, linear, dense or fastest.")]
Out = Annotated[
    Path,
    typer.Option(
        "-o", "--output", metavar="OUT", show_default=False,
        help="A .safetensors file for the weights, .pt2 for the program of torch.export, .onnx for ONNX.",
    ),
]  # fmt: skip
Layout = Annotated[
    str,
    typer.Option("--layout", metavar="LAYOUT", help="keep, or flow: move axes only where an operator needs it."),
]
Exact = Annotated[bool, typer.Option("--exact", help="With --to dense: refuse a network without any exact cell.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FILE", show_default=False, help="Load the weights from a .safetensors or .pt file."
    ),
]


def convert_command(
    m: Annotated[str, typer.Argument(metavar="M", show_default=False, help="A network, named as in compare.")],
    to: To,
    output: Out,
    args: options.Specs = None,
    layout: Layout = "keep",
    exact: Exact = False,
    weights: Weights = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    evaluate: options.Mode = None,
    traceback: options.Traceback = False,
) -> None:
    """Rewrite a network with convolutions instead of linear layers, or the reverse, or dense, and prove it the same.

    Example: roundoff convert 'net.py:Model(256)' --to conv --args float32[16,5,256] -o model.safetensors
    """

    def work() -> int:
        _check_output(output)
        with progress() as tell:
            where = load_device(device)
            network = load_network(m, seed, where, weights, evaluate)
            inputs, keywords = load_args(args or [], seed + 2, where)
            check_inputs("M", m, network, inputs, keywords)
            seed_all(seed)
            try:
                with torch.no_grad():
                    done = convert(network, inputs, to, kwargs=keywords, layout=layout, exact=exact, progress=tell)
            except NotSame as error:
                show(Text(str(error)))
                return 1
            _write(done, inputs, keywords, output)
        show(Group(*_page(done), Text(f"written: {output}")))
        same = all(c is None or c for c in (done.comparison, done.second))
        return 0 if same else 3

    end(work, traceback)


def _page(done: Conversion) -> list[Any]:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("module", "was", "is"):
        table.add_column(heading, overflow="fold")
    for c in done.converted:
        table.add_row(Text(c.module or "(the network)"), c.before, c.after)
    for d in done.declined:
        table.add_row(Text(d.module or "(the network)"), d.what, Text(f"declined: {d.reason}"))
    counts = f"{len(done.converted)} converted, {len(done.declined)} declined, {done.permutes_left} permutes left"
    proof = [Text(f"given input: {done.comparison.verdict} ({done.comparison.evidence}). {done.comparison.reason}")]
    if done.second is None and done.converted:
        proof.append(Text("drawn input: the network does not run on one that is drawn"))
    elif done.second is not None:
        proof.append(Text(f"drawn input: {done.second.verdict} ({done.second.evidence})"))
    styled = Text(
        f"to {done.to}: {counts}", style="bold green" if done.comparison.verdict != Verdict.UNDECIDED else "bold yellow"
    )
    found = [Text(f"{x}\n") for x in (done.dense, done.fastest) if x is not None]
    return [styled, Text(), table, Text(), *found, *proof]


def _check_output(path: Path) -> None:
    """Fail before the work is done."""
    if path.suffix not in _SUFFIXES:
        raise RoundoffError(
            f"Cannot write {path}: its name should end in {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}."
        )
    check_writable(path)
    if not os.access(path.absolute().parent, os.W_OK):
        raise RoundoffError(f"Cannot write {path}: the folder cannot be written to. Give another path.")
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise RoundoffError(
            f"Writing {path} needs {' and '.join(missing)}, not installed here. Install roundoff[onnx], or write .pt2."
        )


def _write(done: Conversion, args: tuple[Any, ...], kwargs: dict[str, Any], path: Path) -> None:
    """Write whole or not at all. The program of a dense network takes any number of samples and any larger size."""
    model, shapes = done.model, None
    if done.dense is not None:
        args = (larger(args[0], done.dense, (3,) * len(done.dense.crop)).expand(2, *[-1] * (args[0].dim() - 1)),)
        shapes = ({axis: Dim.AUTO for axis in range(args[0].dim()) if axis != 1},)
    part = path.with_name(f".{secrets.token_hex(8)}.{path.name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.suffix == ".safetensors":
                save_file(_apart(model), part)
            elif path.suffix == ".pt2":
                program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
                torch.export.save(program, part)
            else:
                more: dict[str, Any] = {"dynamic_shapes": shapes, "external_data": False, "verbose": False}
                torch.onnx.export(model, args, part, kwargs=kwargs, dynamo=True, **more)
        os.replace(part, path)
    except RoundoffError:
        raise
    except Exception as error:  # whatever the exporters raise
        said = (str(error).splitlines() or [""])[0]
        raise RoundoffError(
            f"Cannot write {path}: {type(error).__name__}: {said} A .safetensors file holds the weights alone."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _apart(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict, each tied tensor under its first name only, as load_weights takes it."""
    kept: dict[str, torch.Tensor] = {}
    for name, x in model.state_dict(keep_vars=True).items():
        if isinstance(x, torch.Tensor) and not any(x is y for y in kept.values()):
            kept[name] = x
    return {name: x.detach().clone(memory_format=torch.contiguous_format) for name, x in kept.items()}
