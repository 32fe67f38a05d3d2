"""A network with exact layers."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from roundoff.errors import RoundoffError
from roundoff.exact.mode import ExactModel
from roundoff.exact.rounding import SHORT
from roundoff.records import Converted, Declined

#: Modules whose functions have exact counterparts.
LAYERS: tuple[type[nn.Module], ...] = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.ELU, nn.SiLU, nn.GELU, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.LogSoftmax,
    nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
    nn.MSELoss, nn.L1Loss, nn.CrossEntropyLoss,
)  # fmt: skip

#: Modules that round nothing, or only as IEEE arithmetic does.
MOVES: tuple[type[nn.Module], ...] = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.ReLU, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.Embedding,
    nn.Dropout, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.PixelShuffle, nn.ZeroPad2d,
)  # fmt: skip


@dataclass(frozen=True)
class Exact:
    """A network with exact layers: ``model``, a copy; which modules are exact, and which could not be."""

    model: nn.Module
    converted: tuple[Converted, ...]
    declined: tuple[Declined, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.converted)} layers are exact, {len(self.declined)} are not."]
        lines += [f"  {layer.module or '(the network)'} ({layer.what}): {layer.reason}" for layer in self.declined]
        return "\n".join(lines)


def make_exact(model: nn.Module) -> Exact:
    """A copy of ``model`` whose operations are exact; ``declined`` lists the modules that could not be made so.

    What a module of the user's own computes is only seen when it runs: the copy warns of each operation that is not
    exact, and keeps them in ``.model.inexact``.

    Raises RoundoffError for what is not a module.

    >>> import torch
    >>> made = make_exact(nn.Sequential(nn.Linear(4, 2), nn.LSTM(2, 2)))
    >>> [layer.module for layer in made.converted], [layer.module for layer in made.declined]
    (['0'], ['1'])
    """
    if not isinstance(model, nn.Module):
        raise RoundoffError(f"make_exact was given a {type(model).__name__} and takes an nn.Module.")
    converted, declined = [], []
    for name, module in model.named_modules():
        kind = type(module).__name__
        wrong = {str(p.dtype) for p in module.parameters(recurse=False) if p.dtype not in SHORT}
        if wrong:
            declined.append(
                Declined(name, kind, f"its parameters are {', '.join(sorted(wrong))}, with no wider product here")
            )
        elif type(module) in LAYERS:
            converted.append(Converted(name, kind, f"exact {kind}"))
        elif type(module) not in MOVES and type(module).__module__.startswith("torch.nn"):
            declined.append(Declined(name, kind, "no exact expression is written for it"))
    return Exact(ExactModel(copy.deepcopy(model)), tuple(converted), tuple(declined))


__all__ = ["Converted", "Declined", "Exact", "make_exact"]
