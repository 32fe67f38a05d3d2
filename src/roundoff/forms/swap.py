"""Put another layer in the place of one that stands in a network."""

from __future__ import annotations

from torch import nn

from roundoff.forms.layers import Rewritten

_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
          "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook")  # fmt: skip

#: What a layer in another form has for itself.
_OF_FORMS = {"in_features", "out_features", "view", "maps", "sizes", "last", "pads"}
_OF_FORMS |= vars(nn.Conv1d(1, 1, 1, device="meta")).keys()


def swap(old: nn.Module, new: nn.Module) -> None:
    """``old`` turns into ``new``, with its hooks and what the user put on it.

    It stays the same object, so that whoever holds it (a list, a hook) has the new layer.
    """
    _carry_over(old, new)
    old.__class__ = new.__class__
    vars(old).clear()
    vars(old).update(vars(new))


def _carry_over(old: nn.Module, new: nn.Module) -> None:
    """Hooks, and what the user put on the layer."""
    for name in _HOOKS:
        if name in vars(old):
            vars(new)[name] = vars(old)[name]
    ours = _OF_FORMS if isinstance(old, Rewritten) else ()
    for name, value in vars(old).items():
        if name not in vars(new) and name not in ours and not hasattr(type(new), name):
            vars(new)[name] = value
