"""What is known of the operators: the list of rules, and what of a network's steps they do not cover."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from roundoff.rules import Nature, all_rules

_WORDS = {
    Nature.ROUNDS: "computes, and rounds within a bound",
    Nature.EXACT: "moves or selects data, and is exact",
    Nature.DRAWS: "draws random numbers: the native draw holds for the wide run as well",
    Nature.MAKES: "makes a tensor, without rounding",
}


@dataclass(frozen=True)
class Uncovered:
    """An operator that a network runs and that is not covered: how often, where first, and what is missing."""

    op: str
    steps: int
    where: str
    why: str


@dataclass(frozen=True)
class Coverage:
    """How many steps a network has, and the operators among them that are not covered."""

    steps: int
    uncovered: tuple[Uncovered, ...]

    @property
    def covered(self) -> int:
        """The number of steps whose error is known."""
        return self.steps - sum(u.steps for u in self.uncovered)


def rules_page() -> RenderableType:
    """Every operator with a rule, by what it does to rounding, with the source of the bound."""
    parts: list[RenderableType] = []
    count = 0
    for nature, words in _WORDS.items():
        sources: dict[str, list[str]] = {}
        for rule in all_rules():
            if rule.nature is nature:
                sources.setdefault(rule.source if nature is Nature.ROUNDS else "", []).extend(rule.ops)
        count += sum(len(ops) for ops in sources.values())
        table = Table(box=None, padding=(0, 2, 0, 2), show_header=bool(sources and nature is Nature.ROUNDS))
        table.add_column("operators", ratio=1)
        if nature is Nature.ROUNDS:
            table.add_column("source of the bound", ratio=1)
        for source, ops in sources.items():
            names = ", ".join(sorted(op.removeprefix("aten.") for op in ops))
            table.add_row(*([names, source] if nature is Nature.ROUNDS else [names]))
        parts += [Text(words[0].upper() + words[1:], style="bold"), table, Text()]
    parts.append(
        Text(f"{count} operators have a rule. Others go through PyTorch's decompositions; what those do not open,")
    )
    parts.append(Text("roundoff rules A --args SPEC names for a network A. register_rule teaches it an operator."))
    return Group(*parts)


def coverage_page(name: str, coverage: Coverage) -> RenderableType:
    """Which steps of a network are not covered, and where."""
    share = coverage.covered / coverage.steps if coverage.steps else 1.0
    head = f"{name}: {coverage.covered} of {coverage.steps} steps are covered ({share:.1%})."
    if not coverage.uncovered:
        return Text(head)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("operator", no_wrap=True)
    table.add_column("steps", justify="right")
    table.add_column("first at")
    table.add_column("what is missing")
    for u in coverage.uncovered:
        table.add_row(u.op, str(u.steps), Text(u.where), Text(u.why))
    last = "A verdict that rests on these is at best undecided. Teach it one with roundoff.register_rule."
    return Group(Text(head, style="bold"), table, Text(last))
