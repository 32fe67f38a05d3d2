"""Give B the parameters of A for one comparison: in order, where they fit up to reshape or transpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from roundoff.errors import RoundoffError


@contextmanager
def matched_weights(a: Any, b: Any) -> Iterator[None]:
    """While it lasts B has A's parameters and buffers; afterwards its own again, the very same tensors.

    Raises RoundoffError where they do not fit, naming the first pair that does not.
    """
    pairs = _pairs(a, b)
    turned = _turned(pairs)
    old = [(y, y.data) for _, _, _, y in pairs]
    try:
        for name_a, x, name_b, y in pairs:
            y.data = _fitted(name_a, x, name_b, y, turned)
        yield
    finally:
        for y, data in old:
            y.data = data


def _pairs(a: Any, b: Any) -> list[tuple[str, Tensor, str, Tensor]]:
    for side, model in (("A", a), ("B", b)):
        if not isinstance(model, nn.Module):
            raise RoundoffError(
                f"match_weights needs modules, and {side} is a {type(model).__name__}, whose parameters cannot be listed. "
                "Give a module, or copy the weights yourself."
            )
    pairs: list[tuple[str, Tensor, str, Tensor]] = []
    for kind, of_a, of_b in (
        ("parameters", list(a.named_parameters()), list(b.named_parameters())),
        ("buffers", list(a.named_buffers()), list(b.named_buffers())),
    ):
        if len(of_a) != len(of_b):
            raise RoundoffError(
                f"match_weights copies {kind} in order, and A has {len(of_a)} of them but B has {len(of_b)}: "
                f"A: {_list(of_a)}; B: {_list(of_b)}. Copy them yourself, or make the two have the same."
            )
        pairs += [(name_a, x, name_b, y) for (name_a, x), (name_b, y) in zip(of_a, of_b, strict=True)]
    for name_a, x, name_b, y in pairs:
        if not (_reshapes(x, y) or _transposes(x, y)):
            raise RoundoffError(
                f"match_weights: A's {name_a} {list(x.shape)} does not fit B's {name_b} {list(y.shape)}, by reshape or by "
                "transpose. Parameters are matched in order: give both networks the same layers in the same order, or "
                "copy the weights yourself."
            )
    return pairs


def _core(x: Tensor) -> list[int]:
    return [n for n in x.shape if n != 1]


def _reshapes(x: Tensor, y: Tensor) -> bool:
    """The same dimensions once those of size 1 are dropped, or flattened from the second on (flatten and full kernel)."""
    if _core(x) == _core(y) or (x.numel() == y.numel() and min(x.dim(), y.dim()) <= 1):
        return True
    return x.numel() == y.numel() and x.dim() >= 2 and y.dim() >= 2 and x.shape[0] == y.shape[0]


def _transposes(x: Tensor, y: Tensor) -> bool:
    return len(_core(x)) == 2 and _core(x) == _core(y)[::-1]


def _turned(pairs: list[tuple[str, Tensor, str, Tensor]]) -> bool:
    """Square matrices fit both ways: they follow what the others show."""
    plain = sum(_reshapes(x, y) and not _transposes(x, y) for _, x, _, y in pairs if len(_core(x)) == 2)
    turned = sum(_transposes(x, y) and not _reshapes(x, y) for _, x, _, y in pairs)
    return turned > plain


def _fitted(name_a: str, x: Tensor, name_b: str, y: Tensor, turned: bool) -> Tensor:
    value = x.detach()
    if _transposes(x, y) and (turned or not _reshapes(x, y)):
        value = value.squeeze().mT
    fitted = torch.empty_like(y.data)
    fitted.copy_(value.reshape(y.shape))
    if value.dtype != y.dtype and not torch.equal(fitted.to(value.dtype), value.reshape(y.shape).to(fitted.device)):
        raise RoundoffError(
            f"match_weights: B's {name_b} is {y.dtype} and cannot hold A's {name_a}, which is {x.dtype}. "
            "Give both networks the same dtype."
        )
    return fitted


def _list(named: list[tuple[str, Tensor]]) -> str:
    words = [f"{name} {list(x.shape)}" for name, x in named[:6]]
    return ", ".join(words) + (", …" if len(named) > 6 else "") if words else "none"
