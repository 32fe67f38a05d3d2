"""Which of PyTorch's functions has which exact counterpart; each takes the arguments that PyTorch's own takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from roundoff.errors import RoundoffError
from roundoff.exact import activations as act
from roundoff.exact import contractions as con
from roundoff.exact import losses, norms, ops, pooling, softmax, steps
from roundoff.exact.attention import attention, multi_head_attention
from roundoff.exact.einsum import einsum
from roundoff.exact.elementwise import FUNCTIONS
from roundoff.exact.embedding import embedding, embedding_bag
from roundoff.exact.gradients import expand, take

Function = Callable[..., Any]


def named(function: Function, *names: str) -> Function:
    """``function`` with its first arguments by the names that PyTorch gives them, or by position."""

    def call(*args: Any, **kwargs: Any) -> Any:
        given = list(args)
        for name in names[len(given) :]:
            if name not in kwargs:
                break
            given.append(kwargs.pop(name))
        return function(*given, **kwargs)

    return call


def in_place(function: Function) -> Function:
    """The method of PyTorch that writes its result into its first operand."""

    def call(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x.copy_(function(_kept(x), *args, **kwargs))

    return call


def _kept(x: Tensor) -> Tensor:
    """``x``, or a copy where its gradient will need what is about to be written over."""
    return x.clone() if x.requires_grad and torch.is_grad_enabled() else x


def _activation(function: Function) -> Function:
    def call(input: Tensor, *args: Any, inplace: bool = False, **kwargs: Any) -> Tensor:
        y: Tensor = function(_kept(input) if inplace else input, *args, **kwargs)
        return input.copy_(y) if inplace else y

    return call


def _last_flag(function: Function, count: int) -> Function:
    """An activation whose argument number ``count`` is ``inplace``."""
    whole = _activation(function)

    def call(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if len(args) == count:
            kwargs["inplace"], args = args[-1], args[:-1]
        y: Tensor = whole(input, *args, **kwargs)
        return y

    return call


def _each(name: str) -> Function:
    def function(input: Tensor) -> Tensor:
        return ops.each(input, name)

    return function


def _soft(function: Function) -> Function:
    def call(input: Tensor, dim: int, _stacklevel: Any = 3, dtype: torch.dtype | None = None) -> Tensor:
        if isinstance(_stacklevel, torch.dtype):  # the third argument of the functions in torch
            dtype = _stacklevel
        y: Tensor = function(input if dtype is None else input.to(dtype), dim)
        return y

    return call


def _reduce(function: Function) -> Function:
    def call(input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None,
             axis: Any = None) -> Tensor:  # fmt: skip
        y: Tensor = function(input if dtype is None else input.to(dtype), dim if axis is None else axis, keepdim)
        return y

    return call


def _loss(function: Function) -> Function:
    """A loss without the two arguments that PyTorch has given up."""

    def call(*args: Any, size_average: Any = None, reduce: Any = None, **kwargs: Any) -> Tensor:
        if size_average is not None or reduce is not None:
            raise RoundoffError("size_average and reduce are not taken: use reduction.")
        y: Tensor = function(*args, **kwargs)
        return y

    return named(call, "input", "target")


def _weighted(function: Function, weight: int = 2) -> Function:
    """The same, where a weight may follow by position."""
    inner = _loss(function)

    def call(*args: Any, **kwargs: Any) -> Tensor:
        if len(args) > weight + 1:
            raise RoundoffError("Arguments after the weight are taken by name.")
        if len(args) == weight + 1:
            kwargs["weight"], args = args[weight], args[:weight]
        y: Tensor = inner(*args, **kwargs)
        return y

    return call


def _embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
               norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False) -> Tensor:  # fmt: skip
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise RoundoffError("exact.embedding takes no max_norm, scale_grad_by_freq or sparse gradient.")
    return embedding(input, weight, padding_idx)


def _embedding_bag(input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None,
                   norm_type: float = 2, scale_grad_by_freq: bool = False, mode: str = "mean", sparse: bool = False,
                   per_sample_weights: Tensor | None = None, include_last_offset: bool = False,
                   padding_idx: int | None = None) -> Tensor:  # fmt: skip
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise RoundoffError("exact.embedding_bag takes no max_norm, scale_grad_by_freq or sparse gradient.")
    if weight.dim() != 2:  # the names of the first two were the other way round once
        raise RoundoffError("exact.embedding_bag takes indices, then a table of two dimensions.")
    return embedding_bag(input, weight, offsets, mode, per_sample_weights, include_last_offset, padding_idx)


def _power(input: Any, exponent: Any) -> Tensor:
    if not isinstance(input, Tensor) or isinstance(exponent, Tensor):
        raise RoundoffError("exact powers have a number as their exponent.")
    if exponent == 0.5:
        return ops.each(input, "sqrt")
    if exponent == -0.5:
        return ops.each(input, "rsqrt")
    if int(exponent) != exponent:
        raise RoundoffError(f"exact powers are whole ones and roots, not {exponent}.")
    return ops.power(input, int(exponent))


def _divide(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        raise RoundoffError("exact division is that of real numbers.")
    if isinstance(input, Tensor) and isinstance(other, Tensor):
        return wide(torch.div)(input, other)
    return act.quotient(input, other)


def wide(function: Function) -> Function:
    """A function of two operands, which are brought to one shape first: the gradient of doing so is a sum."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 2 and all(isinstance(a, Tensor) for a in args) and args[0].shape != args[1].shape:
            shape = torch.broadcast_shapes(args[0].shape, args[1].shape)
            # numbers without dimensions take part with the precision of their own, so only what has gradients is moved
            args = tuple(expand(a, shape) if a.requires_grad and a.shape != shape else a for a in args)
        return function(*args, **kwargs)

    return call


