"""The checkpoint reader: equal to torch.load on honest files, one clear refusal on all others, and never any code."""

import contextlib
import io
import pickle
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import FORMATS, refusal, state_dict, tensor, text, write, write_legacy, write_zip

from weights_convert.torch_file import CheckpointError, read_tensors

WEIGHTS = Path(__file__).parents[2] / "shared" / "weights"
REAL = ["cnniqa_live.pth", "dbcnn_scnn.pkl", "dbcnn_scnn_nobn.pkl"]


def assert_same(ours, theirs):
    """Bit for bit, with the same names in the same order."""
    torch = pytest.importorskip("torch")
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        bits = value.detach().contiguous().clone()
        assert ours[name].shape == tuple(bits.shape)
        assert str(ours[name].dtype) == str(bits.dtype).removeprefix("torch.")
        assert ours[name].tobytes() == bytes(bits.reshape(-1).view(torch.uint8).numpy()), name


def save(torch, value, path, form):
    torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    return path


@pytest.mark.parametrize("name", REAL)
def test_real_legacy_files_equal_torch(name):
    torch = pytest.importorskip("torch")
    if not (WEIGHTS / name).exists():
        pytest.skip(f"{WEIGHTS / name} is absent")
    theirs = torch.load(WEIGHTS / name, map_location="cpu", weights_only=True)
    assert_same(read_tensors(WEIGHTS / name), theirs)


@pytest.mark.parametrize("form", FORMATS)
def test_all_kinds_of_tensors_equal_torch(tmp_path, form):
    torch = pytest.importorskip("torch")
    base = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    types = ["float16", "bfloat16", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]
    tensors = {name: (base * 9).to(getattr(torch, name)) for name in types}
    tensors |= {"base": base, "transposed": base.t(), "window": base[2:5, 1::3], "column": base[:, 3]}
    tensors |= {"parameter": torch.nn.Parameter(base.clone()[1:]), "scalar": torch.tensor(3.5)}
    tensors |= {"empty": torch.zeros(0, 4), "expanded": torch.arange(3).expand(5, 3), "last": base[5:, 7:]}
    assert_same(read_tensors(save(torch, tensors, tmp_path / "a.pth", form)), tensors)


def test_types_without_a_storage_class_equal_torch(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.arange(4).to(getattr(torch, name)) for name in ("uint16", "uint32", "float8_e5m2")}
    assert_same(read_tensors(save(torch, tensors, tmp_path / "a.pth", "zip")), tensors)


@pytest.mark.parametrize("form", FORMATS)
def test_containers_are_flattened_and_other_entries_dropped(tmp_path, form):
    torch = pytest.importorskip("torch")
    one = torch.ones(2)
    value = {"model": {"a.weight": one}, "epoch": 3, "names": ["x"], 7: (one * 2, [None, one * 3]), "size": one.shape}
    value |= {"set": {1, 2}, "array": np.ones(3), "device": torch.device("cpu"), "dtype": torch.float32}
    expected = {"model.a.weight": one, "7.0": one * 2, "7.1.1": one * 3}
    assert_same(read_tensors(save(torch, value, tmp_path / "a.pth", form)), expected)
    assert_same(read_tensors(save(torch, one, tmp_path / "b.pth", form)), {"tensor": one})


@pytest.mark.parametrize("form", FORMATS)
def test_lists_of_floats_beside_the_tensors(tmp_path, form):
    """As LinearityIQA stores its calibration; numpy's scalars count, and optimiser settings do not."""
    torch = pytest.importorskip("torch")
    value = {"model": {"w": torch.ones(2), "names": [1.0]}, "k": [np.float64(1.5), 2.0, -3], "b": [0.5, np.float64(-1)]}
    value |= {"optimizer": {"param_groups": [{"betas": [0.9, 0.99], "params": [0, 1]}]}, "mixed": [1.0, "a"]}
    tensors = read_tensors(save(torch, value, tmp_path / "a.pth", form))
    assert list(tensors) == ["model.w", "b"]
    assert tensors["b"].tolist() == [0.5, -1.0]
    value["k"] = [np.float64(1.5), 2.0, -3.0]
    assert read_tensors(save(torch, value, tmp_path / "a.pth", form))["k"].tolist() == [1.5, 2.0, -3.0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMATS)
def test_whole_modules_equal_their_state_dict(tmp_path, form):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Sequential(torch.nn.Linear(4, 2))
    )
    net.register_buffer("kept", torch.arange(3.0))
    net.register_buffer("hidden", torch.arange(4.0), persistent=False)
    net.note = torch.ones(5)
    net = torch.nn.DataParallel(net)
    expected = net.state_dict()
    assert any(name.startswith("module.") for name in expected)
    assert_same(read_tensors(save(torch, net, tmp_path / "a.pth", form)), expected)
    nested = {f"model.{name}": value for name, value in expected.items()}
    assert_same(read_tensors(save(torch, {"model": net, "k": [1]}, tmp_path / "b.pth", form)), nested)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_archives_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(3, 2), torch.ones(1, 3)), tmp_path / "a.pt")
    tensors = read_tensors(tmp_path / "a.pt")
    assert {name: array.shape for name, array in tensors.items()} == {"weight": (2, 3), "bias": (2,)}


