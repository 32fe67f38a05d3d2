"""Dense networks: each exact cell is the network on its crop, the others are said not to be, and what is declined."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import roundoff
from roundoff.forms.dense import densify, run

from .dense_nets import CrossMapNorm, Head, Join, Python, cells_and_crops, disagreement
from .nets import ConvNextBlock, LeNet, SqueezeExcite, alexnet, vgg


def resnet() -> nn.Module:
    def block(i: int, o: int, stride: int) -> nn.Module:
        way = [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(True), nn.Conv2d(o, o, 3, 1, 1)]
        return Join(nn.Sequential(*way), nn.Conv2d(i, o, 1, stride))

    stem = [nn.Conv2d(3, 4, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(*stem, block(4, 4, 1), block(4, 8, 2), *head).eval()


# the network, its crop, the stride of its cells, and the exact ones of 3 x 3
NETS: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...], int]] = {
    "LeNet": (LeNet, (1, 16, 16), (2, 2), 9),
    "LeNet, channels last": (lambda: LeNet(last=True), (1, 20, 22), (2, 2), 9),  # and adaptive pooling does something
    "AlexNet without padding": (lambda: alexnet(0), (3, 199, 199), (16, 16), 9),
    "AlexNet": (alexnet, (3, 127, 127), (32, 32), 0),  # adaptive pooling of a 3 x 3 map to 5 x 5, at every cell
    "VGG": (vgg, (3, 64, 64), (32, 32), 0),
    "VGG, its pooling does nothing": (lambda: vgg(size=2), (3, 64, 64), (32, 32), 0),
    "VGG without padding": (lambda: vgg(0, blocks=(1, 1, 2), size=4), (3, 54, 62), (8, 8), 9),
    "local response norm": (lambda: nn.Sequential(nn.Conv2d(3, 6, 5, 2), nn.ReLU(), nn.LocalResponseNorm(5, 0.5),
                                                  nn.MaxPool2d(3, 2), CrossMapNorm(), nn.Flatten(), nn.Linear(36, 5)),
                            (3, 15, 17), (4, 4), 9),
    "local response norm, one axis": (lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.LocalResponseNorm(3), nn.Flatten(),
                                                            nn.Linear(30, 3)), (2, 8), (1,), 3),
    "ResNet": (resnet, (3, 32, 32), (8, 8), 0),
    "Python": (Python, (3, 17, 15), (2, 2), 3),  # one row: reflected at its top, where the image ends too
    "ConvNeXt": (lambda: nn.Sequential(ConvNextBlock(), nn.Conv2d(6, 3, 8), nn.Flatten()), (6, 8, 8), (1, 1), 0),
    **{f"head: {kind}": (lambda kind=kind: Head(kind), (3, 15, 15), (2, 2), 9)
       for kind in ("shuffle", "flatten", "sum", "pool", "tokens")},
    "one axis": (lambda: nn.Sequential(nn.Conv1d(2, 4, 5, 3), nn.AdaptiveMaxPool1d(1), nn.Flatten()), (2, 20), (3,), 3),
    "three axes": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3, 2), nn.Flatten(), nn.Linear(32, 3)),
                   (2, 5, 5, 5), (2, 2, 2), 27),
    "a pooling that covers its map": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.MaxPool2d(4), nn.Flatten()),
                                      (2, 7, 8), (1, 1), 9),
}  # fmt: skip


@pytest.mark.parametrize("name", list(NETS))
def test_each_cell_is_its_crop(name: str) -> None:
    make, shape, stride, exact = NETS[name]
    net = make().eval().double()
    made = densify(net, (torch.randn(1, *shape, dtype=torch.float64),), {})
    assert made.dense.stride == stride and made.dense.crop == shape[1:]
    size = made.dense.image(*[3] * len(stride))
    mask = made.dense.mask(*size)
    assert mask.sum() == exact
    image = torch.randn(2, shape[0], *size, dtype=torch.float64)
    found, crops = cells_and_crops(net, made, image)
    for a, b in zip(found.values(), crops.values(), strict=True) if isinstance(found, dict) else ((found, crops),):
        differs = (a - b).abs().flatten(0, 1).amax(0) / b.abs().max()
        assert a.shape[-mask.dim() :] == mask.shape
        # sums of at most a few thousand float64 products, through a few layers; padding acts a million times stronger
        assert (differs[mask] < 1e-11).all() and (differs[~mask] > 1e-8).all()


def test_pixels_beyond_the_last_crop_are_not_looked_at() -> None:
    made = densify(resnet(), (torch.randn(1, 3, 32, 32),), {})
    image = torch.randn(1, 3, 47, 39)
    assert made.dense.cells(47, 39) == (2, 1)
    assert torch.equal(made.model(image), made.model(image[:, :, :40, :32]))
    # one column of cells: the padding beside it is the crop's own; one row more, and it is not
    assert made.dense.mask(32, 32).all() and not made.dense.mask(40, 32).any()


def test_random_networks() -> None:
    """No cell is called exact that is not, and none of these is missed."""
    seen = exact = 0
    for seed in range(7):
        found = disagreement(seed)
        if found is not None:
            mask, differs = found
            assert (differs[mask] < 1e-10).all(), seed
            assert (differs[~mask] > 1e-10).all(), seed
            seen, exact = seen + mask.numel(), exact + int(mask.sum())
    assert 0.1 < exact / seen < 0.9


def test_a_convolution_where_there_are_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    net = LeNet().eval().double()
    made = densify(net, (torch.randn(1, 1, 16, 16, dtype=torch.float64),), {})
    monkeypatch.setattr(run, "_MOST_COPIED", 0)
    found, crops = cells_and_crops(net, made, torch.randn(2, 1, 18, 20, dtype=torch.float64))
    assert (found - crops).abs().max() < 1e-11 * crops.abs().max()


class TestConvert:
    def test_both_proofs(self) -> None:
        net, x = LeNet().eval(), torch.rand(1, 1, 16, 16)
        done = roundoff.convert(net, x, "dense", exact=True)
        assert done.comparison and done.second and done.second.outputs[0].shape == (9, 5)
        assert done.model(torch.rand(2, 1, 22, 20)).shape == (2, 5, 4, 3)
        assert "classifier.1: Linear -> convolution with a kernel of 6 x 6" in str(done)
        assert "crop 16 x 16, a cell every 2 x 2 pixels; 9 of 9 cells" in str(done)

    def test_a_changed_network_is_not_proved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run, "fold", lambda *args, fold=run.fold: fold(*args).flip(0))
        with pytest.raises(roundoff.RoundoffError, match="not the same on a larger image"):
            roundoff.convert(LeNet().eval(), torch.rand(1, 1, 16, 16), "dense")

    @pytest.mark.parametrize(
        ("make", "size", "told"),
        [
            (resnet, 32, "conv2d in 0 (Conv2d), max_pool2d in 2 (MaxPool2d)"),
            (lambda: vgg(blocks=(1, 1, 2), size=3), 32, "conv2d in 0 (Conv2d), conv2d in 3 (Conv2d), conv2d in 6"),
        ],
    )
    def test_no_exact_cell(self, make: Any, size: int, told: str) -> None:
        net, x = make(), torch.rand(1, 3, size, size)
        done = roundoff.convert(net, x, "dense")
        assert done.comparison and done.second and done.second.outputs[0].shape == (1, 5)
        assert not done.dense.mask(size + 16, size + 16).any() and done.dense.mask(size, size).all()
        assert f"padding reaches the output from {told}" in str(done)
        with pytest.raises(roundoff.RoundoffError, match="No cell of the dense network is exact") as error:
            roundoff.convert(net, x, "dense", exact=True)
        assert told in str(error.value)

    def test_weights_and_training(self) -> None:
        net = LeNet().eval()
        done = roundoff.convert(net, torch.rand(1, 1, 16, 16), "dense")
        assert list(done.model.state_dict()) == list(net.state_dict())
        other = LeNet().eval()
        done.model.load_state_dict(done.state_dict_to(other.state_dict()))
        image = torch.rand(1, 1, 18, 18)
        assert roundoff.compare(lambda x: other(x[:, :, 2:, :16]), lambda x: done.model(x)[:, :, 1, 0], image)
        copy.deepcopy(done.model)(image).sum().backward()
        done.model(image).sum().backward()
        assert all(p.grad is not None for p in done.model.parameters())
        assert torch.export.export(done.model, (image,), strict=True).module()(image).shape == (1, 5, 2, 2)

    @pytest.mark.parametrize("name", ["LeNet", "Python", "head: tokens", "ResNet"])
    def test_saved_and_copied(self, name: str) -> None:
        make, shape, _, _ = NETS[name]
        made = densify(make().eval(), (torch.randn(1, *shape),), {})
        image = torch.randn(3, shape[0], *made.dense.image(2, 3))
        y, file = tree_leaves(made.model(image)), io.BytesIO()
        torch.save(made.model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for new in (copy.deepcopy(made.model), loaded, pickle.loads(pickle.dumps(loaded))):
            assert all(map(torch.equal, tree_leaves(new(image)), y))
            assert new.state_dict().keys() == made.model.state_dict().keys()


class Call(nn.Module):
    def __init__(self, call: Any, *layers: nn.Module) -> None:
        super().__init__()
        self.call, self.layers = call, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Any:
        return self.call(x, *self.layers)


def head() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def layer(*layers: nn.Module) -> Any:
    return lambda: nn.Sequential(*layers, *head())


def call(f: Any) -> Any:
    return lambda: Call(f)


DECLINED: dict[str, tuple[Any, str]] = {
    "squeeze and excitation": (layer(SqueezeExcite()), "mul in 0 .SqueezeExcite., nets.py:.*whole crop"),
    "group norm": (layer(nn.GroupNorm(2, 6)), "group_norm in 0 .GroupNorm.: it normalises over the image"),
    "instance norm": (layer(nn.InstanceNorm2d(6)), "it normalises over the image"),
    "layer norm": (layer(nn.LayerNorm([6, 8, 8])), "it normalises over the image"),
    "upsampling": (layer(nn.Upsample(scale_factor=2)), "it makes a finer map"),
    "transposed": (layer(nn.ConvTranspose2d(6, 2, 2, 2)), "nothing is known of this operator"),
    "training": (layer(nn.BatchNorm2d(6)), "changes its buffers when it runs"),
    "dropout in training": (layer(nn.Dropout(0.5)), r"Call eval\(\) first"),
    "positions": (call(lambda x: (x * torch.linspace(0, 1, 8)).mean((2, 3))), "value for each position of the image"),
    "flipped": (
        call(lambda x: x.flip(-1).mean((2, 3))),
        "flip in the network .Call., test_dense.py:.*nothing is known",
    ),
    "indices": (
        call(lambda x: nn.functional.max_pool2d(x, 2, return_indices=True)[1].float().mean((2, 3))),
        "getitem in the network .Call., test_dense.py:.*no counterpart",
    ),
    "over samples": (call(lambda x: x.mean((2, 3)).mean(0, keepdim=True)), "it computes over the samples"),
    "a map": (lambda: nn.Conv2d(6, 3, 1), "no classifier: its output .* 8 x 8"),
    "no output": (call(lambda x: torch.ones(3)), "does not depend on the image"),
    "values": (call(lambda x: x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))), "cannot be captured"),
}


@pytest.mark.parametrize("name", list(DECLINED))
def test_declined(name: str) -> None:
    make, text = DECLINED[name]
    with pytest.raises(roundoff.RoundoffError, match=text):
        densify(make().train("training" in name), (torch.randn(1, 6, 8, 8),), {})


def test_bad_input() -> None:
    net = LeNet().eval()
    with pytest.raises(
        roundoff.RoundoffError, match=r"given a tensor \[1, 16\] of torch.float32, but takes a classifier"
    ):
        roundoff.convert(net, torch.rand(1, 16), "dense")
    with pytest.raises(roundoff.RoundoffError, match="Give a crop on which the network runs"):
        roundoff.convert(net, torch.rand(1, 1, 4, 4), "dense")
    with pytest.raises(roundoff.RoundoffError, match="exact=True is for to='dense'"):
        roundoff.convert(net, torch.rand(1, 1, 16, 16), "conv", exact=True)
    made = densify(net, (torch.rand(1, 1, 16, 16),), {})
    with pytest.raises(roundoff.RoundoffError, match=r"\[1, 1, 15, 20\], but its crop is \[16, 16\]"):
        made.model(torch.rand(1, 1, 15, 20))
    with pytest.raises(roundoff.RoundoffError, match="An image of 15 x 20 was given, but the crop is 16 x 16"):
        made.dense.mask(15, 20)
