"""What every test starts from, and must leave behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the tests use what is installed, and nothing from a network

import pytest
import torch
from torch.nn.modules import module
from torch.utils import _python_dispatch


def leftovers() -> dict[str, object]:
    """The global state that watching a network could leave changed."""
    return {
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 precision": torch.get_float32_matmul_precision(),
        "float32 precision of products": torch.backends.mkldnn.matmul.fp32_precision,
        "dispatch mode": _python_dispatch._get_current_dispatch_mode(),
        "forward hooks": len(module._global_forward_hooks),
        "forward pre-hooks": len(module._global_forward_pre_hooks),
    }


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    """The same random numbers for every test, one thread, and no trace left in the global state."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the tests run side by side; one about threads sets its own number
    before = leftovers()
    yield
    assert leftovers() == before
