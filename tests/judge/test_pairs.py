"""The verdict on pairs whose truth is known: each twelfth of the suite. ``benchmarks/verdicts.py`` takes them all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest
from tests.suite.changed import changed_pairs
from tests.suite.pair import Pair, measure
from tests.suite.same import same_pairs

import roundoff
from roundoff import Comparison

# The project allows 2 % of undecided pairs over the whole suite: of some thirty, one.
UNDECIDED = 1


def judged(pairs: Iterator[Pair], start: int) -> Iterator[tuple[Pair, Comparison]]:
    for pair in islice(pairs, start, None, 12):
        with pair.context():
            yield pair, roundoff.compare(pair.a, pair.b, pair.args, pair.kwargs)


def test_the_same_function_is_never_called_different() -> None:
    found = list(judged(same_pairs(), 5))
    assert len(found) >= 30
    assert [f"{p.label}: {c.reason}" for p, c in found if c.verdict == "different"] == []
    assert len([p.label for p, c in found if not c]) <= UNDECIDED
    assert {str(c.verdict) for p, c in found} >= {"identical", "roundoff"}


def test_a_change_is_never_called_roundoff() -> None:
    wrong, undecided, seen = [], [], 0
    for pair, c in judged(changed_pairs(), 5):
        truth = measure(pair)
        real = pair.native or truth.above_floor
        assert not (c.verdict == "identical" and truth.bits), pair.label
        if c.verdict == "undecided":
            undecided.append(pair.label)
        elif real and truth.bits:
            seen += 1
            if c.verdict != "different":
                wrong.append(f"{pair.label}: {c.verdict}, {c.reason}")
        elif not real and c.verdict == "different":
            wrong.append(f"{pair.label}: different, though the change does not reach the outputs")
    assert wrong == []
    assert len(undecided) <= UNDECIDED
    assert seen >= 25


@pytest.mark.parametrize("kind", ["kernel: tf32", "kernel: bfloat16", "kernel: element"])
def test_a_wrong_kernel_is_named(kind: str) -> None:
    for pair in islice((p for p in changed_pairs(3) if p.kind == kind), 4):
        with pair.context():
            c = roundoff.compare(pair.a, pair.b, pair.args)
        assert c.verdict == "different", pair.label
        assert any(f.kind in ("faulty-kernel", "reduced-precision") for f in c.findings), pair.label
