"""Reveal in which order an operator adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from roundoff.order.kernels import Shape
from roundoff.order.order import Order
from roundoff.order.reveal import reveal


def reveal_order(
    op: str | Callable[[Tensor], Any],
    k: int = 256,
    bias: bool = True,
    batch: int = 16,
    out: int = 64,
    dtype: torch.dtype = torch.float32,
    layout: str | None = None,
    threads: int | None = None,
    op_args: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Order:
    """In which order does an operator add, at this exact shape? The bias is one of the summands.

    ``op`` is ``linear``, ``conv1d``, ``conv2d``, ``conv3d``, ``tensordot``, ``matmul``, ``bmm``, ``einsum``, ``sum`` or
    ``mean``, or a function of a tensor [k] that gives the sum of its values as one number; for a function only ``k``,
    ``dtype`` and ``threads`` count. ``k`` is the number of products that each output adds (for a convolution channels
    times places of the kernel), ``batch`` and ``out`` are the numbers of rows and of outputs. ``layout`` is
    ``contiguous`` (the default), ``transposed`` (the input stored by columns) or, for convolutions, ``channels_last``.
    ``op_args``: for convolutions ``kernel_size``, ``stride``, ``padding``, ``dilation``, ``groups`` and ``size``, that of
    the image; for linear, tensordot and matmul ``size``, dimensions between batch and k; for bmm ``groups``; for einsum
    ``equation``, in b, k and o. ``threads`` is set meanwhile. ``device`` is where it runs.

    The operator is run on masks among ones, and on random numbers, which software adds in the order that was found:
    ``certified`` is True when the bits are the same on every sampled output. Where a kernel adds in no tree, ``tree`` is
    None and ``reason`` says what was seen.

    Raises RoundoffError for what is no sum, ignores its input, is not deterministic or overflows with the masks, for
    fewer than two summands, and for shapes that do not fit.

    >>> import torch
    >>> o = reveal_order(lambda v: (v[0] + v[1]) + (v[2] + v[3]), k=4)
    >>> o.tree.nested(), o.certified
    (((0, 1), (2, 3)), True)
    >>> reveal_order("linear", k=8, batch=4, out=4).certified
    True

    Source: Xie et al., "Revealing Floating-Point Accumulation Orders in Software/Hardware Implementations", USENIX ATC
    2025; what was added to it is in docs/order.md.
    """
    shape = Shape(k, bias, batch, out, dtype, layout or "contiguous", dict(op_args or {}), torch.device(device))
    return reveal(op, shape, threads)
