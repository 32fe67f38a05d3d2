"""A small sample of benchmarks/exact_oracle.py, and that it sees a wrong bit."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tests.exact import references
from tests.exact.oracle import expected

from roundoff.exact import elementwise, products

FILE = Path(__file__).parents[2] / "benchmarks" / "exact_oracle.py"
EIGHTY_BITS = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="this machine has no 80-bit numbers")


@cache
def oracle() -> ModuleType:
    spec = importlib.util.spec_from_file_location("exact_oracle", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sums_of_products() -> None:
    compared, wrong = oracle().of_products((1, 3, 33, 256), most=100)
    assert compared > 5_000 and wrong == 0


def test_a_bound_that_is_too_small_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "slack", lambda terms: 0.0)
    assert oracle().of_products((256,), most=100)[1]


@EIGHTY_BITS
def test_functions() -> None:
    compared, wrong = oracle().of_functions(3000, half_formats=False)
    assert compared == 3000 * len(references.REFERENCES) and wrong == 0
    assert set(references.REFERENCES) == set(elementwise.FUNCTIONS)


@EIGHTY_BITS
def test_a_function_that_is_taken_on_trust_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "ROOM", 0.0)
    monkeypatch.setattr(references, "REFERENCES", {"silu": references.REFERENCES["silu"]})
    assert oracle().of_functions(90_000, half_formats=False)[
        1
    ]  # half of a subnormal number is half way, but for a trace


def test_the_two_references_agree() -> None:
    x, w = torch.randn(4, 9) * 2.0 ** torch.randint(-40, 40, (4, 9)), torch.randn(9, 5)
    sums, exponent = references.products(x.numpy(), w.numpy())
    assert torch.equal(torch.from_numpy(references.rounded(sums, exponent, "float32")).float(), expected(x, w))
