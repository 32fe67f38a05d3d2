"""Weights from a file into a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from roundoff.errors import RoundoffError
from roundoff.load.files import existing_file, read_pt, read_safetensors
from roundoff.load.names import a, near


def load_weights(module: nn.Module | Callable[..., Any], path: str | Path) -> None:
    """Load a state dict from ``path``, a ``.safetensors`` or ``.pt`` file, into ``module``, in place and
    strictly.

    Every parameter and buffer must be there with its shape, and no other; a name that shares its memory with
    one that is there (tied weights) may be left out. No code in the file is run. Values are converted to the
    dtype of the module, as ``Module.load_state_dict`` does. Raises RoundoffError that lists the keys that do
    not fit.
    """
    if not isinstance(module, nn.Module):
        raise RoundoffError(
            f"Weights from {path} were given for {a(module)}, but only a torch.nn.Module takes weights."
        )
    state = _state_dict(path)
    own = module.state_dict()
    misfits = [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in own.keys() & state.keys()
        if isinstance(own[name], Tensor) and own[name].shape != state[name].shape
    ]
    try:
        keys = module.load_state_dict(state, strict=False) if not misfits else None
    except (RuntimeError, TypeError, ValueError) as error:
        raise RoundoffError(f"{path} does not fit {type(module).__name__}: {error}") from error
    missing = list(keys.missing_keys) if keys else [name for name in own if name not in state]
    unexpected = list(keys.unexpected_keys) if keys else [name for name in state if name not in own]
    missing = [name for name in missing if not _is_tied(name, own, state)]
    if not (misfits or missing or unexpected):
        return
    lines = [f"{path} does not fit {type(module).__name__}:"]
    lines += _listed("shapes differ", sorted(misfits))
    lines += _listed("missing in the file", [name + near(name, unexpected) for name in missing])
    lines += _listed("not in the network", unexpected)
    prefix = _prefix(missing, unexpected, own)
    hint = f" The names in the file begin with {prefix!r}; save the state dict without it." if prefix else ""
    raise RoundoffError("\n".join(lines) + f"\nSave the state_dict() of this very network.{hint}")


def _state_dict(path: str | Path) -> dict[str, Tensor]:
    file = existing_file(path)
    if file.suffix.lower() == ".safetensors":
        return read_safetensors(file)
    if file.suffix.lower() not in (".pt", ".pth"):
        raise RoundoffError(f"{path} is not a file of weights. Name a .safetensors or a .pt file.")
    state = read_pt(file)
    if not isinstance(state, dict):
        raise RoundoffError(f"{path} holds {a(state)}, not a state dict. Save model.state_dict() with torch.save.")
    other = [str(name) for name, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise RoundoffError(
            f"{path} holds something else than tensors at {', '.join(other[:5])}. Save the state dict alone."
        )
    return state  # with the _metadata that torch.save keeps: it says of which version the modules are


def _is_tied(name: str, own: dict[str, Any], state: dict[str, Tensor]) -> bool:
    """True when ``name`` is the same tensor as one that the file has."""
    value = own.get(name)
    return isinstance(value, Tensor) and any(_same_memory(value, own[key]) for key in state.keys() & own.keys())


def _same_memory(x: Any, y: Any) -> bool:
    if not isinstance(y, Tensor) or x.numel() == 0:
        return False
    return (x.data_ptr(), x.shape, x.stride(), x.dtype) == (y.data_ptr(), y.shape, y.stride(), y.dtype)


def _listed(title: str, items: list[str], most: int = 5) -> Iterable[str]:
    if not items:
        return []
    more = [f"    and {len(items) - most} more"] if len(items) > most else []
    return [f"  {title} ({len(items)}):", *(f"    {item}" for item in items[:most]), *more]


def _prefix(missing: list[str], unexpected: list[str], own: dict[str, Any]) -> str:
    """What stands before every name in the file that would fit without it (``module.`` of a wrapped
    network)."""
    prefixes = {name.removesuffix(missing[0]) for name in unexpected if missing and name.endswith(missing[0])}
    fits = (p for p in prefixes if all(name.startswith(p) and name[len(p) :] in own for name in unexpected))
    return next(fits, "")
