"""What ``roundoff.compare`` says of pairs that are known to be the same, or known not to be, beside three tolerances.

    python benchmarks/verdicts.py               # every pair, some minutes
    python benchmarks/verdicts.py --every 5     # each fifth pair
    python benchmarks/verdicts.py --seed 7      # other weights, inputs, ways and places

Same function: ``different`` is a false alarm. Changed: ``roundoff`` is a missed bug, and so is ``identical`` where a bit
differs. Which changes are above the floor is found without the library, from copies of the networks in float64; a change
below it (a unit that relu holds at zero) is counted by itself. A planted kernel is wrong in float32 only, and is always
to be found. The tolerances are those that their authors chose: ``torch.testing.assert_close`` and ``torch.allclose`` as
they are called without options, and ``torch._dynamo.utils.same`` with float64 results to go by, as PyTorch itself does.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.suite.changed import changed_pairs
from tests.suite.pair import Pair, Truth, outputs, truth_of, wide_outputs
from tests.suite.same import same_pairs

import roundoff

VERDICTS = ("identical", "roundoff", "different", "undecided", "error")
RIVALS = ("assert_close", "allclose", "dynamo same")


@dataclass(frozen=True)
class Row:
    """What was said of one pair: the verdict and its reason, and whether each rival takes the outputs for the same."""

    pair: Pair
    truth: Truth
    verdict: str
    reason: str
    rivals: dict[str, bool]
    seconds: float

    @property
    def changed(self) -> bool:
        """A change is planted, and the outputs show it (above the floor, with a bit that differs)."""
        return bool(self.pair.kind) and (self.pair.native or self.truth.above_floor)

    @property
    def wrong(self) -> str:
        """ "false alarm", "missed bug", or nothing."""
        if not self.pair.kind:
            return "false alarm" if self.verdict == "different" else ""
        missed = self.verdict == "roundoff" and self.changed
        return "missed bug" if missed or (self.verdict == "identical" and self.truth.bits) else ""


def closeness(a: list[Tensor], b: list[Tensor], wide: list[Tensor]) -> dict[str, bool]:
    """Whether each of the rivals takes the outputs for the same."""

    def holds(check: Callable[[], object]) -> bool:
        try:
            return check() is not False
        except (AssertionError, RuntimeError):  # RuntimeError: formats or shapes that it does not compare
            return False

    pairs = list(zip(a, b, strict=True))
    return {
        "assert_close": holds(lambda: torch.testing.assert_close(b, a, equal_nan=True)),
        "allclose": all(holds(lambda x=x, y=y: torch.allclose(y, x, equal_nan=True)) for x, y in pairs),
        "dynamo same": holds(lambda: torch._dynamo.utils.same(a, b, fp64_ref=wide, equal_nan=True)),
    }


def judged(pair: Pair) -> Row:
    """Run the library, then the rivals, on one pair."""
    start = time.perf_counter()
    with pair.context():
        try:
            c = roundoff.compare(pair.a, pair.b, pair.args, pair.kwargs)
            verdict, reason = str(c.verdict), c.reason
        except Exception as error:  # one pair must not end the benchmark
            verdict, reason = "error", f"{type(error).__name__}: {error}".splitlines()[0]
        seconds = time.perf_counter() - start
        a, b = outputs(pair.a, pair), outputs(pair.b, pair)
        wide = wide_outputs(pair.a, pair)
        return Row(pair, truth_of(pair, a, b), verdict, reason, closeness(a, b, wide), seconds)


def counted(title: str, rows: list[Row], group: Callable[[Row], str]) -> Table:
    """Per group: how many of each verdict, how many are wrong, and how many the rivals get wrong."""
    table = Table(title=title, title_justify="left")
    table.add_column("pairs", no_wrap=True)
    for name in ("n", *VERDICTS, "wrong", *RIVALS):
        table.add_column(name, justify="right", no_wrap=True)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(group(row), []).append(row)
    for name, some in chain(groups.items(), [("all", rows)]):
        verdicts = [sum(row.verdict == v for row in some) for v in VERDICTS]
        rivals = [sum(is_wrong(row, rival) for row in some) for rival in RIVALS]
        cells = [len(some), *verdicts, sum(bool(row.wrong) for row in some), *rivals]
        table.add_row(name, *(str(n) if n else "·" for n in cells), end_section=name == [*groups][-1])
    return table


def is_wrong(row: Row, rival: str) -> bool:
    """A rival rejects what is the same, or accepts what is not and shows it."""
    if not row.pair.kind:
        return not row.rivals[rival]
    return row.rivals[rival] and row.changed and row.truth.bits


def share(rows: Iterable[Row], good: Callable[[Row], bool]) -> str:
    """``n of m (p %)``."""
    rows = list(rows)
    n = sum(map(good, rows))
    return f"{n} of {len(rows)}" + (f" ({n / len(rows):.1%})" if rows else "")


def same_group(row: Row) -> str:
    """float32, bfloat16 or autocast."""
    return row.pair.label.split(": ", 1)[1].split(",")[0]


def changed_group(row: Row) -> str:
    """The kind of change; those that do not reach the outputs by themselves."""
    return row.pair.kind if row.changed else "below the floor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="draws the pairs")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take each N-th pair")
    options = parser.parse_args()
    logging.getLogger("torch._dynamo.utils").setLevel(logging.CRITICAL)  # it logs each rejection
    torch.set_num_threads(1)
    console = Console()
    console = console if console.is_terminal else Console(width=140)  # a file has room for whole rows

    def chosen(pairs: Iterator[Pair]) -> Iterator[Pair]:
        return (pair for i, pair in enumerate(pairs) if i % options.every == 0)

    rows = [
        judged(pair)
        for pair in track(
            chain(chosen(same_pairs(options.seed)), chosen(changed_pairs(options.seed))),
            "comparing",
            console=console,
            transient=True,
        )
    ]
    same = [row for row in rows if not row.pair.kind]
    changed = [row for row in rows if row.pair.kind]
    above = [row for row in changed if row.changed and row.truth.bits]
    console.print(counted("The same function: who calls it different?", same, same_group))
    console.print(counted("A change: who does not see it?", changed, changed_group))

    for what in ("false alarm", "missed bug", "undecided", "error"):
        for row in rows:
            if what in (row.wrong, row.verdict):
                console.print(
                    f"{what}: {row.pair.label}\n    {row.reason}", markup=False, highlight=False, soft_wrap=True
                )
    console.print(
        f"same function, called identical or roundoff: "
        f"{share(same, lambda row: row.verdict in ('identical', 'roundoff'))}\n"
        f"changed above the floor with bits that differ, called different: "
        f"{share(above, lambda row: row.verdict == 'different')}\n"
        f"false alarms: {sum(row.wrong == 'false alarm' for row in rows)}, "
        f"missed bugs: {sum(row.wrong == 'missed bug' for row in rows)}, "
        f"{sum(row.seconds for row in rows):.0f} s in compare"
    )
    sys.exit(any(row.wrong for row in rows))


if __name__ == "__main__":
    main()
