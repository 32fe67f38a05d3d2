"""What is known of the operators covers the networks of the suite."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from tests.suite import networks

from roundoff.cli.coverage import cover

MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("network", networks.ALL, ids=lambda n: n.name)
def test_at_least_19_of_20_steps_have_a_bound(
    network: networks.Network, mode: Callable[[], AbstractContextManager[Any]]
) -> None:
    model, args, kwargs = network.make(0)
    with mode():
        coverage = cover(model, args, kwargs)
    assert coverage.steps > 0
    assert coverage.covered >= 0.95 * coverage.steps, coverage.uncovered
