"""A fully connected layer after a flatten is a convolution whose kernel covers the whole input.

y[n, o] = sum_{c,h,w} W[o, (c H + h) W' + w] x[n, c, h, w] + b[o] is a convolution with the kernel K[o, c, h, w] of the
full height and width, which fits at one position only. Where the flattened tensor had its channels last, the index of W
runs over h, w, c, and K is W with its axes in the other order.

Requires: a fully connected layer, as for a 1x1 convolution.
Applies: where each of its inputs was, in the run, the flatten of one [N, C, L], [N, C, H, W] or [N, C, D, H, W] tensor,
also through elementwise operations (dropout, relu) in between. Adaptive pooling before the flatten changes nothing.
Ensures: weight [out, C, H, W]; the layer takes the flattened input as before.
"""

from __future__ import annotations

from math import prod

from roundoff.forms.layers import FLAT
from roundoff.forms.linear_to_conv import is_linear, is_transposed, weight_map
from roundoff.forms.rule import New, Rule, Site, move_parameters


def declines(site: Site) -> str:
    """A reason where the input was no flatten; the 1x1 convolution is for those."""
    flats = {call.flat for call in site.calls}
    return "" if len(flats) == 1 and None not in flats else "its input is not the flatten of one shape"


def rewrite(site: Site) -> New:
    """The convolution with the full kernel."""
    flat = site.calls[0].flat
    assert flat is not None
    sizes, last = flat
    way = weight_map(site.module, sizes, last)
    new = FLAT[len(sizes) - 1](sizes[0], way.after[0], sizes[1:], bias=False, device="meta")  # type: ignore[arg-type]
    inputs = prod(sizes)
    vars(new).update(in_features=inputs, out_features=way.after[0], sizes=sizes, last=last)
    return move_parameters(site.module, new, {"weight": way}, site.pinned)


RULE = Rule(
    "conv",
    "flatten and linear to convolution",
    lambda m: is_linear(m) or is_transposed(m),
    declines,
    rewrite,
    lambda site: sum(bool(call.flat and call.flat[1]) for call in site.calls),
    "weight [out, C, H, W]",
)
