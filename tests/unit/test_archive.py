"""Torch's zip archives, read without torch: what is inside, and what is refused."""

import argparse
import io
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path, PosixPath

import numpy as np
import pytest
import torch
from torch import nn

from pargate import limits
from pargate.errors import InputError, PargateError, UnsafeCheckpoint
from pargate.models import archive, pickles
from pargate.models.pickles import interpret

NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "i1", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def read(content: bytes) -> tuple[archive.StoredTensor, ...]:
    return archive.read(lambda at, n: content[at : at + n], len(content), "model.pt")[0]


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def values(content: bytes, tensor: archive.StoredTensor) -> np.ndarray:
    """The tensor's values, by a reading of its place and strides of the test's own."""
    kind = np.dtype(NUMPY[tensor.dtype])
    whole = np.frombuffer(content, np.uint8)[tensor.offset :]
    flat = whole[: len(whole) // kind.itemsize * kind.itemsize].view(kind)
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, [step * kind.itemsize for step in tensor.strides])


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))


def rewrite(content: bytes, change: dict[str, bytes], **options: object) -> bytes:
    """The same archive with members replaced or added, written by Python's zipfile."""
    source, buffer = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    members = {info.filename: source.read(info) for info in source.infolist()} | change
    with zipfile.ZipFile(buffer, "w", **options) as target:
        for name, data in members.items():
            target.writestr(zipfile.ZipInfo(name), data, options.get("compression", zipfile.ZIP_STORED))
    return buffer.getvalue()


def with_pickle(data: bytes) -> bytes:
    return rewrite(saved(model().state_dict()), {"archive/data.pkl": data})


# --- what is read ---


def test_a_state_dict_is_read_with_names_shapes_and_values():
    state = model().state_dict()
    content = saved(state)
    found = read(content)
    assert [t.name for t in found] == list(state)
    for tensor, expected in zip(found, state.values(), strict=True):
        assert tensor.shape == tuple(expected.shape)
        np.testing.assert_array_equal(values(content, tensor), expected.numpy())


def test_a_training_checkpoint_gives_its_state_dict_alone():
    module = model()
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    content = saved(
        {
            "epoch": 3,
            "name": "run",
            "state_dict": module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": {"scale": 65536.0, "growth_tracker": 0},
        }
    )
    assert [t.name for t in read(content)] == list(module.state_dict())


def test_parameters_views_and_shared_storages_keep_their_place():
    base = torch.arange(24.0).reshape(4, 6)
    state = {"transposed": base.T, "row": base[2], "twin": base, "parameter": nn.Parameter(base[1:, ::2])}
    content = saved(state)
    for tensor in read(content):
        np.testing.assert_array_equal(values(content, tensor), state[tensor.name].detach().numpy())


@pytest.mark.parametrize("dtype", [d for d in pickles.STORAGES.values() if d != "BF16"])
def test_every_dtype_of_a_checkpoint_is_read(dtype):
    expected = np.arange(6).astype(NUMPY[dtype])
    content = saved({"a": torch.from_numpy(expected), "empty": torch.from_numpy(expected[:0])})
    first, empty = read(content)
    assert first.dtype == empty.dtype == dtype
    assert empty.shape == (0,)
    np.testing.assert_array_equal(values(content, first), expected)


def test_bfloat16_is_read():
    content = saved({"a": torch.ones(3, dtype=torch.bfloat16)})
    (tensor,) = read(content)
    assert tensor.dtype == "BF16"
    np.testing.assert_array_equal(values(content, tensor), [0x3F80] * 3)


def test_an_archive_that_zipfile_wrote_without_compression_is_read_too():
    assert read(rewrite(saved(model().state_dict()), {}))


def test_the_large_file_records_of_zip64_are_read():
    content = rewrite(saved(model().state_dict()), {})
    end = len(content) - 22
    count, length, start = struct.unpack("<HII", content[end + 10 : end + 20])
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, length, start)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1)
    tail = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert read(content[:end] + record + locator + tail) == read(content)
    with pytest.raises(InputError, match="large-file record is missing"):
        read(content[:end] + tail)
    with pytest.raises(UnsafeCheckpoint, match="follow each other"):
        read(content[:end] + record + b"\0" + locator + tail)


