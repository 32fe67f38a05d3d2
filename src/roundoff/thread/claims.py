"""What was claimed, each held against a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roundoff.api import Comparison, compare
from roundoff.errors import RoundoffError
from roundoff.formats import unit_roundoff, widen
from roundoff.order.layers import replay_layers
from roundoff.report.thread import Claim, Row, size
from roundoff.rules import Nature, lookup
from roundoff.tape.leaves import map_operands, operands
from roundoff.tape.watch import Step, watch
from roundoff.thread.networks import FORMS, WIDTHS, ConvNetwork, LinearNetwork, from_image, to_image, with_weights_of

BATCH = 16
SAMPLES = (1, 5)
ACTIVATIONS: dict[str, nn.Module] = {"ELU": nn.ELU(), "sigmoid": nn.Sigmoid()}


def order(rows: tuple[Row, ...], device: torch.device) -> Claim:
    """Each layer in each form on the same float32 operands, held against float64 on these operands."""
    linear = LinearNetwork(nn.ELU()).to(device)
    x = torch.randn(BATCH, SAMPLES[-1], WIDTHS[0]).to(device)
    lines, differ, within, exact = [], False, True, 0.0
    for layer in linear.layers:
        assert isinstance(layer, nn.Linear)
        results, wide = (
            _in_each_form(x, layer.weight, layer.bias),
            _in_each_form(*map(widen, (x, layer.weight, layer.bias))),
        )
        reference = wide["linear"]
        # Any order of the n + 1 additions, fused or not: Higham, Accuracy and Stability of Numerical Algorithms, §3.1.
        nu = (layer.in_features + 1) * unit_roundoff(x.dtype)
        bound = F.linear(widen(x).abs(), widen(layer.weight).abs(), widen(layer.bias).abs()) * (nu / (1 - nu))
        errors = {form: (y - reference).abs() for form, y in results.items()}
        within &= all(bool((error <= bound).all()) for error in errors.values())
        apart = max(float((results[form] - results["linear"]).abs().max()) for form in FORMS)
        differ |= apart > 0
        largest = float(reference.abs().max())
        exact = max(exact, *(float((wide[form] - reference).abs().max()) / largest for form in FORMS))
        each = ", ".join(f"{form} {size(float(error.max()))}" for form, error in errors.items())
        lines.append(
            f"{layer.in_features} → {layer.out_features}: the forms are {size(apart)} apart ({size(apart / largest)} "
            f"of the largest value); error of {each}; any order stays below {size(float(bound.max()))}"
        )
        x = ACTIVATIONS["ELU"](results["linear"])
    end = (
        "Each error is within what an order of additions can make"
        if within
        else "An error is beyond what any order of additions can make: a form computes in reduced precision (TF32, if the "
        "device is a GPU: torch.backends.cudnn.conv.fp32_precision)"
    )
    return Claim(
        "The order of operations differs",
        "each layer in each form on the same float32 operands, against float64",
        "\n".join(lines) + f"\n{end}; in float64 the forms are at most {size(exact)} of the largest value apart.",
        differ and within,
    )


def _in_each_form(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    return {
        "linear": F.linear(x, weight, bias),
        "conv": from_image(F.conv2d(to_image(x), weight[:, :, None, None], bias)),
        "tensordot": torch.tensordot(x, weight, dims=([2], [1])) + bias,
    }


def replayed(rows: tuple[Row, ...], device: torch.device) -> Claim:
    """Two of the networks added up by software, in the orders in which their kernels add."""
    words = "The two kernels add in these orders; replayed, they give exactly the two results"
    how, linear = "each layer's order revealed, and added by software, on the CPU", LinearNetwork(nn.ELU())
    x, found, holds = torch.randn(BATCH, SAMPLES[-1], WIDTHS[0]), list[str](), True
    weights = [(layer.weight, layer.bias) for layer in linear.layers if isinstance(layer, nn.Linear)]
    for form, network in ("linear", linear), ("conv", with_weights_of(linear, ConvNetwork(nn.ELU()))):
        native = network(x)[0]
        try:
            software = replay_layers(form, weights, linear.activation, x)
        except RoundoffError as error:
            return Claim(words, how, f"{form}: {error}", False)
        same = software.matching(native)
        holds &= same == native.numel() and all(o.certified for o in software.orders)
        found.append(f"{form}: {same} of {native.numel()} logits; first layer {software.orders[0].story_of_order}")
    return Claim(words, how, ".\n".join(found) + ".", holds)


class _Movements:
    """A listener that holds every step that only moves data against the same step in float64."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.error = 0.0

    def before(self, step: Step) -> None:
        """Nothing is to be kept."""

    def after(self, step: Step, out: Any) -> None:
        """Redo the step wide on its native operands; the difference is its local error."""
        rule = lookup(step.op)
        if rule is None or rule.nature is not Nature.EXACT or step.overwritten:
            return
        args = map_operands(lambda x: widen(x) if isinstance(x, Tensor) else x, step.args)
        for y, wide in zip(operands(out), operands(step.op(*args, **step.kwargs)), strict=True):
            self.error = max(self.error, float((y - wide).abs().max()))
        self.names.append(str(step.op).split(".")[1])


