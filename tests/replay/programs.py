"""Random programs over tensors: views, writes, reductions, products.

A program is a list of instructions; each takes registers and three small numbers by which it chooses among what is
possible. What is possible depends on shapes alone, so a program does the same in float32 and in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Registers = list[Tensor]
Choose = tuple[int, int, int]
#: What an instruction gives is a new register, or nothing.
Instruction = Callable[[Registers, Choose], Tensor | None]

VIEWS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "t": lambda x, i: x.transpose(0, -1),
    "row": lambda x, i: x.select(0, i % x.shape[0]) if x.dim() > 1 else x,
    "slice": lambda x, i: x[i % x.shape[0] :],
    "every second": lambda x, i: x[..., i % 2 :: 2] if x.shape[-1] > 1 else x,
    "flat": lambda x, i: x.view(-1) if x.is_contiguous() else x.reshape(-1),
    "unsqueeze": lambda x, i: x.unsqueeze(i % (x.dim() + 1)) if x.dim() < 4 else x,
    "squeeze": lambda x, i: x.squeeze() if x.squeeze().dim() else x,
    "expand": lambda x, i: x[:1].expand(3, *x.shape[1:]),
    "diagonal": lambda x, i: x.diagonal() if x.dim() > 1 else x,
    "windows": lambda x, i: x.unfold(-1, 2, 1) if x.shape[-1] > 1 and x.dim() < 4 else x,
    "part": lambda x, i: x.chunk(2, i % x.dim())[-1],
    "split": lambda x, i: x.split(1)[i % x.shape[0]],
    "detach": lambda x, i: x.detach(),
    "strided": lambda x, i: torch.as_strided(x, (2, 2), (1, 1), x.storage_offset()) if x.numel() > 2 else x,
    "permute": lambda x, i: x.permute(*range(1, x.dim()), 0),
}

NEW: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sin": lambda x, i: x.sin(),
    "scaled": lambda x, i: x * (0.1 * (i + 1)),
    "shifted": lambda x, i: 0.3 - x / 7,
    "clone": lambda x, i: x.clone(),
    "contiguous": lambda x, i: x.contiguous(),
    "sum": lambda x, i: x.sum(i % x.dim(), keepdim=True),
    "mean": lambda x, i: x.mean().reshape(1),
    "largest": lambda x, i: x.amax(i % x.dim(), keepdim=True),
    "sorted": lambda x, i: x.sort(i % x.dim()).values,
    "where the largest": lambda x, i: x.argmax(i % x.dim(), keepdim=True) * 0.1 + x,
    "cumsum": lambda x, i: x.cumsum(i % x.dim()),
    "softmax": lambda x, i: x.softmax(i % x.dim()),
    "flip": lambda x, i: x.flip(i % x.dim()),
    "roll": lambda x, i: x.roll(1, i % x.dim()),
    "masked": lambda x, i: torch.where(x > 0.1, x, 0.7),
    "relu": lambda x, i: x.relu(),
    "whole": lambda x, i: (x * 3).floor() * 0.1,
    "norm": lambda x, i: torch.nn.functional.layer_norm(x, x.shape[-1:]),
    "number": lambda x, i: x + torch.tensor(0.1 * i, dtype=torch.get_default_dtype()),
    "zeros": lambda x, i: torch.zeros_like(x),
    "gathered": lambda x, i: x.index_select(0, torch.tensor([i % x.shape[0], 0])),
    "padded": lambda x, i: torch.nn.functional.pad(x, (1, 0), value=0.2) if x.numel() < 100 else x * 1,
    "turned": lambda x, i: torch.view_as_real(torch.view_as_complex(torch.stack([x, x.sin()], -1)) * (0.6 + 0.8j))[
        ..., 0
    ],
    "conjugate": lambda x, i: torch.complex(x, x.cos()).conj().imag,
}

WRITES: dict[str, Callable[[Tensor, int], object]] = {
    "add_": lambda x, i: x.add_(0.1 * i),
    "mul_": lambda x, i: x.mul_(0.7),
    "sin_": lambda x, i: x.sin_(),
    "clamp_": lambda x, i: x.clamp_(-0.9, 0.9),
    "neg_": lambda x, i: x.neg_(),
    "fill_": lambda x, i: x.fill_(0.1 * i),
    "zero_": lambda x, i: x.zero_(),
    "set first": lambda x, i: x.__setitem__(0, 0.1 * i),
    "set last": lambda x, i: x.__setitem__((..., -1), x[..., 0].clone() * 0.3),
    "set masked": lambda x, i: x.__setitem__(x > 0.5, 0.3),
    "masked_fill_": lambda x, i: x.masked_fill_(x < -0.5, 0.6),
    "index_put_": lambda x, i: x.index_put_((torch.tensor([0, 0]),), x[:1].clone() * 0.1, accumulate=True),
    "index_add_": lambda x, i: x.index_add_(0, torch.tensor([i % x.shape[0]]), x[:1].clone(), alpha=0.3),
    "transpose_": lambda x, i: x.transpose_(0, -1),
    "unsqueeze_": lambda x, i: x.unsqueeze_(0) if x.dim() < 4 else x,
    "foreach_": lambda x, i: x if x.is_neg() else torch._foreach_mul_([x], 0.9),
    "cumsum_": lambda x, i: x.cumsum_(0),
    "square into": lambda x, i: torch.mul(x.clone(), 0.8, out=x),
}

PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plus": lambda x, y: x + y.mean(),
    "times": lambda x, y: x * y.reshape(-1)[0],
    "joined": lambda x, y: torch.cat([x.reshape(-1)[:20], y.reshape(-1)[:20]]),
    "product": lambda x, y: x.reshape(-1, x.shape[-1]) @ y.reshape(-1)[: x.shape[-1]].repeat(9)[: x.shape[-1], None],
    "outer": lambda x, y: torch.outer(x.reshape(-1)[:5], y.reshape(-1)[:5]),
    "chosen": lambda x, y: torch.where(x > y.mean(), x, y.reshape(-1)[0]),
}


def can_be_written(x: Tensor) -> bool:
    """False where two elements may lie in one place."""
    return all(stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1) and _no_overlap(x)


def _no_overlap(x: Tensor) -> bool:
    places = sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1)
    reach = 0
    for stride, size in places:
        if stride <= reach:
            return False
        reach += stride * (size - 1)
    return True


@dataclass(frozen=True)
class Line:
    """One line of a program: what it does, to which registers, and a number to choose by."""

    kind: str  # "view", "new", "write", "pair", "copy", "forget"
    name: str
    first: int
    second: int
    number: int


KINDS = {"view": VIEWS, "new": NEW, "write": WRITES, "pair": PAIRS, "copy": ("copy_",), "forget": ("forget",)}


def execute(program: tuple[Line, ...], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Run ``program`` on registers that hold ``inputs`` at first; gives all registers."""
    registers = list(inputs)
    for line in program:
        x, y = registers[line.first % len(registers)], registers[line.second % len(registers)]
        if line.kind == "view":
            registers.append(VIEWS[line.name](x, line.number))
        elif line.kind == "new":
            registers.append(NEW[line.name](x, line.number))
        elif line.kind == "pair":
            registers.append(PAIRS[line.name](x, y))
        elif line.kind == "write" and can_be_written(x):
            WRITES[line.name](x, line.number)
        elif line.kind == "copy" and can_be_written(x):
            x.copy_(y.reshape(-1).clone().repeat(x.numel())[: x.numel()].view(x.shape))
        elif line.kind == "forget" and len(registers) > 2:
            del registers[line.first % len(registers)]
    return tuple(registers)
