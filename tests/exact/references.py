"""References in whole numbers and in 80-bit floating point, fast enough for millions of elements.

Nothing here is shared with what is tested, and nothing runs in PyTorch. Sums of products are sums of whole numbers, in
parts of 15 bits that int64 holds. Functions are those of the C library in the 64-bit significand of ``numpy.longdouble``,
or series written here; where that is not enough, mpmath decides.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

BITS = 15  # of a part; the product of two, and the sum of 2^33 such products, fit int64
#: digits, the exponent of the smallest number, the exponent from which numbers are infinite
FORMATS = {"float32": (24, -149, 128), "bfloat16": (8, -133, 128), "float16": (11, -24, 16)}


def whole(x: Array) -> tuple[list[Array], int]:
    """Float32 numbers as Σ parts[i] 2^(15 i + e), with parts below 2^15 in size; and e."""
    m, e = np.frexp(x.astype(np.float64))
    digits = (np.abs(m) * 2.0**24).astype(np.int64)
    sign = np.sign(m).astype(np.int64)
    used = digits != 0
    lowest = int(e[used].min()) - 24 if used.any() else 0
    shift = np.where(used, e - 24 - lowest, 0)
    parts = []
    for start in range(0, int(shift.max(initial=0)) + 24, BITS):
        by = start - shift  # how far the digits lie below the part
        down = digits >> np.clip(by, 0, 63)
        up = digits << np.clip(-by, 0, BITS)
        part = np.where(by >= 0, down, np.where(-by < BITS, up, 0)) & ((1 << BITS) - 1)
        parts.append(sign * part)
    return parts or [np.zeros(x.shape, np.int64)], lowest


def products(x: Array, w: Array) -> tuple[Array, int]:
    """Σ_k x[m, k] w[k, n] as whole Python numbers, [m, n], times 2^e; and e."""
    (left, a), (right, b) = whole(x), whole(w)
    right = [np.ascontiguousarray(part) for part in right]
    total = np.zeros((x.shape[0], w.shape[1]), dtype=object)
    for s in range(len(left) + len(right) - 1):
        same = [(i, s - i) for i in range(len(left)) if 0 <= s - i < len(right)]
        part = sum(left[i] @ right[j] for i, j in same)
        total = total + part.astype(object) * (1 << (BITS * s))
    return total, a + b


def nearest(number: int, exponent: int, form: str) -> float:
    """``number`` · 2^``exponent`` rounded to the nearest, ties to even; an exact zero is +0."""
    digits, smallest, largest = FORMATS[form]
    size = abs(number)
    if not size:
        return 0.0
    unit = max(size.bit_length() + exponent - digits, smallest) - exponent  # of the last digit, in units of the number
    if unit > 0:
        quotient, left = size >> unit, size & ((1 << unit) - 1)
        half = 1 << (unit - 1)
        quotient += left > half or (left == half and quotient & 1)
        exponent += unit
    else:
        quotient = size
    found = float("inf") if quotient.bit_length() + exponent > largest else float(np.ldexp(float(quotient), exponent))
    return -found if number < 0 else found


def rounded(total: Array, exponent: int, form: str) -> Array:
    """:func:`nearest` for each, as float64."""
    flat = [nearest(int(n), exponent, form) for n in total.reshape(-1)]
    return np.array(flat, dtype=np.float64).reshape(total.shape)


def short(y: Array, form: str) -> Array:
    """80-bit numbers rounded to the nearest of a format, ties to even, as float64."""
    digits, smallest, largest = FORMATS[form]
    _, e = np.frexp(y)
    unit = np.maximum(e - digits, smallest)
    near = np.ldexp(np.rint(np.ldexp(y, -unit)), unit)
    return np.where(np.abs(near) >= np.ldexp(np.longdouble(1), largest), np.sign(near) * np.inf, near).astype(
        np.float64
    )


L = np.longdouble
PI = L("3.14159265358979323846264338327950288")
ROOT_2 = np.sqrt(L(2))


def tail(square: Array) -> Array:
    """erfc(z) for z > 1.5 from z², by its continued fraction taken from far out (Abramowitz and Stegun, 7.1.14)."""
    z = np.sqrt(square)
    f = z
    for k in range(160, 0, -1):
        f = z + L(k) / 2 / f
    return np.exp(-square) / (f * np.sqrt(PI))


def middle(square: Array) -> Array:
    """erf(z) for 0 <= z <= 1.5 from z²: 2/√π z e^(-z²) Σ (2 z²)^n / (2n + 1)!! (7.1.6), all of one sign."""
    term = total = np.ones_like(square)
    for n in range(1, 45):
        term = term * 2 * square / (2 * n + 1)
        total = total + term
    return 2 / np.sqrt(PI) * np.sqrt(square) * np.exp(-square) * total


def two_sided(x: Array, square: Array, of_middle: Callable[[Array], Array], of_tail: Callable[[Array], Array]) -> Array:
    """``of_middle`` of erf(|z|) where z² is small, else ``of_tail`` of erfc(|z|)."""
    near = square <= 2.25
    y = np.empty_like(x)
    y[near] = of_middle(np.copysign(middle(square[near]), x[near]))
    with np.errstate(under="ignore"):
        out = tail(square[~near])
    y[~near] = of_tail(np.copysign(out, x[~near]))
    return y


def erf(x: Array) -> Array:
    return two_sided(x, x * x, lambda a: a, lambda c: np.copysign(1 - np.abs(c), c))


def erfc(x: Array) -> Array:
    return two_sided(x, x * x, lambda a: 1 - a, lambda c: np.where(np.signbit(c), 2 + c, c))


def gelu(x: Array) -> Array:
    half = two_sided(x, x * x / 2, lambda a: 1 + a, lambda c: np.where(np.signbit(c), -c, 2 - c))
    return x * half / 2


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def mish(x: Array) -> Array:
    e = np.exp(np.minimum(x, 100))
    n = e * (e + 2)
    return x * (n / (n + 2))


def gelu_tanh(x: Array) -> Array:
    return x * sigmoid(2 * np.sqrt(2 / PI) * (x + L("0.044715") * x * x * x))


ALPHA, SCALE = L(1.6732632423543772848170429916717), L(1.0507009873554804934193349852946)

REFERENCES: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "log10": np.log10,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "logsigmoid": lambda x: -softplus(-x),
    "silu": lambda x: x * sigmoid(x),
    "mish": mish,
    "selu": lambda x: SCALE * np.where(x > 0, x, ALPHA * np.expm1(np.minimum(x, 0))),
    "erf": erf,
    "erfc": erfc,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
}

#: Relative error that a reference is allowed: 16 units of 2^-64, more where an argument was rounded before an exponential.
ROOM = {"gelu_tanh": 2.0**-52, "erfc": 2.0**-54, "gelu": 2.0**-54, "erf": 2.0**-56}


def _softplus(x: mpmath.mpf) -> mpmath.mpf:
    return mpmath.log1p(mpmath.exp(x))


SURE: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "exp": mpmath.exp,
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "expm1": mpmath.expm1,
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "log2": lambda x: mpmath.log(x) / mpmath.log(2),
    "log10": mpmath.log10,
    "sqrt": mpmath.sqrt,
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": _softplus,
    "logsigmoid": lambda x: -_softplus(-x),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "mish": lambda x: x * mpmath.tanh(_softplus(x)),
    "selu": lambda x: mpmath.mpf(float(SCALE)) * (x if x > 0 else mpmath.mpf(float(ALPHA)) * mpmath.expm1(x)),
    "erf": mpmath.erf,
    "erfc": mpmath.erfc,
    "gelu": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "gelu_tanh": lambda x: x / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))),
}


def function(name: str, x: Array, form: str) -> tuple[Array, int]:
    """``name`` at finite float64 numbers, rounded to a format, as float64; and how many took mpmath."""
    with np.errstate(all="ignore"):
        y = REFERENCES[name](x.astype(np.longdouble))
        room = np.abs(y) * L(ROOM.get(name, 2.0**-60))
        low, out = short(y - room, form), short(y + room, form)
    open_ = ~((low == out) & (np.signbit(low) == np.signbit(out))) & np.isfinite(y) & (y != 0)
    with mpmath.workprec(1200):  # e^x of a subnormal needs 150 bits before its first one after 1
        for i in open_.nonzero()[0]:
            value = SURE[name](mpmath.mpf(float(x[i])))
            sign, digits, exponent, _ = value._mpf_
            out[i] = nearest(-int(digits) if sign else int(digits), int(exponent), form)
    clear = (y == 0) | np.isinf(y)
    out[clear] = y[clear].astype(np.float64)
    return out, int(open_.sum())
