"""A certificate on a wrong tree must not come about."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tests.order.planted import could_be_fused, kernel_that_adds, order_of, with_bias
from tests.order.test_reveal import reveal_planted
from torch import Tensor

from roundoff.order.certify import certify, draw_samples
from roundoff.order.kernel import Kernel
from roundoff.order.reveal import TOO_COARSE
from roundoff.order.tree import SumTree
from roundoff.order.witness import ask, find_places, tells


def neighbours(tree: SumTree, count: int) -> Iterator[SumTree]:
    """Trees in which one part of an addition and one of what is added to it have changed places."""
    n, draw = tree.length, random.Random(tree.length)
    able = [(m, c) for m, node in enumerate(tree.nodes) for c in node if c >= n]
    for m, c in draw.sample(able, min(count, len(able))):
        inner, outer = list(tree.nodes[c - n]), [i for i in tree.nodes[m] if i != c]
        p, r = draw.randrange(len(inner)), draw.randrange(len(outer))
        inner[p], outer[r] = outer[r], inner[p]
        nodes = [list(node) for node in tree.nodes]
        nodes[c - n], nodes[m] = inner, [c, *outer]
        yield SumTree.of(n, nodes, tree.bias)


def is_certified(kernel: Kernel, tree: SumTree, fused: frozenset[int]) -> bool:
    seen = ask(kernel, tree)
    _, same = certify(kernel, tree, fused, draw_samples(kernel), seen, "")
    return bool(same.all()) and (seen is None or tells(seen, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["sequential", "pairwise", "strided", "8 at once"])
def test_a_tree_that_is_nearly_right_is_not_certified(kind: str, dtype: torch.dtype) -> None:
    if kind == "8 at once" and dtype == torch.float64:
        pytest.skip("matrix units of float64 round each addition")
    tree = with_bias(order_of(kind, 40), 40, "middle")
    fused = could_be_fused(tree, 40) if dtype == torch.float32 else frozenset[int]()
    kernel = kernel_that_adds(tree, fused, dtype)
    assert is_certified(kernel, tree, fused)
    for wrong in neighbours(tree, 5):
        assert wrong != tree and not is_certified(kernel, wrong, fused)


def test_rounded_products_are_not_certified_as_fused() -> None:
    tree = SumTree.from_nested(order_of("sequential", 40))
    fused = could_be_fused(tree, 40)
    kernel = kernel_that_adds(tree, fused)
    assert is_certified(kernel, tree, fused)
    assert not is_certified(kernel, tree, frozenset())
    assert not is_certified(kernel, tree, fused - {20})


def test_a_kernel_that_adds_masks_in_another_order_is_not_certified() -> None:
    shown, real = (kernel_that_adds(SumTree.from_nested(order_of(k, 40)), frozenset()) for k in ("pairwise", "blocked"))

    def run(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        assert w is not None
        masked = max(x.abs().max(), w.abs().max()) > 2.0**50
        return (shown if masked else real).run(x, w, b)

    found = reveal_planted(replace(real, run=run))
    assert not found.certified and "guess" in found.evidence


def test_what_hides_the_order_is_no_certificate() -> None:
    kernel = kernel_that_adds(SumTree.from_nested(order_of("sequential", 16)), frozenset(), torch.bfloat16)
    tree = SumTree.from_nested(order_of("pairwise", 16))
    # Float64 adds these without loss, so that the bits are those of any tree: only the witnesses can say so.
    found = ask(replace(kernel, run=lambda x, w, b: (x.double() @ w.double().T).bfloat16()), tree)
    assert found is not None and not tells(found, 1)
    assert "too coarse" in TOO_COARSE


def test_every_part_of_every_addition_is_asked() -> None:
    for kind in ("sequential", "pairwise", "8 at once"):
        tree = SumTree.from_nested(order_of(kind, 30))
        found = find_places(tree, 10**6)
        inner = set(range(len(tree.nodes) - 1))
        assert {place.inner for place in found} == inner
        for place in found:
            first, second, third = place.summands
            assert tree.meeting(first, second) < tree.meeting(first, third) == tree.meeting(second, third)
    assert len(find_places(tree, 3)) == 3
