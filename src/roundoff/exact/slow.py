"""Elementwise functions to as many digits as it takes, by decimal arithmetic: for the few arguments that need it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import cache

#: Digits. The longest float32 number has 112, and 1 + e^-100 needs 44 more than what is wanted of it.
DIGITS = 300

Slow = Callable[[Decimal], Decimal]


def value_of(function: Slow, x: float) -> Fraction:
    """``function`` at a float64 number, right to far more digits than any format holds."""
    with localcontext(Context(prec=DIGITS, Emax=10**9, Emin=-(10**9))):
        return Fraction(function(Decimal(x)))


@cache
def pi() -> Decimal:
    """π by Machin's formula, 16 arctan(1/5) - 4 arctan(1/239)."""

    def arctan_of_one_over(n: int) -> Decimal:
        power = total = Decimal(1) / n
        k = 1
        while abs(power) > Decimal(10) ** -(DIGITS + 5):
            power /= -n * n
            k += 2
            total += power / k
        return total

    with localcontext(Context(prec=DIGITS + 10)):
        return 16 * arctan_of_one_over(5) - 4 * arctan_of_one_over(239)


def log1p(x: Decimal) -> Decimal:
    """log(1 + x)."""
    return (1 + x).ln()


def expm1(x: Decimal) -> Decimal:
    """e^x - 1."""
    return x.exp() - 1


def log2(x: Decimal) -> Decimal:
    """The logarithm to base 2; exact for powers of 2, of which none is half way."""
    return x.ln() / Decimal(2).ln()


def exp2(x: Decimal) -> Decimal:
    """2 to the power x; exact for whole numbers."""
    return Decimal(2) ** x


def sigmoid(x: Decimal) -> Decimal:
    """1 / (1 + e^-x)."""
    return 1 / (1 + (-x).exp())


def tanh(x: Decimal) -> Decimal:
    """(e^2x - 1) / (e^2x + 1)."""
    e = (2 * x).exp()
    return (e - 1) / (e + 1)


def softplus(x: Decimal) -> Decimal:
    """log(1 + e^x)."""
    return (1 + x.exp()).ln()


def silu(x: Decimal) -> Decimal:
    """x sigmoid(x)."""
    return x * sigmoid(x)


def mish(x: Decimal) -> Decimal:
    """x tanh(log(1 + e^x)), which is x n / (n + 2) with n = e^x (e^x + 2)."""
    e = x.exp()
    n = e * (e + 2)
    return x * n / (n + 2)


#: The two numbers of SELU, as they are published (Klambauer and others, Self-normalizing neural networks, 2017).
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def selu(x: Decimal) -> Decimal:
    """scale · x above 0, else scale · alpha · (e^x - 1); the two numbers as float64 has them."""
    return Decimal(SELU_SCALE) * (x if x > 0 else Decimal(SELU_ALPHA) * (x.exp() - 1))


def sin(x: Decimal) -> Decimal:
    """By its series, after whole turns are taken away."""
    return _series(x, 1)


def cos(x: Decimal) -> Decimal:
    """By its series, after whole turns are taken away."""
    return _series(x, 0)


def _series(x: Decimal, first: int) -> Decimal:
    x -= (x / (2 * pi())).to_integral_value() * 2 * pi()
    term = total = x if first else Decimal(1)
    n = first
    while term and abs(term) > abs(total) * Decimal(10) ** -(DIGITS // 2):
        term *= -x * x / ((n + 1) * (n + 2))
        n += 2
        total += term
    return total


def erf(x: Decimal) -> Decimal:
    """2/√π Σ (-1)^n x^(2n+1) / (n! (2n+1)); its terms reach e^(x²) before they shrink."""
    power = total = x
    n = 0
    while power and (n < x * x or abs(power) > abs(total) * Decimal(10) ** -(DIGITS - 10)):
        n += 1
        power *= -x * x / n
        total += power / (2 * n + 1)
    return 2 * total / pi().sqrt()


def erfc(x: Decimal) -> Decimal:
    """1 - erf(x); for x up to 11, beyond which it is below float32's numbers."""
    return 1 - erf(x)


def gelu(x: Decimal) -> Decimal:
    """x Φ(x)."""
    return x * (1 + erf(x / Decimal(2).sqrt())) / 2


def gelu_tanh(x: Decimal) -> Decimal:
    """x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2."""
    return x * sigmoid(2 * (2 / pi()).sqrt() * (x + Decimal("0.044715") * x * x * x))


def rsqrt(x: Decimal) -> Decimal:
    """1 / √x."""
    return 1 / x.sqrt()


SLOW: dict[str, Slow] = {
    "exp": Decimal.exp,
    "exp2": exp2,
    "expm1": expm1,
    "log": Decimal.ln,
    "log1p": log1p,
    "log2": log2,
    "log10": Decimal.log10,
    "sqrt": Decimal.sqrt,
    "rsqrt": rsqrt,
    "sin": sin,
    "cos": cos,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "logsigmoid": lambda x: -softplus(-x),
    "silu": silu,
    "mish": mish,
    "selu": selu,
    "erf": erf,
    "erfc": erfc,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
}
