"""Is every bit of an exact result right? Against references in whole numbers and in 80-bit arithmetic.

    python benchmarks/exact_oracle.py              all: a quarter of an hour on one core
    python benchmarks/exact_oracle.py products     sums of products: lengths 1 to 8192, of eight kinds
    python benchmarks/exact_oracle.py functions    each function at ten million arguments, and all of the half formats
    python benchmarks/exact_oracle.py hard         functions where they are hard: near zeros, thresholds and subnormals

Prints how many results were compared and how many have a wrong bit, which should be none. The references are in
tests/exact/references.py: they share no code with what is tested, and do not use PyTorch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import mpmath
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.exact import references

from roundoff import exact

LENGTHS = (1, 2, 3, 7, 16, 33, 64, 128, 255, 256, 512, 1000, 1024, 2048, 4096, 8192)
MOST, TERMS = 12544, 8_000_000  # elements of one kind and length, and terms of all of them


def normal(m: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    """Nothing special."""
    return torch.randn(m, k), torch.randn(k, n)


def few_digits(m: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    """Values of bfloat16: many sums are half way."""
    x, w = normal(m, k, n)
    return x.bfloat16().float(), w.bfloat16().float()


def wide(m: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    """Sizes from 2^-20 to 2^20."""
    x, w = normal(m, k, n)
    return x * 2.0 ** torch.randint(-20, 21, (m, k)), w


def cancelling(m: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    """Products that cancel in pairs, but for what is left: at a condition of 1 to 2^54 = 1.8e16."""
    x, w = normal(m, k, n)
    half = k // 3
    x[:, half : 2 * half], w[half : 2 * half] = x[:, :half], -w[:half]
    x[:, 2 * half :] *= 2.0 ** -torch.randint(0, 55, (m, 1))
    order = torch.randperm(k)
    return x[:, order], w[order]


def half_way(m: int, k: int, n: int, scale: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor]:
    """Exactly half way between two numbers, or beside it by 2^-30 to 2^-100 of them, among products that cancel."""
    x, w = torch.zeros(m, k), torch.zeros(k, n)
    x[:, 0], w[0] = 1, torch.randint(1 << 23, 1 << 24, (n,)).float()
    w[0, : n // 8] = (1 << 24) - 1
    if k > 1:
        x[:, 1], w[1] = 0.5, 1
    if k > 2:
        x[:, 2] = torch.randint(-1, 2, (m,)) * 2.0 ** -torch.randint(15, 50, (m,))
        w[2] = 2.0 ** -torch.randint(15, 50, (n,))
    half = (k - 3) // 2
    if half > 0:
        x[:, 3 : 3 + half], w[3 : 3 + half] = torch.randn(m, half), torch.randn(half, n) * 64
        x[:, 3 + half : 3 + 2 * half], w[3 + half : 3 + 2 * half] = x[:, 3 : 3 + half], -w[3 : 3 + half]
    order = torch.randperm(k)
    signs = torch.randint(0, 2, (n,)) * 2.0 - 1
    return x[:, order] * 2.0 ** scale[0], w[order] * signs * 2.0 ** scale[1]


def below(m: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    """Results around and below the smallest numbers, among them those half way."""
    x, w = half_way(m, k, n, (-80, -83)) if k % 2 else normal(m, k, n)
    return (x, w) if k % 2 else (x * 2.0**-75, w * 2.0**-70)


def beyond(m: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    """Results around the largest number, among them those half way to what is infinite."""
    return half_way(m, k, n, (50, 54)) if k < 1024 else tuple(t * 2.0**61 for t in normal(m, k, n))  # type: ignore[return-value]


def small_wholes(m: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    """Whole numbers that cancel often: exact zeros and ties of the half formats."""
    return torch.randint(-3, 4, (m, k)).float(), torch.randint(-3, 4, (k, n)).float()


KINDS: tuple[Callable[[int, int, int], tuple[Tensor, Tensor]], ...] = (
    normal, few_digits, wide, cancelling, half_way, below, beyond, small_wholes,
)  # fmt: skip


def wrong(found: Tensor, right: np.ndarray) -> int:
    """How many have other bits; NaN is NaN, and zeros have their sign."""
    y = found.double().numpy()
    same = ((y == right) & (np.signbit(y) == np.signbit(right))) | (np.isnan(y) & np.isnan(right))
    return int((~same).sum())


def of_products(lengths: tuple[int, ...] = LENGTHS, most: int = MOST, terms: int = TERMS) -> tuple[int, int]:
    """Compared and wrong, over all kinds, lengths and formats, with and without a bias."""
    total = bad = 0
    for kind in KINDS:
        start, compared, missed = perf_counter(), 0, 0
        for k in lengths:
            side = max(8, int(min(most, terms / k) ** 0.5))
            x, w = kind(side, k, side)
            for form, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
                if form != "float32":
                    x, w = (t[:24] if i == 0 else t[:, :24] for i, t in enumerate((x, w)))
                    if k > 1024:
                        continue
                a, b = x.to(dtype), w.to(dtype)
                a, b = (torch.where(t.isfinite(), t, 1.0) for t in (a, b))
                bias = (a[:1] @ b).clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)[0] * -1
                sums, e = references.products(a.float().numpy(), b.float().numpy())
                missed += wrong(exact.matmul(a, b), references.rounded(sums, e, form))
                ones = np.ones((1, 1), np.float32)
                added, f = references.products(ones, bias.float().numpy()[None])
                low = min(e, f)
                both = sums * (1 << (e - low)) + added * (1 << (f - low))
                missed += wrong(exact.linear(a, b.t(), bias), references.rounded(both, low, form))
                missed += wrong(exact.matmul(a[:, None], b)[:, 0], references.rounded(sums, e, form))
                compared += 3 * sums.size
        doc = (kind.__doc__ or "").partition("\n")[0]
        print(
            f"{kind.__name__:12s} {compared:9,d} compared, {missed} wrong, {perf_counter() - start:4.0f} s: {doc}",
            flush=True,
        )
        total, bad = total + compared, bad + missed
    return total, bad


def arguments(count: int, generator: np.random.Generator) -> np.ndarray:
    """Finite float32 numbers: two thirds between -20 and 20 or of small size, a third of any bits."""
    third = count // 3
    near = generator.uniform(-20, 20, third)
    small = generator.uniform(-1, 1, third) * 2.0 ** generator.integers(-26, 1, third)
    any_bits = generator.integers(0, 1 << 32, count - 2 * third, dtype=np.uint32).view(np.float32)
    any_bits = np.where(np.isfinite(any_bits), any_bits, np.float32(1.5))
    return np.concatenate([near.astype(np.float32), small.astype(np.float32), any_bits])


def of_functions(count: int = 10_000_000, half_formats: bool = True) -> tuple[int, int]:
    """Compared and wrong, over all functions."""
    generator = np.random.default_rng(0)
    every = np.arange(1 << 16, dtype=np.uint16).view(np.int16)
    total = bad = 0
    for name in references.REFERENCES:
        start, compared, missed, sure = perf_counter(), 0, 0, 0
        for i in range(0, count, 500_000):
            x = arguments(min(500_000, count - i), generator)
            right, took = references.function(name, x.astype(np.float64), "float32")
            missed += wrong(getattr(exact, name)(torch.from_numpy(x)), right)
            compared, sure = compared + len(x), sure + took
        for form, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)) if half_formats else ():
            short = torch.from_numpy(every).view(dtype)
            short = short[short.isfinite()]
            right, took = references.function(name, short.double().numpy(), form)
            missed += wrong(getattr(exact, name)(short), right)
            compared, sure = compared + len(short), sure + took
        print(
            f"{name:10s} {compared:10,d} compared, {missed} wrong, {sure} by mpmath, {perf_counter() - start:4.0f} s",
            flush=True,
        )
        total, bad = total + compared, bad + missed
    return total, bad


def around(*values: float, count: int = 40_000) -> np.ndarray:
    """The float32 numbers around each of some."""
    steps = np.arange(-count, count)
    return np.concatenate([(np.float32(v).view(np.int32) + steps).astype(np.int32).view(np.float32) for v in values])


def near_quarter_turns() -> np.ndarray:
    """In each binade from 0.5 up the 200 numbers nearest to a multiple of a quarter turn, where a sine or cosine is 0."""
    digits = np.arange(1 << 23, 1 << 24, dtype=np.uint64)
    found = []
    with mpmath.workprec(600), np.errstate(over="ignore"):
        for e in range(-24, 105):
            # the quarter turns of digits · 2^e in units of 2^-64, without whole ones
            turns = digits * np.uint64(int(mpmath.frac(mpmath.mpf(2) ** e * 2 / mpmath.pi) * 2**64))
            away = np.minimum(turns, np.uint64(0) - turns)
            found.append(np.ldexp(digits[np.argpartition(away, 200)[:200]].astype(np.float64), e))
    x = np.concatenate(found).astype(np.float32)
    return np.concatenate([x, -x])


#: Where each function passes from one way of being computed to another, or results under- or overflow.
THRESHOLDS: dict[str, tuple[float, ...]] = {
    "exp": (88.72284, -87.33, -103.97), "exp2": (128, -126, -149, -150), "expm1": (88.72284, -17.3), "log": (1,),
    "log2": (1,), "log10": (1,), "log1p": (-1, -0.9999), "sqrt": (1,), "rsqrt": (1, 1e-38), "tanh": (1, 8.3, 9.01),
    "sigmoid": (-103.97, -88.7, 16.6, 17.3), "softplus": (-103.97, -87.3, 16.6, 17), "logsigmoid": (17, 103.97),
    "silu": (-107, -104, -88.7), "mish": (-107, -103, -88), "erf": (1, 3.8, 3.9, 4), "erfc": (9.19, 9.41, 10.05),
    "gelu": (-14.2, -14.1, -13.2, 1, 5.5), "gelu_tanh": (-10.5, -10, -9.8, 5),
}  # fmt: skip


def of_hard_arguments() -> tuple[int, int]:
    """Compared and wrong, over all functions."""
    generator = np.random.default_rng(0)
    below = generator.integers(0, 1 << 23, 20_000, dtype=np.uint32).view(np.float32)
    below = np.concatenate([below, np.arange(4096, dtype=np.uint32).view(np.float32)])
    turns = near_quarter_turns()
    total = bad = 0
    for name in references.REFERENCES:
        parts = [below, -below] if name not in ("log", "log2", "log10", "sqrt", "rsqrt") else [below]
        parts.append(
            turns if name in ("sin", "cos") else around(*THRESHOLDS.get(name, ())) if name in THRESHOLDS else below
        )
        x = np.unique(np.concatenate(parts))
        right, took = references.function(name, x.astype(np.float64), "float32")
        missed = wrong(getattr(exact, name)(torch.from_numpy(x)), right)
        print(f"{name:10s} {len(x):10,d} compared, {missed} wrong, {took} by mpmath", flush=True)
        total, bad = total + len(x), bad + missed
    return total, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["products", "functions", "hard"])
    parser.add_argument("--count", type=int, default=10_000_000, help="arguments for each function")
    options = parser.parse_args()
    if np.finfo(np.longdouble).nmant < 63:
        parser.error("this machine has no 80-bit numbers; run it where numpy.longdouble is longer than float64")
    torch.manual_seed(0)
    for what, run in (("products", of_products), ("functions", lambda: of_functions(options.count)),
                      ("hard", of_hard_arguments)):  # fmt: skip
        if options.what in (None, what):
            compared, missed = run()
            print(f"{what}: {compared:,d} compared, {missed} wrong")


if __name__ == "__main__":
    main()