def _times(input: Tensor, a: Tensor, b: Tensor, beta: float, alpha: float, product: Function) -> Tensor:
    if alpha == 1 and beta == 1:
        y: Tensor = product(a, b, input)
        return y
    y = product(a, b, None)
    y = y if alpha == 1 else y * alpha
    return y if beta == 0 else wide(torch.add)(y, input if beta == 1 else input * beta)


def _added(product: Function, *names: str) -> Function:
    def call(input: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        return _times(input, a, b, beta, alpha, product)

    return named(call, "input", *names)


def _batches(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return con.tensordot(a, b, ([0, 2], [0, 1]), bias)


def _getitem(x: Tensor, index: Any) -> Tensor:
    """Rows by whole numbers: what is taken twice has one sum as its gradient."""
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32) or not x.requires_grad:
        return x[index]
    index = index.long()
    return take(x, torch.where(index < 0, index + len(x), index))


def _expand(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        y = x.expand(*args, **kwargs)
    return expand(x, y.shape) if x.requires_grad else y


def _instance_norm(*args: Any, **kwargs: Any) -> Tensor:
    return norms.instance_norm(*args, **kwargs)


def _var(function: Function) -> Function:
    def call(input: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *,
             correction: float | None = None) -> Tensor:  # fmt: skip
        if isinstance(dim, bool):
            raise RoundoffError("Give correction by name.")
        y: Tensor = function(input, dim, (1 if unbiased else 0) if correction is None else correction, keepdim)
        return y

    return call


def _vector_norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    return norms.norm(x if dtype is None else x.to(dtype), ord, dim, keepdim)


def _norm(input: Tensor, p: Any = "fro", dim: Any = None, keepdim: bool = False, out: Any = None,
          dtype: Any = None) -> Tensor:  # fmt: skip
    if out is not None:
        raise RoundoffError("exact.norm takes no out.")
    return norms.norm(input if dtype is None else input.to(dtype), 2 if p is None else p, dim, keepdim)


EXACT: dict[Any, Function] = {
    F.linear: named(con.linear, "input"),
    torch.tensordot: con.tensordot,
    torch.einsum: einsum,
    F.layer_norm: named(norms.layer_norm, "input"),
    F.group_norm: named(norms.group_norm, "input"),
    F.batch_norm: named(norms.batch_norm, "input"),
    F.instance_norm: named(_instance_norm, "input"),
    **dict.fromkeys((F.rms_norm, torch.rms_norm), named(norms.rms_norm, "input")),
    F.normalize: named(norms.normalize, "input"),
    torch.linalg.vector_norm: _vector_norm,
    F.elu: _last_flag(act.elu, 2),
    F.celu: _last_flag(act.celu, 2),
    F.selu: _last_flag(_each("selu"), 1),
    F.mish: _last_flag(_each("mish"), 1),
    F.silu: _last_flag(_each("silu"), 1),
    F.hardsigmoid: _last_flag(act.hardsigmoid, 1),
    F.hardswish: _last_flag(act.hardswish, 1),
    F.leaky_relu: _last_flag(act.leaky_relu, 2),
    F.prelu: named(act.prelu, "input"),
    F.glu: named(act.glu, "input"),
    F.gelu: named(act.gelu, "input"),
    F.softplus: named(act.softplus, "input"),
    F.logsigmoid: _each("logsigmoid"),
    F.softsign: named(act.softsign, "input"),
    F.tanhshrink: named(act.tanhshrink, "input"),
    F.tanh: _each("tanh"),
    F.sigmoid: _each("sigmoid"),
    F.scaled_dot_product_attention: named(attention, "query", "key", "value"),
    F.multi_head_attention_forward: multi_head_attention,
    F.embedding: _embedding,
    F.embedding_bag: _embedding_bag,
    F.mse_loss: _loss(losses.mse_loss),
    F.l1_loss: _loss(losses.l1_loss),
    F.smooth_l1_loss: _loss(losses.smooth_l1_loss),
    F.huber_loss: _loss(losses.huber_loss),
    F.kl_div: _loss(losses.kl_div),
    F.nll_loss: _weighted(losses.nll_loss),
    F.cross_entropy: _weighted(losses.cross_entropy),
    F.binary_cross_entropy: _weighted(losses.binary_cross_entropy),
    F.binary_cross_entropy_with_logits: _weighted(losses.binary_cross_entropy_with_logits),
    F.softmax: _soft(softmax.softmax),
    F.log_softmax: _soft(softmax.log_softmax),
    F.softmin: _soft(lambda x, dim: softmax.softmax(-x, dim)),
    Tensor.__rmatmul__: lambda b, a: con.matmul(a, b),
    Tensor.__matmul__: con.matmul,
    torch.special.erfc: _each("erfc"),
    torch.special.expit: _each("sigmoid"),
    torch.special.exp2: _each("exp2"),
    torch.special.expm1: _each("expm1"),
    torch.special.log1p: _each("log1p"),
    Tensor.__getitem__: _getitem,
    Tensor.expand: _expand,
    Tensor.expand_as: lambda x, other: _expand(x, other.shape),
    Tensor.__pow__: _power,
    Tensor.__truediv__: _divide,
    Tensor.__rtruediv__: lambda x, c: _divide(c, x),
    Tensor.__itruediv__: in_place(_divide),
    Tensor.__ipow__: in_place(_power),
}
for _owner in (torch, Tensor):
    EXACT |= {
        getattr(_owner, _name): _each(_name)
        for _name in FUNCTIONS
        if _name not in ("softplus", "silu", "mish", "selu", "gelu", "gelu_tanh", "logsigmoid")
    }
    EXACT |= {getattr(_owner, _name): _reduce(getattr(con, _name)) for _name in ("sum", "mean")}
    EXACT |= {getattr(_owner, _name): _soft(getattr(softmax, _name)) for _name in ("softmax", "log_softmax")}
    EXACT |= {
        getattr(_owner, _name): wide(getattr(torch, _name)) for _name in ("mul", "multiply", "maximum", "minimum")
    }
    EXACT |= {
        getattr(_owner, "matmul"): named(con.matmul, "input", "other"),  # noqa: B009
        _owner.mm: named(con.matmul, "input", "mat2"),
        _owner.bmm: named(con.matmul, "input", "mat2"),
        _owner.mv: named(con.matmul, "input", "vec"),
        _owner.dot: named(con.matmul, "input", "tensor"),
        _owner.addmm: _added(con.matmul, "mat1", "mat2"),
        _owner.addmv: _added(con.matmul, "mat", "vec"),
        _owner.baddbmm: _added(con.matmul, "batch1", "batch2"),
        _owner.addbmm: _added(_batches, "batch1", "batch2"),
        _owner.pow: _power,
        _owner.square: lambda input: ops.power(input, 2),
        _owner.logsumexp: named(softmax.logsumexp, "input"),
        _owner.norm: _norm,
        _owner.var: _var(norms.var),
        _owner.std: _var(norms.std),
        _owner.add: named(steps.add, "input", "other"),
        _owner.sub: named(steps.sub, "input", "other"),
        _owner.div: named(_divide, "input", "other"),
        _owner.true_divide: named(_divide, "input", "other"),
        _owner.divide: named(_divide, "input", "other"),
        _owner.addcmul: named(steps.addcmul, "input", "tensor1", "tensor2"),
        _owner.addcdiv: named(steps.addcdiv, "input", "tensor1", "tensor2"),
        _owner.lerp: named(steps.lerp, "input", "end", "weight"),
    }
for _name in ("add", "sub", "mul", "div", "addcmul", "addcdiv", "lerp", "pow", "square", "addmm", "baddbmm"):
    EXACT[getattr(Tensor, f"{_name}_")] = in_place(EXACT[getattr(Tensor, _name)])
for _name in ("exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid",
              "erf", "erfc"):  # fmt: skip
    EXACT[getattr(Tensor, f"{_name}_")] = in_place(_each(_name))
for _operator in ("__add__", "__radd__"):
    EXACT[getattr(Tensor, _operator)] = steps.add
EXACT |= {
    Tensor.__sub__: steps.sub,
    Tensor.__mul__: wide(torch.mul),
    Tensor.__rmul__: wide(torch.mul),
    Tensor.__rsub__: lambda x, c: steps.sub(c, x) if isinstance(c, Tensor) else torch.rsub(x, c),
}
for _i in (1, 2, 3):
    EXACT[getattr(F, f"conv{_i}d")] = EXACT[getattr(torch, f"conv{_i}d")] = named(con.convolution, "input")
    EXACT[getattr(F, f"conv_transpose{_i}d")] = EXACT[getattr(torch, f"conv_transpose{_i}d")] = named(
        con.conv_transpose, "input"
    )
    EXACT[getattr(F, f"max_pool{_i}d")] = named(partial(pooling.max_pool, _i), "input", "kernel_size")
    EXACT[getattr(F, f"adaptive_max_pool{_i}d")] = named(partial(pooling.adaptive_max_pool, _i), "input", "output_size")
    EXACT[getattr(F, f"avg_pool{_i}d")] = named(partial(pooling.avg_pool, _i), "input")
    EXACT[getattr(F, f"adaptive_avg_pool{_i}d")] = named(partial(pooling.adaptive_avg_pool, _i), "input")

#: Sums of products, which take a bias that is added to them right away: with it, once more.
WITH_BIAS: dict[Any, Function] = {
    torch.tensordot: con.tensordot,
    F.linear: named(con.linear, "input"),
    **dict.fromkeys((torch.matmul, Tensor.matmul), named(con.matmul, "input", "other")),
    **dict.fromkeys((torch.mm, Tensor.mm, torch.bmm, Tensor.bmm), named(con.matmul, "input", "mat2")),
    Tensor.__matmul__: con.matmul,
}
