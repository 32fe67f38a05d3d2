"""Networks as a library defines them, in the other form: transformers' own definitions."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from torch import nn

import roundoff

pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")
from transformers.pytorch_utils import Conv1D

from .library_nets import NETWORKS

KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "conv": (nn.Linear, Conv1D),
    "linear": (nn.Conv1d, nn.Conv2d, nn.Conv3d),
}


@pytest.mark.parametrize(
    ("name", "to"),
    [("gpt2", "conv"), ("bert", "conv"), ("vit", "conv"), ("segformer", "conv"), ("segformer", "linear"),
     ("convnext", "conv"), ("resnet", "linear")],
)  # fmt: skip
def test_both_inputs_prove_it(name: str, to: str) -> None:
    """Every layer of the other form is rewritten, or declined where its kernel slides."""
    model, x, kwargs = NETWORKS[name]()
    model.eval()
    with torch.no_grad():
        done = roundoff.convert(model, x, to, kwargs=kwargs)
    kinds: dict[str, Any] = {n: m for n, m in model.named_modules() if isinstance(m, KINDS[to])}
    fit = {n for n, m in kinds.items() if to == "conv" or prod(m.kernel_size) == 1}
    assert fit and {c.module for c in done.converted} == fit
    assert {d.module for d in done.declined} == kinds.keys() - fit
    assert done.comparison and done.second
    state = model.state_dict()
    for key, value in done.state_dict_from(done.model.state_dict()).items():
        assert torch.equal(value, state[key])