def permutation(rows: tuple[Row, ...], device: torch.device) -> Claim:
    """The local error of every step of the convolutional network that moves data, and the permutation by itself."""
    conv = ConvNetwork(nn.ELU()).to(device)
    x = torch.randn(BATCH, SAMPLES[-1], WIDTHS[0]).to(device)
    moves = _Movements()
    watch(conv, (x,), {}, [moves])
    linear = LinearNetwork(nn.ELU()).to(device)
    there_and_back = compare(linear, lambda x: linear(from_image(to_image(x))), x)
    return Claim(
        "The permutation does it",
        "the local error of each step of the convolutional network that moves data; and the linear layers after "
        "permuting there and back",
        f"the largest local error of the {len(moves.names)} steps ({', '.join(sorted(set(moves.names)))}) is "
        f"{size(moves.error)}: they round nothing. Permuted there and back: {there_and_back.verdict}. All that a "
        "permutation can do is to lead to a kernel that adds in another order.",
        moves.error > 0,
    )


def one_sample(rows: tuple[Row, ...], device: torch.device) -> Claim:
    """The rows with one sample."""
    single = [row for row in rows if row.samples == 1]
    counts = ", ".join(
        f"{form} in {sum(r.verdict == 'identical' for r in single if r.form == form)} of "
        f"{sum(r.form == form for r in single)}"
        for form in FORMS
    )
    worst = max(single, key=lambda row: row.relative)
    return Claim(
        "With one sample they are identical",
        "the lines of the table with one sample",
        f"identical bits: {counts}. The largest difference relative to the values is {size(worst.relative)}, with "
        f"{worst.form}, {worst.activation} and weights {worst.weights}. It depends on which kernel the size of the "
        "input leads to, here and now.",
        all(row.verdict == "identical" for row in single),
    )


def another_function(rows: tuple[Row, ...], device: torch.device) -> Claim:
    """The rows with several samples, and the convolutions on all samples at once against one at a time."""
    several = [row for row in rows if row.samples > 1 and row.form == "conv"]
    conv = ConvNetwork(nn.ELU()).to(device)
    x = torch.randn(BATCH, SAMPLES[-1], WIDTHS[0]).to(device)

    def one_at_a_time(x: Tensor) -> tuple[Tensor, ...]:
        parts = [conv(sample) for sample in x.split(1, dim=1)]
        return tuple(torch.cat(part, dim=1) for part in zip(*parts, strict=True))

    apart = compare(conv, one_at_a_time, x)
    worst = max(row.real_abs / (row.value_abs or 1.0) for row in several)
    return Claim(
        "With more than one sample a 1x1 convolution is a different function",
        f"the lines with {SAMPLES[-1]} samples; and the convolutions on all samples at once against one sample at a "
        "time",
        f"{sum(row.same for row in several)} of {len(several)} are the same function: the real difference is at most "
        f"{size(worst)} of the largest value. At once against one at a time: {apart.verdict}.",
        any(row.verdict == "different" for row in several) or apart.verdict == "different",
    )


