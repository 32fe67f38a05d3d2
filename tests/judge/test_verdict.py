"""What comes of good, bad and odd input: the verdict, its evidence and its reason."""

from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.judge.pairs import Perceptron, backwards, kinds, product, told
from torch import Tensor, nn

import roundoff
from roundoff import RoundoffError

Point = namedtuple("Point", "x y")


@dataclass
class Answer:
    """As the outputs of the usual model libraries are."""

    logits: Tensor
    hidden: tuple[Tensor, ...] | None = None
    loss: Tensor | None = None


class Cache:
    """An object that only holds tensors."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


# -- structure, shape, format ---------------------------------------------------------------------------------------

APART: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Any], str]] = {
    "shape": (lambda x: x, lambda x: x[:2], "output is [4, 6] in A and [2, 6] in B"),
    "rank": (lambda x: x, lambda x: x[None], "output is [4, 6] in A and [1, 4, 6] in B"),
    "dtype": (lambda x: x, lambda x: x.double(), "output is torch.float32 in A and torch.float64 in B"),
    "choice": (lambda x: x > 0, lambda x: (x > 0).int(), "output is torch.bool in A and torch.int32 in B"),
    "length": (lambda x: (x, x), lambda x: (x,), "[1] only in A"),
    "key": (lambda x: {"a": x}, lambda x: {"b": x}, "['a'] only in A; ['b'] only in B"),
    "nesting": (lambda x: (x, x), lambda x: (x, [x]), "[1] only in A; [1][0] only in B"),
    "kind": (lambda x: (x, x), lambda x: (x, 3), "[1] is a tensor on one side only"),
    "none": (lambda x: Answer(x, (x,)), lambda x: Answer(x), ".hidden[0] only in A; .hidden only in B"),
    "int": (lambda x: (x, 3), lambda x: (x, 4), "[1] is 3 in A and 4 in B"),
    "int and bool": (lambda x: (x, 1), lambda x: (x, True), "[1] is 1 in A and True in B"),
    "text": (lambda x: (x, "a"), lambda x: (x, "b"), "[1] is 'a' in A and 'b' in B"),
}


@pytest.mark.parametrize("case", APART)
def test_another_structure_shape_or_format_is_different(case: str) -> None:
    a, b, said = APART[case]
    c = roundoff.compare(a, b, torch.randn(4, 6))
    assert (c.verdict, c.evidence) == ("different", "statistical")
    assert said in c.reason


def test_the_other_leaves_are_still_compared() -> None:
    x, w = torch.randn(4, 30), torch.randn(30, 6)
    c = roundoff.compare(lambda x: (product(x, w), x, x * 2), lambda x: (backwards(x, w), x[:1], x * 3), x)
    assert c.verdict == "different" and "[1] is [4, 30] in A" in c.reason
    one, three = c.outputs
    assert (one.name, three.name) == ("[0]", "[2]")
    assert one.real_abs <= one.floor_abs and three.real_abs > three.floor_abs


def test_many_mismatches_are_cut() -> None:
    c = roundoff.compare(lambda x: [x] * 9, lambda x: [x[:1]] * 9, torch.randn(2, 2))
    assert c.reason.endswith("(and 6 more).")


STRUCTURES: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda h: h,
    "tuple": lambda h: (h, (h * 2,)),
    "list": lambda h: [h, [h * 2]],
    "dict": lambda h: {"h": h, 3: {"deep": h * 2}},
    "namedtuple": lambda h: Point(h, h * 2),
    "dataclass": lambda h: Answer(h, (h * 2, h * 3)),
    "object": lambda h: Cache(h),
    "numbers beside": lambda h: (h, 3, 0.5, None, "name", True),
    "mixed": lambda h: {"points": [Point(h, Answer(h))], "n": 1},
}


@pytest.mark.parametrize("kind", STRUCTURES)
def test_outputs_of_any_structure(kind: str) -> None:
    x, w = torch.randn(5, 40), torch.randn(40, 6)
    make = STRUCTURES[kind]
    assert roundoff.compare(lambda x: make(product(x, w)), lambda x: make(product(x, w)), x).verdict == "identical"
    assert roundoff.compare(lambda x: make(product(x, w)), lambda x: make(backwards(x, w)), x).verdict == "roundoff"
    wrong = roundoff.compare(lambda x: make(product(x, w)), lambda x: make(backwards(x, w) * 1.00001), x)
    assert wrong.verdict == "different"


def test_mapping_order_does_not_matter() -> None:
    c = roundoff.compare(lambda x: {"a": x, "b": x + 1}, lambda x: {"b": x + 1, "a": x}, torch.randn(3))
    assert c.verdict == "identical"


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nothing", "words"), [(3, "only int"), ((), "only an empty structure"), (None, "only NoneType")]
)
def test_no_tensor_in_the_output(nothing: object, words: str) -> None:
    for a, b, side in ((lambda x: nothing, torch.sin, "A"), (torch.sin, lambda x: nothing, "B")):
        with pytest.raises(RoundoffError, match=rf"^{side} \(.*\) returned no tensor, {words}"):
            roundoff.compare(a, b, torch.ones(3))


def test_the_side_that_raises_is_named_with_its_input() -> None:
    for a, b, side in ((nn.Linear(5, 2), torch.sin, "A"), (torch.sin, nn.Linear(5, 2), "B")):
        with pytest.raises(RoundoffError) as caught:
            roundoff.compare(a, b, torch.ones(3, 4))
        text = str(caught.value)
        assert (
            text.startswith(f"{side} raised RuntimeError: mat1 and mat2")
            and "Linear, called with float32[3, 4]" in text
        )
        assert isinstance(caught.value.__cause__, RuntimeError)


# -- identical --------------------------------------------------------------------------------------------------------


def test_identical_is_always_proved() -> None:
    c = roundoff.compare(product, product, (torch.randn(3, 4), torch.randn(4, 2)))
    assert (c.verdict, c.evidence, c.reason) == ("identical", "proved", "Every output has the same bits on both sides.")
    assert c.findings == ()


def test_the_sign_of_zero_counts() -> None:
    """-0 is not +0, and the difference is none: the same function up to rounding."""
    c = roundoff.compare(lambda x: x * 0, lambda x: x * -0.0, torch.ones(3))
    assert c.verdict == "roundoff" and c.outputs[0].max_abs == 0 and c.outputs[0].max_ulp == 0


def test_identical_bits_of_different_mathematics_are_told() -> None:
    """A part in 10^12 is far above float64's rounding and far below float32's."""
    x = torch.rand(50) + 1
    c = roundoff.compare(lambda x: x * 1.0, lambda x: x * (1.0 + 1e-12), x)
    assert (c.verdict, c.evidence) == ("identical", "proved")
    assert c.outputs[0].real_abs > c.outputs[0].floor_abs
    assert "In exact arithmetic they differ" in c.reason
    assert told(c, "different-mathematics")


@pytest.mark.parametrize(
    "make", [lambda x: x > 0, lambda x: x.argmax(1), lambda x: x.long(), lambda x: x.sort(1).indices]
)
def test_integers_and_booleans(make: Callable[[Tensor], Tensor]) -> None:
    x, w = torch.randn(5, 40), torch.randn(40, 6)
    assert roundoff.compare(lambda x: make(product(x, w)), lambda x: make(backwards(x, w)), x).verdict == "identical"
    c = roundoff.compare(lambda x: make(product(x, w)), lambda x: make(-product(x, w)), x)
    assert c.verdict == "different"
    assert c.outputs[0].max_ulp is None


@pytest.mark.parametrize("shape", [(0,), (0, 6), (3, 0, 6)])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    c = roundoff.compare(torch.sin, torch.cos, torch.empty(shape))
    assert (c.verdict, c.evidence) == ("identical", "proved")
    assert roundoff.compare(nn.Linear(6, 4), nn.Linear(6, 4), torch.empty(0, 6)).verdict == "identical"


def test_an_empty_output_beside_another() -> None:
    x, w = torch.randn(5, 40), torch.randn(40, 6)
    c = roundoff.compare(lambda x: (product(x, w), x[:0]), lambda x: (backwards(x, w), x[:0]), x)
    assert c.verdict == "roundoff"


def test_outputs_that_do_not_depend_on_the_input() -> None:
    x = torch.randn(3)
    assert roundoff.compare(lambda x: torch.ones(3) / 3, lambda x: torch.ones(3) / 3, x).verdict == "identical"
    c = roundoff.compare(lambda x: torch.full((3,), 0.1), lambda x: torch.full((3,), 0.2), x)
    assert c.verdict == "different"
    one, two = torch.ones(3) / 3, torch.ones(3) / 7
    assert roundoff.compare(lambda x: one, lambda x: two, x).verdict == "different"


def test_the_input_itself_and_no_input_at_all() -> None:
    x = torch.randn(3)
    assert roundoff.compare(lambda x: x, lambda x: x.clone(), x).verdict == "identical"
    assert roundoff.compare(lambda: torch.ones(3), lambda: torch.ones(3), ()).verdict == "identical"


# -- plain numbers -----------------------------------------------------------------------------------------------------


def test_python_floats_that_differ_leave_it_undecided() -> None:
    c = roundoff.compare(lambda x: (x, 0.5), lambda x: (x, 0.25), torch.randn(3))
    assert c.verdict == "undecided"
    assert kinds(c) == {"opaque-operator"}
    assert "[1]: It is 0.5 in A and 0.25 in B" in c.reason
    assert (
        roundoff.compare(lambda x: (x, float("nan")), lambda x: (x, float("nan")), torch.ones(2)).verdict == "identical"
    )


def test_arrays_of_plain_numbers_are_told_in_short() -> None:
    x, w = torch.randn(50, 40), torch.randn(40, 6)
    c = roundoff.compare(lambda x: (x, product(x, w).numpy()), lambda x: (x, backwards(x, w).numpy()), x)
    assert c.verdict == "undecided"
    assert "\n" not in c.reason and len(c.reason) < 250
    c = roundoff.compare(lambda x: (x, ["word"] * 300, "word " * 300), lambda x: (x, ["word"] * 300, "ward " * 300), x)
    assert c.verdict == "different" and len(c.reason) < 250


# -- not finite -------------------------------------------------------------------------------------------------------


def test_nan_at_the_same_places_is_roundoff() -> None:
    x, w = torch.randn(40, 30), torch.randn(30, 6)
    c = roundoff.compare(lambda x: product(x, w).log(), lambda x: backwards(x, w).log(), x)
    assert c.verdict == "roundoff", c.reason
    assert kinds(c) == {"not-finite"}
    assert "at the same places on both sides" in told(c, "not-finite")
    assert roundoff.compare(torch.log, torch.log, x).verdict == "identical"


def test_inf_at_the_same_places_is_roundoff() -> None:
    x, w = torch.randn(40, 30), torch.randn(30, 6)
    w[:, 0] = torch.inf
    c = roundoff.compare(lambda x: product(x.abs(), w), lambda x: backwards(x.abs(), w), x)
    assert c.verdict == "roundoff" and kinds(c) == {"not-finite"}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("side", ["A", "B"])
def test_nan_or_inf_on_one_side_is_different_and_the_side_named(value: float, side: str) -> None:
    x, w = torch.randn(40, 30), torch.randn(30, 6)
    spoilt = w.clone()
    spoilt[0, 0] = value
    a, b = (spoilt, w) if side == "A" else (w, spoilt)
    c = roundoff.compare(lambda x: product(x, a), lambda x: backwards(x, b), x)
    assert c.verdict == "different"
    assert "not-finite" in kinds(c) and f"NaN or Inf in {side} where" in c.reason


def test_nan_against_inf_is_different() -> None:
    x = torch.zeros(3)
    c = roundoff.compare(lambda x: 1 / x, lambda x: x / x, x)
    assert c.verdict == "different" and "NaN or Inf in A and B" in c.reason


def test_other_places_are_different() -> None:
    x = torch.tensor([1.0, -1.0])
    c = roundoff.compare(torch.log, lambda x: (-x).log(), x)
    assert c.verdict == "different" and "2 elements" in c.reason


# -- not deterministic --------------------------------------------------------------------------------------------------


def test_a_network_that_gives_other_bits_each_time_leaves_it_undecided() -> None:
    calls: list[int] = []

    def counts(x: Tensor) -> Tensor:
        calls.append(1)
        return x * len(calls)

    for a, b, sides in ((counts, torch.sin, "A"), (torch.sin, counts, "B"), (counts, counts, "AB")):
        c = roundoff.compare(a, b, torch.randn(4))
        assert c.verdict == "undecided"
        assert kinds(c) == {"not-deterministic"}
        assert [f.where for f in c.findings] == list(sides)


def test_the_system_s_own_randomness() -> None:
    def draws(x: Tensor) -> Tensor:
        return x + torch.tensor(list(os.urandom(16))).float()

    c = roundoff.compare(draws, draws, torch.randn(16))
    assert c.verdict == "undecided" and "other bits when it is run again" in c.reason


# -- formats ----------------------------------------------------------------------------------------------------------


def test_a_float64_model() -> None:
    net, x = Perceptron().double(), torch.randn(8, 16).double()
    one_by_one = roundoff.compare(net, lambda x: torch.cat([net(r[None].flip(0)) for r in x]), x)
    assert one_by_one.verdict in ("identical", "roundoff")
    w = torch.randn(16, 5).double()
    c = roundoff.compare(product, backwards, (x, w))
    assert c.verdict == "roundoff" and c.outputs[0].real_abs > 0  # there is no wider format: d is the difference itself
    assert roundoff.compare(product, lambda x, w: backwards(x, w) * (1 + 1e-10), (x, w)).verdict == "different"


def test_a_cast_on_one_side_is_roundoff_and_its_line_named() -> None:
    def short(x: Tensor, w: Tensor) -> Tensor:
        h = x.bfloat16() @ w.bfloat16()  # shortened
        return h.float()

    args = torch.randn(9, 40), torch.randn(40, 6)
    for a, b, side in ((product, short, "B"), (short, product, "A")):
        c = roundoff.compare(a, b, args)
        assert c.verdict == "roundoff", c.reason
        assert kinds(c) == {"reduced-precision"}
        said = told(c, "reduced-precision")
        assert said.startswith(f"{side}: ") and "# shortened" in said and "casts to bfloat16" in said
    assert kinds(roundoff.compare(short, lambda x, w: short(x, w) + 0, args)) == set()


def test_a_large_difference_of_large_values_is_put_in_proportion() -> None:
    x = torch.randn(9, 40) * 1e8
    c = roundoff.compare(product, backwards, (x, torch.randn(40, 6)))
    assert c.verdict == "roundoff"
    assert kinds(c) == {"magnitude"}
    assert c.outputs[0].max_abs > 1


# -- operators of the user's own ------------------------------------------------------------------------------------------


@torch.library.custom_op("verdict_test::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x + x


@torch.library.custom_op("verdict_test::moved", mutates_args=())
def moved(x: Tensor) -> Tensor:
    """Says that it only moves data, and rounds."""
    return x * (1 + 2**-20) if x.dtype == torch.float32 else x.clone()


@torch.library.custom_op("verdict_test::only32", mutates_args=())
def only32(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        raise RuntimeError("float32 only")
    return x + x


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that a test registers are gone afterwards."""
    from roundoff.rules import registry

    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    registry.lookup.cache_clear()


