"""Operators that move data: views, copies, joins, gathers, pads. Exact: no number is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from roundoff.rules.registry import register
from roundoff.rules.rule import Nature, Rule
from roundoff.rules.samples import Given, Operands, given

_SOURCE = "moves numbers and computes none"


def _x(r: Operands) -> Tensor:
    return r.wild(2, 3, 5)


def _image(r: Operands) -> Tensor:
    return r.wild(2, 4, 6, 7).contiguous(memory_format=torch.channels_last)


#: Views share memory with their operand; the executor may skip them, but they are known all the same.
VIEWS: dict[str, Given] = {
    "alias": lambda r: [_x(r)],
    "as_strided": lambda r: [(_x(r), [3, 2], [1, 3])],
    "detach": lambda r: [_x(r)],
    "diagonal": lambda r: [(r.wild(4, 5), 1)],
    "expand": lambda r: [(r.wild(1, 5), [3, 5])],
    "lift": lambda r: [_x(r)],
    "lift_fresh": lambda r: [_x(r)],
    "permute": lambda r: [(_x(r), [2, 0, 1])],
    "select": lambda r: [(_x(r), 2, 1)],
    "slice": lambda r: [(_x(r), 2, 1, 5, 2)],
    "split": lambda r: [(_x(r), 2, 2)],
    "split_with_sizes": lambda r: [(_x(r), [1, 4], 2)],
    "squeeze": lambda r: [r.wild(3, 1, 2), (r.wild(3, 1), 1)],
    "t": lambda r: [r.wild(3, 4)],
    "transpose": lambda r: [(_x(r), 0, 2)],
    "unbind": lambda r: [(_x(r), 1)],
    "unfold": lambda r: [(_x(r), 2, 3, 1)],
    "unsafe_split": lambda r: [(_x(r), 2, 2)],
    "unsafe_split_with_sizes": lambda r: [(_x(r), [1, 4], 2)],
    "unsqueeze": lambda r: [(_x(r), 1)],
    "view": lambda r: [(_x(r), [6, 5])],
    "_unsafe_view": lambda r: [(_x(r), [6, 5])],
    "_reshape_alias": lambda r: [(_x(r), [6, 5], [5, 1])],
}

#: Views of complex numbers, which the samples, being real, do not reach.
COMPLEX_VIEWS = (
    "real",
    "imag",
    "view_as_real",
    "view_as_complex",
    "conj",
    "_conj",
    "_neg_view",
    "conj_physical",
    "_conj_physical",
)

COPIES: dict[str, Given] = {
    "alias_copy": lambda r: [_x(r)],
    "block_diag": lambda r: [([r.wild(2, 3), r.wild(1, 2)],)],
    "cat": lambda r: [([_x(r), r.wild(2, 1, 5)], 1)],
    "clone": lambda r: [_x(r), (_image(r), {"memory_format": torch.contiguous_format})],
    "constant_pad_nd": lambda r: [(_x(r), [1, 2], 0.0)],
    "diag_embed": lambda r: [r.wild(2, 4)],
    "diagonal_scatter": lambda r: [(r.wild(4, 4), r.wild(4))],
    "expand_copy": lambda r: [(r.wild(1, 5), [3, 5])],
    "flip": lambda r: [(_x(r), [0, 2])],
    "gather": lambda r: [(_x(r), 1, r.integers(3, 2, 4, 5))],
    "im2col": lambda r: [(r.wild(2, 3, 5, 5), [2, 2], [1, 1], [1, 1], [2, 2])],
    "index": lambda r: [(_x(r), [None, r.integers(3, 7)]), (_x(r), [r.mask(2, 3)])],
    "index_copy": lambda r: [(_x(r), 1, torch.tensor([2, 0]), r.wild(2, 2, 5))],
    "index_select": lambda r: [(_x(r), 2, r.integers(5, 9))],
    "lift_fresh_copy": lambda r: [_x(r)],
    "masked_scatter": lambda r: [(r.wild(4, 5), r.mask(4, 5), r.wild(20))],
    "masked_select": lambda r: [(r.wild(4, 5), r.mask(4, 5))],
    "permute_copy": lambda r: [(_x(r), [2, 0, 1])],
    "pixel_shuffle": lambda r: [(_image(r), 2)],
    "pixel_unshuffle": lambda r: [(r.wild(2, 3, 4, 6), 2)],
    "channel_shuffle": lambda r: [(_image(r), 2)],
    "reflection_pad1d": lambda r: [(_x(r), [2, 1])],
    "reflection_pad2d": lambda r: [(_image(r), [2, 1, 3, 0])],
    "reflection_pad3d": lambda r: [(r.wild(1, 2, 3, 4, 5), [1, 1, 2, 0, 1, 1])],
    "repeat": lambda r: [(_x(r), [2, 1, 3])],
    "replication_pad1d": lambda r: [(_x(r), [2, 1])],
    "replication_pad2d": lambda r: [(_image(r), [2, 1, 3, 0])],
    "replication_pad3d": lambda r: [(r.wild(1, 2, 3, 4, 5), [1, 1, 2, 0, 1, 1])],
    "roll": lambda r: [(_x(r), [1, 2], [0, 2])],
    "rot90": lambda r: [(_x(r), 1, [0, 1])],
    "scatter": lambda r: [(_x(r), 2, torch.tensor([[[4, 0]]]), r.wild(1, 1, 2))],
    "select_scatter": lambda r: [(_x(r), r.wild(2, 5), 1, 2)],
    "slice_scatter": lambda r: [(_x(r), r.wild(2, 3, 2), 2, 1, 5, 2)],
    "split_with_sizes_copy": lambda r: [(_x(r), [1, 4], 2)],
    "stack": lambda r: [([_x(r), _x(r)], 1)],
    "t_copy": lambda r: [r.wild(3, 4)],
    "take": lambda r: [(_x(r), r.integers(30, 4, 4))],
    "transpose_copy": lambda r: [(_x(r), 0, 2)],
    "tril": lambda r: [(_x(r), 1), r.strided(r.wild(6, 6))],
    "triu": lambda r: [(_x(r), -1), r.strided(r.wild(6, 6))],
    "unfold_copy": lambda r: [(_x(r), 2, 3, 1)],
    "view_copy": lambda r: [(_x(r), [6, 5])],
    "embedding": lambda r: [(r.wild(10, 4), r.integers(10, 3, 5))],
    "_unsafe_index": lambda r: [(_x(r), [None, r.integers(3, 7)])],
    "_unsafe_masked_index": lambda r: [(r.wild(5), r.mask(7), [r.integers(5, 7)], 0.0)],
    "_pack_padded_sequence": lambda r: [(r.wild(5, 3, 2), torch.tensor([5, 3, 1]), False)],
    "max_unpool2d": lambda r: [(r.wild(1, 1, 2, 2), torch.tensor([[[[0, 3], [8, 11]]]]), [4, 4])],
}  # fmt: skip

#: Moved, but with a number written beside, which is rounded to the format of the tensor: one rounding at most.
WRITES: dict[str, Given] = {
    "constant_pad_nd": lambda r: [(_x(r), [1, 2, -1, 1], 0.1)],
    "fill": lambda r: [(_x(r), 0.1), (_x(r), r.normal())],
    "index_fill": lambda r: [(_x(r), 1, torch.tensor([2, 0]), 0.1)],
    "masked_fill": lambda r: [(_x(r), r.mask(2, 3, 5), 0.1), (_x(r), r.mask(3, 5), -float("inf"))],
    "scatter.value": lambda r: [(_x(r), 2, torch.tensor([[[4, 0]]]), 0.1)],
    "where": lambda r: [(r.mask(2, 3, 5), _x(r), _x(r))],
}

for _name, _cases in (VIEWS | COPIES).items():
    if _name not in WRITES:
        register(Rule((f"aten.{_name}",), Nature.EXACT, source=_SOURCE, samples=given(_cases)))

register(Rule(tuple(f"aten.{name}" for name in COMPLEX_VIEWS), Nature.EXACT, source=_SOURCE))
register(
    Rule(
        ("aten.view_as", "aten.view_as_real_copy", "aten.resize", "aten.set", "aten.squeeze_copy"),
        Nature.EXACT,
        source=_SOURCE,
    )
)

# index_put is the one that adds when it is asked to: see `indexing`.

for _name, _cases in WRITES.items():
    register(
        Rule(
            (f"aten.{_name}",),
            Nature.ROUNDS,
            source=f"{_SOURCE}; a number beside them is rounded once",
            samples=given(_cases),
        )
    )
