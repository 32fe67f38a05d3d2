"""From a text such as net.py:Model(256) to a network, and what is said when it does not work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from roundoff.errors import RoundoffError
from roundoff.load.target import load_target, parse_target

NET = """
import functools
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, input_dim, hidden=8, *, bias=True):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(input_dim, hidden, bias=bias), nn.ELU())
    def forward(self, x):
        return self.encoder(x)

class Plain(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

class Holder:
    Inner = Plain

def make():
    return Model(4)

def make_wide(width=5):
    return Model(width)

def network(x):
    return x + 1

def many(*tensors):
    return tensors[0]

def raises():
    raise ValueError("no weights today")

def three():
    return 3

instance = Model(4)
shifted = functools.partial(network)
number = 7
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with net.py in it."""
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), dict(sys.modules)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - set(modules):
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def hidden_units(network: object) -> int:
    assert isinstance(network, nn.Module)
    return int(network.get_submodule("encoder.0").weight.shape[0])


def input_width(network: object) -> int:
    assert isinstance(network, nn.Module)
    return int(network.get_submodule("encoder.0").weight.shape[1])


@pytest.mark.parametrize(
    ("text", "width", "hidden"),
    [
        ("net.py:Model(256)", 256, 8),
        ("./net.py:Model(256)", 256, 8),
        ("net:Model(256)", 256, 8),
        ("net.py:Model(6, 7)", 6, 7),
        ("net.py:Model(input_dim=6, hidden=7, bias=False)", 6, 7),
        ("net.py:make", 4, 8),
        ("net.py:make()", 4, 8),
        ("net.py:make_wide", 5, 8),
        ("net.py:make_wide(6)", 6, 8),
        ("net.py:instance", 4, 8),
    ],
)
def test_forms_that_give_a_network(folder: Path, text: str, width: int, hidden: int) -> None:
    network = load_target(text)
    assert (input_width(network), hidden_units(network)) == (width, hidden)


def test_a_class_without_parameters_is_called(folder: Path) -> None:
    assert type(load_target("net.py:Plain")).__name__ == "Plain"


def test_dotted_names(folder: Path) -> None:
    assert isinstance(load_target("net.py:Holder.Inner"), nn.Linear)
    assert isinstance(load_target("net.py:instance.encoder"), nn.Sequential)
    assert isinstance(load_target("net.py:instance.encoder.0"), nn.Linear)
    assert isinstance(load_target("torch:nn.Linear(3, 2)"), nn.Linear)


@pytest.mark.parametrize("name", ["network", "many", "shifted"])
def test_a_function_of_the_input_is_the_network(folder: Path, name: str) -> None:
    x = torch.ones(2)
    assert torch.equal(load_target(f"net.py:{name}")(x), x if name == "many" else x + 1)


def test_a_built_in_function_is_the_network() -> None:
    assert load_target("torch:relu") is torch.relu


def test_weights_come_from_the_seed_alone(folder: Path) -> None:
    def weight(seed: int) -> torch.Tensor:
        torch.rand(3)  # whatever was drawn before
        network = load_target("net.py:Model(256)", seed=seed)
        return network.encoder[0].weight.detach()  # type: ignore[attr-defined, no-any-return]

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))


def test_a_file_is_loaded_once(folder: Path) -> None:
    (folder / "count.py").write_text(
        "from pathlib import Path\n"
        "Path('loaded').open('a').write('x')\n"
        "from torch import nn\n"
        "shared = nn.Linear(2, 2)\n"
        "class Model(nn.Linear):\n    def __init__(self): super().__init__(2, 2)\n"
    )
    a, b = load_target("count.py:Model"), load_target(f"{folder}/count.py:Model")
    assert type(a) is type(b)
    assert load_target("count.py:shared") is load_target("count:shared")
    assert (folder / "loaded").read_text() == "x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("net.py", "no colon"),
        ("Model", "no colon"),
        ("", "no colon"),
        (":Model", "does not name a file or module"),
        ("net.py:", "names nothing after the colon"),
        ("net.py:Model:x", "does not name a file or module and then a name"),
        ("net.py:Model-2", "'Model-2' is not a name"),
        ("net.txt:Model", "There is no module net.txt"),
        ("./net:Model", "./net is not a Python file"),
        ("nett.py:Model", "Did you mean net.py?"),
        ("nowhere/net.py:Model", "nowhere does not exist"),
        ("nett:Model", "Did you mean net?"),
        ("torch.nnn:Linear", "There is no module torch.nnn"),
        ("net.py:Modle(256)", "there is no Modle in net.py. Did you mean Model?"),
        ("net.py:Zzz", "It has Model, Plain, Holder, make"),
        ("net.py:instance.decoder", "there is no decoder in net.py:instance. Did you mean encoder?"),
        ("net.py:Model", "missing a required argument: 'input_dim'"),
        ("net.py:Model", "'net.py:Model(input_dim=...)'"),
        ("net.py:Model()", "missing a required argument: 'input_dim'"),
        ("net.py:Model(1, 2, 3)", "too many positional arguments"),
        ("net.py:Model(4, depth=3)", "unexpected keyword argument 'depth'"),
        ("net.py:Model('wide')", "raised TypeError, at net.py, line "),
        ("net.py:Model(256", "(256 is not a call"),
        ("net.py:Model(256))", "(256)) is not a call"),
        ("net.py:Model(256).eval()", "is not one call at the end of the name"),
        ("net.py:Model(256)(3)", "is not one call at the end of the name"),
        ("net.py:Model(size)", "the argument size is not a literal"),
        ("net.py:Model(torch.float32)", "the argument torch.float32 is not a literal"),
        ("net.py:Model(hidden=2 * 3)", "the argument 2 * 3 is not a literal"),
        ("net.py:Model(*[3])", "the argument *[3] is not a literal"),
        ("net.py:Model(**{'input_dim': 3})", "** is not evaluated"),
        ("net.py:Model(__import__('os').remove('net.py'))", "is not a literal"),
        ("net.py:raises", "raises() raised ValueError, at net.py, line 33 (raise ValueError"),
        ("net.py:raises", "no weights today"),
        ("net.py:three", "three() gave an int, which cannot be called"),
        ("net.py:number", "number is an int, which cannot be called"),
        ("net.py:instance(4)", "instance is a Model; it is not called to get a network"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, text: str, words: str) -> None:
    with pytest.raises(RoundoffError) as caught:
        load_target(text)
    assert words in str(caught.value)
    assert (folder / "net.py").exists()  # nothing was evaluated that removes it


def test_a_file_with_a_colon_or_a_call_in_its_folder() -> None:
    target = parse_target("my (copy)/net.py:Model(256)")
    assert (target.source, target.name, target.call) == ("my (copy)/net.py", "Model", "(256)")
