"""The device that somebody names."""

from __future__ import annotations

import torch

from roundoff.errors import RoundoffError


def load_device(text: str) -> torch.device:
    """``cpu``, ``cuda`` or ``cuda:0`` as a device that is there; raises RoundoffError where it is not.

    >>> load_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(text)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise RoundoffError(f"There is no device {text!r} to run on: expected cpu or cuda:0.")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            why = "was built without CUDA" if torch.version.cuda is None else "finds no GPU"
            raise RoundoffError(
                f"The device {text} was asked for, but this PyTorch ({torch.__version__}) {why}. Run with --device cpu."
            )
        if (device.index or 0) >= count:
            raise RoundoffError(
                f"The device {text} was asked for, but there are {count}: cuda:0 to cuda:{count - 1}. Name one of them."
            )
    elif device.index:
        raise RoundoffError(f"There is no device {text!r}: the CPU is one device. Write cpu.")
    return device
