"""A class of its own for a module: same name, same signature, same everything but ``forward``.

The module stays the same object. It is pickled as its class and what it holds, so that it can be saved and copied.
"""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable
from typing import Any

from torch import nn

Forward = Callable[..., Any]
Around = Callable[[Forward], Forward]

_CLASSES: dict[tuple[type[nn.Module], Around], type[nn.Module]] = {}


def give_class(module: nn.Module, around: Around) -> None:
    """Let ``module`` run ``around`` its forward, a function of the top of a file."""
    module.__class__ = _class(type(module), around)


def take_class(module: nn.Module) -> None:
    """Give ``module`` the class again that it had before."""
    module.__class__ = type(module).__mro__[1]


def _class(base: type[nn.Module], around: Around) -> type[nn.Module]:
    """One for each, as for any class."""
    if (base, around) not in _CLASSES:
        _CLASSES[base, around] = _made(base, around)
    return _CLASSES[base, around]


def _made(base: type[nn.Module], around: Around) -> type[nn.Module]:
    def reduce(self: nn.Module, protocol: Any) -> Any:
        made = base.__reduce_ex__(self, max(int(protocol), 2))
        if isinstance(made, tuple) and made[0] is copyreg.__newobj__:  # type: ignore[attr-defined]
            return (_empty, (base, around), *made[2:])
        return made

    own = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    forward = functools.wraps(base.forward)(around(base.forward))
    return type(base.__name__, (base,), {"forward": forward, "__reduce_ex__": reduce, **own})


def _empty(base: type[nn.Module], around: Around) -> nn.Module:
    made = _class(base, around)
    return made.__new__(made)
