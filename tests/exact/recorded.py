"""Results whose bits are recorded in recorded.json, so that another machine can confirm them.

    python -m tests.exact.recorded            says which of them are the same here
    python -m tests.exact.recorded --write    records them anew

Everything is drawn as whole numbers by PyTorch's generator on the CPU from seed 0, for its normal numbers depend on the
machine, and computed in the exact context.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roundoff import exact, make_exact
from roundoff.exact.elementwise import FUNCTIONS
from roundoff.formats import bits

FILE = Path(__file__).with_name("recorded.json")
ROOT = Path(__file__).parents[2]


@cache
def digits() -> ModuleType:
    """examples/digits.py."""
    spec = importlib.util.spec_from_file_location("digits", ROOT / "examples" / "digits.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hashed(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the bits of all elements, row by row."""
    total = hashlib.sha256()
    for x in tensors:
        total.update(bits(x).contiguous().numpy().tobytes())
    return total.hexdigest()


def pair(name: str, start: dict[str, Tensor]) -> tuple[nn.Module, nn.Module]:
    """The two forms of a network on digits, with the weights ``start`` of the first: "linear" or "kernel" form."""
    d = digits()
    make = d.fully_connected if name == "linear" else d.convolutional
    first: nn.Module = make()
    first.load_state_dict(start)
    if name == "linear":
        second = nn.Sequential(nn.Conv2d(1, 64, 8), nn.ELU(), nn.Conv2d(64, 32, 1), nn.ELU(), nn.Conv2d(32, 10, 1))
        second.append(nn.Flatten())
    else:
        layers = list(make())
        second = nn.Sequential(*layers[:-2], nn.Conv2d(24, 10, 2), nn.Flatten())
    with torch.no_grad():
        for p, q in zip(second.state_dict().values(), start.values(), strict=True):
            p.copy_(q.reshape(p.shape))
    return first, second


def started(name: str) -> dict[str, Tensor]:
    """The weights that a network on digits starts from: drawn, but for those of its norms."""
    generator = torch.Generator().manual_seed(0)
    d = digits()
    net: nn.Module = d.fully_connected() if name == "linear" else d.convolutional()
    held = net.state_dict()
    return {n: drawn(generator, *x.shape) / 4 if "norm" not in n else x.clone() for n, x in held.items()}


def drawn(generator: torch.Generator, *shape: int) -> Tensor:
    """Multiples of 2^-22 between -1 and 1."""
    return torch.randint(-(1 << 22), 1 << 22, shape, generator=generator).float() * 2.0**-22


def trained(net: nn.Module, steps: int, batch: int, optimizer: Callable[..., torch.optim.Optimizer]) -> nn.Module:
    """The network after some steps in the exact context; nothing that is not exact may run."""
    x, y = (t[: digits().TRAINED] for t in digits().images())
    torch.manual_seed(1)
    order = torch.cat([torch.randperm(len(x)) for _ in range(1 + steps * batch // len(x))])
    taking = optimizer(net.parameters(), foreach=False)
    with exact.mode() as m:
        for i in range(steps):
            some = order[i * batch : (i + 1) * batch]
            taking.zero_grad()
            F.cross_entropy(net(x[some]), y[some], label_smoothing=0.1).backward()
            taking.step()
    assert m.inexact == (), m.inexact
    return net


def adamw(parameters: Any, **more: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=4e-3, **more)


def sgd(parameters: Any, **more: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4, **more)


def cases() -> Iterator[tuple[str, Callable[[], Iterable[Tensor]]]]:
    """What is recorded, by name."""
    draw = partial(drawn, torch.Generator().manual_seed(0))
    x, w, b = draw(33, 700), draw(40, 700), draw(40)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        yield f"linear {dtype}", lambda d=dtype: [exact.linear(x.to(d), w.to(d), b.to(d))]
    image, kernel = draw(2, 8, 13, 11), draw(12, 4, 3, 3)
    yield "conv2d", lambda: [exact.conv2d(image, kernel, b[:12], 2, 1, 1, 2)]
    q, k, v = draw(2, 4, 9, 16), draw(2, 4, 12, 16), draw(2, 4, 12, 16)
    yield "attention", lambda: [exact.attention(q, k, v)]
    yield "layer_norm", lambda: [exact.layer_norm(x, 700, w[0], w[1])]
    yield "log_softmax", lambda: [exact.log_softmax(x, 1)]
    spread = torch.cat([draw(600) * 2.0**n for n in range(-30, 7)])
    for name in FUNCTIONS:
        yield name, lambda n=name: [getattr(exact, n)(spread)]
    yield "digits, linear, 12 steps of AdamW", lambda: weights("linear", 12, 48, adamw)
    yield "digits, kernel, 4 steps of SGD", lambda: weights("kernel", 4, 24, sgd)
    yield "MiniLM", sentences


def weights(name: str, steps: int, batch: int, optimizer: Callable[..., torch.optim.Optimizer]) -> list[Tensor]:
    """The trained weights of the first form, and its results on the test images."""
    net = trained(pair(name, started(name))[0], steps, batch, optimizer).eval()
    with torch.no_grad(), exact.mode():
        return [*net.state_dict().values(), net(digits().images()[0][digits().TRAINED :])]


def sentences() -> list[Tensor]:
    """Unit vectors of six sentences by the trained MiniLM-L6."""
    from tests.suite import minilm

    with torch.no_grad():
        return [make_exact(minilm.fused()).model(*minilm.tokens())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    found = {}
    for name, make in cases():
        found[name] = hashed(make())
        print(f"{name}: {'the same' if known.get(name) == found[name] else 'other bits'}")
    if write:
        FILE.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
