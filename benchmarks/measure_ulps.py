"""Measure how many units in the last place PyTorch's float32 functions of one number are off, on this build.

    python benchmarks/measure_ulps.py                     # every function, every 61st float32, two minutes
    python benchmarks/measure_ulps.py exp tanh --every 1  # all 2^32 arguments of two functions
    python benchmarks/measure_ulps.py --write             # and store the results with the package

Arguments run through the bit patterns of float32 with an odd stride, so every exponent and every low bit is met. Each is
computed on a contiguous tensor (the vector path), and a part of them on a strided one (the scalar path), and held
against the same function in float64. Where a function cancels, the error is measured in units of |y| plus what cancels
(``size`` in ``roundoff.rules.elementwise``). Results that underflow, or are within 2^-6 of overflowing, are left out:
rules allow for them apart.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roundoff.rules import elementwise, ulps
from roundoff.rules.elementwise import FUNCTIONS, Function

CHUNK = 1 << 21
SCALAR_SHARE = 15  # one argument in so many also goes the scalar way, which is slow
STORED = Path(elementwise.__file__).with_name("ulps.json")


def arguments(function: Function, every: int) -> Iterator[Tensor]:
    """Every ``every``-th float32 of the function's domain, in chunks."""
    for start in range(-(1 << 31), 1 << 31, CHUNK * every):
        patterns = torch.arange(start, min(start + CHUNK * every, 1 << 31), every)
        x = patterns.to(torch.int32).view(torch.float32)
        yield x[(x >= function.low) & (x <= function.high) & x.isfinite()]


def compute(function: Function, x: Tensor) -> Tensor:
    op = getattr(torch.ops.aten, function.aten)
    y = op(x, *function.args, **function.kwargs)
    return y if isinstance(y, Tensor) else y[0]


def in_ulps(function: Function, x: Tensor, native: Tensor, wide: Tensor) -> Tensor:
    """The error in units of the last place of |y| plus what cancels; 0 where no number of the format is near."""
    finfo = torch.finfo(torch.float32)
    size = elementwise.error_size(function, x.double(), wide)
    ulp = torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent - 24)
    error = (native.double() - wide).abs()
    lost = error <= elementwise.flushed(x.double(), finfo.tiny)
    outside = (wide.abs() < finfo.tiny) | (wide.abs() > finfo.max / 64) | ~wide.isfinite()
    return torch.where(outside | lost, 0.0, (error / ulp).nan_to_num(float("inf")))


def measure(function: Function, every: int) -> dict[str, Any]:
    """The largest error in ulp on the vector and on the scalar path, and where it was."""
    worst = {"vector": (0.0, 0.0), "scalar": (0.0, 0.0)}
    count = 0
    for x in arguments(function, every):
        if not x.numel():
            continue
        count += x.numel()
        wide = compute(function, x.double())
        few = slice(count % SCALAR_SHARE, None, SCALAR_SHARE if every < 1000 else 1)
        strided = torch.stack([x[few], x[few]], 1)[:, 0]
        for path, xs, ys in (("vector", x, wide), ("scalar", strided, wide[few])):
            error = in_ulps(function, xs, compute(function, xs), ys)
            at = int(error.argmax()) if error.numel() else 0
            if error.numel() and error[at].item() > worst[path][0]:
                worst[path] = (error[at].item(), xs[at].item())
    vector, scalar = worst["vector"], worst["scalar"]
    return {
        "ulp": round(max(vector[0], scalar[0]) + 0.005, 2),
        "vector": [round(vector[0], 3), vector[1]],
        "scalar": [round(scalar[0], 3), scalar[1]],
        "arguments": count,
        "every": every,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("functions", nargs="*", help="names; all when none is given")
    parser.add_argument("--every", type=int, default=61, help="odd stride through the 2^32 bit patterns")
    parser.add_argument("--write", action="store_true", help=f"store the results in {STORED.name}")
    options = parser.parse_args()
    chosen = [f for f in FUNCTIONS if not options.functions or f.name in options.functions]
    table = ulps.table()
    print(f"{'function':22s} {'ulp':>9s}   vector (at)                scalar (at)")
    for function in chosen:
        with torch.no_grad():
            row = measure(function, options.every)
        table["functions"][function.name] = row
        (v, at_v), (s, at_s) = row["vector"], row["scalar"]
        print(f"{function.name:22s} {row['ulp']:9.2f}   {v:9.3f} ({at_v:<14.8g}) {s:9.3f} ({at_s:<14.8g})", flush=True)
        if options.write:
            table["build"] = f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
            STORED.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
