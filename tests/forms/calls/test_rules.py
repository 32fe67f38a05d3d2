"""Each rule for a functional call: the other form gives the same values and gradients; what has none is declined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roundoff import RoundoffError, compare
from roundoff.forms import rewrite
from roundoff.forms.calls import added, contraction, convolution, einsum, linear, matmul

Call = Callable[[Tensor, Tensor, Tensor], Tensor]

# the call, the shapes of the input and of the weight; the third argument has 3 elements
TO_CONV: dict[str, tuple[Call, tuple[int, ...], tuple[int, ...]]] = {
    "linear": (lambda x, w, b: F.linear(x, w, b), (2, 5, 4), (3, 4)),
    "linear of a vector": (lambda x, w, b: F.linear(x, w), (4,), (3, 4)),
    "linear of rank 5": (lambda x, w, b: F.linear(input=x, weight=w, bias=b), (2, 3, 2, 2, 4), (3, 4)),
    "linear, one bias for all": (lambda x, w, b: F.linear(x, w, b[:1]), (2, 4), (3, 4)),
    "x @ W": (lambda x, w, b: x @ w + b, (2, 6, 5, 4), (4, 3)),
    "W @ x": (lambda x, w, b: w @ x, (2, 6, 4, 5), (3, 4)),
    "W @ vector": (lambda x, w, b: w @ x, (4,), (3, 4)),
    "x @ vector": (lambda x, w, b: x @ w, (2, 5, 4), (4,)),
    "vector @ x": (lambda x, w, b: w @ x, (2, 4, 5), (4,)),
    "vector @ vector": (lambda x, w, b: w @ x, (4,), (4,)),
    "reversed": (lambda x, w, b: w.__rmatmul__(x), (5, 4), (4, 3)),
    "transposed": (lambda x, w, b: x @ w.t(), (2, 5, 4), (3, 4)),
    "a slice": (lambda x, w, b: x @ w[:, :4].mT, (2, 5, 4), (3, 7)),
    "a chunk": (lambda x, w, b: x @ w.chunk(2)[1].T, (2, 5, 4), (6, 4)),
    "computed": (lambda x, w, b: F.linear(x, w * 2, b + 1), (2, 5, 4), (3, 4)),
    "joined": (lambda x, w, b: F.linear(x, torch.cat([w, w * 2])), (2, 5, 4), (3, 4)),
    "mm": (lambda x, w, b: torch.mm(x, w), (5, 4), (4, 3)),
    "mm from the left": (lambda x, w, b: w.mm(x), (4, 5), (3, 4)),
    "mv": (lambda x, w, b: torch.mv(w, x), (4,), (3, 4)),
    "mv of a vector": (lambda x, w, b: x.mv(w), (5, 4), (4,)),
    "addmm": (lambda x, w, b: torch.addmm(b, x, w), (5, 4), (4, 3)),
    "addmm with factors": (lambda x, w, b: torch.addmm(b, x, w, beta=0.5, alpha=-2), (5, 4), (4, 3)),
    "addmm from the left": (lambda x, w, b: torch.addmm(b[:, None], w, x), (4, 5), (3, 4)),
    "addmv": (lambda x, w, b: torch.addmv(b, w, x), (4,), (3, 4)),
    "bmm": (lambda x, w, b: torch.bmm(x, w), (7, 5, 4), (7, 4, 3)),
    "bmm from the left": (lambda x, w, b: torch.bmm(w, x), (7, 4, 5), (7, 3, 4)),
    "baddbmm": (lambda x, w, b: torch.baddbmm(b, x, w, beta=2), (7, 5, 4), (7, 4, 3)),
    "for each": (lambda x, w, b: x @ w, (2, 7, 5, 4), (7, 4, 3)),
    "one input for each": (lambda x, w, b: x @ w, (5, 4), (7, 4, 3)),
    "an axis of 1": (lambda x, w, b: x @ w, (2, 1, 5, 4), (7, 4, 3)),
    "a weight with an axis of 1": (lambda x, w, b: x @ w, (2, 6, 5, 4), (1, 4, 3)),
    "for each, from the left": (lambda x, w, b: w @ x, (2, 7, 4, 5), (7, 3, 4)),
    "a vector for each": (lambda x, w, b: x @ w, (4,), (7, 4, 3)),
    "for each a vector": (lambda x, w, b: w @ x, (4,), (7, 3, 4)),
    "einsum": (lambda x, w, b: torch.einsum("bsi,oi->bso", x, w), (2, 5, 4), (3, 4)),
    "einsum to heads": (lambda x, w, b: torch.einsum("bsd,dhe->bhse", x, w), (2, 5, 4), (4, 2, 3)),
    "einsum from heads": (lambda x, w, b: torch.einsum("bhse,hed->bsd", x, w), (2, 2, 5, 4), (2, 4, 3)),
    "einsum for each": (lambda x, w, b: torch.einsum("bhi,hio->bho", x, w), (2, 7, 4), (7, 4, 3)),
    "einsum with dots": (lambda x, w, b: torch.einsum("...i,io->...o", x, w), (2, 5, 6, 4), (4, 3)),
    "einsum with dots in both": (lambda x, w, b: torch.einsum("...i, ...io -> o...", x, w), (7, 4), (7, 4, 3)),
    "einsum without an arrow": (lambda x, w, b: torch.einsum("cb,ac", x, w), (4, 2), (3, 4)),
    "einsum of a list": (lambda x, w, b: torch.einsum("oi,bi->bo", [w, x]), (2, 4), (3, 4)),
    "tensordot": (lambda x, w, b: torch.tensordot(x, w, 1), (2, 5, 4), (4, 3)),
    "tensordot over two": (lambda x, w, b: torch.tensordot(w, x, ([1, 2], [3, 1])), (2, 6, 5, 4), (3, 4, 6)),
}
TO_LINEAR: dict[str, tuple[Call, tuple[int, ...], tuple[int, ...]]] = {
    "1x1": (lambda x, w, b: F.conv2d(x, w, b, 2, 1), (2, 4, 5, 4), (3, 4, 1, 1)),
    "1x1 in one dimension": (lambda x, w, b: F.conv1d(x, w[..., None], padding="same"), (2, 4, 5), (3, 4)),
    "1x1 in three": (lambda x, w, b: F.conv3d(x, w, b, (1, 2, 1), dilation=3), (4, 3, 5, 4), (3, 4, 1, 1, 1)),
    "groups": (lambda x, w, b: F.conv2d(x, w, groups=2), (2, 4, 3, 3), (6, 2, 1, 1)),
    "full": (lambda x, w, b: F.conv2d(x, w, b), (2, 4, 3, 5), (3, 4, 3, 5)),
    "full with padding": (lambda x, w, b: F.conv1d(x, w, b, padding=1, dilation=2, stride=9), (2, 4, 3), (3, 4, 3)),
    "full, same": (lambda x, w, b: F.conv1d(x, w, padding="same"), (2, 4, 1), (3, 4, 1)),
}


class Net(nn.Module):
    """One call, of whole numbers."""

    def __init__(self, call: Call, weight: tuple[int, ...], elements: int = 3) -> None:
        super().__init__()
        self.call = (call,)
        self.w = nn.Parameter(torch.randint(-3, 4, weight).float())
        self.b = nn.Parameter(torch.randint(-3, 4, (elements,)).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.call[0](x, self.w, self.b)


def gradients(net: nn.Module, x: Tensor) -> list[Tensor | None]:
    """By the input and the parameters, of the outputs weighted by whole numbers: exact in float32."""
    x = x.clone().requires_grad_()
    y = net(x)
    weights = (torch.arange(y.numel()) % 3 - 1).reshape(y.shape).float()
    return list(torch.autograd.grad((y * weights).sum(), [x, *net.parameters()], allow_unused=True))


@pytest.mark.parametrize(("to", "name"), [("conv", n) for n in TO_CONV] + [("linear", n) for n in TO_LINEAR])
def test_values_and_gradients(to: str, name: str) -> None:
    call, shape, weight = (TO_CONV if to == "conv" else TO_LINEAR)[name]
    net, x = Net(call, weight), torch.randint(-3, 4, shape).float()
    done = rewrite(net, (x,), {}, to)
    assert len(done.converted) == 1 and not done.declined, done
    assert done.converted[0].after.startswith(to)
    other = done.model
    assert type(net) is Net and isinstance(other, Net) and other.w.shape == net.w.shape
    ops: list[str] = []
    with torch.profiler.profile() as seen:
        y = other(x)
    ops = [event.key for event in seen.key_averages()]
    assert any("convolution" in op for op in ops) == (to == "conv"), ops
    assert torch.equal(y, net(x))
    for g, h in zip(gradients(net, x), gradients(other, x), strict=True):
        assert (g is None and h is None) or torch.equal(g, h)  # type: ignore[arg-type]
    back = rewrite(other, (x,), {}, "linear" if to == "conv" else "conv")
    assert type(back.model) is Net and [c.before for c in back.converted] == [c.after for c in done.converted]


DECLINED: dict[str, tuple[str, Call, tuple[int, ...], tuple[int, ...], str]] = {
    "both weights": ("conv", lambda x, w, b: x.sum() * (w @ w), (4,), (4, 4), "both operands are parameters"),
    "a diagonal": ("conv", lambda x, w, b: torch.einsum("bii,io->bo", x, w), (2, 4, 4), (4, 3), "it takes a diagonal"),
    "three": ("conv", lambda x, w, b: torch.einsum("bi,io,o->bo", x, w, b), (2, 4), (4, 3), "multiplies 3 operands"),
    "nothing summed": ("conv", lambda x, w, b: torch.einsum("bi,i->bi", x, w), (2, 4), (4,), "it sums nothing"),
    "the weight summed": ("conv", lambda x, w, b: torch.einsum("bi,io->b", x, w), (2, 4), (4, 3), "sums the weight"),
    "the input summed": ("conv", lambda x, w, b: torch.einsum("bi,io->o", x, w), (2, 4), (4, 3), "sums its input"),
    "beta": ("conv", lambda x, w, b: torch.addmm(b, x, w, beta=0), (2, 4), (4, 3), "its beta is 0"),
    "no rule": ("conv", lambda x, w, b: torch.inner(x, w), (2, 4), (3, 4), "no rule for inner"),
    "a flat weight": ("conv", lambda x, w, b: F.linear(x, w), (2, 4), (4,), "its weight has 1 axes"),
    "input by weight": ("conv", lambda x, w, b: F.linear(w, x), (2, 4), (3, 4), "its weight is not a parameter"),
    "sliding": ("linear", lambda x, w, b: F.conv1d(x, w), (2, 4, 5), (3, 4, 2), "its 2 kernel slides over a 5 input"),
    "groups": ("linear", lambda x, w, b: F.conv1d(x, w, groups=80), (2, 80, 5), (80, 1, 1), "it has 80 groups"),
}


@pytest.mark.parametrize("name", list(DECLINED))
def test_declined(name: str) -> None:
    to, call, shape, weight, why = DECLINED[name]
    net, x = Net(call, weight), torch.randn(shape)
    done = rewrite(net, (x,), {}, to)
    assert not done.converted and len(done.declined) == 1, done
    assert why in done.declined[0].reason and "the parameter w" in done.declined[0].reason.replace("b, w", "w")
    assert torch.equal(done.model(x), net(x))


def test_an_added_parameter_is_no_product() -> None:
    done = rewrite(Net(lambda x, w, b: torch.addmm(b, x, x.t()), (1,)), (torch.randn(3, 3),), {}, "conv")
    assert not done.converted and not done.declined


WRONG: dict[str, tuple[Any, str, Any, str]] = {
    "linear": (linear, "last_axis", lambda x, w, b=None: F.linear(x, w, b).roll(1, -1), "linear"),
    "matmul": (matmul, "last_axis", lambda x, w, b=None: F.linear(x, w.flip(0)), "x @ W"),
    "bmm": (matmul, "contraction", lambda *a: contraction.contraction(*a).flip(0), "for each"),
    "addmm": (added, "product", lambda a, b, is_weight: a @ b + 1, "addmm with factors"),
    "einsum": (einsum, "contraction", lambda *a: -contraction.contraction(*a), "einsum"),
    "conv": (convolution, "over_channels", lambda x, w, b, s, g: -torch.ones(2, 3, 4, 3), "1x1"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_wrong_rule_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, part, wrong, case = WRONG[name]
    to = "linear" if name == "conv" else "conv"
    call, shape, weight = (TO_LINEAR if to == "linear" else TO_CONV)[case]
    monkeypatch.setattr(module, part, wrong)
    with pytest.raises(RoundoffError, match=r"w\) in \(root\) was not converted rightly"):
        rewrite(Net(call, weight), (torch.randn(shape),), {}, to)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("name", ["linear", "addmm with factors", "einsum to heads"])
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    call, shape, weight = TO_CONV[name]
    net, x = Net(call, weight).to(dtype), torch.randint(-3, 4, shape).to(dtype)
    done = rewrite(net, (x,), {}, "conv")
    assert done.converted and done.model(x).dtype == dtype and torch.equal(done.model(x), net(x))


@pytest.mark.parametrize("name", ["linear", "x @ W", "addmm with factors", "baddbmm", "einsum to heads", "tensordot"])
def test_autocast(name: str) -> None:
    call, shape, weight = TO_CONV[name]
    net, x = Net(call, weight), torch.randn(shape)
    other = rewrite(net, (x,), {}, "conv").model
    with torch.autocast("cpu", torch.bfloat16):
        assert other(x).dtype == net(x).dtype
        assert compare(net, other, x)


def test_empty_batches_and_other_ranks() -> None:
    net = Net(TO_CONV["linear"][0], (3, 4))
    other = rewrite(net, (torch.randn(2, 4),), {}, "conv").model
    for shape in ([0, 4], [2, 0, 4], [4], [2, 3, 5, 4], [2, 1, 3, 2, 5, 4]):
        x = torch.randint(-3, 4, shape).float()
        assert torch.equal(other(x), net(x))
    x = torch.randint(-3, 4, (4, 6)).float().t()  # not contiguous
    assert torch.equal(other(x), net(x)) and torch.equal(other(x.expand(3, 6, 4)), net(x.expand(3, 6, 4)))
