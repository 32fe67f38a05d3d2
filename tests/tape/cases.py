"""Networks that are hard to watch, small ones: each with its inputs and the modes in which it runs.

Where a float64 copy of the network is not the same function in float64 (casts, numbers that take the default format), the
case says what is: ``wide``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tests.suite.recurrent import HAS_BFLOAT16_LSTM
from tests.tape.nets import (
    Backward,
    CastInside,
    Checkpointed,
    Force,
    InferenceInside,
    OnItself,
    Square,
    Tied,
    choices,
    cnn,
    conjugates,
    copied,
    custom_in_place,
    encoder,
    foreach,
    given_memory,
    given_views,
    into_out,
    mlp,
    noise,
    numbers_made,
    numbers_written,
    parts,
    parts_wide,
    put,
    real_and_complex,
    resized,
    resized_wide,
    scale,
    shapes_in_place,
    shapes_of_data,
    split,
    structured,
    transforms,
    views_in_place,
)
from torch import Tensor, nn

from roundoff.formats import is_inexact, wide_dtype
from roundoff.tape.leaves import tensors


@contextmanager
def _inference_bfloat16() -> Iterator[None]:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        yield


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "grad": nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference, autocast": _inference_bfloat16,
}
EVERY = tuple(MODES)
PLAIN = ("grad", "no_grad", "inference")


@dataclass(frozen=True)
class Case:
    """``make`` gives the network, its arguments and keywords, from the global random state."""

    name: str
    make: Callable[[], tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]
    modes: tuple[str, ...] = ("grad",)
    wide: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Ready:
    """A case in one mode."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    mode: Callable[[], AbstractContextManager[Any]]
    wide: Callable[..., Any] | None

    def oracle(self) -> list[Tensor]:
        """The outputs in float64, by the network's own copy or what the case says instead."""
        model = self.wide or copy.deepcopy(self.model)
        if isinstance(model, nn.Module):
            model._apply(widened)  # not double(): that leaves complex numbers as they are
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            args, kwargs = widened(self.args), widened(self.kwargs)
            with self.mode(), torch.autocast("cpu", enabled=False):
                return [x.detach() for x in tensors(model(*args, **kwargs))]
        finally:
            torch.set_default_dtype(before)


def widened(value: Any) -> Any:
    """Copies in float64 (complex128) of all tensors nested in ``value``."""
    if isinstance(value, Tensor):
        x = value.detach().clone()
        return x.to(wide_dtype(x.dtype)).requires_grad_(value.requires_grad) if is_inexact(x.dtype) else x
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(widened, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(widened, value))
    return {k: widened(v) for k, v in value.items()} if isinstance(value, dict) else value


# -- inputs -------------------------------------------------------------------------------------------------------------


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def of(model: Callable[[], Any], *inputs: Callable[[], Any], **kwargs: Callable[[], Any]) -> Any:
    """A ``make``: the network first, then its inputs."""
    return lambda: (model(), tuple(x() for x in inputs), {k: x() for k, x in kwargs.items()})


def on_x(function: Callable[..., Any], *, modes: tuple[str, ...] = ("grad",), wide: Any = None) -> Case:
    return Case(function.__name__, of(lambda: function, lambda: normal(5, 6)), modes, wide)


def named(name: str, function: Callable[..., Any], wide: Any = None) -> Case:
    return Case(name, of(lambda: function, lambda: normal(5, 6)), ("grad",), wide)


def x() -> Tensor:
    return normal(5, 6)


def tokens() -> Tensor:
    return torch.randint(9, (4,))


def sequence() -> Tensor:
    return normal(4, 3, 6)


def batch() -> Tensor:
    return normal(2, 5, 8)


def hidden() -> Tensor:
    return torch.tensor([[False] * 5, [False] * 3 + [True] * 2])


def image() -> Tensor:
    return normal(2, 3, 12, 12)


def packed() -> Any:
    return nn.utils.rnn.pack_padded_sequence(sequence(), torch.tensor([4, 2, 1]))


