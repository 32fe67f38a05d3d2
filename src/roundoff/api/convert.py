"""The public function that rewrites a network: the rewriting, joined with the comparison that proves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from roundoff.api.comparison import compare
from roundoff.api.dense import to_dense
from roundoff.api.fastest import to_fastest
from roundoff.errors import NotSame, RoundoffError
from roundoff.forms import Conversion, rewrite, second_input
from roundoff.records import Verdict


def convert(
    model: nn.Module,
    args: Any,
    to: str,
    *,
    kwargs: dict[str, Any] | None = None,
    layout: str = "keep",
    exact: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Conversion:
    """``model`` with convolutions instead of fully connected layers, or the reverse: a copy, proved to be the same.

    ``to="conv"`` makes every fully connected layer a 1x1 convolution, or one with the kernel of the full height and
    width where its input is the flatten of a tensor [N, C, H, W]; ``to="linear"`` makes every 1x1 convolution, and every
    one whose kernel covers its whole input, a fully connected layer. ``args`` is a tensor or a tuple of them, ``kwargs``
    the keyword arguments, of any dtype on which the network runs: the run on them shows the shapes. Parameters keep
    their names, bits, dtype, device and ``requires_grad``; tied weights stay tied. What is not rewritten is in
    ``declined``, with the reason. The original is untouched.

    ``to="dense"`` makes a classifier over images, in evaluation mode, a network that gives a map of outputs on a larger
    image, [N, K, cells down, cells across]: each is that of the network on a crop of the size of ``args``, one tensor
    [N, C, H, W], where no padding is in the way. ``dense`` of the result says where the cells lie, and
    ``dense.mask(height, width)`` which are exact; with ``exact=True`` a network without any is refused.

    ``to="fastest"`` measures each layer in its forms and memory layouts, without gradients, and gives the network in those
    that are fastest here for inputs like ``args``; where no gain is measured beyond its confidence interval, ``model`` is
    the original itself. ``fastest`` of the result has the times.

    ``layout="flow"`` moves axes only where an operator needs it, in the modules that can be captured; ``permutes_left`` of
    the result counts what is left.

    The proof: each rewritten layer gives the same values on small whole numbers, where float32 is exact; the weights go
    both ways bit for bit; and ``comparison`` and ``second`` compare the networks on ``args`` and on an input that is
    drawn from the same values.

    Raises RoundoffError for an unknown form, a network that has no dense one or cannot be copied or does not run on
    ``args``, and a layer that fails its check; NotSame, a RoundoffError, where a comparison says ``different``.

    >>> import torch
    >>> linear = torch.nn.Linear(8, 4)
    >>> c = convert(linear, torch.randn(2, 5, 8), to="conv")
    >>> c.model
    PointwiseConv1d(8, 4, kernel_size=1, over the last axis)
    >>> bool(c.comparison)
    True
    >>> torch.equal(c.state_dict_from(c.model.state_dict())["weight"], linear.weight)
    True
    """
    given = args if isinstance(args, tuple) else tuple(args) if isinstance(args, list) else (args,)
    keywords = dict(kwargs or {})
    if exact and to != "dense":
        raise RoundoffError(f"exact=True is for to='dense', but to={to!r} was given. Leave it out.")
    if layout != "keep" and to in ("dense", "fastest"):
        raise RoundoffError(
            f"layout={layout!r} is for to='conv' and to='linear', but to={to!r} was given. Leave it out."
        )
    if to == "dense":
        return to_dense(model, given, keywords, exact, progress)
    if to == "fastest":
        return to_fastest(model, given, keywords, progress)
    done = rewrite(model, given, keywords, to, layout)
    comparison = compare(model, done.model, given, keywords, progress=progress)
    _refuse(comparison, done)
    drawn, drawn_keywords = second_input((given, keywords))
    second = None
    try:
        second = compare(model, done.model, drawn, drawn_keywords, progress=progress)
    except RoundoffError as error:
        if not str(error).startswith("A raised"):  # the original does not take this input
            raise
    if second is not None:
        _refuse(second, done)
    return replace(done, comparison=comparison, second=second)


def _refuse(comparison: Any, done: Conversion) -> None:
    if comparison.verdict == Verdict.DIFFERENT:
        layers = ", ".join(c.module or "(root)" for c in done.converted)
        raise NotSame(f"The converted network is not the same. Converted: {layers}.\n{comparison}")