@pytest.mark.parametrize("form", FORMATS)
def test_hand_made_file(tmp_path, form):
    tensors = read_tensors(write(tmp_path / "a.pth", form, tensor(1, (2, 2), (1, 2), legacy=form == "legacy")))
    assert tensors["w"].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize("form", FORMATS)
def test_every_truncation_is_one_sentence(tmp_path, form):
    whole = write(tmp_path / "a.pth", form, tensor(legacy=form == "legacy")).read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_bytes_never_raise_anything_else(tmp_path, form):
    whole = write(tmp_path / "a.pth", form, tensor(legacy=form == "legacy")).read_bytes()
    path, draw = tmp_path / "b.pth", random.Random(0)
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(CheckpointError):
            read_tensors(path)


def _other_zip():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("word/document.xml", "x")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (
            b"\n <!DOCTYPE html><html>quota exceeded",
            "this is an HTML page, not a checkpoint: the download probably failed",
        ),
        (b"<HTML><head>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (struct.pack("<Q", 0x280) + b'{"w":{}}', "safetensors"),
        (b"\x89HDF\r\n\x1a\n", "not a PyTorch checkpoint"),
        (b"hello", "not a PyTorch checkpoint"),
        (b"\0" * 5000, "not a PyTorch checkpoint"),
        (_other_zip(), "no data.pkl"),
        (b"PK\x03\x04" + b"\0" * 64, "zip archive is truncated or damaged"),
        (pickle.dumps({"w": [1.0]}, 2), "magic number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # a zip file holds the time at which it is made
)
def test_other_files_are_named(tmp_path, content, words):
    (tmp_path / "a.pth").write_bytes(content)
    assert words in refusal(tmp_path / "a.pth")


def test_missing_file_and_folder(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "absent.pth")
    assert "cannot be read" in refusal(tmp_path)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offset": 1}, "outside"),
        ({"size": (3, 3)}, "outside"),
        ({"offset": -1}, "damaged"),
        ({"stride": (-3, 1)}, "damaged"),
        ({"stride": (1,)}, "damaged"),
        ({"size": (2**40, 1), "stride": (0, 1)}, "expand"),
        ({"size": (2**70, 1), "stride": (0, 1)}, "damaged"),
        ({"size": (0, *[2**59] * 9), "stride": (1,) * 10}, "impossible"),
        ({"numel": 2**50}, "damaged"),
        ({"numel": -6}, "damaged"),
        ({"kind": "ComplexFloatStorage"}, "ComplexFloatStorage"),
        ({"key": "../data.pkl"}, "damaged"),
    ],
)
def test_impossible_tensors_are_refused(tmp_path, form, change, words):
    assert words in refusal(write(tmp_path / "a.pth", form, tensor(**change, legacy=form == "legacy")))


def test_unsupported_variants_are_refused(tmp_path):
    path, good, legacy = tmp_path / "a.pth", state_dict(tensor()), state_dict(tensor(legacy=True))
    assert "views of storages" in refusal(write_legacy(path, state_dict(tensor(legacy=True, view=b"]"))))
    assert "big-endian" in refusal(write_legacy(path, legacy, little_endian=False))
    assert "big-endian" in refusal(write_zip(path, good, byteorder=b"big"))
    assert "compressed" in refusal(write_zip(path, good, compression=zipfile.ZIP_DEFLATED))
    assert "refers to its storage 1" in refusal(write_legacy(path, legacy, keys=("0", "1")))
    assert "no tensors" in refusal(write_zip(path, b"\x80\x02}."))
    with pytest.warns(UserWarning, match="Duplicate"):
        write_zip(path, good, extra=[("data.pkl", good)])
    assert "twice" in refusal(path)


def test_archive_that_claims_more_than_the_file_holds(tmp_path):
    path = write_zip(tmp_path / "a.pth", state_dict(tensor()))
    size = struct.pack("<I", 24)
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<I", 2**31)))
    assert "more bytes than the file has" in refusal(path)


def test_endless_trees_are_refused(tmp_path):
    itself = b"\x80\x02]q\x00h\x00a."
    deep = b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b"."
    tuples = b"\x80\x02}(" + b")" + b"\x85" * 20_000 + b"Nu."
    for pickled in (itself, deep):
        assert "nested too deeply" in refusal(write_zip(tmp_path / "a.pth", pickled))
    assert "no tensors" in refusal(write_zip(tmp_path / "a.pth", tuples))


@pytest.mark.full  # types are checked at every one of a million nodes
def test_trees_that_double_are_refused(tmp_path):
    doubling = b"\x80\x02]q\x00" + b"".join(b"]q\x01(h\x00h\x00eq\x00" for _ in range(60)) + b"."
    assert "nested too deeply" in refusal(write_zip(tmp_path / "a.pth", doubling))


def test_equal_names_are_refused(tmp_path):
    body = b"\x80\x02}(" + text("a") + b"}(" + text("b") + tensor() + b"u" + text("a.b") + tensor() + b"u."
    assert "two tensors named a.b" in refusal(write_zip(tmp_path / "a.pth", body))
