"""Checkpoints with code in them: refused, by name, and nothing of them runs."""

import io
import os
import pickle
from collections import OrderedDict

import pytest
from checkpoint_files import FORMATS, refusal, state_dict, tensor, text, write, write_legacy, write_zip

from weights_convert import safe_pickle
from weights_convert.pickle_names import Global, Node
from weights_convert.torch_file import read_tensors


class Bomb:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def touch(sentinel):
    return f"touch {sentinel}"


def bombs(sentinel):
    """Opcodes that create the sentinel when a pickle that holds them is loaded, and the name that betrays them."""
    command, python = text(touch(sentinel)), text(f"open({str(sentinel)!r}, 'w')")
    short = b"\x8c" + bytes([len(touch(sentinel))]) + touch(sentinel).encode()
    return {
        "os.system by GLOBAL and REDUCE": (b"cos\nsystem\n" + command + b"\x85R", "os.system"),
        "posix.system by INST": (b"(" + command + b"iposix\nsystem\n", "posix.system"),
        "os.system by OBJ": (b"(cos\nsystem\n" + command + b"o", "os.system"),
        "posix.system by STACK_GLOBAL": (b"\x8c\x05posix\x8c\x06system\x93" + short + b"\x85R", "posix.system"),
        "subprocess": (b"csubprocess\ngetoutput\n" + command + b"\x85R", "subprocess.getoutput"),
        "eval": (b"cbuiltins\neval\n" + python + b"\x85R", "builtins.eval"),
        "exec": (b"cbuiltins\nexec\n" + python + b"\x85R", "builtins.exec"),
        "eval of Python 2": (b"c__builtin__\neval\n" + python + b"\x85R", "builtins.eval"),
        "a path through torch": (b"\x8c\x05torch\x8c\x09os.system\x93" + short + b"\x85R", "torch.os.system"),
        "runpy": (b"crunpy\nrun_path\n" + command + b"\x85R", "runpy.run_path"),
        "getattr": (b"cbuiltins\ngetattr\n" + text("") + text("join") + b"\x86R", "builtins.getattr"),
        "import": (b"cimportlib\nimport_module\n" + text("this") + b"\x85R", "importlib.import_module"),
        "named only": (b"cos\nsystem\n", "os.system"),
    }


NAMES = list(bombs("x"))


def hiding_places(bomb):
    """Pickle bodies in which the bomb sits beside, inside or behind honest content."""
    return {
        "in place of a tensor": state_dict(bomb),
        "beside a tensor": b"\x80\x02}(" + text("w") + tensor() + text("x") + bomb + b"u.",
        "thrown away": b"\x80\x02" + bomb + b"0}(" + text("w") + tensor() + b"u.",
        "in a nested state dict": b"\x80\x02}(" + text("model") + b"}(" + text("w") + bomb + b"uu.",
        "in the state of a module": b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81}("
        + text("_parameters")
        + bomb
        + b"ub.",
        "as the state of a module": b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81" + bomb + b"b.",
        "as a persistent id": b"\x80\x02" + bomb + b"Q.",
        "inside a persistent id": b"\x80\x02(" + text("storage") + bomb + text("0") + text("cpu") + b"K\x06tQ.",
        "as a hook of a tensor": b"\x80\x02ctorch._utils\n_rebuild_parameter\n(" + tensor() + b"\x88" + bomb + b"tR.",
        "as the key of a dict": b"\x80\x02}(" + bomb + tensor() + b"u.",
    }


PLACES = list(hiding_places(b""))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", PLACES)
def test_refused_by_name_and_not_run(tmp_path, name, place):
    sentinel = tmp_path / "sentinel"
    bomb, culprit = bombs(sentinel)[name]
    body = hiding_places(bomb)[place]
    for writer in (write_zip, write_legacy):
        message = refusal(writer(tmp_path / "a.pth", body))
        assert f"its pickle names {culprit}, which no weights need; nothing in the file was run" in message
    (tmp_path / "b.pkl").write_bytes(body)
    assert culprit in refusal(tmp_path / "b.pkl")
    assert not sentinel.exists()


def test_the_bomb_is_live(tmp_path):
    """The standard unpickler does run it, so the test above tests something."""
    sentinel = tmp_path / "sentinel"
    pickle.loads(b"\x80\x02" + bombs(sentinel)["os.system by GLOBAL and REDUCE"][0] + b".")
    assert sentinel.exists()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("function", [os.system, eval, exec])
def test_checkpoints_written_by_torch(tmp_path, form, function):
    torch = pytest.importorskip("torch")
    sentinel = tmp_path / "sentinel"
    argument = touch(sentinel) if function is os.system else f"open({str(sentinel)!r}, 'w')"
    bomb = Bomb(function, argument)
    for value in (bomb, {"model": {"w": torch.ones(2), "x": bomb}}, [torch.ones(2), {"optimizer": bomb}]):
        torch.save(value, tmp_path / "a.pth", _use_new_zipfile_serialization=form == "zip")
        assert function.__name__ in refusal(tmp_path / "a.pth")
    assert not sentinel.exists()


def test_classes_of_users_stay_inert(tmp_path):
    """Unknown names become text: nothing is imported, even if it could be."""
    path = tmp_path / "sentinel_module.py"
    path.write_text("raise SystemExit('imported')")
    body = b"\x80\x02}(" + text("w") + tensor() + text("x") + b"csentinel_module\nNet\n)\x81}" + text("a") + b"Nsb"
    body += text("y") + b"csentinel_module\nbuild\n" + text("z") + b"\x85R" + b"u."
    assert read_tensors(write_zip(tmp_path / "a.pth", body))["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_nothing_of_this_process_can_be_changed():
    """BUILD on a name, which would set attributes of a class or a function, is an error."""
    for name in (b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n"):
        with pytest.raises(safe_pickle.CheckpointError, match="a state for a Global"):
            _load(b"\x80\x02" + name + b"N}(" + text("__defaults__") + b"Nu\x86b.")


def test_calls_are_descriptions():
    node = _load(b"\x80\x02cmodels.net\nNet\n(K\x01K\x02tR}" + text("a") + b"K\x03sb.")
    assert isinstance(node, Node)
    assert (node.name, node.args, node.state) == ("models.net.Net", (1, 2), {"a": 3})
    assert _load(b"\x80\x02ctorch\nfloat32\n.") == Global("torch.float32")


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"Pname\n", b"\x97"])
def test_unneeded_instructions_are_refused(tmp_path, opcode):
    assert "which no checkpoint needs" in refusal(write(tmp_path / "a.pth", "zip", opcode))


def test_too_many_instructions(monkeypatch, tmp_path):
    monkeypatch.setattr(safe_pickle, "MAX_OPCODES", 10)
    assert "more than 10 instructions" in refusal(write(tmp_path / "a.pth", "zip", tensor()))


def _load(pickled):
    return safe_pickle.load(io.BytesIO(pickled), lambda identifier: identifier)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_equal_pickle(protocol):
    value = {"a": [1, -2, 2**70, 1.5, None, True, "é\n"], 3: (), "n": ((1,), (1, 2), (1, 2, 3), tuple(range(9)))}
    value |= {f"name {i}": [float(i)] * i for i in range(300)} | {"collection": OrderedDict(x=1)}
    value |= {"bytes": b"\x00x", "array": bytearray(b"y")} if protocol >= 5 else {}
    assert _load(pickle.dumps(value, protocol)) == value
