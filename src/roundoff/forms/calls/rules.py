"""The rules for functional calls, by the name of the call."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch.nn.functional as F

from roundoff.forms.calls import added, convolution, einsum, linear, matmul, tensordot
from roundoff.forms.calls.given import CallRule

RULES = (linear.RULE, matmul.RULE, added.RULE, einsum.RULE, tensordot.RULE, convolution.RULE)
_BY_NAME = {(rule.to, op): rule for rule in RULES for op in rule.ops}

#: Calls that multiply, by the form that they would be rewritten to; those without a rule are declined.
PRODUCTS = {
    "conv": frozenset(op for rule in RULES if rule.to == "conv" for op in rule.ops)
    | {"addbmm", "inner", "linalg_multi_dot", "linalg_vecdot", "vdot", "bilinear", "chain_matmul"}
    | {"addmm_", "baddbmm_", "addmv_", "addbmm_"},
    "linear": frozenset(op for rule in RULES if rule.to == "linear" for op in rule.ops)
    | {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "conv_tbc"},
}


def rule_for(to: str, op: str) -> CallRule | None:
    """The rule for a call, or None."""
    return _BY_NAME.get((to, op))


def _no(*_: Any) -> bool:
    return False


def _open(function: Any) -> Callable[..., Any]:
    """A copy of ``function`` that runs its body instead of handing itself, whole, to the mode that watches."""
    copy = FunctionType(
        function.__code__,
        function.__globals__ | {"has_torch_function": _no},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


_OPENED = {F.multi_head_attention_forward: _open(F.multi_head_attention_forward)}


def opened(function: Any) -> Callable[..., Any] | None:
    """For a function of PyTorch that is written in calls of others: one whose calls a mode sees."""
    return _OPENED.get(function)
