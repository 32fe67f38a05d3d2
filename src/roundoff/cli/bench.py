"""``roundoff bench``: which form is fastest here?"""

from __future__ import annotations

from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from sys import stderr
from typing import Annotated

import torch
import typer
from rich.console import Group

from roundoff.api import convert
from roundoff.cli import options
from roundoff.cli.console import check_writable, end, progress, show
from roundoff.cli.networks import check_inputs, load_network
from roundoff.errors import NotSame
from roundoff.load import load_args, load_device, seed_all
from roundoff.records import Verdict
from roundoff.report.bench import bench_as_dict, bench_page
from roundoff.report.html import check_packages
from roundoff.report.json import as_json, write
from roundoff.version import __version__

Json = Annotated[
    str | None,
    typer.Option(metavar="FILE", show_default=False, help="Write the times as JSON; - is standard output."),
]
Html = Annotated[
    Path | None,
    typer.Option(metavar="FILE", show_default=False, help="Write the times, with plots, as one self-contained page."),
]


def bench_command(
    m: Annotated[str, typer.Argument(metavar="M", show_default=False, help="A network, named as in compare.")],
    args: options.Specs = None,
    json: Json = None,
    html: Html = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    evaluate: options.Mode = None,
    traceback: options.Traceback = False,
) -> None:
    """Which form and memory layout of each layer is fastest here, and is the network faster with them?

    Example: roundoff bench 'net.py:Model(256)' --args float32[16,5,256] --eval
    """

    def work() -> int:
        for path in filter(None, (html, Path(json) if json not in (None, "-") else None)):
            check_writable(path)
        if html is not None:
            check_packages()
        with redirect_stdout(stderr) if json == "-" else nullcontext(), progress() as tell:
            where = load_device(device)
            network = load_network(m, seed, where, None, evaluate)
            inputs, keywords = load_args(args or [], seed + 2, where)
            check_inputs("M", m, network, inputs, keywords)
            seed_all(seed)
            try:
                with torch.no_grad():
                    done = convert(network, inputs, "fastest", kwargs=keywords, progress=tell)
            except NotSame as error:
                show(str(error))
                return 1
        verdict = str(done.comparison.verdict)
        data = bench_as_dict(m, done.fastest, verdict, __version__)
        if html is not None:
            from roundoff.report.html.bench import bench_html

            write(bench_html(m, done.fastest, verdict, __version__), html)
        if json == "-":
            print(as_json(data), end="", flush=True)
        else:
            proof = f"proof: {verdict} ({done.comparison.evidence}). {done.comparison.reason}"
            show(Group(*bench_page(done.fastest), proof))
            if json is not None:
                write(as_json(data), json)
        undecided = Verdict.UNDECIDED in {c.verdict for c in (done.comparison, done.second) if c is not None}
        return 3 if undecided and done.converted else 0

    end(work, traceback)