# --- what is refused as unsafe ---


class Runs:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize("value", [argparse.Namespace(lr=1), np.float32(1), Path("x")])
def test_settings_among_the_tensors_are_harmless_and_not_read(value):
    with pytest.raises(InputError, match="args in its state dict is not a named tensor") as caught:
        read(saved({"weight": torch.ones(1), "args": value}))
    assert not isinstance(caught.value, UnsafeCheckpoint)


BITS = (np.random.MT19937, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64)
BIT, GENERATOR, STATE, SEED = (
    vars(module)[name]
    for module, name in (
        (np.random._pickle, "__bit_generator_ctor"),
        (np.random._pickle, "__generator_ctor"),
        (np.random._pickle, "__randomstate_ctor"),
        (np.random.bit_generator, "__pyx_unpickle_SeedSequence"),
    )
)

RANDOM_STATES = {
    **{kind.__name__: kind(1) for kind in BITS},
    **{f"a Generator of {kind.__name__}": np.random.Generator(kind(1)) for kind in BITS},
    "RandomState": np.random.RandomState(1),
    "SeedSequence": np.random.SeedSequence(1),
    "Python's": random.Random(1),
    "torch's": torch.Generator().manual_seed(1),
    "numpy before 1.17": Runs(vars(np.random)["__RandomState_ctor"]),
    "a bit generator, numpy before 1.24": Runs(BIT, "PCG64"),
    "numpy before 1.24": Runs(GENERATOR, "PCG64"),
    "numpy before 2": Runs(GENERATOR, "PCG64", BIT),
    "RandomState, numpy before 2": Runs(STATE, "MT19937", BIT),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", RANDOM_STATES)
def test_the_states_of_random_generators_are_skipped(name, protocol):
    buffer = io.BytesIO()
    torch.save({"state_dict": model().state_dict(), "rng": RANDOM_STATES[name]}, buffer, pickle_protocol=protocol)
    assert [tensor.name for tensor in read(buffer.getvalue())] == [*model().state_dict()]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Runs(GENERATOR, "true", os.system), f"names {os.system.__module__}.system"),
        (Runs(STATE, "1", eval), "names __builtin__.eval"),
        (Runs(BIT, Runs), "names test_archive.Runs"),
        (Runs(BIT, bytearray), "arguments that torch would not write"),
        (Runs(GENERATOR, "x", bytearray), "arguments that torch would not write"),
        (Runs(GENERATOR, "x", PosixPath), "arguments that torch would not write"),
        (Runs(GENERATOR, Runs(PosixPath, "x")), "arguments that torch would not write"),
        (Runs(SEED, dict, 1, None), "arguments that torch would not write"),
        (Runs(np.random.PCG64, 1), "arguments that torch would not write"),
        (Runs(np.random.SeedSequence, 1), "arguments that torch would not write"),
        (Runs(random.Random, 1), "arguments that torch would not write"),
        (Runs(torch.Generator, "cpu"), "arguments that torch would not write"),
        (Runs(random.SystemRandom), "names random.SystemRandom"),
        (Runs(np.random.default_rng, 1), f"names {np.random.default_rng.__module__}.default_rng"),
    ],
)
def test_what_looks_like_a_random_state_and_calls_something_else_is_unsafe(value, why):
    with pytest.raises(UnsafeCheckpoint) as caught:
        read(saved({"state_dict": model().state_dict(), "rng": value}))
    assert why in caught.value.message


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Runs(os.system, "true"), f"{os.system.__module__}.system"),
        (Runs(eval, "1"), "__builtin__.eval"),
        (Runs(getattr, "", "join"), "__builtin__.getattr"),
        (nn.ReLU, "torch.nn.modules.activation.ReLU"),
    ],
)
def test_a_global_that_no_tensor_needs_is_unsafe_and_named(value, named):
    with pytest.raises(UnsafeCheckpoint, match="could run code") as caught:
        read(saved({"weight": torch.ones(1), "args": value}))
    assert named in caught.value.message
    assert "safetensors" in caught.value.hint


