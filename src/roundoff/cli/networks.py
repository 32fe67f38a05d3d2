"""The networks and inputs that a command was given."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from roundoff.errors import RoundoffError
from roundoff.load import load_target, load_weights


def load_network(text: str, seed: int, device: torch.device, weights: Path | None, evaluate: bool | None) -> Any:
    """The network that ``text`` names, with its weights, on its device and in its mode."""
    network = load_target(text, seed)
    if weights is not None:
        load_weights(network, weights)
    if isinstance(network, nn.Module):
        network.to(device)
        if evaluate is not None:
            network.train(not evaluate)
    return network


def describe_modes(networks: dict[str, tuple[str, Any]]) -> str:
    """A line for each network, by its name: how it was named and in which mode it is; and what training mode means."""
    lines, acting = [], set[str]()
    for name, (text, network) in networks.items():
        mode = ""
        if isinstance(network, nn.Module):
            mode = "  (training mode)" if network.training else "  (evaluation mode)"
            acting |= {type(m).__name__ for m in network.modules() if m.training and _acts_in_training(m)}
        lines.append(f"{name}  {text}{mode}")
    if acting:
        lines.append(
            f"Training mode changes what {' and '.join(sorted(acting))} does; --eval compares in evaluation mode."
        )
    return "\n".join(lines) + "\n"


def _acts_in_training(module: nn.Module) -> bool:
    """True for a dropout that drops something, and for a batch norm."""
    return isinstance(module, _NormBase) or (isinstance(module, _DropoutNd) and module.p > 0)


def check_inputs(name: str, text: str, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Say that inputs are missing or too many before the network says it in its own words."""
    try:
        signature = inspect.signature(network.forward if isinstance(network, nn.Module) else network)
    except (TypeError, ValueError):  # some built-in functions have none
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        takes = signature.replace(return_annotation=signature.empty)
        given = ", ".join([f"{len(args)} by position", *(f"{keyword}=" for keyword in kwargs)])
        raise RoundoffError(
            f"{name}, {text}, takes the inputs {takes}, but --args gave {given if args or kwargs else 'none'}: {error}. "
            "Give one --args for each, as in --args float32[16,5,256] or --args name=int64[2,16]:0..30522."
        ) from None
