"""The forward of a module as a graph of PyTorch's functions and modules, with the shapes of a run.

``torch.fx`` runs the forward once on stand-ins for tensors. Modules of PyTorch, rewritten layers, modules with hooks and
modules whose calls are in another form are single nodes. What decides by a tensor's values or shape cannot be captured;
neither can what depends on the training flag other than through a module of PyTorch, nor what writes into a tensor that is
used afterwards.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_flatten, tree_leaves

from roundoff.errors import RoundoffError
from roundoff.forms.calls.mode import has_calls
from roundoff.forms.flow.program import has_hooks
from roundoff.forms.flow.values import Axes
from roundoff.forms.layers import Rewritten
from roundoff.tape.leaves import leaves
from roundoff.tape.trace import random_state, set_random_state


@dataclass(frozen=True)
class Like:
    """A tensor of the run: its shape, and its axes in the order in which memory holds them; None where it repeats some."""

    shape: tuple[int, ...]
    order: Axes | None


@dataclass(frozen=True)
class Captured:
    """A graph. Each node's ``meta["like"]`` is a :class:`Like` where its result is a tensor, or a tuple of them.
    ``given``: each parameter of forward, its rank where it was given a tensor, else its value, and the default."""

    graph: fx.Graph
    given: tuple[tuple[str, int | None, Any, Any], ...]


_DEVICES = ("cpu", "cuda")


def _modes() -> tuple[object, ...]:
    saving = torch._C._autograd._top_saved_tensors_default_hooks(
        True
    )  # set by checkpoints; there is no public name for it
    autocast = (torch.is_autocast_enabled(d) and torch.get_autocast_dtype(d) for d in _DEVICES)
    return (torch.is_grad_enabled(), saving, *autocast)


@contextmanager
def _switched(on: bool) -> Iterator[None]:
    """Gradients and autocast on, or off. A forward that sets either is seen to do so in one of the two."""
    before = [torch.is_autocast_enabled(device) for device in _DEVICES]
    try:
        for device in _DEVICES:
            torch.set_autocast_enabled(device, on)
        with torch.set_grad_enabled(on):
            yield
    finally:
        for device, enabled in zip(_DEVICES, before, strict=True):
            torch.set_autocast_enabled(device, enabled)


def _state(module: nn.Module) -> list[tuple[str, object, int]]:
    """What the modules hold, by identity, and how much of it or in which version; kept alive, so that nothing else gets the
    identity of one."""
    held = [vars(m) | m._parameters | m._buffers for m in module.modules()]

    def extent(x: Any) -> int:
        if isinstance(x, Tensor):
            return -1 if x.is_inference() else x._version
        return len(x) if isinstance(x, (list, dict, set)) else 0

    return [(name, x, extent(x)) for those in held for name, x in those.items() if name != "training"]


class _Proxy(fx.Proxy):
    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):  # the graph would not have it
            raise RoundoffError(f"its forward sets .{name} of a tensor")
        super().__setattr__(name, value)


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # what is done with buffers alone is a part of the forward too

    def __init__(self) -> None:
        super().__init__()
        self.modes = _modes()

    def create_proxy(self, *args: Any, **kwargs: Any) -> Any:
        if _modes() != self.modes:  # the graph would not have it
            raise RoundoffError("its forward switches gradients or autocast, or checkpoints")
        return super().create_proxy(*args, **kwargs)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Rewritten) or has_calls(m) or has_hooks(m) or super().is_leaf_module(
            m, module_qualified_name
        )  # fmt: skip


def capture(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
    """The graph of ``module`` on these arguments. Raises RoundoffError with the reason where there is none.

    ``module`` is run; give a copy.
    """
    parameters = inspect.signature(module.forward).parameters
    if any(p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters.values()):
        raise RoundoffError("its forward takes any number of arguments")
    given = dict(zip(parameters, args, strict=False)) | kwargs
    given = {name: given.get(name, p.default) for name, p in parameters.items()}
    fixed = {name: x for name, x in given.items() if not isinstance(x, Tensor)}
    if any(isinstance(leaf, (Tensor, nn.Module)) for leaf in tree_leaves(fixed)):
        raise RoundoffError("it is given tensors in a list or a dictionary")
    flags = [(m, m.training) for m in module.modules()]
    try:
        module.train()
        with _switched(True):
            training = _traced(module, fixed)
        module.eval()
        with _switched(False):
            graph = _traced(module, fixed)
    finally:
        for m, flag in flags:
            m.training = flag
    if str(training) != str(graph):
        raise RoundoffError(
            "its forward depends on the training flag other than through modules of PyTorch, or on a mode"
        )
    _check(module, graph, given)
    _check_writes(module, graph)
    ranks = tuple(
        (n, x.dim(), None, parameters[n].default) if isinstance(x, Tensor) else (n, None, x, parameters[n].default)
        for n, x in given.items()
    )
    return Captured(graph, ranks)


def _check(module: nn.Module, graph: fx.Graph, given: dict[str, Any]) -> None:
    """Run the graph and the forward, from equal random states. Raises RoundoffError where they differ."""
    mine, graphs = ({n: x.clone() if isinstance(x, Tensor) else x for n, x in given.items()} for _ in range(2))
    randomness = random_state()
    try:
        with torch.no_grad():
            want = module(**mine)
            set_random_state(randomness)
            got = _plain(_Shapes(module, graph).run(*graphs.values()))
    except Exception as error:
        raise RoundoffError(f"its graph does not run: {type(error).__name__}: {_first_line(error)}") from error
    finally:
        set_random_state(randomness)
    (a, structure), (b, other) = tree_flatten(want), tree_flatten(got)
    if structure != other:
        raise RoundoffError(f"its output is a {type(want).__name__}, which torch.fx does not keep")
    if not all(_same(x, y) for x, y in zip([*a, *mine.values()], [*b, *graphs.values()], strict=True)):
        raise RoundoffError("its graph gives other values than its forward, or leaves others in its input")


def _check_writes(module: nn.Module, graph: fx.Graph) -> None:
    """Raise RoundoffError where the memory of a value is written into, and it or another view of it is used afterwards."""
    for node in graph.nodes:
        if _writes(node, module):
            written = frozenset[int]().union(*(x.meta["memory"] for x in node.all_input_nodes))
            before = [x for x in graph.nodes if x < node and x.meta["memory"] & written]
            if any(user > node for x in before for user in x.users):
                raise RoundoffError(f"{node.target} writes into a tensor that is used afterwards")


def _plain(x: Any) -> Any:
    """The output of a graph, whose lists and dictionaries are of torch.fx's own types."""
    if isinstance(x, dict):
        return {key: _plain(y) for key, y in x.items()}
    if isinstance(x, list):
        return [_plain(y) for y in x]
    return tuple(map(_plain, x)) if type(x) is tuple else x


