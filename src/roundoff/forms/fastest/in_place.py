"""Activations in place: in an ``nn.Sequential``, a ReLU writes into what the layer before it has just made.

A tensor of some megabytes costs more to be given by the system, page by page, than to be computed on. Between two layers of
a sequence nobody but the sequence holds it, and neither of these layers' gradients needs it.

Requires: the class ``nn.Sequential`` itself.
Applies: at each call anew, to an ``nn.ReLU`` after a layer that makes new memory, where neither has a hook. The ReLU itself
stays as it is, for whoever calls it otherwise.
Ensures: the same bits.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from roundoff.forms.fastest.ways import NEW_MEMORY
from roundoff.forms.layers import Rewritten

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, _BatchNorm, *NEW_MEMORY)
_FORWARDS = {kind.forward for kind in _LAYERS}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class SequentialInPlace(nn.Sequential):
    """A sequence whose activations write in place where nobody can see it."""

    def forward(self, input: Tensor) -> Tensor:
        """What ``nn.Sequential`` gives."""
        before: nn.Module | None = None
        for module in self:
            input = F.relu(input, inplace=True) if before is not None and _unseen(before, module) else module(input)
            before = module
        return input


def _unseen(layer: nn.Module, activation: nn.Module) -> bool:
    """True where ``activation`` can overwrite the result of ``layer`` without anyone seeing it."""
    if type(activation) is not nn.ReLU or any(vars(m).get(hooks) for m in (layer, activation) for hooks in _HOOKS):
        return False
    own = "forward" in vars(layer) or "forward" in vars(activation)
    return not own and (type(layer).forward in _FORWARDS or isinstance(layer, Rewritten))


def in_place(model: nn.Module) -> list[str]:
    """Let the sequences of ``model`` run so; the names of those in which there is an activation to gain from."""
    found = []
    for name, module in model.named_modules():
        plain = type(module) is nn.Sequential and "forward" not in vars(module)
        if plain and any(_unseen(layer, activation) for layer, activation in pairwise(module)):
            module.__class__ = SequentialInPlace
            found.append(name)
    return found
