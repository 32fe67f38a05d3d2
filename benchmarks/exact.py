"""What do exact products, convolutions and networks cost over the vendor's float32 kernels?

    python benchmarks/exact.py [shapes | networks | training]

One thread and processor time. In each round the float32 run, the float64 one and the exact one take turns; the ratio of
the smallest times is shown, for what else runs on a machine only adds. For orientation, the first shape by a loop in a
fixed order, which is the published design of RepDL: each of the terms is multiplied and added to all results in turn.
Networks are also held against their other form: are the bits the same, at batches of 1, 7 and 64, on one and two threads,
in both layouts? And both are trained on the digits, forwards and backwards in exact arithmetic: are the weights the same in
the end?
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.exact.recorded import adamw, digits, pair, sgd, started, trained
from tests.suite import minilm

from roundoff import exact, make_exact
from roundoff.formats import same_bits
from roundoff.thread import ConvNetwork, LinearNetwork, TensordotNetwork, with_weights_of

PRODUCTS = ((1024, 1024, 1024), (512, 4096, 1024), (4096, 512, 512), (64, 1024, 1024))
#: input, weight, groups, stride
CONVOLUTIONS = {
    "3x3": ((8, 64, 28, 28), (64, 64, 3, 3), 1, 1),
    "7x7, stride 2": ((4, 3, 112, 112), (64, 3, 7, 7), 1, 2),
    "1x1": ((8, 256, 14, 14), (256, 256, 1, 1), 1, 1),
    "3x3 in 4 groups": ((8, 128, 14, 14), (128, 32, 3, 3), 4, 1),
    "3x3 depthwise": ((8, 128, 28, 28), (128, 1, 3, 3), 128, 1),
}
ROUNDS = 9


def ratios(*timed: Callable[[], Any], rounds: int = ROUNDS) -> list[float]:
    """The time of each over that of the first, each the smallest of some rounds."""
    for f in timed:
        f()
    found = []
    for _ in range(rounds):
        seconds = []
        for f in timed:
            start = time.process_time()
            f()
            seconds.append(time.process_time() - start)
        found.append(seconds)
    first, *others = (min(column) for column in zip(*found, strict=True))
    return [t / first for t in others]


def in_turn(x: Tensor, w: Tensor) -> Tensor:
    """The sums in the order of their terms, rounded after each."""
    y = torch.zeros(len(x), len(w))
    for k in range(x.shape[1]):
        y += x[:, k : k + 1] * w[:, k]
    return y


def of_product(x: Tensor, w: Tensor) -> str:
    wide = x.double(), w.double()
    found = ratios(lambda: x @ w.T, lambda: wide[0] @ wide[1].T, lambda: exact.linear(x, w))
    return f"float64 {found[0]:.2f}, exact {found[1]:.2f}"


def of_convolution(x: Tensor, w: Tensor, groups: int, stride: int) -> str:
    wide, how = (x.double(), w.double()), (None, stride, w.shape[-1] // 2, 1, groups)
    found = ratios(lambda: F.conv2d(x, w, *how), lambda: F.conv2d(*wide, *how), lambda: exact.conv2d(x, w, *how))
    return f"float64 {found[0]:.2f}, exact {found[1]:.2f}"


def shapes() -> None:
    for rows, terms, columns in PRODUCTS:
        told = of_product(torch.randn(rows, terms), torch.randn(columns, terms))
        print(f"{rows} x {terms} x {columns}: {told}", flush=True)
    x, w = torch.randn(1024, 1024), torch.randn(1024, 1024)
    loop = ratios(lambda: x @ w.T, lambda: in_turn(x, w), rounds=2)
    print(f"1024 x 1024 x 1024: a loop in a fixed order {loop[0]:.0f}", flush=True)
    for name, (size, kernel, groups, stride) in CONVOLUTIONS.items():
        told = of_convolution(torch.randn(size), torch.randn(kernel), groups, stride)
        print(f"{name}: {told}", flush=True)


def network(
    name: str, first: nn.Module, others: list[nn.Module], args: tuple[Tensor, ...], image: bool = False
) -> None:
    """One network and its other forms: what they cost, and whether their bits are the same."""
    made, wide = make_exact(first).model, copy.deepcopy(first).double()
    doubled = tuple(a.double() if a.is_floating_point() else a for a in args)
    found = ratios(lambda: first(*args), lambda: wide(*doubled), lambda: made(*args), rounds=5)
    right = outputs(made(*args))
    checked = same = 0
    for net in (first, *others):
        other = make_exact(net).model
        for size in (1, 7, 64):
            for threads in (1, 2):
                for layout in (torch.contiguous_format, torch.channels_last) if image else (torch.contiguous_format,):
                    torch.set_num_threads(threads)
                    parts = [outputs(other(*(laid(p, layout) for p in part)))
                             for part in zip(*(a.split(size) for a in args), strict=True)]  # fmt: skip
                    whole = [torch.cat(p) for p in zip(*parts, strict=True)]
                    checked += 1
                    same += all(same_bits(a, b) for a, b in zip(right, whole, strict=True))
    torch.set_num_threads(1)
    print(
        f"{name}: float64 {found[0]:.1f}, exact {found[1]:.1f}; {same} of {checked} runs with the same bits", flush=True
    )


def laid(x: Tensor, layout: torch.memory_format) -> Tensor:
    return x.to(memory_format=layout) if x.dim() == 4 else x


def outputs(y: Any) -> list[Tensor]:
    return list(y) if isinstance(y, tuple) else [y]


def wide_network() -> tuple[nn.Module, nn.Module]:
    """Three layers of 1024, as linear layers and as 1x1 convolutions."""
    sizes = [(1024, 1024)] * 3
    first = nn.Sequential(*[m for i, o in sizes for m in (nn.Linear(i, o), nn.ELU())])
    second = nn.Sequential(
        nn.Unflatten(1, (1024, 1)), *[m for i, o in sizes for m in (nn.Conv1d(i, o, 1), nn.ELU())], nn.Flatten()
    )
    with_weights_of(first, second)
    return first, second


def networks() -> None:
    linear = LinearNetwork(nn.ELU())
    forms = [with_weights_of(linear, form(nn.ELU())) for form in (ConvNetwork, TensordotNetwork)]
    network("the forum question", linear, forms, (torch.randn(64, 5, 256),))
    d = digits()
    images = d.images()[0][d.TRAINED :]
    network("digits, fully connected", d.linear(), [d.conv()], (images,), image=True)
    network("digits, convolutional", d.flat(), [d.kernel()], (images,), image=True)
    first, second = wide_network()
    network("three layers of 1024", first, [second], (torch.randn(512, 1024),))
    ids, mask = minilm.tokens()
    more = [torch.cat([t] * 11)[:64] for t in (ids, mask)]
    more[0][6:] = torch.where(more[1][6:] > 0, (more[0][6:] * 7 + torch.arange(58)[:, None]) % 30000, 0)
    network("MiniLM-L6, 64 sentences", minilm.fused(), [minilm.separate()], tuple(more))


def training() -> None:
    for name, epochs, optimizer in (("linear", 12, adamw), ("kernel", 2, sgd)):
        first, second = pair(name, started(name))
        for net, threads in ((first, 1), (second, 2)):
            torch.set_num_threads(threads)
            with torch.enable_grad():
                trained(net, 30 * epochs, 48, optimizer)
        torch.set_num_threads(1)
        weights = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
        same = all(same_bits(a, b.reshape(a.shape)) for a, b in weights)
        right = digits().accuracy(first.eval())
        print(
            f"digits, {name}, {epochs} epochs in both forms, on one thread and on two: "
            f"{'the same weights' if same else 'OTHER WEIGHTS'}, {100 * right:.1f} % right",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["shapes", "networks", "training"])
    what = parser.parse_args().what
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        for run in (shapes, networks, training):
            if what in (None, run.__name__):
                run()
