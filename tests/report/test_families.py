"""What kind of work each operator does."""

from __future__ import annotations

import pytest

from roundoff.report.families import CONSTANTS, MOVEMENT, PRODUCTS, UNKNOWN, WHY, family, name_of
from roundoff.rules import Nature, all_rules


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        ("aten.addmm.default", PRODUCTS),
        ("aten.convolution.default", PRODUCTS),
        ("aten.permute.default", MOVEMENT),
        ("aten._unsafe_view.default", MOVEMENT),
        ("aten.relu_.default", "choices and clamps"),
        ("aten.max_pool2d_with_indices.default", "choices and clamps"),
        ("aten.where.self", "choices and clamps"),
        ("aten.elu.default", "activations and other functions"),
        ("aten._softmax.default", "softmax"),
        ("aten.native_layer_norm.default", "normalisation"),
        ("aten.linalg_vector_norm.default", "sums, means and pooling"),
        ("aten.mean.dim", "sums, means and pooling"),
        ("aten.add_.Tensor", "arithmetic"),
        ("aten._to_copy.default", "casts"),
        ("aten._scaled_dot_product_flash_attention_for_cpu.default", "attention"),
        ("aten.native_dropout.default", "random draws"),
        ("a rounded constant", CONSTANTS),
        ("mine.operator.default", UNKNOWN),
    ],
)
def test_family(op: str, kind: str) -> None:
    assert family(op) == kind


def test_every_rule_has_a_kind_and_its_words() -> None:
    assert {family(f"{op}.default") for rule in all_rules() for op in rule.ops} <= WHY.keys() - {UNKNOWN}


def test_what_rounds_is_no_movement() -> None:
    """Else the ledger could say of it that it must be exactly 0."""
    rounds = [op for rule in all_rules() if rule.nature is not Nature.EXACT for op in rule.ops]
    assert rounds and all(family(op) != MOVEMENT for op in rounds if op.count(".") == 2)
    assert all(family(f"{op}.no_such_overload") != MOVEMENT for op in rounds if op.count(".") == 1)


def test_names() -> None:
    assert [name_of(op) for op in ("aten.relu_.default", "prims.convert_element_type.default", "mine")] == [
        "relu",
        "convert_element_type",
        "mine",
    ]
