"""What a conversion gives back: the network in the other form, what was rewritten and what was not, and the proof."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from roundoff.errors import RoundoffError
from roundoff.maps import Map
from roundoff.records import Converted, Declined


@dataclass(frozen=True)
class Conversion:
    """A network in another form, or with exact layers (``to`` is ``exact``, and there is no proof by comparison).

    ``model`` is an ``nn.Module`` of its own: the original is untouched. ``permutes_left`` counts the moves of an axis that
    the rewritten layers make in a run on the given input. ``comparison`` is the proof on that input, ``second`` the one on
    an input that was drawn (None where the original does not run on it). ``shapes`` has each entry of the original's state
    dict. ``dense`` says where the cells of a dense network lie, and which are exact; ``fastest`` what was measured.
    """

    to: str
    model: nn.Module
    converted: tuple[Converted, ...]
    declined: tuple[Declined, ...]
    permutes_left: int
    maps: Mapping[str, Map] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    comparison: Any = field(default=None, repr=False)
    second: Any = field(default=None, repr=False)
    dense: Any = field(default=None, repr=False)
    fastest: Any = field(default=None, repr=False)

    def state_dict_to(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """A state dict of the original for the converted network: the same numbers, bit for bit.

        Raises RoundoffError where names are missing or unexpected, or shapes are not the original's.
        """
        self._check(state_dict, self.shapes, "the original network")
        return self._through(state_dict, lambda way, x: way.to(x))

    def state_dict_from(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """A state dict of the converted network for the original: the way back, bit for bit."""
        after = {n: self.maps[n].after if n in self.maps else shape for n, shape in self.shapes.items()}
        self._check(state_dict, after, "the converted network")
        return self._through(state_dict, lambda way, x: way.back(x))

    def _through(self, state_dict: Mapping[str, Any], move: Callable[[Map, Tensor], Tensor]) -> dict[str, Any]:
        out = type(state_dict)() if isinstance(state_dict, dict) else {}
        for name, x in state_dict.items():
            out[name] = move(self.maps[name], x).contiguous() if name in self.maps else x
        if hasattr(state_dict, "_metadata"):
            out._metadata = state_dict._metadata  # type: ignore[attr-defined]
        return out

    def _check(self, state_dict: Mapping[str, Any], want: Mapping[str, tuple[int, ...]], whose: str) -> None:
        wrong = [f"missing: {name}" for name in want if name not in state_dict]
        wrong += [f"not expected: {name}" for name in state_dict if name not in want]
        for name, shape in want.items():
            x = state_dict.get(name)
            lazy = isinstance(x, UninitializedParameter)
            if isinstance(x, Tensor) and not lazy and tuple(x.shape) != shape:
                wrong.append(f"{name} has the shape {list(x.shape)}, expected {list(shape)}")
        if wrong:
            more = f"\n  and {len(wrong) - 8} more" if len(wrong) > 8 else ""
            raise RoundoffError(
                f"This is not a state dict of {whose}:\n  " + "\n  ".join(wrong[:8]) + more + "\nGive its state_dict()."
            )

    def __str__(self) -> str:
        moves = "" if self.to == "exact" else f", {self.permutes_left} permutes left"
        lines = [f"to {self.to}: {len(self.converted)} converted, {len(self.declined)} declined{moves}"]
        lines += [f"  {c.module or '(root)'}: {c.before} -> {c.after}" for c in self.converted]
        lines += [f"  {d.module or '(root)'}: {d.what} declined: {d.reason}" for d in self.declined]
        lines += [str(found) for found in (self.dense, self.fastest) if found is not None]
        if self.comparison is not None:
            lines.append(f"proof: {self.comparison.verdict} ({self.comparison.evidence}); {self.comparison.reason}")
        return "\n".join(lines)


def shapes_of(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each entry of a state dict; an empty one for what is no tensor, or has no shape yet."""
    return {
        name: () if isinstance(x, UninitializedParameter) else tuple(getattr(x, "shape", ()))
        for name, x in state.items()
    }
