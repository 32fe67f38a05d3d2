"""A second input: of the same shapes, drawn from the values of the first one, where the network is at home."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def second_input(args: Any) -> Any:
    """``args`` with each dense tensor's elements drawn from it with replacement; normal ones where they are all the same.

    Whole numbers and masks are only put in another order.
    """
    generator = torch.Generator().manual_seed(1)

    def drawn(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.is_nested or x.layout != torch.strided or x.numel() < 2:
            return x
        flat = x.detach().reshape(-1)
        if not x.is_floating_point() or x.is_complex():
            return flat[torch.randperm(flat.numel(), generator=generator).to(x.device)].reshape(x.shape)
        if bool((flat == flat[0]).all()):
            return torch.randn(x.shape, generator=generator).to(x)
        return flat[torch.randint(flat.numel(), (flat.numel(),), generator=generator).to(x.device)].reshape(x.shape)

    return tree_map(drawn, args)