def _same(x: Any, y: Any) -> bool:
    if type(x) is not type(y):
        return False
    if not isinstance(x, Tensor):
        mine, others = list(leaves(x)), list(leaves(y))
        if len(mine) == len(others) == 1 and mine[0][1] is x:
            return x is y or bool(x == y)
        return len(mine) == len(others) and all(
            p == q and _same(u, v) for (p, u), (q, v) in zip(mine, others, strict=True)
        )
    return x.shape == y.shape and x.dtype == y.dtype and bool(((x == y) | ((x != x) & (y != y))).all())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _traced(module: nn.Module, fixed: dict[str, Any]) -> fx.Graph:
    before = _state(module)
    try:
        graph = _Tracer().trace(module, fixed)
    except RoundoffError:
        raise
    except Exception as error:  # whatever the user's forward raises on stand-ins
        raise RoundoffError(f"torch.fx cannot trace it: {type(error).__name__}: {_first_line(error)}") from error
    after = _state(module)
    if len(before) != len(after) or any(
        a[::2] != b[::2] or a[1] is not b[1] for a, b in zip(before, after, strict=True)
    ):
        raise RoundoffError("its forward changes what the module holds")
    # that the other arguments are as they were given is asked by Program.holds
    for node in list(graph.nodes)[::-1]:
        asserts = "_assert" in getattr(node.target, "__name__", "")
        if asserts or (node.target is operator.eq and not node.users):
            graph.erase_node(node)
    return graph


def _writes(node: fx.Node, module: nn.Module) -> bool:
    if node.op == "call_module":
        return bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    return bool(node.kwargs.get("inplace")) or node.kwargs.get("out") is not None or in_place(called(node))


def called(node: fx.Node) -> str:
    """The name of the function of PyTorch or of the method that a node calls; empty for everything else."""
    if node.op == "call_method":
        return str(node.target)
    ours = str(getattr(node.target, "__module__", "")).startswith(("torch", "_operator", "builtins"))
    return str(getattr(node.target, "__name__", "")) if node.op == "call_function" and ours else ""


def in_place(name: str) -> bool:
    """True for a function that writes into its first argument."""
    return name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))


_IN_PLACE = {"iadd", "isub", "imul", "itruediv", "ipow", "setitem"}


_DRAWS = {"dropout", "alpha_dropout", "rrelu", "gumbel_softmax", "rand_like", "randn_like", "randint_like", "bernoulli"}


def draws(node: fx.Node, module: nn.Module) -> bool:
    """True for what draws random numbers in the order in which memory holds its operand."""
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), (_DropoutNd, nn.RReLU))
    return called(node).rstrip("_") in _DRAWS


class _Shapes(fx.Interpreter):
    """Notes of each node its result's shape, and the memory that it holds. All of it is kept, so that none is used twice."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, garbage_collect_values=False, graph=graph)

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        n.meta["like"] = tuple(map(_like, out)) if isinstance(out, (list, tuple)) else _like(out)
        held = [x for x in tree_leaves(out) if isinstance(x, Tensor) and x.layout == torch.strided and x.numel()]
        n.meta["memory"] = frozenset(x.untyped_storage().data_ptr() for x in held)
        return out


def _like(x: Any) -> Like | None:
    if not isinstance(x, Tensor):
        return None
    steps = x.stride() if x.layout == torch.strided else (0,) * x.dim()
    repeats = any(step == 0 and size > 1 for size, step in zip(x.shape, steps, strict=True))
    return Like(tuple(x.shape), None if repeats else tuple(sorted(range(x.dim()), key=lambda axis: -steps[axis])))


def runs(module: nn.Module, wanted: set[str], args: Any, kwargs: Any) -> dict[str, list[tuple[Any, Any]]]:
    """The arguments of each call of the modules ``wanted`` in a run of ``module``, which is run; give a copy."""
    seen: dict[str, list[tuple[Any, Any]]] = {}
    handles = []
    for name, inner in module.named_modules():
        if name in wanted:

            def keep(_: Any, given: Any, named: Any, name: str = name) -> None:
                seen.setdefault(name, []).append((given, named))

            handles.append(inner.register_forward_pre_hook(keep, with_kwargs=True))
    with torch.no_grad():
        module(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return seen
