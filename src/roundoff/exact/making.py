"""A network with exact layers: a copy whose modules run in the exact context, wherever they are called from."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from roundoff.conversion import Conversion
from roundoff.errors import RoundoffError
from roundoff.exact.mode import active, mode
from roundoff.exact.rounding import SHORT
from roundoff.records import Converted, Declined

#: Modules whose functions have exact counterparts.
LAYERS: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer,
    nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer,
    nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.Mish, nn.GELU, nn.Softplus, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Hardswish,
    nn.Hardsigmoid, nn.LeakyReLU, nn.PReLU, nn.GLU, nn.Softsign, nn.Tanhshrink,
    nn.Softmax, nn.Softmin, nn.Softmax2d, nn.LogSoftmax,
    nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.RMSNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.KLDivLoss, nn.CrossEntropyLoss, nn.NLLLoss, nn.BCELoss,
    nn.BCEWithLogitsLoss,
)  # fmt: skip

#: Modules that round nothing, or only as IEEE arithmetic does.
MOVES: tuple[type[nn.Module], ...] = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Threshold,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Sequential, nn.ModuleList, nn.ModuleDict,
    nn.ParameterList, nn.ParameterDict, nn.PixelShuffle, nn.PixelUnshuffle, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d,
    nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, nn.ChannelShuffle,
    nn.modules.linear.NonDynamicallyQuantizableLinear, nn.utils.parametrize.ParametrizationList,
)  # fmt: skip


class Exact:
    """The exact context around a module's own forward; mixed into the classes of an exact network's modules."""

    @property
    def inexact(self) -> tuple[str, ...]:
        """The operations that ran and are not exact, in the order in which they first ran."""
        return tuple(self.__dict__.get("_roundoff_inexact", ()))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module and its hooks, by exact operations; warns of each operation that is not exact, once."""
        return self._exactly(super().__call__, args, kwargs)  # type: ignore[misc]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, by exact operations; the same warnings."""
        return self._exactly(super().forward, args, kwargs)  # type: ignore[misc]

    def _exactly(self, function: Any, args: Any, kwargs: Any) -> Any:
        if active():
            return function(*args, **kwargs)
        with mode() as m:
            out = function(*args, **kwargs)
        if m.inexact:
            known = self.__dict__.setdefault("_roundoff_inexact", {})
            new = [op for op in m.inexact if op not in known]
            known.update(dict.fromkeys(new))
            if new:
                warnings.warn(f"Not exact in this network: {', '.join(new)}.", stacklevel=3)
        return out

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _empty, (type(self).__mro__[2],), self.__dict__


def _class(base: type[nn.Module]) -> type[nn.Module]:
    made = type(f"Exact{base.__name__}", (Exact, base), {"__module__": base.__module__, "__doc__": base.__doc__})
    _CLASSES[base] = made
    return made


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _empty(base: type[nn.Module]) -> nn.Module:
    kind = _CLASSES.get(base) or _class(base)
    return kind.__new__(kind)


def make_exact(model: nn.Module) -> Conversion:
    """A copy of ``model`` whose operations are exact; ``declined`` lists the modules that could not be made so.

    Every module of the copy runs in the exact context, whether it is called by the others or by itself; parameters keep
    their names, and the copy trains, compiles and exports. What a module of the user's own computes is only seen when it
    runs: the copy warns of each operation that is not exact, and keeps them in ``.model.inexact``.

    Raises RoundoffError for what is not a module, and for one that cannot be copied, is compiled or has no parameters yet.

    >>> import torch
    >>> made = make_exact(nn.Sequential(nn.Linear(4, 2), nn.LSTM(2, 2)))
    >>> print(made)
    to exact: 1 converted, 1 declined
      0: Linear -> ExactLinear
      1: LSTM declined: no exact expression is written for it; what it runs is not exact, and is warned of
    """
    if not isinstance(model, nn.Module):
        raise RoundoffError(f"make_exact was given a {type(model).__name__} and takes an nn.Module.")
    try:
        new = copy.deepcopy(model)
    except Exception as error:
        raise RoundoffError(f"make_exact could not copy {type(model).__name__}: {error}") from error
    converted, declined = [], []
    for name, module in new.named_modules():
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise RoundoffError(f"{name or 'The network'} has no parameters yet. Run the network once first.")
        if isinstance(module, torch.jit.ScriptModule):
            raise RoundoffError(
                f"{name or 'The network'} is compiled by TorchScript. Give the module it was made from."
            )
        kind, reason = type(module), _declines(module)
        if reason:
            declined.append(Declined(name, _kind(module).__name__, reason))
        if not isinstance(module, Exact) and kind.forward is not nn.Module.forward:
            module.__class__ = _CLASSES.get(kind) or _class(kind)
        if not reason and _kind(module) in _KNOWN:
            converted.append(Converted(name, _kind(module).__name__, type(module).__name__))
    shapes = {n: tuple(x.shape) for n, x in model.state_dict().items() if isinstance(x, torch.Tensor)}
    return Conversion("exact", new, tuple(converted), tuple(declined), 0, {}, shapes)


_KNOWN = frozenset(LAYERS)


def _kind(module: nn.Module) -> type[nn.Module]:
    """The class of a module, without what made it exact or parametrised."""
    kind = type(module)
    while issubclass(kind, Exact) or kind.__name__.startswith("Parametrized"):
        kind = next(base for base in kind.__bases__ if issubclass(base, nn.Module))
    return kind


def _declines(module: nn.Module) -> str:
    """Why a module cannot be made exact; empty where it can, or where only a run can tell."""
    kind = _kind(module)
    wrong = sorted({str(p.dtype) for p in module.parameters(recurse=False) if p.dtype not in SHORT})
    if wrong:
        return f"its parameters are {', '.join(wrong)}, with no wider product here; it stays as it is"
    if kind in _KNOWN:
        return _options(module)
    if kind not in MOVES and kind.__module__.startswith("torch.") and kind.forward is not nn.Module.forward:
        return "no exact expression is written for it; what it runs is not exact, and is warned of"
    return ""


def _options(module: nn.Module) -> str:
    """Options that the exact counterparts do not take."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        if module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
            return "it has max_norm, scale_grad_by_freq or a sparse gradient"
        if isinstance(module, nn.EmbeddingBag) and module.mode == "max":
            return "the largest of a bag is exact, its gradient is not"
    if isinstance(module, nn.Softplus) and (module.beta != 1 or module.threshold < 20):
        return "it takes beta=1 and a threshold of 20 or more"
    if isinstance(module, (nn.Softmax, nn.Softmin, nn.LogSoftmax)) and module.dim is None:
        return "it has no dim"
    if isinstance(module, (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)) and module.track_running_stats:
        return "it keeps running statistics"
    mode_of_padding = getattr(module, "padding_mode", "zeros")
    if mode_of_padding != "zeros" and any(p.requires_grad for p in module.parameters()):
        return f"its padding is {mode_of_padding!r}, whose gradient is not exact; its result is"
    return ""
