"""Networks as the transformers library defines them, small and with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as t
from torch import Tensor, nn

Network = tuple[nn.Module, Any, dict[str, Any]]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


class First(nn.Module):
    """The first tensor of a network's output, so that a wrapper is the root, as in a user's code."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        out = self.network(x, **kwargs)
        return out[0] if not isinstance(out, Tensor) else out


def ids(vocabulary: int, *shape: int) -> Tensor:
    return torch.randint(0, vocabulary, shape or (2, 7))


def gpt2() -> Network:
    config = t.GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    return First(t.GPT2LMHeadModel(config)), ids(50), {"use_cache": False}


def bert() -> Network:
    return First(t.BertModel(t.BertConfig(vocab_size=50, **SMALL))), ids(50), {}


def vit() -> Network:
    return First(t.ViTModel(t.ViTConfig(image_size=32, patch_size=8, **SMALL))), torch.rand(2, 3, 32, 32), {}


def segformer() -> Network:
    config = t.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=16
    )
    return First(t.SegformerForSemanticSegmentation(config)), torch.rand(1, 3, 64, 64), {}


def convnext() -> Network:
    config = t.ConvNextConfig(depths=[1, 1, 2, 1], hidden_sizes=[8, 16, 24, 32], image_size=32)
    return First(t.ConvNextModel(config)), torch.rand(2, 3, 32, 32), {}


def resnet() -> Network:
    config = t.ResNetConfig(embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 1, 1, 1])
    return First(t.ResNetForImageClassification(config)), torch.rand(2, 3, 32, 32), {}


def llama() -> Network:
    config = t.LlamaConfig(vocab_size=50, num_key_value_heads=2, **SMALL)
    return First(t.LlamaForCausalLM(config)), ids(50), {"use_cache": False}


def mixtral() -> Network:
    config = t.MixtralConfig(vocab_size=50, num_key_value_heads=2, num_local_experts=4, **SMALL)
    return First(t.MixtralForCausalLM(config)), ids(50), {"use_cache": False}


def whisper() -> Network:
    config = t.WhisperConfig(
        vocab_size=50, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=16,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return First(t.WhisperModel(config)), torch.rand(2, 8, 32), {"decoder_input_ids": ids(50), "use_cache": False}


NETWORKS: dict[str, Callable[[], Network]] = {
    make.__name__: make for make in (gpt2, bert, vit, segformer, convnext, resnet, llama, mixtral, whisper)
}
