"""Everything that is known of one comparison while it is being judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from roundoff.formats import same_bits
from roundoff.judge.kernels import KernelCheck
from roundoff.records import Finding, Kind
from roundoff.replay.run import Leaf, Ran, Side, run_wide

#: Told what is being done: (done, total, text).
Progress = Callable[[int, int, str], None]


@dataclass
class Case:
    """Both sides, their runs, and the findings so far."""

    a: Side
    b: Side
    ran_a: Ran
    ran_b: Ran
    check_a: KernelCheck
    check_b: KernelCheck
    again: dict[str, tuple[Leaf, ...]]
    say: Progress
    findings: list[Finding] = field(default_factory=list)

    @property
    def sides(self) -> tuple[tuple[Side, Ran, KernelCheck], tuple[Side, Ran, KernelCheck]]:
        """(side, run, check) of A and of B."""
        return (self.a, self.ran_a, self.check_a), (self.b, self.ran_b, self.check_b)

    @property
    def comparable(self) -> list[tuple[str, Leaf, Leaf]]:
        """The tensor leaves that both sides have, in the same place, shape and format."""
        found = []
        of_b = self.ran_b.tensors
        for name, leaf in self.ran_a.tensors.items():
            other = of_b.get(name)
            if (
                other is not None
                and leaf.native.shape == other.native.shape
                and leaf.native.dtype == other.native.dtype
            ):
                found.append((name, leaf, other))
        return found

    def find(self, kind: Kind, where: str, text: str) -> None:
        """Add a finding, once."""
        finding = Finding(kind, where, text)
        if finding not in self.findings:
            self.findings.append(finding)


def open_case(a: Side, b: Side, say: Progress) -> Case:
    """Run both sides, checked, and once more unwatched. Raises RoundoffError when a network raises."""
    check_a, check_b = KernelCheck(), KernelCheck()
    say(0, 2, "running A, in its own precision and wide")
    ran_a, again_a = run_wide(a, observe=check_a, repeat=True)
    say(1, 2, "running B, in its own precision and wide")
    ran_b, again_b = run_wide(b, observe=check_b, repeat=True)
    say(2, 2, "judging")
    return Case(a, b, ran_a, ran_b, check_a, check_b, {"A": again_a or (), "B": again_b or ()}, say)


def repeated(ran: Ran, again: tuple[Leaf, ...]) -> bool:
    """True when the run gave the same bits without being watched."""
    return len(ran.leaves) == len(again) and all(
        x.name == y.name and same_value(x.native, y.native) for x, y in zip(ran.leaves, again, strict=True)
    )


def same_value(x: object, y: object) -> bool:
    """Equal as output leaves: tensors by their bits, NaN equal to NaN, anything else by ``==`` where its type has one."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return same_bits(x, y)
    if type(x) is not type(y):
        return False
    if x is y or callable(x) or type(x).__eq__ is object.__eq__:
        return True  # objects that know no other equality than being one object
    try:
        equal: Any = (x == y) | ((x != x) & (y != y))
        return bool(equal.all() if hasattr(equal, "all") else equal)
    except Exception:  # whatever a type of the user's raises
        return False


def is_number(*leaves: object) -> bool:
    """True for floating-point and complex numbers of one shape that are no tensors: Python's, NumPy's, NumPy's arrays."""
    return len({getattr(x, "shape", ()) for x in leaves}) == 1 and all(
        type(x) in (float, complex) or getattr(getattr(x, "dtype", None), "kind", "") in ("f", "c") for x in leaves
    )
