"""All that a run must leave as it was: of a network, of its inputs and of the process."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from roundoff.formats import bits
from roundoff.tape.leaves import leaves


def snapshot(model: Any, inputs: Any) -> dict[str, Any]:
    """Each thing under a name; equal snapshots mean that nothing was left changed."""
    found: dict[str, Any] = {"process": process()}
    if isinstance(model, nn.Module):
        for path, module in model.named_modules():
            found[f"{path} attributes"] = {
                k: id(v) for k, v in vars(module).items() if not isinstance(v, (int, list, dict))
            }
            found[f"{path} containers"] = {k: list(v) for k, v in vars(module).items() if isinstance(v, (list, dict))}
            found[f"{path} numbers"] = {k: v for k, v in vars(module).items() if isinstance(v, int)}
        for name, x in (*model.named_parameters(), *model.named_buffers()):
            found[name] = tensor(x)
    for name, x in leaves(inputs):
        found[f"input {name}"] = tensor(x) if isinstance(x, Tensor) else x
    return found


def tensor(x: Tensor) -> Any:
    """Which tensor it is, how it lies, what it holds, and what autograd knows of it."""
    grad = (id(x.grad), bits(x.grad).tolist()) if x.is_leaf and x.grad is not None else None
    lies = (x.data_ptr(), x.size(), x.stride(), x.storage_offset(), x.untyped_storage().nbytes())
    return id(x), lies, bits(x).tolist(), x.requires_grad, x.is_leaf, grad


def process() -> dict[str, Any]:
    """Random generators, settings, hooks, and what roundoff puts in place of PyTorch's functions for a while."""
    return {
        "torch random": torch.get_rng_state().tolist(),
        "python random": random.getstate(),
        "numpy random": str(np.random.get_state()),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "precision by backend": (
            *(getattr(torch.backends.mkldnn, part).fp32_precision for part in ("matmul", "conv", "rnn")),
            torch.backends.cudnn.conv.fp32_precision,
            torch.backends.cuda.matmul.fp32_precision,
        ),
        "hooks": (len(hooks._global_forward_hooks), len(hooks._global_forward_pre_hooks)),
        "functions": (torch.tensor, torch.as_tensor),
        "methods": {k: v for k, v in vars(Tensor).items() if k in ("numpy", "tolist", "new_tensor", "__setitem__")},
    }
