"""Measure how many units in the last place PyTorch's float32 functions are off, on this build.

    python benchmarks/measure_ulps.py                     # every function, every 61st float32, two minutes
    python benchmarks/measure_ulps.py exp tanh --every 1  # all 2^32 arguments of two functions
    python benchmarks/measure_ulps.py --write             # and store what was measured with the package

Arguments run through the bit patterns of float32 with an odd stride, so every exponent and every low bit is met. Each is
computed on a contiguous tensor (the vector path), and a part of them on a strided one (the scalar path), and held
against the same function in float64. Where a function cancels, the error is measured in units of |y| plus what cancels
(``size`` in ``roundoff.rules.elementwise``). Results that underflow, or are within 2^-6 of overflowing, are left out:
rules allow for them apart. Functions of two numbers are measured on as many random pairs of bit patterns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roundoff.rules import elementwise, ulps
from roundoff.rules.elementwise import FUNCTIONS, Function
from roundoff.rules.pairs import PAIRS
from roundoff.rules.slopes import SLOPES

CHUNK = 1 << 21
SCALAR_SHARE = 15  # one argument in so many also goes the scalar way, which is slow
STORED = Path(elementwise.__file__).with_name("ulps.json")
LARGEST = torch.finfo(torch.float32).max
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Measured:
    """A function to measure: its arguments in chunks, how it is computed, and what its error is measured against."""

    name: str
    arguments: Callable[[int], Iterator[tuple[Tensor, ...]]]
    compute: Callable[..., Any]
    size: Callable[..., Tensor]

    def __call__(self, *args: Tensor) -> Tensor:
        y = self.compute(*args)
        return y if isinstance(y, Tensor) else y[0]


def of_one(function: Function) -> Measured:
    """A function of one number, on every ``every``-th float32 of its domain."""

    def arguments(every: int) -> Iterator[tuple[Tensor, ...]]:
        for start in range(-(1 << 31), 1 << 31, CHUNK * every):
            patterns = torch.arange(start, min(start + CHUNK * every, 1 << 31), every)
            x = patterns.to(torch.int32).view(torch.float32)
            yield (x[(x >= function.low) & (x <= function.high) & x.isfinite()],)

    def compute(x: Tensor) -> Any:
        return getattr(torch.ops.aten, function.aten)(x, *function.args, **function.kwargs)

    return Measured(function.name, arguments, compute, lambda y, x: elementwise.error_size(function, x, y))


def of_slope(function: Function) -> Measured:
    """A gradient of a function of one number: the gradient that comes in is 1."""
    of_x = of_one(function)

    def compute(x: Tensor) -> Any:
        return getattr(torch.ops.aten, function.aten)(torch.ones_like(x), x, **function.kwargs)

    return Measured(function.name, of_x.arguments, compute, of_x.size)


def of_two(name: str) -> Measured:
    """A function of two numbers, on 2^32 / ``every`` random pairs; half of them of ordinary size."""

    def arguments(every: int) -> Iterator[tuple[Tensor, ...]]:
        g = torch.Generator().manual_seed(0)
        for number in range(max(1, (1 << 32) // (every * CHUNK))):
            pair = []
            for _ in range(2):
                x = torch.randint(-(1 << 31), 1 << 31, (CHUNK,), generator=g).to(torch.int32).view(torch.float32)
                pair.append(x if number % 2 else torch.randn(CHUNK, generator=g) * 10)
            a, b = pair
            keep = a.isfinite() & b.isfinite() & (a > 0 if name == "pow" else b != 0)
            yield a[keep], b[keep]

    return Measured(name, arguments, getattr(torch.ops.aten, name), lambda y, a, b: y.abs())


def in_ulps(function: Measured, native: Tensor, wide: Tensor, *args: Tensor) -> Tensor:
    """The error in units of the last place of |y| plus what cancels; 0 where rules allow for under- and overflow."""
    size = function.size(wide, *args)
    ulp = torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent - 24)
    error = (native.double() - wide).abs()
    lost = error <= elementwise.FLUSHED * TINY
    outside = (wide.abs() < TINY) | (wide.abs() > LARGEST / 64) | ~wide.isfinite()
    return torch.where(outside | lost, 0.0, (error / ulp).nan_to_num(float("inf")))


def measure(function: Measured, every: int) -> dict[str, Any]:
    """The largest error in ulp on the vector and on the scalar path, and where it was."""
    worst: dict[str, tuple[float, list[float]]] = {"vector": (0.0, []), "scalar": (0.0, [])}
    count = 0
    for args in function.arguments(every):
        if not args[0].numel():
            continue
        count += args[0].numel()
        few = slice(count % SCALAR_SHARE, None, SCALAR_SHARE if every < 1000 else 1)
        strided = tuple(torch.stack([x[few], x[few]], 1)[:, 0] for x in args)
        for path, given in (("vector", args), ("scalar", strided)):
            exact = tuple(x.double() for x in given)
            error = in_ulps(function, function(*given), function(*exact), *exact)
            at = int(error.argmax()) if error.numel() else 0
            if error.numel() and error[at].item() > worst[path][0]:
                worst[path] = (error[at].item(), [x[at].item() for x in given])
    return {
        "ulp": round(max(error for error, _ in worst.values()) + 0.005, 2),
        **{path: [round(error, 3), *at] for path, (error, at) in worst.items()},
        "arguments": count,
        "every": every,
        "build": f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("functions", nargs="*", help="names; all when none is given")
    parser.add_argument("--every", type=int, default=61, help="odd stride through the 2^32 bit patterns")
    parser.add_argument("--write", action="store_true", help=f"store the results in {STORED.name}")
    options = parser.parse_args()
    every_one = [*map(of_one, FUNCTIONS), *map(of_slope, SLOPES), *map(of_two, PAIRS)]
    table = ulps.table()
    known = {f.name for f in every_one}
    table["functions"] = {name: row for name, row in table["functions"].items() if name in known}
    print(f"{'function':22s} {'ulp':>9s}   vector (at)                scalar (at)")
    for function in every_one:
        if options.functions and function.name not in options.functions:
            continue
        with torch.no_grad():
            row = measure(function, options.every)
        table["functions"][function.name] = row
        (v, *at_v), (s, *at_s) = row["vector"], row["scalar"]
        where_v, where_s = (", ".join(f"{x:.8g}" for x in at) for at in (at_v, at_s))
        print(
            f"{function.name:22s} {row['ulp']:9.2f}   {v:9.3f} ({where_v:<14s}) {s:9.3f} ({where_s:<14s})", flush=True
        )
        if options.write:
            table["reference"] = "the same function in float64"
            STORED.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
