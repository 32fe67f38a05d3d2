"""Small networks and functions that are hard to watch. ``cases`` says with which inputs and in which modes they run."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# -- networks -----------------------------------------------------------------------------------------------------------


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 6))


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 3, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens) + 0.1)


class CastInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.body(x)
        return self.body(y.float() if y.dtype == torch.bfloat16 else y)


class InferenceInside(nn.Module):
    """Buffers are written in ``inference_mode`` and out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()
        self.register_buffer("seen", torch.zeros(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            with torch.inference_mode():
                y = self.body(x)
                self.seen.add_(y[0])
            self.seen.mul_(0.3)
        return y.sin(), self.seen


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False)


class Force(nn.Module):
    """Returns an energy and its derivative, which it asks autograd for."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.body(x).square().sum()
            (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return energy.detach(), force


class Backward(nn.Module):
    """Calls ``backward`` on the way and returns a parameter's gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        self.body(x).square().sum().backward()
        gradient = self.body[0].weight.grad
        assert gradient is not None
        return gradient * 1


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x * 0.1

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x,) = ctx.saved_tensors
        return gradients[0] * x * 0.2


@torch.library.custom_op("roundoff_tests::scale", mutates_args=())
def scale(x: Tensor, factor: float) -> Tensor:
    return x * factor


@torch.library.custom_op("roundoff_tests::shift_", mutates_args=("x",))
def shift_(x: Tensor, amount: float) -> None:
    x.add_(amount)


@torch.library.custom_op("roundoff_tests::noise", mutates_args=())
def noise(x: Tensor) -> Tensor:
    return x + torch.rand(x.shape, dtype=x.dtype)


Pair = namedtuple("Pair", "left right")


@dataclass
class Answer:
    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()


def attention() -> Any:
    module = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    return module


class OnItself(nn.Module):
    """Attention of a sequence on itself: query, key and value are one tensor, as the fast path wants."""

    def __init__(self, mask: Tensor | None = None) -> None:
        super().__init__()
        self.attend = attention()
        self.mask = mask

    def forward(self, x: Tensor) -> Any:
        return self.attend(x, x, x, key_padding_mask=self.mask)


# -- functions ----------------------------------------------------------------------------------------------------------


def views_in_place(x: Tensor) -> tuple[Tensor, Tensor]:
    y = x * 2
    rows = y[1:3]
    rows.add_(0.1)
    y[:, 0] = 7
    y.t().mul_(3)
    return y, rows


def shapes_in_place(x: Tensor) -> Tensor:
    y = x * 0.1
    y.transpose_(0, 1).unsqueeze_(0).squeeze_(0)
    y.as_strided_((3, 3), (2, 1), 1)
    return y.sin()


def into_out(x: Tensor) -> tuple[Tensor, ...]:
    total, product = torch.empty(0, dtype=x.dtype), torch.empty(5, 6, dtype=x.dtype)
    torch.add(x, 0.1, out=total)
    torch.mul(total, total, out=product)
    values, indices = torch.empty(0, dtype=x.dtype), torch.empty(0, dtype=torch.long)
    torch.max(product, 1, out=(values, indices))
    return total, product, values, indices


def resized(x: Tensor) -> Tensor:
    y = x * 0.1
    first = y[0]
    y.resize_(7, 6)
    y[5:] = 1
    first.add_(1)
    return y * 3


def resized_wide(x: Tensor) -> Tensor:
    y = torch.cat([x * 0.1, torch.ones(2, 6)])
    y[0] += 1
    return y * 3


def given_memory(x: Tensor) -> Tensor:
    y, z = x * 0.1, torch.empty(0, dtype=x.dtype)
    z.set_(y)
    z.mul_(3)
    return y + z


def put(x: Tensor) -> Tensor:
    y = x * 0.1
    y[torch.tensor([0, 2]), torch.tensor([1, 1])] = x[0, :2] * 0.3
    y.index_put_((torch.tensor([0, 0]), torch.tensor([1, 1])), x[0, :2] * 0.3, accumulate=True)
    y.masked_fill_(x > 0, 0.1)
    y[y < 0] *= 0.7
    return y


