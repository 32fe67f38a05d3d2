"""Operators that make a tensor from no tensor: zeros and ones exactly; ranges and written numbers with roundings."""

from __future__ import annotations

import torch

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Given, given

MAKES = (
    "empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided",
    "zeros", "zeros_like", "new_zeros", "zero", "_efficientzerotensor", "ones", "ones_like", "new_ones", "eye",
    "tril_indices", "triu_indices", "resize_as", "_resize_output",
)  # fmt: skip

register(
    Rule(
        tuple(f"aten.{name}" for name in MAKES),
        Nature.MAKES,
        source="zeros, ones, and memory that is written to later",
    )
)

_DTYPED: dict[str, Given] = {
    "full": lambda r: [([3, 4], 0.1, {"dtype": r.dtype})],
    "full_like": lambda r: [(r.normal(3), 0.1)],
    "new_full": lambda r: [(r.normal(3), [2, 2], 0.1)],
    "scalar_tensor": lambda r: [(0.1, {"dtype": r.dtype})],
}

for _name, _cases in _DTYPED.items():
    register(
        Rule((f"aten.{_name}",), Nature.ROUNDS, source="a number is rounded once to the format", samples=given(_cases))
    )


def _range(call: Call) -> Limit:
    """start + i step: the step is rounded once, and the product and the sum once each."""
    y = call.out[0]
    if not y.is_floating_point() or not y.numel():
        return 0.0
    start = y.reshape(-1)[0].abs()
    return (y.abs() + start).mul_(call.gamma(3)).add_(call.tiny)


def _powers(call: Call) -> Limit:
    """base ** linspace(start, end): an error of the exponent is multiplied by its logarithm."""
    y = call.out[0]
    exponents = torch.as_tensor(float(call.arg(3, "base", 10.0)), dtype=torch.float64).log().abs()
    reach = max(abs(float(call.args[0])), abs(float(call.args[1]))) * float(exponents)
    return y.abs() * (call.gamma(4) * (1 + reach) + call.gamma(6))


def _line(call: Call) -> Limit:
    """Counted from both ends: start + i step or end - (n - i) step, the step rounded once."""
    start, end = float(call.args[0]), float(call.args[1])
    return (abs(start) + abs(end)) * call.gamma_out(4) + call.tiny


register(
    Rule(
        ("aten.arange",),
        Nature.ROUNDS,
        _range,
        source="start + i step, three roundings",
        assumes="i is exact in the arithmetic (fewer than 2^24 numbers)",
        samples=given(
            lambda r: [
                (10.0, {"dtype": r.dtype}),
                (0.1, 2.3, 0.1, {"dtype": r.dtype}),
                (-5.0, 5.0, 0.37, {"dtype": r.dtype}),
            ]
        ),
    )
)
register(
    Rule(
        ("aten.linspace",),
        Nature.ROUNDS,
        _line,
        source="start + i step from either end, four roundings",
        samples=given(
            lambda r: [(-1.0, 1.0, 33, {"dtype": r.dtype}), (0.1, 0.7, 100, {"dtype": r.dtype})],
        ),
    )
)
register(
    Rule(
        ("aten.logspace",),
        Nature.ROUNDS,
        _powers,
        source="base to the power of a linspace; conditioning of the power",
        samples=given(lambda r: [(-1.0, 1.0, 33, {"dtype": r.dtype})]),
    )
)


def _window(call: Call) -> Limit:
    """Cosines of 2 pi i / n and its multiples, each argument rounded, added with weights of at most 1 in all."""
    return call.gamma(64) + call.gamma_out(12)


for _name in ("hann_window", "hamming_window", "blackman_window", "bartlett_window", "kaiser_window"):
    register(
        Rule(
            (f"aten.{_name}",),
            Nature.ROUNDS,
            _window,
            source="conditioning of cosines of rounded arguments",
            samples=given(lambda r: [(n, {"dtype": r.dtype}) for n in (8, 33, 400)]),
        )
    )
