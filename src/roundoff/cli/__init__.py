"""The command line: the commands. Only this package prints and exits.

Exit codes: 0 the same (``identical`` or ``roundoff``), 1 ``different``, 2 usage or an error, 3 ``undecided``. An
interrupt ends with 130, as shells have it (128 + SIGINT).
"""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.text import Text

from roundoff.api import Comparison, Explanation, compare
from roundoff.cli import options
from roundoff.cli.bench import bench_command
from roundoff.cli.console import Tell, check_writable, end, progress, show
from roundoff.cli.convert import convert_command
from roundoff.cli.coverage import cover
from roundoff.cli.networks import check_inputs, describe_modes, load_network
from roundoff.cli.order import order_command
from roundoff.errors import RoundoffError
from roundoff.load import load_args, load_device, seed_all
from roundoff.records import Verdict
from roundoff.report.coverage import coverage_page, rules_page
from roundoff.report.html import check_packages
from roundoff.report.json import as_json, write
from roundoff.report.thread import answer_page
from roundoff.thread import answer_thread
from roundoff.version import __version__

EXIT = {Verdict.IDENTICAL: 0, Verdict.ROUNDOFF: 0, Verdict.DIFFERENT: 1, Verdict.UNDECIDED: 3}

app = typer.Typer(
    epilog="Exit codes: 0 the same, 1 different, 2 usage or an error, 3 undecided.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"roundoff {__version__} with PyTorch {torch.__version__}")
        raise typer.Exit()


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def options_of_all(version: Version = False) -> None:
    """Two networks that should be the same give different numbers: is it round-off, or a bug?"""


@app.command("compare", cls=options.Command)
def compare_command(
    a: options.A,
    b: options.B,
    args: options.Specs = None,
    match_weights: options.MatchWeights = False,
    weights_a: options.WeightsA = None,
    weights_b: options.WeightsB = None,
    prove: options.Prove = False,
    explain: options.Explain = False,
    orders: options.Orders = False,
    json: options.Json = None,
    html: options.Html = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    evaluate: options.Mode = None,
    grad: options.Grad = False,
    traceback: options.Traceback = False,
) -> None:
    """Are A and B the same function at this input, up to round-off?

    Example: roundoff compare 'net.py:Model(256)' 'net.py:ModelConv(256)' --args float32[16,5,256] --match-weights
    """

    def work() -> int:
        for path in (html, None if json in (None, "-") else json):
            if path is not None:
                check_writable(Path(path))
        if html is not None:
            check_packages()
        with redirect_stdout(sys.stderr) if json == "-" else nullcontext(), progress() as tell:
            where = load_device(device)
            network_a = load_network(a, seed, where, weights_a, evaluate)
            network_b = load_network(b, seed + 1, where, weights_b, evaluate)
            inputs, keywords = load_args(args or [], seed + 2, where)
            check_inputs("A", a, network_a, inputs, keywords)
            check_inputs("B", b, network_b, inputs, keywords)
            seed_all(seed)
            with torch.set_grad_enabled(grad):
                found = compare(
                    network_a, network_b, inputs, keywords, match_weights=match_weights, prove=prove, progress=tell
                )
                explanation = _explained(found, orders, tell) if explain or orders or html is not None else ""
                if html is not None:
                    known = explanation if isinstance(explanation, Explanation) else None
                    found.to_html(html, names=(a, b), explanation=known, progress=tell)
        data = found.to_dict()
        if isinstance(explanation, Explanation):
            data["explanation"] = explanation.to_dict()
        if json == "-":
            print(as_json(data), end="", flush=True)
            return EXIT[found.verdict]
        show(
            Text(describe_modes({"A": (a, network_a), "B": (b, network_b)}), style="dim"),
            found,
            *([Text(), explanation] if explain or orders else []),
        )
        if json is not None:
            write(as_json(data), json)
        return EXIT[found.verdict]

    end(work, traceback)


def _explained(found: Comparison, orders: bool, tell: Tell | None) -> Explanation | str:
    """The explanation; where there is none, why: that changes neither the verdict nor how the command ends."""
    try:
        return found.explain(orders=orders, progress=tell)
    except RoundoffError as error:
        return f"Not explained: {error}"


@app.command("thread")
def thread_command(device: options.Device = "cpu", traceback: options.Traceback = False) -> None:
    """The question roundoff started from, run and answered: 1x1 convolutions instead of linear layers."""

    def work() -> int:
        with progress() as tell:
            answer = answer_thread(load_device(device), tell)
        show(answer_page(answer))
        return 0

    end(work, traceback)


@app.command("rules", cls=options.Command)
def rules_command(
    a: options.MaybeA = None,
    args: options.Specs = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    evaluate: options.Mode = None,
    grad: options.Grad = False,
    traceback: options.Traceback = False,
) -> None:
    """Which operators have a rule for their error; with a network A, which of its steps are not covered."""

    def work() -> int:
        if a is None:
            show(rules_page())
            return 0
        with progress():
            where = load_device(device)
            network = load_network(a, seed, where, None, evaluate)
            inputs, keywords = load_args(args or [], seed + 2, where)
            check_inputs("A", a, network, inputs, keywords)
            seed_all(seed)
            with torch.set_grad_enabled(grad):
                coverage = cover(network, inputs, keywords)
        show(coverage_page(a, coverage))
        return 0

    end(work, traceback)


app.command("convert", cls=options.Command)(convert_command)
app.command("order")(order_command)
app.command("bench", cls=options.Command)(bench_command)


def main() -> None:
    """The entry point of ``roundoff``."""
    app(prog_name="roundoff")
