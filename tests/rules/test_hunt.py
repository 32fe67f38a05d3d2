"""Hunt for a shape, a scale or a shift at which a kernel of this build breaks its bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.rules.trial import tried
from torch import Tensor

aten = torch.ops.aten
LAYOUTS = ("plain", "transposed", "strided", "offset")
HUNT = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def matrices(draw: Any, most: int = 300, widest: float = 3.0) -> Tensor:
    """[rows, columns] in any format, layout, scale and shift."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, most))
    scale = 10.0 ** draw(st.floats(-widest, widest))
    shift = draw(st.sampled_from([0.0, 0.0, 1.0, 30.0, -300.0])) * scale
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16]))
    if dtype == torch.float16:
        scale, shift = min(max(scale, 0.01), 3.0), max(min(shift, 100.0), -100.0)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(rows, columns, generator=generator) * scale + shift
    match draw(st.sampled_from(LAYOUTS)):
        case "transposed":
            return x.t().contiguous().t().to(dtype)
        case "strided":
            return torch.stack([x, x], -1).to(dtype)[..., 0]
        case "offset":
            return torch.cat([x[:, :1], x], 1).to(dtype)[:, 1:]
    return x.to(dtype)


def kept(op: Any, *args: Any, **kwargs: Any) -> None:
    t = tried(op, *args, **kwargs)
    for i in range(len(t.native)):
        assert t.excess(i) <= 1, f"{t.excess(i):.3g} times the bound of result {i}"


ROWWISE: dict[str, Callable[[Tensor], None]] = {
    "sum": lambda x: kept(aten.sum, x, [1]),
    "mean": lambda x: kept(aten.mean, x, [1]),
    "norm": lambda x: kept(aten.linalg_vector_norm, x, 2, [1]),
    "softmax": lambda x: kept(aten._softmax, x, 1, False),
    "softmax across": lambda x: kept(aten._softmax, x, 0, False),
    "log_softmax": lambda x: kept(aten._log_softmax, x, 1, False),
    "logsumexp": lambda x: kept(aten.logsumexp, x, [1]),
    "cumsum": lambda x: kept(aten.cumsum, x, 1),
    "var_mean": lambda x: kept(aten.var_mean, x, [1], correction=0),
    "layer_norm": lambda x: kept(aten.native_layer_norm, x, [x.shape[1]], None, None, 1e-5),
    "batch_norm": lambda x: kept(aten.native_batch_norm, x, None, None, None, None, True, 0.1, 1e-5),
    "mse_loss": lambda x: kept(aten.mse_loss, x, x.flip(0)),
    "max": lambda x: kept(aten.max, x, 1),
    "gelu": lambda x: kept(aten.gelu, x),
    "silu": lambda x: kept(aten.silu, x),
    "tanh": lambda x: kept(aten.tanh, x),
    "log1p": lambda x: kept(aten.log1p, x.abs()),
    "pow": lambda x: kept(aten.pow, x.abs(), 0.3),
    "remainder": lambda x: kept(aten.remainder, x, 0.3),
    "addcmul": lambda x: kept(aten.addcmul, x, x, x.flip(0), value=0.1),
    "copy": lambda x: kept(aten.clone, x),
}


@pytest.mark.parametrize("name", ROWWISE)
def test_matrices(name: str) -> None:
    @HUNT
    @given(matrices())
    def hunt(x: Tensor) -> None:
        ROWWISE[name](x)

    hunt()


@HUNT
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(1, 600), st.integers(1, 64), st.booleans(),
       st.sampled_from([torch.float32, torch.bfloat16]), st.floats(0.01, 10))  # fmt: skip
def test_attention(
    batch: int, heads: int, rows: int, columns: int, width: int, causal: bool, dtype: torch.dtype, scale: float
) -> None:
    g = torch.Generator().manual_seed(rows * columns)
    q, k, v = (torch.randn(batch, heads, n, width, generator=g).to(dtype) * scale for n in (rows, columns, columns))
    kept(aten._scaled_dot_product_flash_attention_for_cpu, q, k, v, 0.0, causal)


@HUNT
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 20), st.integers(1, 20), st.integers(1, 50),
       st.integers(1, 50), st.booleans(), st.booleans())  # fmt: skip
def test_resampling(
    batch: int, channels: int, height: int, width: int, tall: int, wide: int, align: bool, last: bool
) -> None:
    g = torch.Generator().manual_seed(height * width)
    x = torch.randn(batch, channels, height, width, generator=g)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    kept(aten.upsample_bilinear2d, x, [tall, wide], align)
    kept(aten.upsample_bicubic2d, x, [tall, wide], align)
    kept(aten.upsample_nearest2d, x, [tall, wide])
    kept(aten._adaptive_avg_pool2d, x, [tall, wide])


@HUNT
@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 30), st.integers(1, 30), st.booleans(), st.floats(-100, 100)
)
def test_group_norm(groups: int, each: int, height: int, width: int, last: bool, shift: float) -> None:
    g = torch.Generator().manual_seed(height * width)
    x = torch.randn(2, groups * each, height, width, generator=g) + shift
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    kept(aten.native_group_norm, x, None, None, 2, groups * each, height * width, groups, 1e-5)
