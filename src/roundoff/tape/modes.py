"""The modes of the caller in which a run is made: gradients, inference, autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Modes:
    """The modes that were on, so that a later run can be made in them."""

    grad: bool
    inference: bool
    autocast: tuple[tuple[str, bool, torch.dtype], ...]  # by kind of device: whether it is on, and its format
    cache: bool

    @contextmanager
    def again(self) -> Iterator[None]:
        """A context with the same modes."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self.inference))
            if not self.inference:
                stack.enter_context(torch.set_grad_enabled(self.grad))
            for device, enabled, dtype in self.autocast:
                if enabled or torch.is_autocast_enabled(device):  # one that stays off needs no context
                    stack.enter_context(torch.autocast(device, dtype, enabled, self.cache))
            yield


#: No gradients are kept, no inference tensors made, nothing is cast.
PLAIN = Modes(False, False, (("cpu", False, torch.bfloat16), ("cuda", False, torch.float16)), True)


def current_modes() -> Modes:
    """The modes that are on now."""
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    return Modes(
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        tuple((d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in devices),
        torch.is_autocast_cache_enabled(),
    )
