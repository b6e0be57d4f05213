"""Builds the networks of pyiqa with random weights and without the network: an oracle, where it is installed.

pyiqa downloads weights at construction; everything that would is replaced before its modules are imported.
"""

import importlib
import sys
import types

import pytest

_TEXT = {"context_length": 77, "vocab_size": 49408, "transformer_layers": 12, "image_resolution": 224}
_CLIP = {
    "ViT-B/32": {
        "embed_dim": 512,
        "vision_layers": 12,
        "vision_width": 768,
        "vision_patch_size": 32,
        "transformer_width": 512,
        "transformer_heads": 8,
        **_TEXT,
    }
}
_BUILDERS = ("resnet18", "resnet34", "resnet50", "vgg16")
_libraries = []  # a torch library works for as long as it is referenced


def create(name, monkeypatch, folder, **options):
    """The network of a pyiqa metric, in evaluation mode; the test is skipped where pyiqa is not installed.

    Args:
      name: of the metric.
      monkeypatch: undoes the replacements after the test.
      folder: where pyiqa may keep its caches.
      **options: of the metric.
    """
    torch = pytest.importorskip("torch")
    for package in ("pyiqa", "timm"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.setenv("TORCH_HOME", str(folder))
    (folder / "hub" / "pyiqa").mkdir(parents=True)
    if not hasattr(torch.ops.torchvision, "nms"):  # wheels of torchvision for another device than torch's
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
    _without_downloads(monkeypatch)
    import pyiqa
    import pyiqa.archs.liqe_arch

    monkeypatch.setattr(pyiqa.archs.liqe_arch, "DEFAULT_CACHE_DIR", str(folder / "hub" / "pyiqa"))  # of text features
    return pyiqa.create_metric(name, device="cpu", **options).net.eval()


def _without_downloads(monkeypatch):
    for stub in ("facexlib", "facexlib.utils", "facexlib.utils.face_restoration_helper"):
        monkeypatch.setitem(sys.modules, stub, types.ModuleType(stub))
    sys.modules["facexlib.utils.face_restoration_helper"].FaceRestoreHelper = object
    if importlib.util.find_spec("pkg_resources") is None:
        import packaging.version

        monkeypatch.setitem(sys.modules, "pkg_resources", types.SimpleNamespace(packaging=packaging))
    import timm
    import torchvision

    create_model = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained=False, **options: create_model(name, pretrained=False, **options)
    )
    for name in _BUILDERS:
        monkeypatch.setattr(torchvision.models, name, _unweighted(getattr(torchvision.models, name)))
    import pyiqa.archs.arch_util
    import pyiqa.archs.clip_model

    monkeypatch.setattr(pyiqa.archs.arch_util, "load_pretrained_network", lambda *args, **options: None)
    monkeypatch.setattr(pyiqa.archs.clip_model, "load", _clip)


def _unweighted(build):
    def unweighted(*_, pretrained=None, **options):
        return build(**(options | {"weights": None}))

    return unweighted


def _clip(name, device="cpu", **options):
    import pyiqa.archs.clip_model

    return pyiqa.archs.clip_model.CLIP(**_CLIP[name]).float().eval().to(device)
