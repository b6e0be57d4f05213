"""A small assembler of checkpoints, so that tests run without torch and can write what torch never would."""

import pickle
import struct
import zipfile

import numpy as np
import pytest

from weights_convert.torch_file import CheckpointError, read_tensors

FORMATS = ["zip", "legacy"]
DATA = np.arange(6, dtype="<f4").tobytes()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def tensor(offset=0, size=(2, 3), stride=(3, 1), *, numel=6, kind="FloatStorage", key="0", legacy=False, view=b"N"):
    def numbers(values):
        return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"

    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + b"I%d\n" % numel
    storage += (view if legacy else b"") + b"tQ"
    arguments = storage + b"I%d\n" % offset + numbers(size) + numbers(stride) + b"\x89N"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def state_dict(body, name="w"):
    return b"\x80\x02}(" + text(name) + body + b"u."


def write_zip(path, pickled, *, extra=(), byteorder=b"little", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in (("data.pkl", pickled), ("byteorder", byteorder), ("data/0", DATA), *extra):
            archive.writestr(f"archive/{name}", content)
    return path


def write_legacy(path, pickled, *, little_endian=True, keys=("0",)):
    system = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {}}
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    path.write_bytes(b"".join([*head, pickled, pickle.dumps(list(keys), 2), struct.pack("<q", len(DATA) // 4), DATA]))
    return path


def write(path, form, body, **options):
    if form == "zip":
        return write_zip(path, state_dict(body), **options)
    return write_legacy(path, state_dict(body), **options)


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def cnniqa_tensors():
    shapes = {"conv1": (50, 1, 7, 7), "fc1": (800, 100), "fc2": (800, 800), "fc3": (1, 800)}
    draw = np.random.default_rng(1)
    tensors = {f"{name}.weight": draw.normal(0, 0.1, shape) for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": draw.normal(0, 0.1, shape[0]) for name, shape in shapes.items()}
    return {name: array.astype(np.float32) for name, array in tensors.items()}
