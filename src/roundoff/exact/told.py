"""What ran and is not exact: operations that round otherwise than once, and gradients of those that PyTorch adds up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from roundoff.exact.rounding import SHORT
from roundoff.formats import is_inexact
from roundoff.rules import Nature, lookup
from roundoff.tape.leaves import operands

#: Single operations that IEEE arithmetic rounds once, in whatever kernel.
SINGLE = {
    "add", "sub", "rsub", "mul", "div", "reciprocal", "add_", "sub_", "mul_", "div_", "abs", "sgn",
    "where", "clamp", "clamp_min", "clamp_max", "clamp_", "clamp_min_", "clamp_max_", "hardtanh", "hardtanh_",
    "threshold", "threshold_", "masked_fill", "masked_fill_",
    "full", "full_like", "new_full", "fill", "fill_", "scalar_tensor", "constant_pad_nd",
    "select_backward", "slice_backward", "diagonal_backward", "threshold_backward", "hardtanh_backward",
    "max_pool2d_with_indices_backward",  # told of in the forward run where windows overlap
}  # fmt: skip

#: Operations whose gradients only move data, or are such single operations.
MOVES = SINGLE | {
    "view", "_unsafe_view", "_reshape_alias", "t", "transpose", "permute", "slice", "select", "split",
    "split_with_sizes", "unbind", "squeeze", "unsqueeze", "alias", "detach", "diagonal", "clone", "copy_", "_to_copy",
    "cat", "stack", "constant_pad_nd", "flip", "roll", "neg", "relu", "relu_", "threshold",
    "hardtanh", "tril", "triu", "pixel_shuffle", "pixel_unshuffle", "maximum", "minimum", "sort", "topk", "amax", "amin",
    "max", "min", "native_dropout", "bernoulli_", "sign", "round", "floor", "ceil", "lift_fresh", "empty_like",
    "zeros_like", "ones_like", "zero_", "movedim", "eq", "ne", "lt", "le", "gt", "ge", "isfinite",
    "new_empty", "new_zeros", "new_ones", "channel_shuffle",
}  # fmt: skip


def _adds(name: str, args: Any, out: Any) -> bool:
    """True where the gradient of a step is a sum that PyTorch's own kernels add."""
    needing = [t for t in operands(args) if t.requires_grad]
    if not needing:
        return False
    if name.startswith("max_pool") or name.startswith("_max_pool"):
        kernel, stride = args[1], args[2] if len(args) > 2 else []
        return any(k > s for k, s in zip(kernel, stride or kernel, strict=False))
    if name == "expand":
        return any(t.numel() != out.numel() for t in needing)
    if (name in SINGLE or name == "copy_") and name != "constant_pad_nd" and isinstance(out, Tensor):
        return any(t.numel() != out.numel() for t in needing)
    return name not in MOVES


class Told(TorchDispatchMode):
    """Notes every operation that rounds otherwise than once, and every gradient that will be added otherwise."""

    def __init__(self, inexact: dict[str, None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inexact = inexact
        self.written = 0  # how often something was written to

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.written += func._schema.is_mutable
        namespace, name = str(func).split(".")[:2]
        made = out if out is not None else (args, kwargs)  # what writes to lists of tensors gives nothing
        if namespace == "roundoff" or not any(is_inexact(t.dtype) for t in operands(made)):
            return out
        if not self._once(func, name, args, kwargs, out):
            self.inexact[str(func)] = None
        elif torch.is_grad_enabled() and _adds(name, args, out):
            self.inexact[f"the gradient of {func}"] = None
        return out

    @staticmethod
    def _once(func: Any, name: str, args: Any, kwargs: Any, out: Any) -> bool:
        plain = kwargs.get("alpha", 1) in (1, -1) and kwargs.get("rounding_mode") is None
        if name in SINGLE and plain and _short(args, out):
            return True
        if name in ("_to_copy", "copy_") and _short(args, out):
            return True
        rule = lookup(func)
        return rule is not None and rule.nature in (Nature.EXACT, Nature.MAKES, Nature.DRAWS)


def _short(args: Any, out: Any) -> bool:
    return all(t.dtype in SHORT for t in operands((args, out)) if is_inexact(t.dtype) and t.dim())