def test_an_unknown_operator_leaves_it_undecided_until_it_is_taught(forgotten: None) -> None:
    args = torch.randn(9, 40), torch.randn(40, 6)
    asked = (lambda x, w: twice(product(x, w)), lambda x, w: 2 * backwards(x, w), args)
    c = roundoff.compare(*asked)
    assert c.verdict == "undecided"
    assert kinds(c) == {"opaque-operator"}
    assert "verdict_test.twice.default" in c.reason and "roundoff.register_rule(" in c.reason
    roundoff.register_rule("verdict_test::twice", bound=1, source="one addition")
    assert roundoff.compare(*asked).verdict == "roundoff"
    assert roundoff.compare(asked[0], lambda x, w: 2.00001 * backwards(x, w), args).verdict == "different"


def test_an_operator_that_is_said_to_be_exact_and_is_not(forgotten: None) -> None:
    roundoff.register_rule("verdict_test::moved", exact=True)
    args = torch.randn(9, 40), torch.randn(40, 6)
    c = roundoff.compare(lambda x, w: moved(product(x, w)), backwards, args)
    assert c.verdict == "different"
    assert "verdict_test.moved.default is off by" in told(c, "faulty-kernel")


def test_an_operator_without_a_float64_kernel_leaves_it_undecided(forgotten: None) -> None:
    roundoff.register_rule("verdict_test::only32", bound=1)
    args = torch.randn(9, 40), torch.randn(40, 6)
    c = roundoff.compare(lambda x, w: only32(product(x, w)), lambda x, w: 2 * backwards(x, w), args)
    assert c.verdict == "undecided"
    assert "verdict_test.only32.default could not be followed in float64 (float64: float32 only)" in c.reason


def test_identical_bits_need_no_rule() -> None:
    c = roundoff.compare(lambda x: twice(x.exp()), lambda x: twice(x.exp()), torch.randn(9))
    assert (c.verdict, c.evidence) == ("identical", "proved")
