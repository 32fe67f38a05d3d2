"""What the command line loads from outside: networks, inputs, weights, the device."""

from __future__ import annotations

from roundoff.load.device import load_device
from roundoff.load.spec import load_args
from roundoff.load.target import load_target, seed_all
from roundoff.load.weights import load_weights

__all__ = ["load_args", "load_device", "load_target", "load_weights", "seed_all"]
