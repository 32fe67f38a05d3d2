"""What do exact products cost over the vendor's kernel?

    python benchmarks/exact.py

One thread and processor time. In each round the float32 product, the float64 one and the exact one are timed one after
the other; the median of the rounds' ratios is shown. The goal is 2.5 times the float32 product.
"""

from __future__ import annotations

import time

import torch

from roundoff import exact

SHAPES = ((1024, 1024, 1024), (512, 4096, 1024), (4096, 512, 512))
ROUNDS = 7


def ratios(rows: int, terms: int, columns: int) -> tuple[float, float]:
    x, w = torch.randn(rows, terms), torch.randn(columns, terms)
    wide = x.double(), w.double()
    timed = (lambda: x @ w.T, lambda: wide[0] @ wide[1].T, lambda: exact.linear(x, w))
    for f in timed:
        f()
    found = []
    for _ in range(ROUNDS):
        seconds = []
        for f in timed:
            start = time.process_time()
            f()
            seconds.append(time.process_time() - start)
        found.append([seconds[1] / seconds[0], seconds[2] / seconds[0]])
    wide_ratio, exact_ratio = torch.tensor(found).median(0).values.tolist()
    return wide_ratio, exact_ratio


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        for shape in SHAPES:
            wide_ratio, exact_ratio = ratios(*shape)
            print(f"{shape}: float64 {wide_ratio:.2f} x, exact {exact_ratio:.2f} x the float32 product")
