"""A sum of products over shared axes is a grouped 1x1 convolution.

Each axis of the input x and of the weight W has a label. Four kinds of label may occur: b in both and in the output
(batch), c in both and summed, o in the weight and in the output, p in the input and in the output. Then

    y[b, o, p] = sum_c W[b, o, c] x[b, c, p]

is, for every b, a fully connected layer from the c to the o at each position p: a 1x1 convolution of one dimension with
as many groups as there are b, the channels (b, c) and (b, o), and the positions p.

Requires: dense tensors, a label for each axis.
Applies: where no label is twice in one operand, axes of one label have one size, something is summed, and nothing is
summed in one operand alone.
Ensures: the axes in the given order, contiguous.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import prod

import torch.nn.functional as F
from torch import Tensor

Labels = Sequence[Hashable]


def contraction(x: Tensor, x_labels: Labels, weight: Tensor, w_labels: Labels, out: Labels) -> Tensor | str:
    """The sum in the form of a convolution, or the reason why it has none."""
    for labels in (x_labels, w_labels, out):
        if len(set(labels)) < len(labels):
            return "it takes a diagonal"
    sizes = dict(zip(x_labels, x.shape, strict=True))
    for label, size in zip(w_labels, weight.shape, strict=True):
        if sizes.setdefault(label, size) != size:
            return "it repeats an axis of size 1"
    if any(label not in out for label in x_labels if label not in w_labels):
        return "it sums its input over an axis that the weight does not have"
    if any(label not in out for label in w_labels if label not in x_labels):
        return "it sums the weight over an axis that the input does not have"
    batch = [label for label in w_labels if label in x_labels and label in out]
    summed = [label for label in w_labels if label in x_labels and label not in out]
    outs = [label for label in w_labels if label not in x_labels]
    free = [label for label in x_labels if label not in w_labels]
    if not summed:
        return "it sums nothing"
    groups, channels = _size(batch, sizes), _size(summed, sizes)
    moved = permuted(x, x_labels, [*batch, *summed, *free]).reshape(1, groups * channels, -1)
    kernel = permuted(weight, w_labels, [*batch, *outs, *summed]).reshape(-1, channels, 1)
    y = F.conv1d(moved, kernel, groups=groups)
    made = [*batch, *outs, *free]
    return permuted(y.reshape([sizes[label] for label in made]), made, out).contiguous()


def permuted(x: Tensor, labels: Labels, to: Labels) -> Tensor:
    """``x`` with its axes in the order ``to``."""
    order = [list(labels).index(label) for label in to]
    return x if order == list(range(len(order))) else x.permute(order)


def _size(labels: Labels, sizes: dict[Hashable, int]) -> int:
    return prod([sizes[label] for label in labels])  # a list: Dynamo cannot follow a generator here
