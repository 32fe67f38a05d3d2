"""From ``net.py:Model(256)`` to the network: what the command line calls A, B and M."""

from __future__ import annotations

import ast
import functools
import inspect
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from roundoff.errors import RoundoffError
from roundoff.load.imports import import_file, import_module, importing_from, where_raised
from roundoff.load.names import a, near

_FORM = "Write file.py:name or package.module:name, for example net.py:Model or 'net.py:Model(256)'."
_TEXT = re.compile(r"(?P<source>.*?\.py|[^:(]*):(?P<name>[^:(]*)(?P<call>\(.*)?", re.DOTALL)


@dataclass(frozen=True)
class Target:
    """A target taken apart: the file or module, the dotted name in it, and the call as it was written, or
    ``""``."""

    text: str
    source: str
    name: str
    call: str

    @property
    def file(self) -> Path | None:
        """The file, or None where ``source`` is a module."""
        is_file = self.source.endswith(".py") or "/" in self.source or "\\" in self.source
        return Path(self.source).expanduser().resolve() if is_file else None


def load_target(text: str, seed: int = 0) -> Callable[..., Any]:
    """The network that ``text`` names.

    ``text`` is ``file.py:name`` or ``package.module:name``; dotted names are allowed. The name is a module
    instance, a
    class or a function without required parameters (it is called), or any other callable (it *is* the
    network, and so is a function that takes ``*args``). With a call, ``net.py:Model(256)`` or
    ``net.py:Model(width=64)``, it is called with these arguments, which must be Python literals: nothing else
    is evaluated.

    A constructor draws weights, so the random generators of PyTorch, NumPy and Python are seeded with
    ``seed`` before the file is imported and again before the call.

    Raises RoundoffError, naming what was given, what was expected and the next move.

    >>> load_target("torch.nn:Linear(4, 2, bias=False)")
    Linear(in_features=4, out_features=2, bias=False)
    >>> load_target("torch:relu")(torch.tensor([-1.0, 1.0]))
    tensor([0., 1.])
    """
    target = parse_target(text)
    positional, keywords = _literals(target)
    seed_all(seed)
    module = import_file(target.file) if target.file else import_module(target.source)
    found = _find(target, module)
    with importing_from(target.file or Path.cwd() / "_"):
        if target.call or _is_constructor(found):
            seed_all(seed)
            network = _construct(target, found, positional, keywords)
            made = f"{target.name}{target.call or '()'} gave"
        else:
            network, made = found, f"{target.name} is"
    if not callable(network):
        raise RoundoffError(
            f"{text}: {made} {a(network)}, which cannot be called. Name a network: a module, or a function "
            "of the input."
        )
    return network  # type: ignore[no-any-return]


def parse_target(text: str) -> Target:
    """Take ``text`` apart, without importing anything. Raises RoundoffError where it has no such form.

    >>> parse_target("net.py:Model(256)")
    Target(text='net.py:Model(256)', source='net.py', name='Model', call='(256)')
    """
    match = _TEXT.fullmatch(text)
    if match is None or not match["source"]:
        wrong = "has no colon" if ":" not in text else "does not name a file or module and then a name"
        raise RoundoffError(f"{text!r} {wrong}, so it does not say where the network is. {_FORM}")
    source, name, call = match["source"], match["name"].strip(), match["call"] or ""
    if not name:
        raise RoundoffError(f"{text!r} names nothing after the colon. {_FORM}")
    if not all(part.isidentifier() or part.isdecimal() for part in name.split(".")):
        raise RoundoffError(f"{text!r}: {name!r} is not a name. {_FORM}")
    target = Target(text, source, name, call)
    if target.file is None and not all(part.isidentifier() for part in source.split(".")):
        raise RoundoffError(
            f"{text!r}: {source!r} is neither a file that ends in .py nor the name of a module. {_FORM}"
        )
    if target.file is not None and target.file.suffix != ".py":
        raise RoundoffError(f"{text!r}: {source} is not a Python file. {_FORM}")
    return target


