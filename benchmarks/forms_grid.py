"""Is every layer of a grid rewritten rightly? Beside the 1x1 rewriting of torchao, where that is installed.

    python benchmarks/forms_grid.py [--every N]

The grid: linear layers by rank of the input, bias and dtype; convolutions of 1 to 3 dimensions with kernels of one and
with full kernels, by groups, stride, padding and its mode, dilation, bias, batched or not, dtype. Of each layer the
output and its gradients, by the input and by each parameter, are compared in both forms: right (identical or
roundoff), wrong (anything else), refused (left as it is, with a reason where there is one) or crashed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from roundoff import RoundoffError, compare
from roundoff.forms import rewrite

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Point:
    """A layer, an input, and the form to rewrite it to."""

    family: str
    to: str
    layer: nn.Module
    input: Tensor


def linears() -> Iterator[Point]:
    for rank, bias, dtype in itertools.product(range(1, 6), (True, False), DTYPES):
        x = torch.randn([*[3, 2, 5, 2][: rank - 1], 6]).to(dtype)
        yield Point("linear", "conv", nn.Linear(6, 4, bias, dtype=dtype), x)


def pointwise() -> Iterator[Point]:
    modes = ((0, "zeros"), (1, "zeros"), (1, "reflect"), (1, "replicate"), (1, "circular"))
    points = itertools.product((1, 2, 3), (1, 2), (1, 2), modes, (1, 2), (True, False), (True, False), DTYPES)
    for dims, groups, stride, (padding, mode), dilation, bias, batched, dtype in points:
        layer = CONVS[dims](4, 6, 1, stride, padding, dilation, groups, bias, mode, dtype=dtype)
        yield Point(f"{dims}d 1x1", "linear", layer, torch.randn([2] * batched + [4, 5, 4, 3][: dims + 1]).to(dtype))


def full() -> Iterator[Point]:
    points = itertools.product((1, 2, 3), (1, 2), (1, 2), (0, 1), (1, 2), (True, False), (True, False), DTYPES)
    for dims, groups, stride, padding, dilation, bias, batched, dtype in points:
        kernel = [3, 2, 2][:dims]
        sizes = [dilation * (k - 1) + 1 - 2 * padding for k in kernel]
        if min(sizes) > 0:
            layer = CONVS[dims](4, 6, kernel, stride, padding, dilation, groups, bias, dtype=dtype)
            yield Point(f"{dims}d full", "linear", layer, torch.randn([2] * batched + [4, *sizes]).to(dtype))


def step(layer: nn.Module, shapes: list[torch.Size]) -> Callable[[Tensor], Any]:
    """The output and the gradients of its squares' sum, each parameter's in the shape of the original's."""
    parameters = list(layer.parameters())

    def run(x: Tensor) -> Any:
        x = x.clone().requires_grad_()
        y = layer(x)
        gx, *gs = torch.autograd.grad(y.square().sum(), [x, *parameters])
        return [y.detach(), gx, *(g.reshape(shape) for g, shape in zip(gs, shapes, strict=True))]

    return run


def outcome(point: Point, convert: Callable[[nn.Module, Tensor, str], nn.Module | None]) -> str:
    try:
        step(point.layer, [p.shape for p in point.layer.parameters()])(point.input)
    except (RuntimeError, NotImplementedError):
        return "not in PyTorch"
    shapes = [p.shape for p in point.layer.parameters()]
    try:
        other = convert(point.layer, point.input, point.to)
        if other is None:
            return "refused"
        run = step(other, shapes)
        run(point.input)
    except Exception:
        return "crashed"
    return "right" if compare(step(point.layer, shapes), run, point.input) else "wrong"


def ours(layer: nn.Module, x: Tensor, to: str) -> nn.Module | None:
    done = rewrite(layer, (x,), {}, to)
    if done.declined:
        assert done.declined[0].reason
        return None
    return done.model


def torchao(layer: nn.Module, x: Tensor, to: str) -> nn.Module | None:
    from torchao.quantization.quant_api import swap_conv2d_1x1_to_linear

    if to != "linear" or not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1):
        return None
    network = nn.Sequential(deepcopy(layer))
    swap_conv2d_1x1_to_linear(network)
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take one point in N")
    every = parser.parse_args().every
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tools: dict[str, Any] = {"roundoff": ours}
    with contextlib.suppress(ImportError):
        import torchao as _  # noqa: F401

        tools["torchao"] = torchao
    found: dict[tuple[str, str], Counter[str]] = {}
    for point in itertools.islice(itertools.chain(linears(), pointwise(), full()), 0, None, every):
        for tool, convert in tools.items():
            told = outcome(point, convert)
            found.setdefault((point.family, tool), Counter())[told] += 1
            if tool == "roundoff" and told in ("wrong", "crashed", "refused"):
                print(f"{told}: {point.layer} {point.input.dtype} {list(point.input.shape)}", flush=True)
    names = ("right", "wrong", "refused", "crashed", "not in PyTorch")
    print(f"{'layer':10} {'by':10}" + "".join(f"{name:>15}" for name in names))
    for (family, tool), counts in found.items():
        print(f"{family:10} {tool:10}" + "".join(f"{counts[name]:>15}" for name in names))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    try:
        main()
    except RoundoffError as error:
        raise SystemExit(str(error)) from error
