"""The forum question as it is answered: the records of what was run, and the page that shows them."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from roundoff.records import Verdict


@dataclass(frozen=True)
class Row:
    """One comparison of the linear layers with another form.

    ``output`` is the one of the two outputs in which the difference is largest relative to the values, and the sizes,
    in its units, are those of it: the largest difference and how many representable numbers (ulp) lie in between at
    most, the largest value, the largest round-off of each form, and the largest real difference.
    """

    weights: str
    activation: str
    samples: int
    form: str
    verdict: Verdict
    output: str
    difference_abs: float
    value_abs: float
    ulp: int | None
    roundoff_linear_abs: float
    roundoff_form_abs: float
    real_abs: float

    @property
    def relative(self) -> float:
        """The largest difference over the largest value."""
        return self.difference_abs / self.value_abs if self.value_abs else 0.0

    @property
    def same(self) -> bool:
        """True for ``identical`` and ``roundoff``."""
        return self.verdict in (Verdict.IDENTICAL, Verdict.ROUNDOFF)


@dataclass(frozen=True)
class Claim:
    """Something that was claimed, what was run to see, what came out, and whether the claim holds."""

    text: str
    run: str
    found: str
    holds: bool


@dataclass(frozen=True)
class Answer:
    """The answer in a sentence, the comparisons and the claims it rests on, and where they were run."""

    answer: str
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    machine: str


_QUESTION = (
    "A network 256 → 64 → 128 → 256 → 4 is written with linear layers, again with 1x1 convolutions (the samples as the "
    "height of an image), and again with tensordot. All have the same weights, bit for bit. They give different "
    "numbers. Why?"
)
_LEGEND = (
    "Each line compares a form with the linear layers on 16 x samples x 256 random numbers, biases set like the "
    "weights. Largest difference and largest value are of the output, logits or features, in which the difference is "
    "largest relative to the values; ulp counts the float32 numbers in between, many where a value is near 0. "
    "Round-off is what a form itself is off from exact arithmetic. The real difference is what is left between the "
    "forms in float64: were they different functions, it would be as large as the difference."
)
_COLOURS = {
    Verdict.IDENTICAL: "green",
    Verdict.ROUNDOFF: "green",
    Verdict.DIFFERENT: "red",
    Verdict.UNDECIDED: "yellow",
}


def answer_page(answer: Answer) -> RenderableType:
    """The question, the answer in a sentence, the table, and each claim with what a run says of it."""
    parts: list[RenderableType] = [
        Text(answer.answer, style="bold"),
        Text(),
        Text(_QUESTION),
        Text(),
        _table(answer.rows),
        Text(),
        Text(_LEGEND, style="dim"),
        Text(),
        Text("What was claimed, and what a run says", style="bold"),
    ]
    for claim in answer.claims:
        verdict = ("holds", "bold green") if claim.holds else ("does not hold", "bold red")
        parts.append(Text.assemble("“", (claim.text, "bold"), "”  ", verdict))
        parts.append(Padding(Text(f"Run: {claim.run}\nSeen: {claim.found}"), (0, 0, 1, 2)))
    parts.append(Text(answer.machine, style="dim"))
    return Group(*parts)


def _table(rows: tuple[Row, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("activation,\nweights\n form, samples", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for heading in (
        "largest\ndiffer-\nence",
        "largest\nvalue",
        "rela-\ntive",
        "ulp",
        "round-\noff of\nlinear",
        "round-\noff of\nform",
        "real\ndiffer-\nence",
    ):
        table.add_column(heading, justify="right", overflow="fold")
    above = ("", "")
    for row in rows:
        if (row.activation, row.weights) != above:
            above = (row.activation, row.weights)
            table.add_row(Text(f"{row.activation}, {row.weights}", style="cyan"))
        sizes = (row.difference_abs, row.value_abs, row.relative)
        errors = (row.roundoff_linear_abs, row.roundoff_form_abs, row.real_abs)
        table.add_row(
            f" {row.form}, {row.samples}",
            Text(str(row.verdict), style=_COLOURS[row.verdict]),
            *map(size, sizes),
            "-" if row.ulp is None else f"{row.ulp:,}",
            *map(size, errors),
        )
    return table


def size(x: float) -> str:
    """A size in two digits.

    >>> size(0.0), size(144.0), size(3.97e7), size(1.5e-8)
    ('0', '144', '4.0e7', '1.5e-8')
    """
    if x == 0:
        return "0"
    if 0.1 <= x < 1000:
        return f"{x:.0f}" if x >= 10 else f"{x:.2g}"
    digits, _, power = f"{x:.1e}".partition("e")
    return f"{digits}e{int(power)}" if power else digits
