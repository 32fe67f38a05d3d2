"""The device that somebody names is there, or the message says what is."""

from __future__ import annotations

import pytest
import torch

from roundoff.errors import RoundoffError
from roundoff.load.device import load_device


def test_the_cpu() -> None:
    assert load_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("text", ["gpu", "cuda:x", "", "meta", "cpu:1", "mps"])
def test_no_such_device(text: str) -> None:
    with pytest.raises(RoundoffError, match="There is no device"):
        load_device(text)


def test_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for text in ("cuda", "cuda:0"):
        with pytest.raises(RoundoffError, match=r"Run with --device cpu\."):
            load_device(text)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert load_device("cuda:1").index == 1
    with pytest.raises(RoundoffError, match="there are 2: cuda:0 to cuda:1"):
        load_device("cuda:2")
