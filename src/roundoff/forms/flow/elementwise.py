"""An operator that treats every element alike commutes with any move of axes: f(P x) = P f(x), f(P x, P y) = P f(x, y).

A residual sum is one. An operand that is computed from parameters alone is put in the order of the other by a view. Where
two operands are held in different orders, one of them is moved.

Requires: an operator of the list below, on tensors of one rank, and numbers.
Applies: to functions, methods and modules.
Ensures: the result in the order of the operands.
"""

from __future__ import annotations

from torch import fx, nn

from roundoff.forms.flow.capture import Like, called, in_place
from roundoff.forms.flow.program import has_hooks, replaced
from roundoff.forms.flow.push import Push
from roundoff.forms.flow.values import Ref, Value, identity

_MODULES = (
    nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.ELU,
    nn.SELU, nn.CELU, nn.LeakyReLU, nn.Softplus, nn.LogSigmoid, nn.Identity,
)  # fmt: skip
_NAMES = {
    "relu", "relu6", "gelu", "silu", "mish", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "elu", "selu",
    "celu", "leaky_relu", "softplus", "add", "sub", "mul", "div", "truediv", "radd", "rsub", "rmul", "neg", "exp", "log",
    "sqrt", "square", "pow", "abs", "erf", "clamp", "iadd", "isub", "imul", "relu_", "add_", "mul_", "clone", "float",
    "contiguous", "rsqrt", "where", "maximum", "minimum", "sin", "cos", "log1p", "expm1",
}  # fmt: skip


def elementwise(push: Push, node: fx.Node) -> Value | None:
    """The rule."""
    if node.op == "call_module":
        module = push.module.get_submodule(str(node.target))
        if type(module) not in _MODULES or has_hooks(module):
            return None
    else:
        if called(node) not in _NAMES or {"out", "memory_format"} & set(node.kwargs):
            return None
    like = node.meta.get("like")
    given = [push.value(n) for n in node.all_input_nodes]
    tensors = [v for v in given if v.axes is not None and not v.weight]
    if not isinstance(like, Like) or not tensors or any(v.axes is None for v in given):
        return None
    rank = len(like.shape)
    if any(v.axes is None or len(v.axes) != rank for v in tensors):
        return None
    want = tensors[0 if push.keep or in_place(called(node)) else -1].axes
    assert want is not None

    def held(n: fx.Node) -> Ref:
        value = push.value(n)
        return push.weight(value, want) if value.weight else push.at(value, want)

    args, kwargs = replaced((node.args, node.kwargs), fx.Node, held)
    if called(node) == "contiguous" and want != identity(
        rank
    ):  # of what the network thinks it is: what is held is as it is
        return push.made(node, args[0], want)
    kind = {"call_module": "module", "call_function": "function", "call_method": "method"}[node.op]
    return push.made(node, push.line(kind, node.target, *args, **kwargs), want)