def seed_all(seed: int) -> None:
    """Seed the generators from which a constructor may draw: PyTorch's, NumPy's and Python's."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _literals(target: Target) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of the call, which must be literals."""
    if not target.call:
        return [], {}
    example = f"Write it as {target.source}:{target.name}(256) or {target.source}:{target.name}(width=64)."
    try:
        call = ast.parse(f"f{target.call}", mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise RoundoffError(
            f"{target.text!r}: {target.call} is not a call: {getattr(error, 'msg', error)}. {example}"
        ) from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise RoundoffError(f"{target.text!r}: {target.call} is not one call at the end of the name. {example}")
    positional = [_literal(target, arg) for arg in call.args]
    keywords = {arg.arg: _literal(target, arg.value) for arg in call.keywords if arg.arg is not None}
    if len(keywords) < len(call.keywords):
        raise RoundoffError(f"{target.text!r}: ** is not evaluated; write each keyword out. {example}")
    return positional, keywords


def _literal(target: Target, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise RoundoffError(
            f"{target.text!r}: the argument {ast.unparse(node)} is not a literal (a number, string, True, "
            "False, None, or a "
            "tuple, list or dict of them), and nothing else is evaluated. For other arguments write a "
            "function without "
            f"parameters in {target.source} that returns the network, and name it here."
        ) from None


def _find(target: Target, module: Any) -> Any:
    value, path = module, target.source
    for part in target.name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            names = _public_names(value)
            choice = near(part, names) or (f" It has {', '.join(names[:8])}." if names else f" {_FORM}")
            raise RoundoffError(f"{target.text}: there is no {part} in {path}.{choice}") from None
        except Exception as error:  # a module may load its names when they are asked for
            raise RoundoffError(
                f"{target.text}: getting {part} raised "
                f"{type(error).__name__}{where_raised(error, target.file)}: {error}"
            ) from error
        path = f"{path}.{part}" if ":" in path else f"{path}:{part}"
    return value


def _public_names(owner: Any) -> list[str]:
    """The names in ``owner`` that may be a network, those that it defines itself first."""
    if isinstance(owner, nn.Module):
        return [name for name, _ in owner.named_children()]
    names = (
        [n for n, v in vars(owner).items() if not n.startswith("_") and callable(v)]
        if hasattr(owner, "__dict__")
        else []
    )
    own = getattr(owner, "__name__", None)
    return sorted(names, key=lambda n: getattr(vars(owner)[n], "__module__", None) != own)


def _signature(found: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(found)
    except (ValueError, TypeError):  # some built-in functions have none
        return None


def _is_constructor(found: Any) -> bool:
    """True for what is to be called to get the network: a class, or a function that needs nothing."""
    if inspect.isclass(found):
        return True
    if isinstance(found, nn.Module) or not (inspect.isroutine(found) or isinstance(found, functools.partial)):
        return False
    signature = _signature(found)
    if signature is None:
        return False
    parameters = signature.parameters.values()
    return not any(p.kind is p.VAR_POSITIONAL or _is_required(p) for p in parameters)


def _is_required(parameter: inspect.Parameter) -> bool:
    named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return named and parameter.default is parameter.empty


def _construct(target: Target, found: Any, positional: list[Any], keywords: dict[str, Any]) -> Any:
    """Call ``found``; what does not fit its parameters, and what it raises, is a RoundoffError."""
    if isinstance(found, nn.Module) or not callable(found):
        raise RoundoffError(
            f"{target.text}: {target.name} is {a(found)}; it is not called to get a network. Leave {target.call} away."
        )
    signature = _signature(found)
    if signature is not None:
        try:
            signature.bind(*positional, **keywords)
        except TypeError as error:
            raise RoundoffError(
                f"{target.text}: {target.name}{target.call or '()'} does not fit "
                f"{target.name}{_shown(signature)}: {error}. "
                f"Give its arguments in the call: '{target.source}:{target.name}({_example(signature)})'."
            ) from None
    try:
        return found(*positional, **keywords)
    except RoundoffError:
        raise
    except Exception as error:
        raise RoundoffError(
            f"{target.text}: {target.name}{target.call or '()'} raised {type(error).__name__}"
            f"{where_raised(error, target.file)}: {error}. It must give a network."
        ) from error


def _shown(signature: inspect.Signature) -> str:
    text = str(signature.replace(return_annotation=signature.empty))
    return text if len(text) <= 100 else text[:96] + " ...)"


def _example(signature: inspect.Signature) -> str:
    """How a call with the required arguments is written."""
    required = [p for p in signature.parameters.values() if _is_required(p)]
    return ", ".join("..." if p.kind is p.POSITIONAL_ONLY else f"{p.name}=..." for p in required)
