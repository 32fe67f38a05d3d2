"""From float32[16,5,256] and files to the inputs of a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from roundoff.errors import RoundoffError
from roundoff.load.spec import DTYPES, load_args


def one(spec: str, seed: int = 0) -> torch.Tensor:
    args, kwargs = load_args([spec], seed)
    assert len(args) == 1 and not kwargs
    assert isinstance(args[0], torch.Tensor)
    return args[0]


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize(("sizes", "shape"), [("2,3", (2, 3)), (" 4 , 1 ", (4, 1)), ("", ()), ("0,5", (0, 5))])
def test_every_dtype_and_shape(name: str, sizes: str, shape: tuple[int, ...]) -> None:
    x = one(f"{name}[{sizes}]")
    assert x.dtype is getattr(torch, name)
    assert tuple(x.shape) == shape


def test_the_range_includes_low_and_excludes_high() -> None:
    assert set(one("int64[1000]:3..6").tolist()) == {3, 4, 5}
    assert set(one("int64[1000]:-2..0").tolist()) == {-2, -1}
    assert set(one("int8[5000]:-128..128").tolist()) == set(range(-128, 128))
    assert set(one("uint8[5000]:0..256").tolist()) == set(range(256))
    assert set(one("int32[1000]").tolist()) == set(range(10))
    assert set(one("bool[100]").tolist()) == {False, True}


def test_floating_point_ranges_and_normal_numbers() -> None:
    x = one("float32[10000]:-2..3e0")
    assert float(x.min()) >= -2 and float(x.max()) <= 3
    # The mean of n uniform numbers in an interval of width w has the standard deviation w / sqrt(12 n); 6 of
    # these.
    assert abs(float(x.mean()) - 0.5) < 6 * 5 / (12 * 10000) ** 0.5
    y = one("float64[10000]")
    assert abs(float(y.mean())) < 6 / 100
    assert abs(float(y.var()) - 1) < 6 * 2**0.5 / 100


def test_the_seed_decides_the_numbers() -> None:
    assert torch.equal(one("float32[5]", seed=1), one("float32[5]", seed=1))
    assert not torch.equal(one("float32[5]", seed=1), one("float32[5]", seed=2))
    (a, b), _ = load_args(["float32[5]", "float32[5]"], seed=1)
    assert not torch.equal(a, b)
    assert torch.equal(a, one("float32[5]", seed=1))


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    one("float32[5]")
    assert torch.equal(torch.get_rng_state(), before)


def test_keywords_and_order() -> None:
    args, kwargs = load_args(["float32[1]", "mask=bool[2]", "float32[3]", "ids=int64[4]:0..5"])
    assert [tuple(x.shape) for x in args] == [(1,), (3,)]
    assert {name: tuple(x.shape) for name, x in kwargs.items()} == {"mask": (2,), "ids": (4,)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


X, Y = torch.arange(6.0).reshape(2, 3), torch.arange(4)


@pytest.mark.usefixtures("folder")
def test_files_with_one_array_are_positional() -> None:
    torch.save(X, "x.pt")
    torch.save({"x": X}, "one.pt")
    np.save("x.npy", X.numpy())
    np.savez("x.npz", x=X.numpy())
    safetensors.torch.save_file({"x": X}, "x.safetensors")
    for name in ("x.pt", "one.pt", "x.npy", "x.npz", "x.safetensors", "./x.npy"):
        assert torch.equal(one(name), X), name
    args, kwargs = load_args(["input=x.npy", "mask=one.pt"])
    assert not args and torch.equal(kwargs["input"], X) and torch.equal(kwargs["mask"], X)


@pytest.mark.usefixtures("folder")
def test_files_with_several_arrays() -> None:
    torch.save({"x": X, "y": Y}, "xy.pt")
    np.savez("xy.npz", x=X.numpy(), y=Y.numpy())
    safetensors.torch.save_file({"x": X, "y": Y}, "xy.safetensors")
    for name in ("xy.pt", "xy.npz", "xy.safetensors"):
        args, kwargs = load_args([name])
        assert not args and set(kwargs) == {"x", "y"}
        assert torch.equal(kwargs["x"], X) and torch.equal(kwargs["y"], Y)
    torch.save([X, Y], "list.pt")
    np.savez("list.npz", X.numpy(), Y.numpy())
    for name in ("list.pt", "list.npz"):
        args, kwargs = load_args([name])
        assert not kwargs and torch.equal(args[0], X) and torch.equal(args[1], Y)


@pytest.mark.usefixtures("folder")
def test_layouts_of_numpy_arrays() -> None:
    big = np.arange(6, dtype=">f4").reshape(2, 3)
    for array in (big, np.asfortranarray(big), np.float64(2.5), np.zeros((0, 3), np.float32)):
        np.save("x.npy", array)
        x = one("x.npy")
        assert x.shape == np.shape(array)
        assert np.array_equal(x.numpy(), array)


@pytest.mark.usefixtures("folder")
def test_bfloat16_comes_from_files_as_it_is() -> None:
    safetensors.torch.save_file({"x": X.bfloat16()}, "x.safetensors")
    assert one("x.safetensors").dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "describes no input"),
        ("x", "describes no input"),
        ("x.txt", "describes no input"),
        ("float32", "add the sizes: float32[16,256]"),
        ("float32[2", "describes no input"),
        ("float32 2,3", "describes no input"),
        ("[2,3]", "describes no input"),
        ("flaot32[2]", "flaot32 is no dtype that can be drawn. Did you mean float32"),
        ("float[2]", "Did you mean float"),
        ("string[2]", "is no dtype that can be drawn"),
        ("layout[2]", "is no dtype that can be drawn"),
        ("float32[-1,3]", "the size -1 is negative"),
        ("float32[2,,3]", "the size (nothing) is not a number"),
        ("float32[2,]", "the size (nothing) is not a number"),
        ("float32[2.5]", "the size 2.5 is not a number"),
        ("float32[n]", "the size n is not a number"),
        ("float32[16x5]", "the size 16x5 is not a number"),
        ("float32[99999999999999]", "cannot be drawn"),
        ("float32[99999999999999999999999]", "cannot be drawn"),
        ("int64[2]:5", ":5 is not a range"),
        ("int64[2]:0-5", ":0-5 is not a range"),
        ("int64[2]0..5", "0..5 is not a range"),
        ("int64[2]:0..5..7", "is not a range"),
        ("int64[2]:..5", "is not a range"),
        ("int64[2]:5..5", "the range 5..5 is empty"),
        ("int64[2]:5..0", "the range 5..0 is empty"),
        ("int64[2]:0.5..3", "from one whole number to another"),
        ("int8[2]:0..300", "int8 holds -128 to 127"),
        ("uint8[2]:-1..3", "uint8 holds 0 to 255"),
        ("float16[2]:0..1e6", "float16 holds"),
        ("bool[2]:0..1", "bool takes no range"),
        ("complex64[2]:0..1", "complex64 takes no range"),
        ("x=", "describes no input"),
        ("nothere.npy", "There is no file nothere.npy"),
        ("input.npyy", "describes no input"),
    ],
)
def test_malformed(spec: str, words: str, folder: Path) -> None:
    with pytest.raises(RoundoffError) as caught:
        load_args([spec])
    assert words in str(caught.value)


@pytest.mark.usefixtures("folder")
def test_a_keyword_twice_and_a_name_for_several_arrays() -> None:
    with pytest.raises(RoundoffError, match="the keyword argument x is given twice"):
        load_args(["x=float32[1]", "x=float32[2]"])
    np.savez("xy.npz", x=X.numpy(), y=Y.numpy())
    with pytest.raises(RoundoffError, match="the file holds 2 arrays, but z= takes one"):
        load_args(["z=xy.npz"])