def copied(x: Tensor) -> tuple[Tensor, Tensor]:
    short, back = torch.empty(5, 6, dtype=torch.bfloat16), torch.empty(5, 6)
    short.copy_(x * 0.1)
    back.copy_(short)
    return back * 0.3, short


def numbers_written(x: Tensor) -> Tensor:
    y = x * 1.0
    y[0] = 0.1
    y[1, 1] = torch.tensor(0.3)
    y[:, 2].fill_(0.7)
    y[x > 1] = 0.9
    return y


def numbers_made(x: Tensor) -> Tensor:
    return (
        x * torch.tensor(0.1)
        + torch.tensor([0.1, 0.2]).sum()
        + torch.as_tensor(0.3)
        + x.new_tensor([0.4])
        + torch.full((6,), 0.7)
        + torch.full_like(x, 0.3)
        + torch.arange(0, 0.6, 0.1)
        + torch.linspace(0, 1, 6)
        + torch.arange(6) / 3
        + torch.where(x > 0, x, 0.9)
    )


def split(x: Tensor) -> list[Tensor]:
    parts = [*(x * 0.1).split(2), *(x * 0.3).unbind(1), *(x * 0.3).chunk(2, 1)]
    return [part * i for i, part in enumerate(parts)]


def foreach(x: Tensor) -> list[Tensor]:
    a, b = x * 0.1, x * 0.2
    torch._foreach_add_([a, b], 0.3)
    torch._foreach_mul_([a], [b])
    return [a, b, *torch._foreach_mul([a, b], 0.3)]


def custom_in_place(x: Tensor) -> Tensor:
    y = x * 0.1
    shift_(y, 0.3)
    return y * 2


def structured(x: Tensor, *, factor: Tensor) -> Answer:
    return Answer(x * factor, (x * 0.2,), {"pair": Pair(x * 0.3, [x, "text", 3])})


def conjugates(z: Tensor) -> tuple[Tensor, ...]:
    w = (z * 0.1).conj()
    v = z * 0.3
    v.imag.mul_(0.1)
    v.conj().mul_(0.1j)
    return (
        (z.mH @ w).conj() + z.imag * 2,
        torch.linalg.inv(w + 4 * torch.eye(4)),
        torch.linalg.pinv(w),
        torch.vdot(z[0].conj(), w[1]),
        torch.stack([w, z.conj()]).cumsum(0),
        w.imag,
        v,
    )


def real_and_complex(x: Tensor) -> tuple[Tensor, ...]:
    z = torch.complex(x, x * 0.3) * 0.3
    torch.view_as_real(z).mul_(0.1)
    odd = torch.cat([x.flatten() * 0.1, x.flatten()[:1]])  # 31 numbers: one is left over
    return z, torch.view_as_complex(odd[:6].view(3, 2)) * 2, torch.fft.irfft(torch.fft.rfft(x) * 0.3)


def shapes_of_data(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 0.1
    return x[(x > 0).nonzero(as_tuple=True)] * 0.1, torch.masked_select(y, x > 0), y[y > 0], torch.unique(x.round())


def choices(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 0.1
    values, indices = y.topk(2)
    return x[y.argmax(0)], values, indices, (x * 10).floor() * 0.1, (x * 10).long() // 3, (x * 10).long() / 3


def given_views(x: Tensor) -> tuple[Tensor, ...]:
    return x[:1].expand(4, 6) * 0.1 + 1, torch.as_strided(x * 0.1, (3, 3), (2, 1), 1).cos(), x.t()[::2] * 0.1


def transforms(x: Tensor) -> tuple[Tensor, ...]:
    def row(r: Tensor) -> Tensor:
        return (r.sin() * 0.1).softmax(0) @ r

    grad = torch.func.grad(row)
    return (
        torch.func.vmap(row)(x),
        torch.func.vmap(grad)(x),
        torch.func.jacrev(torch.sin)(x[0] * 0.1),
        torch.func.jvp(row, (x[0],), (x[1],))[1],
    )


def parts_wide(x: Tensor) -> tuple[Tensor, ...]:
    return tuple(x * 0.1 * 0.3 for _ in range(3))


def parts(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 0.1
    return y.half().float() * 0.3, y.to(torch.bfloat16).double() * 0.3, y.to(torch.float8_e4m3fn).float() * 0.3