def test_nothing_is_executed_on_the_way(tmp_path):
    witness = tmp_path / "ran"
    with pytest.raises(UnsafeCheckpoint):
        read(saved({"weight": torch.ones(1), "args": Runs(os.mkdir, str(witness))}))
    assert not witness.exists()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (b"\x80\x02cos\nsystem\n.", "names os.system"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v9\n.", "names torch._utils._rebuild_tensor_v9"),
        (b"\x80\x04\x8c\x05torch\x8c\x11nn.Module.forward\x93.", "names torch.nn.Module.forward"),
        (b"\x80\x02(i__builtin__\neval\n.", "uses INST"),
        (b"\x80\x02]\x81.", "uses NEWOBJ"),
        (b"\x80\x02\x82\x01.", "uses EXT1"),
        (b"P1\n.", "uses PERSID"),
        (b"\x80\x02ccollections\nOrderedDict\n}b.", "fills in something other"),
        (b"\x80\x02ccollections\nOrderedDict\n]\x85R.", "arguments that torch would not write"),
        (b"\x80\x02X\x01\0\0\0a)R.", "arguments that torch would not write"),
        (b"\x80\x02ccollections\nOrderedDict\nX\x01\0\0\0aK\x01s.", "fills in something other"),
        (b"\x80\x02(X\x07\0\0\0storagectorch\nnope\nX\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ.", "names torch.nope"),
        (b"\x80\x02K\x01Q.", "refers to something other"),
        (b"\x80\x02}.}.", "second pickle"),
    ],
)
def test_a_pickle_that_does_more_than_describe_tensors_is_unsafe(program, why):
    with pytest.raises(UnsafeCheckpoint, match=why):
        interpret(program, "model.pt")


def test_a_pickle_nested_too_deep_for_a_hash_or_a_recursion_does_no_harm():
    deep = b"\x80\x02)" + b"\x85" * 200_000
    assert len(interpret(deep + b".", "model.pt").value) == 1
    assert len(interpret(b"\x80\x02}" + deep[2:] + b"K\x01s.", "model.pt").value) == 1


def test_a_memo_index_of_four_billion_costs_nothing():
    assert interpret(b"\x80\x02}r\xff\xff\xff\xff.", "model.pt").value == {}


@pytest.mark.parametrize("program", [b"", b"\x80\x02", b"\x80\x02}", b"t.", b".", b"\x80\x02h\x05.", b"\xff."])
def test_a_damaged_pickle_is_wrong_input(program):
    with pytest.raises(InputError, match=r"damaged|no end"):
        interpret(program, "model.pt")


@pytest.mark.parametrize("member", ["archive/constants.pkl", "archive/code/__torch__.py"])
def test_a_state_dict_with_a_program_beside_it_is_unsafe_and_told_how_to_convert(member):
    with pytest.raises(UnsafeCheckpoint, match=r"TorchScript archive whose data\.pkl holds no module") as caught:
        read(rewrite(saved(model().state_dict()), {member: b"."}))
    assert "torch.jit.load" in caught.value.hint


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda c: rewrite(c, {}, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (lambda c: rewrite(c, {"archive/other.pkl": b"."}), "beside data.pkl"),
        (lambda c: rewrite(c, {"archive/x.py": b"."}), "beside data.pkl"),
        (lambda c: c.replace(b"archive/version", b"archive/VERSION", 1), "differ"),
        (lambda c: c[:6] + b"\x09\x08" + c[8:], "differ"),
    ],
)
def test_an_archive_that_torch_would_not_write_is_unsafe(spoil, why):
    with pytest.raises(UnsafeCheckpoint, match=why):
        read(spoil(saved(model().state_dict())))


def test_two_members_of_one_name_are_unsafe():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target, pytest.warns(UserWarning, match="Duplicate"):
        for data in (b"one", b"two"):
            target.writestr(zipfile.ZipInfo("archive/data.pkl"), data)
    with pytest.raises(UnsafeCheckpoint, match="two members"):
        read(buffer.getvalue())


