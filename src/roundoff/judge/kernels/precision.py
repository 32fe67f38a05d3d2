"""Reduced precision: did a product round its operands to a shorter format, and does the setting in force allow it?"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import UNIT_ROUNDOFF, widen
from roundoff.judge.kernels.shorter import Hypothesis, candidates
from roundoff.replay.redo import redo
from roundoff.replay.wide import Executed
from roundoff.rules.rule import Products
from roundoff.tape.leaves import map_operands

#: How many standard deviations the share of an explanation in the error must be away from nothing, for there are six
#: explanations and many steps; and how near to the whole it must be.
_SIGMAS, _NEAR = 10.0, 0.1

#: What float32 sums leave, of ‖x‖‖w‖: 2^-24.5 where each number is added to the sum of those before, at any length.
_SUM = 2.0**-23

#: Sums in a short format spread their error over all elements: the largest of a million normal numbers is 7.3 times
#: their median size. An element that is wrong by itself stands out.
_EVEN = 10.0


@dataclass(frozen=True)
class Explanation:
    """The arithmetic that explains an error, and the result that would follow from it; None where no sum can be redone."""

    hypothesis: Hypothesis
    result: Tensor | None


def explain_error(executed: Executed, native: Tensor, reference: Tensor) -> Explanation | None:
    """The shorter arithmetic that made the error of a sum of products, if one did.

    Each candidate predicts the error. Of the right one the error is the whole, up to the rounding of the sum, which
    knows nothing of it: the coefficient of the error on the prediction is 1, and 0 for a clean kernel, within a standard
    deviation that falls with the number of elements, so that it is told apart at any length of the sums.
    """
    rule = executed.rule
    if rule is None or rule.products is None:
        return None
    products = rule.products(executed.args, executed.kwargs)
    error = widen(native) - reference
    error = torch.where(error.isfinite(), error, 0.0)
    if native.dtype in (torch.float16, torch.bfloat16):
        return _short_sums(native, error, products)
    if native.dtype not in (torch.float32, torch.complex64):
        return None
    if not any(x is products.x for x in executed.args) or not any(x is products.w for x in executed.args):
        return None  # the rule hands out views of its operands, which cannot be exchanged

    def with_operands(x: Tensor, w: Tensor) -> Tensor:
        def operand(given: Any) -> Any:
            return x if given is products.x else w if given is products.w else given

        args = tuple(map_operands(operand, a) for a in executed.args)
        return redo(executed.step, rule, args, executed.kwargs, executed.outs)[0]

    sums = _SUM * _size(products.rows(products.x) * (products.cols(products.w) * products.scale))
    best: tuple[float, Explanation] | None = None
    for hypothesis, y in candidates(products.x, products.w, with_operands):
        left = _left(error, y - reference)
        if left is None or left > max(_size(error) / 3, sums):
            continue
        if best is None or left < best[0] / (1 if best[1].hypothesis is hypothesis else 2):
            best = left, Explanation(hypothesis, y)
    return best[1] if best is not None else None


def _left(error: Tensor, predicted: Tensor) -> float | None:
    """The size of what ``predicted`` leaves of ``error``; None where it does not explain it."""
    whole = _size(predicted)
    if not 0 < whole < float("inf"):
        return None
    share = float((error * predicted.conj()).real.mean()) / whole**2
    deviation = _size(error - share * predicted) / whole / sqrt(error.numel())
    if not abs(share - 1) <= _NEAR + 5 * deviation or not share >= _SIGMAS * deviation:
        return None
    return _size(error - predicted)


def _size(x: Tensor) -> float:
    return float(x.abs().square().mean().sqrt())


def _short_sums(native: Tensor, error: Tensor, products: Products) -> Explanation | None:
    """Sums that were kept in the short format of the result, in whole (float16) or in parts.

    Their error is everywhere, of the size of one rounding of the numbers that were stored, and no part of the result
    itself: a wrong element, a part that was left out and a wrong scale are none of it.
    """
    u = UNIT_ROUNDOFF[native.dtype]
    norms = (products.rows(products.x) * (products.cols(products.w) * products.scale)).expand(error.shape)
    y = widen(native) - error
    stored = torch.maximum(y.abs(), norms / sqrt(products.terms))  # what parts of sums are like, and the sum itself
    relative = (error.abs() / stored).flatten()
    relative = relative[relative.isfinite()]
    if relative.numel() < 16 or not bool(relative.max() <= _EVEN * relative.median()):
        return None
    if not abs(float((error * y).mean())) <= u * float(y.square().mean()):
        return None
    if native.dtype == torch.bfloat16:
        return Explanation(Hypothesis.BFLOAT16_SUMS, None) if _size(error) <= 4 * u * _size(stored) else None
    whole = max(
        4 * u * _size(stored), u * _size(norms)
    )  # each term added to a sum in float16 leaves about a third of it
    return Explanation(Hypothesis.FLOAT16_SUMS, None) if _size(error) <= whole else None


@dataclass(frozen=True)
class Setting:
    """A precision setting in force: its name and value, what switches it off, and whether it allows what was found."""

    name: str
    value: str
    off: str
    allows: bool

    def __str__(self) -> str:
        return f"{self.name} is {self.value}"


def setting_of(op: Any, device: str, hypothesis: Hypothesis) -> Setting | None:
    """The setting that decides whether ``op`` on ``device`` may compute so; None where there is none."""
    if hypothesis in (Hypothesis.FLOAT16_SUMS, Hypothesis.BFLOAT16_SUMS):
        return _sums_setting(hypothesis) if device == "cuda" else None
    convolution, cuda = "convolution" in str(op), device == "cuda"
    backend = "mkldnn" if not cuda else "cudnn" if convolution else "cuda"
    operator = "conv" if convolution else "matmul"
    owner = getattr(getattr(torch.backends, backend), operator, None)
    value = str(getattr(owner, "fp32_precision", "none"))
    if value == "none" and backend == "mkldnn" and not convolution:  # the older setting, not passed on
        value = {"high": "tf32", "medium": "bf16"}.get(torch.get_float32_matmul_precision(), "none")
    name = f"torch.backends.{backend}.{operator}.fp32_precision"
    older = _OLDER.get((backend, operator), "")
    return Setting(name, f"'{value}'", f"{name} = 'ieee'{older}", hypothesis in _ALLOWS[cuda].get(value, ()))


_OLDER = {
    ("mkldnn", "matmul"): " or torch.set_float32_matmul_precision('highest')",
    ("cuda", "matmul"): " or torch.set_float32_matmul_precision('highest')",
    ("cudnn", "conv"): " or torch.backends.cudnn.allow_tf32 = False",
}


def permitted(op: Any, device: str, hypothesis: Hypothesis) -> bool:
    """Does the setting in force allow ``op`` on ``device`` to compute so?"""
    setting = setting_of(op, device, hypothesis)
    return setting is not None and setting.allows


#: What a value of fp32_precision allows: on the CPU, and on a GPU.
_ALLOWS: tuple[dict[str, tuple[Hypothesis, ...]], dict[str, tuple[Hypothesis, ...]]] = (
    {
        "tf32": (Hypothesis.TF32, Hypothesis.BF16X3),
        "bf16": (Hypothesis.BFLOAT16, Hypothesis.TF32, Hypothesis.BF16X3),
    },
    {"tf32": (Hypothesis.TF32,)},
)


def _sums_setting(hypothesis: Hypothesis) -> Setting:
    names = ["allow_bf16_reduced_precision_reduction"]
    if hypothesis is Hypothesis.FLOAT16_SUMS:
        names = ["allow_fp16_accumulation", "allow_fp16_reduced_precision_reduction"]
    for name in names:
        value = getattr(torch.backends.cuda.matmul, name, False)
        full, allows = f"torch.backends.cuda.matmul.{name}", bool(value[0] if isinstance(value, tuple) else value)
        if allows:
            break
    return Setting(full, str(allows), f"{full} = False", allows)
