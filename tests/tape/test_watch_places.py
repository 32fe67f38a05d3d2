"""Each step knows the module that it belongs to and the user's source line that led to it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from tests.tape.seen import Seen, steps_of
from torch import Tensor, nn

from roundoff.replay.run import Side, run_wide
from roundoff.tape.trace import random_state

# -- modules ------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        return x + 1


def test_module_paths() -> None:
    model = nn.Sequential(Block(), Block())
    paths = [step.module for step in steps_of(model, torch.randn(2, 3)) if "addmm" in str(step.op)]
    assert paths == ["0.layers.0", "0.layers.1", "1.layers.0", "1.layers.1"]
    last = steps_of(model, torch.randn(2, 3))[-1]
    assert (last.module, str(last.op)) == ("1", "aten.add.Tensor")


def test_a_module_in_two_places_has_the_first_name() -> None:
    layer = nn.Linear(3, 3)
    paths = {step.module for step in steps_of(nn.Sequential(layer, layer), torch.randn(2, 3))}
    assert paths == {"0"}


def test_functions_name_the_modules_they_use() -> None:
    model = nn.Sequential(Block())
    paths = [step.module for step in steps_of(lambda x: model(x).sum(), torch.randn(2, 3))]
    assert paths[0] == "0.layers.0" and paths[-1] == ""


def test_a_module_that_nobody_knows_has_its_class_for_a_name() -> None:
    assert steps_of(lambda x: nn.Softplus()(x), torch.ones(1))[0].module == "Softplus"


def test_paths_are_right_again_after_an_exception_that_the_network_caught() -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError

    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.breaks = Breaks()

        def forward(self, x: Tensor) -> Tensor:
            try:
                return self.breaks(x)
            except KeyError:
                return x + 1

    assert [step.module for step in steps_of(nn.Sequential(Catches()), torch.ones(1))] == ["0"]


# -- source lines -------------------------------------------------------------------------------------------------------


def test_the_source_is_the_users_innermost_line() -> None:
    step = steps_of(lambda x: F.gelu(x), torch.ones(1))[0]
    assert step.source.startswith("test_watch_places.py:") and "F.gelu(x)" in step.source
    assert step.where == step.source  # no module


def test_what_stands_in_for_torch_functions_is_not_the_user(tmp_path: Path) -> None:
    seen = Seen()
    side = Side("A", lambda x: x * torch.tensor([0.1]), (torch.ones(1),), {}, random_state())
    run_wide(side, also=[seen])
    assert {step.source.split(":")[0] for step in seen.steps} == {"test_watch_places.py"}


def test_a_package_beside_torch_is_the_users(tmp_path: Path) -> None:
    """torchvision's folder begins with torch's own name."""
    path = Path(str(Path(torch.__file__).parent) + "vision_of_a_test") / "net.py"
    code = compile("def net(x):\n    return x.sin()\n", str(path), "exec")
    names: dict[str, Any] = {}
    exec(code, names)
    assert steps_of(names["net"], torch.ones(1))[0].source == "net.py:2"


def loaded(path: Path, text: str) -> ModuleType:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_source_lines_of_a_file_of_the_users(tmp_path: Path) -> None:
    net = loaded(
        tmp_path / "mine.py", "import torch\n\ndef net(x):\n    y = x + 1\n    return torch.exp(\n        y)\n"
    )
    assert [step.source for step in steps_of(net.net, torch.ones(1))] == [
        "mine.py:4: y = x + 1",
        "mine.py:5: return torch.exp(",
    ]


def test_without_a_users_line_the_step_is_named_by_its_number() -> None:
    (step,) = steps_of(torch.sin, torch.ones(1))
    assert (step.source, step.where) == ("", "step 0")
    (step,) = steps_of(nn.Sequential(nn.Sigmoid()), torch.ones(1))
    assert step.where == "0"
    assert str(step).split() == ["0", "aten.sigmoid.default", "0"]
