"""The network as a graph of ATen operators without in-place ones, seen at the size of the crop."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from roundoff.errors import RoundoffError
from roundoff.forms.observe import copied
from roundoff.tape.trace import random_state, set_random_state


@dataclass(frozen=True)
class Captured:
    """``graph``, whose placeholders are either the ``image`` or stand for what ``names`` says: a parameter or buffer of
    ``model``, a copy of the network, or a tensor of ``constants``. ``outputs`` is how its outputs are put together."""

    model: nn.Module
    graph: fx.Graph
    image: fx.Node
    names: dict[str, str]
    constants: dict[str, Tensor]
    outputs: Any


def capture(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], known: Callable[[fx.Node], bool]
) -> Captured:
    """Capture a copy of ``model`` on ``args``, one image tensor [samples, channels, ...].

    ``known``: of which operators something is known. Where there are others, or in-place ones, the graph is decomposed,
    which takes three times as long as capturing it.
    Raises RoundoffError where ``args`` are something else, and for a network that does not run or that cannot be captured.
    """
    x = args[0] if len(args) == 1 and not kwargs else None
    if not isinstance(x, Tensor) or not 3 <= x.dim() <= 5 or not x.is_floating_point() or 0 in x.shape:
        given = ", ".join(_described(a) for a in (*args, *kwargs.values()))
        raise RoundoffError(
            f"to='dense' was given {given or 'no input'}, but takes a classifier over images and one floating-point tensor "
            "[samples, channels, height, width] (or one or three axes in place of two) of the size of the crop."
        )
    copy = copied(model)
    # Two samples or more: an axis of size one could not be told from the samples.
    image = x.detach() if len(x) > 1 else x.detach().repeat(2, *[1] * (x.dim() - 1))
    randomness = random_state()
    try:
        with torch.no_grad():
            copied(model)(image.clone())
    except Exception as error:
        raise RoundoffError(
            f"{type(model).__name__} raised {type(error).__name__} on an image of shape {list(image.shape)}: {error}. "
            "Give a crop on which the network runs."
        ) from error
    finally:
        set_random_state(randomness)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(copy, (image,), strict=False)
            if not all(known(node) for node in program.graph.nodes if node.op == "call_function"):
                program = program.run_decompositions({})
    except Exception as error:  # whatever the export raises
        said = next((line for line in str(error).splitlines() if line.strip()), "")
        raise RoundoffError(
            f"{type(model).__name__} cannot be captured by torch.export, which to='dense' needs: "
            f"{type(error).__name__}: {said}"
        ) from error
    signature = program.graph_signature
    if signature.buffers_to_mutate:
        changed = ", ".join(signature.buffers_to_mutate.values())
        raise RoundoffError(
            f"{type(model).__name__} changes its buffers when it runs ({changed}), as batch norm does in training mode: "
            "what a cell gives would depend on the others. Call eval() first."
        )
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = signature.inputs_to_lifted_tensor_constants
    names |= lifted
    constants = {name: program.constants[name] for name in lifted.values()}
    (user,) = signature.user_inputs
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return Captured(copy, program.graph, placeholders[str(user)], names, constants, program.call_spec.out_spec)


def _described(x: Any) -> str:
    return f"a tensor {list(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