CASES: tuple[Case, ...] = (
    Case("mlp", of(mlp, x), EVERY),
    Case("mlp bfloat16", of(lambda: mlp().to(torch.bfloat16), lambda: x().to(torch.bfloat16)), PLAIN),
    Case("mlp float16", of(lambda: mlp().half(), lambda: x().half())),
    Case("mlp float64", of(lambda: mlp().double(), lambda: x().double()), PLAIN),
    Case("mlp on a transposed input", of(mlp, lambda: normal(6, 4, 5).permute(2, 1, 0)), EVERY),
    Case("cnn in training", of(cnn, image), PLAIN),
    Case("cnn in evaluation", of(lambda: cnn().eval(), image), EVERY),
    Case(
        "cnn channels last",
        of(
            lambda: cnn().eval().to(memory_format=torch.channels_last),
            lambda: image().to(memory_format=torch.channels_last),
        ),
        PLAIN,
    ),
    Case("lstm", of(lambda: nn.LSTM(6, 5, 2, bidirectional=True), sequence), PLAIN),
    Case(
        "lstm batch first", of(lambda: nn.LSTM(6, 5, batch_first=True), sequence), EVERY if HAS_BFLOAT16_LSTM else PLAIN
    ),
    Case("lstm packed", of(lambda: nn.LSTM(6, 5), packed)),
    Case("gru batch first", of(lambda: nn.GRU(6, 5, batch_first=True), sequence), EVERY),
    Case("rnn", of(lambda: nn.RNN(6, 5, 2, bidirectional=True), sequence), PLAIN),
    Case("attention", of(OnItself, batch), EVERY),
    Case("attention with a mask", of(lambda: OnItself(hidden()), batch), EVERY),
    Case("encoder", of(encoder, batch), EVERY),
    Case("encoder with a mask", of(encoder, batch, src_key_padding_mask=hidden), ("grad", "no_grad", "inference")),
    Case("autocast inside", of(CastInside, x), PLAIN, wide=None),
    Case("inference_mode inside", of(InferenceInside, x)),
    Case("checkpoint", of(Checkpointed, lambda: x().requires_grad_())),
    Case("force", of(Force, x), ("grad", "no_grad")),
    Case("backward", of(Backward, x)),
    Case("tied weights", of(Tied, tokens), PLAIN),
    Case("embedding that renormalises", of(lambda: nn.Embedding(9, 6, max_norm=0.5), tokens)),
    Case("embedding bag", of(lambda: nn.EmbeddingBag(9, 6), lambda: torch.randint(9, (4, 3)))),
    Case("weight norm", of(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), x)),
    Case("instance norm", of(lambda: nn.InstanceNorm1d(3, track_running_stats=True), lambda: normal(2, 3, 7))),
    Case("autograd function", of(lambda: Square.apply, lambda: x().requires_grad_())),
    named("custom operator", lambda x: scale(x * 0.1, 0.3)),
    named("einsum", lambda x: torch.einsum("ij,kj->ik", x, x * 0.3)),
    named("distances", lambda x: torch.cdist(x.repeat(9, 1), x.repeat(8, 1) * 0.7)),
    Case("distances under autocast", of(lambda: torch.cdist, lambda: normal(40, 6), lambda: normal(50, 6)), EVERY),
    on_x(custom_in_place),
    on_x(views_in_place, modes=PLAIN),
    on_x(shapes_in_place, modes=PLAIN),
    on_x(into_out),
    on_x(resized, wide=resized_wide),
    on_x(given_memory),
    on_x(put),
    on_x(copied, wide=lambda x: (x * 0.1 * 0.3, x * 0.1)),
    on_x(numbers_written),
    on_x(numbers_made),
    on_x(split),
    on_x(foreach),
    on_x(real_and_complex, modes=PLAIN),
    on_x(shapes_of_data),
    on_x(choices),
    on_x(given_views),
    on_x(transforms, modes=PLAIN),
    on_x(parts, wide=parts_wide),
    Case("structured", of(lambda: structured, x, factor=lambda: torch.tensor([0.1]))),
    Case("conjugates", of(lambda: conjugates, lambda: normal(4, 4, dtype=torch.complex64)), PLAIN),
    Case(
        "an input that is a view",
        of(lambda: lambda x: x.mul_(0.1).t().add_(0.3), lambda: normal(9, 20)[2:7, 1:13:2]),
        PLAIN,
    ),
)

#: Random draws are the native run's: a float64 run of its own would draw others.
DRAWN: tuple[Case, ...] = (
    Case("dropout", of(lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3), nn.Dropout(0.3)), x), EVERY),
    Case("alpha dropout", of(nn.AlphaDropout, x)),
    Case("rrelu", of(nn.RReLU, x)),
    Case("gumbel", of(lambda: lambda x: F.gumbel_softmax(x, hard=True), x)),
    Case("attention with dropout", of(lambda: lambda q: F.scaled_dot_product_attention(q, q, q, dropout_p=0.5), batch)),
    Case("draws", of(lambda: lambda x: (torch.bernoulli(x.sigmoid()) * x, torch.multinomial(x.softmax(1), 2)), x)),
    Case("custom operator that draws", of(lambda: lambda x: (noise(x * 0.1), torch.rand(3)), x)),
    Case(
        "a generator of its own",
        of(lambda: lambda x: x + torch.rand(x.shape, generator=torch.Generator().manual_seed(1)), x),
    ),
    Case("fractional pooling", of(lambda: nn.FractionalMaxPool2d(2, output_size=3), image)),
)


def each(*cases: Case) -> list[Any]:
    """The cases in each of their modes, for ``pytest.mark.parametrize``."""
    import pytest

    return [pytest.param(case, mode, id=f"{case.name}, {mode}") for case in cases for mode in case.modes]


def ready(case: Case, mode: str) -> Ready:
    """The network and its inputs, always the same ones."""
    torch.manual_seed(7)
    model, args, kwargs = case.make()
    return Ready(model, args, kwargs, MODES[mode], case.wide)
