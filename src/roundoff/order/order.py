"""What was revealed of an operator's order of additions."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.formats import unit_roundoff
from roundoff.order.replay import Arithmetic, replay_in
from roundoff.order.svg import svg
from roundoff.order.tree import SumTree

SCHEMA = "roundoff.order/1"


@dataclass(frozen=True)
class Variant:
    """One order that an operator uses: its tree, the products that are fused with their addition (None where it cannot
    be told), how it rounds, and on how many sampled outputs its replay gave the kernel's own bits."""

    tree: SumTree
    fused: frozenset[int] | None
    arithmetic: Arithmetic
    matching: int

    def replay(self, x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        """Element by element: x and w [n, products], b [n], to [n]."""
        return replay_in(self.tree, self.fused or frozenset(), self.arithmetic, x, w, b)


@dataclass(frozen=True)
class Order:
    """The order in which an operator adds at one shape, and the evidence for it.

    ``variants`` has one entry where all outputs add in the same order, several where they do not, none where there is no
    tree; ``reason`` then says what was seen instead. ``sampled`` outputs were computed from real operands by the kernel
    and by software, of which ``matching`` had the same bits. ``calls`` is how often the operator was called.
    """

    name: str
    shape: str
    length: int
    dtype: torch.dtype
    variants: tuple[Variant, ...]
    sampled: int
    calls: int
    seconds: float
    reason: str = ""
    _products: int = field(default=0, repr=False)

    @property
    def tree(self) -> SumTree | None:
        """The tree; of several the one that most outputs have. None where the kernel adds in no tree."""
        return self.variants[0].tree if self.variants else None

    @property
    def shared(self) -> bool:
        """True when all outputs that were looked at add in the same order."""
        return len(self.variants) == 1

    @property
    def depth(self) -> int | None:
        """How many additions the longest way to the sum has."""
        return self.variants[0].tree.depth if self.variants else None

    @property
    def fused(self) -> bool | None:
        """True when every product that is added to one other part is fused with that addition, False when none is, None
        when some are, or when it cannot be told. ``variants[0].fused`` has each."""
        if not self.variants or self.variants[0].fused is None:
            return None
        first = self.variants[0]
        assert first.fused is not None
        able = [[i for i in node if i < self._products] for node in first.tree.nodes if len(node) == 2]
        if any(able) and all(any(i in first.fused for i in products) for products in able if products):
            return True
        return None if first.fused or not any(able) else False

    @property
    def matching(self) -> int:
        """On how many of the sampled outputs the replay gave the kernel's own bits."""
        return sum(v.matching for v in self.variants)

    @property
    def certified(self) -> bool:
        """True when it did on all of them. Without that, a tree is a guess."""
        return bool(self.variants) and not self.reason and self.matching == self.sampled > 0

    @property
    def bound(self) -> float | None:
        """What the rounding of such a sum cannot exceed, relative to the sum of the magnitudes of its summands:
        γ_h = h u / (1 - h u), h being the depth and one more, for a product or a division is rounded too, even where
        multiply-adds are fused: the first product has nothing to be fused with (Higham, Accuracy and Stability of
        Numerical Algorithms, §3.1, §4.2). None without a certificate, for a result in a shorter format than that of the
        additions, and for additions of more than two at once."""
        ways = [v.arithmetic for v in self.variants]
        wide = any(v.tree.widest > 2 for v in self.variants)
        if not self.certified or wide or any(how.adds_in != self.dtype or how.operands for how in ways):
            return None
        more = 2 if any(how.division == "multiply" for how in ways) else 1
        h = (max(v.tree.depth for v in self.variants) + more) * unit_roundoff(self.dtype)
        return h / (1 - h)

    @property
    def length_bound(self) -> float | None:
        """The same by the length alone, whatever the order: γ_n (Higham, §3.1)."""
        n = (self.length + (1 if self._divided else 0)) * unit_roundoff(self.dtype)
        return n / (1 - n) if n < 1 else None

    @property
    def _divided(self) -> bool:
        return any(v.arithmetic.division for v in self.variants)

    def replay(self, x: Tensor, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
        """The sums in this order, by software: x [rows, products], w [cols, products] and b [cols] give [rows, cols];
        without w, x gives [rows]. Real operands in the operator's dtype. For a convolution the rows are its windows,
        channels first.

        Raises RoundoffError when there is no tree, when outputs add in different orders, and when shapes do not fit.
        """
        if len(self.variants) != 1:
            raise RoundoffError(
                f"There is no one order to replay: {self.reason or 'the outputs add in different orders'}. "
                "Take one of .variants, which replays element by element."
            )
        tree, fits = self.variants[0].tree, x.dim() == 2 and x.shape[1] == self._products and x.dtype == self.dtype
        if not fits or (b is not None) != tree.bias or (w is not None and (w.dim() != 2 or w.shape[1] != x.shape[1])):
            raise RoundoffError(
                f"The order is of {self._products} products{' and a bias' if tree.bias else ''} in {self.dtype}; given "
                f"were x {tuple(x.shape)} {x.dtype}, w {None if w is None else tuple(w.shape)} and b "
                f"{None if b is None else tuple(b.shape)}. Give x [rows, {self._products}], w [cols, {self._products}], "
                "b [cols]."
            )
        if w is None:
            return self.variants[0].replay(x, None, None)
        rows, cols = len(x), len(w)
        each = x.repeat_interleave(cols, 0), w.repeat(rows, 1), None if b is None else b.repeat(rows)
        return self.variants[0].replay(*each).view(rows, cols)

    def describe(self) -> str:
        """The operator, its order, the depth and the evidence in words."""
        return f"{self.name}, {self.shape}: {self.story}"

    @property
    def story(self) -> str:
        """The order, its depth and the evidence in words."""
        if not self.variants:
            return f"no tree. {self.reason}"
        order = self.story_of_order
        bound = ""
        if self.bound is not None and self.length_bound is not None and self.bound < self.length_bound:
            bound = f", so that its error is at most {self.bound:.3g} of Σ|summands| (by its length {self.length_bound:.3g})"
        return f"{order}. Depth {self.depth}{bound}. {self.evidence}"

    @property
    def story_of_order(self) -> str:
        """The order in words."""
        if not self.variants:
            return "no tree"
        first, parts = self.variants[0], []
        for v in self.variants:
            many = f" [{v.matching} of {self.sampled} outputs]" if len(self.variants) > 1 else ""
            parts.append(v.tree.describe() + many)
        fused = {True: ", fused multiply-add", False: ", products rounded before they are added", None: ""}[self.fused]
        if self.fused is None and first.fused:
            fused = f", {len(first.fused)} of {self._products} products with fused multiply-add"
        wide = first.arithmetic.adds_in
        inside = f", added in {str(wide).removeprefix('torch.')}" if wide != self.dtype and self.certified else ""
        short = first.arithmetic.operands
        rounded = f", operands rounded to {short}" if short else ""
        return f"{'; '.join(parts)}{fused}{inside}{rounded}"

    @property
    def evidence(self) -> str:
        """The certificate in words."""
        if not self.variants:
            return "No tree."
        said = f"replayed in software, {self.matching} of {self.sampled} sampled outputs have the kernel's own bits"
        return f"Certified: {said}." if self.certified else f"A guess, not certified: {said}. {self.reason}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "shape": self.shape,
            "length": self.length,
            "dtype": str(self.dtype).removeprefix("torch."),
            "certified": self.certified,
            "sampled": self.sampled,
            "matching": self.matching,
            "shared": self.shared,
            "fused": self.fused,
            "depth": self.depth,
            "bound": self.bound,
            "length_bound": self.length_bound,
            "reason": self.reason,
            "text": self.describe(),
            "calls": self.calls,
            "variants": [
                {
                    "matching": v.matching,
                    "fused": None if v.fused is None else sorted(v.fused),
                    "adds_in": str(v.arithmetic.adds_in).removeprefix("torch."),
                    "rounded_before_the_bias": v.arithmetic.early,
                    "division": v.arithmetic.division or None,
                    "operands": v.arithmetic.operands or None,
                    "tree": v.tree.to_dict(),
                }
                for v in self.variants
            ],
        }

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The same as JSON text; also written to ``path``, whole or not at all, where one is given."""
        import json

        from roundoff.files import write

        text = json.dumps(self.to_dict()) + "\n"
        if path is not None:
            write(text, path)
        return text

    def to_svg(self, path: str | os.PathLike[str]) -> None:
        """Draw the tree into ``path``, whole or not at all. Raises RoundoffError where there is none."""
        from roundoff.files import write

        if self.tree is None:
            raise RoundoffError(f"There is no tree to draw: {self.reason}")
        write(svg(self.tree), path)

    def __str__(self) -> str:
        return self.describe()