def test_an_encrypted_member_is_unsafe():
    content = bytearray(rewrite(saved(model().state_dict()), {}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(UnsafeCheckpoint, match="encrypted"):
        read(bytes(content))


def test_bytes_before_between_and_behind_the_members_are_refused():
    content = rewrite(saved(model().state_dict()), {})
    with pytest.raises(PargateError):
        read(b"#!/bin/sh\n" + content)
    with pytest.raises(PargateError):
        read(content + b"more")
    end = content.index(b"PK\x01\x02")
    moved = bytearray(content[:end] + b"hidden" + content[end:])
    struct.pack_into("<I", moved, len(moved) - 6, end + 6)
    with pytest.raises(UnsafeCheckpoint, match="belong to no member"):
        read(bytes(moved))


# --- what is refused as damaged or foreign ---


def test_a_truncated_archive_is_refused_by_name():
    content = saved(model().state_dict())
    for length in (30, len(content) // 2, len(content) - 1):
        with pytest.raises(InputError, match=r"model\.pt is cut short"):
            read(content[:length])


def test_a_numpy_archive_is_refused_by_name():
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, a=np.ones(3))
        with pytest.raises(InputError, match="npz"):
            read(buffer.getvalue())


def test_a_zip_of_something_else_is_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr("letters/a.txt", "hello")
    with pytest.raises(InputError, match=r"not one that torch\.save wrote"):
        read(buffer.getvalue())


def test_a_big_endian_archive_is_refused():
    with pytest.raises(InputError, match="big-endian"):
        read(rewrite(saved(model().state_dict()), {"archive/byteorder": b"big"}))


def test_a_storage_of_another_length_is_refused():
    with pytest.raises(InputError, match="of another length"):
        read(rewrite(saved(model().state_dict()), {"archive/data/0": b"\0" * 8}))


def test_a_tensor_that_leaves_its_storage_or_repeats_a_value_is_refused():
    content = saved(OrderedDict(a=torch.ones(4)))
    program = zipfile.ZipFile(io.BytesIO(content)).read("archive/data.pkl")
    four, one = b"K\x04\x85", b"K\x01\x85"
    assert program.count(four) == 1
    assert program.count(one) == 1
    for shape, stride in ((b"K\x05\x85", one), (four, b"K\x02\x85"), (b"J\xff\xff\xff\x7f\x85", b"K\x00\x85")):
        forged = program.replace(one, stride).replace(four, shape)
        with pytest.raises(InputError, match="leaves its storage"):
            read(rewrite(content, {"archive/data.pkl": forged}))


def test_a_checkpoint_with_two_sets_of_weights_is_not_guessed_about():
    state = model().state_dict()
    with pytest.raises(InputError, match="averaged"):
        read(saved({"state_dict": state, "state_dict_ema": state}))


@pytest.mark.parametrize("value", [{}, [torch.ones(1)], {"epoch": 3}, 7, {"state_dict": 3}])
def test_a_file_without_a_state_dict_is_refused(value):
    with pytest.raises(InputError, match="no state dict"):
        read(saved(value))


def test_a_state_dict_with_something_else_in_it_is_refused():
    with pytest.raises(InputError, match="epoch"):
        read(saved({"weight": torch.ones(1), "epoch": 3}))


def test_a_pickle_larger_than_any_checkpoint_needs_is_refused():
    with pytest.raises(InputError, match="more than any"):
        read(with_pickle(b"\0" * (limits.PICKLE_BYTES + 1)))


def test_whatever_happens_to_the_bytes_the_reader_answers_in_our_words():
    content = saved({"state_dict": model().state_dict(), "epoch": 1})
    generator = random.Random(0)
    for _ in range(1500):
        spoilt = bytearray(content)
        for _ in range(generator.choice((1, 1, 2, 8))):
            spoilt[generator.randrange(len(spoilt))] = generator.randrange(256)
        if generator.random() < 0.2:
            del spoilt[generator.randrange(len(spoilt)) :]
        try:
            for tensor in read(bytes(spoilt)):
                assert tensor.offset + 8 <= len(spoilt)
        except PargateError:
            pass


def test_plain_values_of_a_checkpoint_come_through():
    value = {"a": [1, 2.5, None, True, "x", (1, 2)], "b": {"c": 10**9, "d": -3}}
    assert interpret(pickle.dumps(value, 2), "m").value == value
    assert interpret(pickle.dumps(value, 4), "m").value == value