def tall_kernel(rows: tuple[Row, ...], device: torch.device) -> Claim:
    """A (samples x 1) kernel against the linear layer and against flatten + linear; a full kernel against the
    latter."""
    samples, width = SAMPLES[-1], WIDTHS[0]
    tall = nn.Conv2d(width, 64, (samples, 1)).to(device)
    flat = with_weights_of(tall, nn.Linear(width * samples, 64))
    full = nn.Conv2d(3, 10, (12, 9)).to(device)
    flat_full = with_weights_of(full, nn.Linear(3 * 12 * 9, 10))
    linear = nn.Linear(width, 64).to(device)
    x, image = torch.randn(BATCH, samples, width).to(device), torch.randn(BATCH, 3, 12, 9).to(device)
    with_linear = compare(linear, lambda x: from_image(tall(to_image(x))), x)
    with_flat = compare(lambda x: flat(to_image(x).flatten(1)), lambda x: tall(to_image(x)).flatten(1), x)
    with_full = compare(lambda x: flat_full(x.flatten(1)), lambda x: full(x).flatten(1), image)
    return Claim(
        "A convolution with a (samples x 1) kernel would be the equivalent one",
        "it against the linear layer; against flatten + linear; and a kernel of the full height and width against "
        "flatten + linear",
        f"against the linear layer: {with_linear.verdict}, it gives [{BATCH}, 1, 64] where the linear layer gives "
        f"[{BATCH}, {samples}, 64]. Against flatten + linear: {_told(with_flat)}. The full kernel against flatten + "
        f"linear: {_told(with_full)}.",
        bool(with_linear),
    )


def segmentation(rows: tuple[Row, ...], device: torch.device) -> Claim:
    """A 1x1 convolution over an image against a linear layer at each pixel."""
    conv = nn.Conv2d(32, 5, kernel_size=1).to(device)
    linear = with_weights_of(conv, nn.Linear(32, 5))
    x = torch.randn(2, 32, 24, 20).to(device)
    c = compare(conv, lambda x: linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), x)
    return Claim(
        "The last layer of a segmentation network, a 1x1 convolution, is a linear layer at each pixel",
        "a 1x1 convolution from 32 to 5 channels over 24 x 20 pixels, against a linear layer over the channels",
        f"{_told(c)}.",
        bool(c),
    )


def large_values(rows: tuple[Row, ...], device: torch.device) -> Claim:
    """The rows with ELU and weights of 1, and those with sigmoid and 0.001."""

    def worst(activation: str, weights: str) -> Row:
        chosen = [row for row in rows if (row.activation, row.weights) == (activation, weights)]
        return max(chosen, key=lambda row: row.difference_abs)

    large, small = worst("ELU", "1"), worst("sigmoid", "0.001")
    return Claim(
        "With ELU and weights of 1 the difference is very large, yet negligible; with sigmoid and 0.001 it is small",
        "the lines of the table with these weights",
        f"ELU, 1: {size(large.difference_abs)} at values of {size(large.value_abs)}, which is {size(large.relative)} "
        f"of them ({large.verdict}). Sigmoid, 0.001: {size(small.difference_abs)} at values of "
        f"{size(small.value_abs)} ({small.verdict}). A fixed absolute tolerance cannot suit both.",
        large.same
        and small.same
        and large.difference_abs > 1 > large.relative
        and small.difference_abs < large.relative,
    )


CLAIMS = (order, replayed, permutation, one_sample, another_function, tall_kernel, segmentation, large_values)


def _told(c: Comparison) -> str:
    """A verdict with its numbers."""
    o = c.outputs[0]
    return f"{c.verdict}, difference {size(o.max_abs)}, real difference {size(o.real_abs)}"
