"""What is known of a storage goes when the storage goes, and only then."""

from __future__ import annotations

import gc

import torch

from roundoff.tape.storages import StorageMap, has_storage


def test_views_share_what_is_known() -> None:
    known: StorageMap[str] = StorageMap()
    x = torch.zeros(4, 4)
    known.set(x, "x")
    assert [known.get(v) for v in (x[1:], x.t(), x.view(16), x.detach(), x.unbind()[2])] == ["x"] * 5
    assert x[0] in known and torch.zeros(4, 4) not in known
    known.set(x.t(), "again")
    assert known.get(x) == "again" and len(known) == 1
    known.drop(x[2])
    assert known.get(x) is None and len(known) == 0
    known.drop(x)  # nothing to forget


def test_an_entry_lives_as_long_as_its_memory() -> None:
    """Python's objects for tensors and storages come and go; what counts is the memory under them."""
    known: StorageMap[str] = StorageMap()
    x = torch.zeros(4)
    known.set(x, "x")
    view = x[1:]
    del x
    gc.collect()
    assert known.get(view) == "x"
    del view
    assert len(known) == 0


def test_memory_that_only_autograd_holds_is_alive() -> None:
    known: StorageMap[str] = StorageMap()
    w = torch.ones(3, requires_grad=True)
    y = w * 2
    known.set(y, "y")
    z = y * y  # saves y
    del y
    gc.collect()
    assert len(known) == 1
    saved = z.grad_fn._saved_self  # type: ignore[union-attr]
    assert known.get(saved) == "y"
    del z, saved
    gc.collect()
    assert len(known) == 0


def test_an_address_that_is_used_again_finds_nothing() -> None:
    known: StorageMap[int] = StorageMap()
    addresses = set()
    for i in range(2000):
        x = torch.zeros(8)
        assert known.get(x) is None, i
        known.set(x, i)
        addresses.add(x.untyped_storage()._cdata)
        del x
    assert len(addresses) < 2000, "no address was used again: the test shows nothing"
    assert len(known) == 0


def test_what_has_no_storage() -> None:
    assert has_storage(torch.zeros(2)) and has_storage(torch.zeros(0))
    assert not has_storage(torch.eye(2).to_sparse())
