"""Where checkpoints are published; data only. Nothing is downloaded: licences and forms are for users to read."""

import re
from dataclasses import dataclass

NOT_STATED = "not stated"


@dataclass(frozen=True)
class File:
    """A published checkpoint.

    Attributes:
      name: of the file, in its repository or behind the links of its page.
      layout: of its tensors, as its publishers' code has it; None where it holds a part of the model alone.
      trained_on: data set.
      page: repository or page that has it, or links to it.
      licence: of the weights, in the words of who publishes them; that of the code does not cover them by itself.
      sha256: as many hexadecimal digits from its start as are known.
    """

    name: str
    layout: str | None
    trained_on: str
    page: str
    licence: str = NOT_STATED
    sha256: str = ""


def _of_pyiqa(name: str, trained_on: str, layout: str = "pyiqa") -> File:
    """A file of the toolbox pyiqa, which puts eight digits of the SHA-256 into most names."""
    digits = re.search(r"-([0-9a-f]{8})\.", name)
    return File(
        name=name,
        layout=layout,
        trained_on=trained_on,
        page="https://huggingface.co/chaofengc/IQA-PyTorch-Weights",
        licence="not stated; the toolbox is for noncommercial use (PolyForm Noncommercial, S-Lab)",
        sha256=digits[1] if digits else "",
    )


def _original(repository: str, trained_on: str, *names: str, licence: str = NOT_STATED) -> tuple[File, ...]:
    """Files of the authors, on GitHub or linked from there."""
    return tuple(File(name, "original", trained_on, f"https://github.com/{repository}", licence) for name in names)


_MIT = "not stated; the repository is MIT"
_APACHE = "not stated; the repository is Apache-2.0"
_SIX = "LIVE, CSIQ, KADID-10k, BID, LIVE Challenge and KonIQ-10k"

PUBLISHED: dict[str, tuple[File, ...]] = {
    "cnniqa": (
        File(
            name="models/CNNIQA-LIVE",
            layout="original",
            trained_on="LIVE",
            page="https://github.com/lidq92/CNNIQA",
            sha256="79cc404d0da3e76e51b6680c4d6edd7332399ba7ed8af3306bdd16e95c7bda7e",
        ),
    ),
    "dbcnn": (
        _of_pyiqa("DBCNN_KonIQ10k-2de81c0a.pth", "KonIQ-10k"),
        _of_pyiqa("DBCNN_LIVEC-83f6dad3.pth", "LIVE Challenge"),
        _of_pyiqa("DBCNN_LIVE-97262bf4.pth", "LIVE"),
        _of_pyiqa("DBCNN_LIVEM-698474e3.pth", "LIVE-MD"),
        _of_pyiqa("DBCNN_CSIQ-8677d071.pth", "CSIQ"),
        _of_pyiqa("DBCNN_TID2008-4b47c5d1.pth", "TID2008"),
        _of_pyiqa("DBCNN_TID2013-485d021d.pth", "TID2013"),
        File(
            name="pretrained_scnn/scnn.pkl",
            layout=None,
            trained_on="synthetic distortions",
            page="https://github.com/zwx8981/DBCNN-PyTorch",
            licence="MIT",
            sha256="7ea73d75539cefcf4953800a896e024ea1a3216de2392f242810b113fd940a42",
        ),
    ),
    "dbcnn_sma": _original("YangiD/SMA", "LIVE Challenge", "livec_net_params_best.pkl"),
    "hyperiqa": (
        *_original("SSL92/hyperIQA", "KonIQ-10k", "koniq_pretrained.pkl", licence=_MIT),
        *_original(
            "YangiD/DefenseIQA-NT",
            "LIVE Challenge",
            "livec_bs16_grad[0]_weight[0.0].pth",
            "livec_bs16_grad[1]_weight[0.001]_h[0.01].pth",
            licence=_MIT,
        ),
        _of_pyiqa("HyperIQA-resnet50-koniq10k-c96c41b1.pth", "KonIQ-10k"),
    ),
    "linearity": _original("lidq92/LinearityIQA", "KonIQ-10k", "p1q2.pth", "p1q2plus0.1variant.pth"),
    "liqe": (_of_pyiqa("liqe_koniq.pt", "KonIQ-10k"),),
    "liqe_mix": (
        *_original("zwx8981/LIQE", _SIX, "LIQE.pt", licence=_MIT),
        _of_pyiqa("liqe_mix.pt", _SIX),
    ),
    "maniqa": (
        *_original("IIGROUP/MANIQA/releases", "KonIQ-10k", "ckpt_koniq10k.pt", licence=_APACHE),
        *_original("IIGROUP/MANIQA/releases", "KADID-10k", "ckpt_kadid10k.pt", licence=_APACHE),
    ),
    "maniqa_pipal": (
        *_original("IIGROUP/MANIQA/releases", "PIPAL", "ckpt_valid", licence=_APACHE),
        _of_pyiqa("MANIQA_PIPAL-ae6d356b.pth", "PIPAL", layout="original"),
    ),
    "metaiqa": (
        *_original("zhuhancheng/MetaIQA", "TID2013 and KADID-10k", "model_IQA/TID2013_KADID10K_IQA_Meta_resnet18.pt"),
        *_original("zhuhancheng/MetaIQA", "TID2013", "model_IQA/TID2013_IQA_Meta_resnet18.pt"),
        *_original("katiashh/certified-iqa-defenses", NOT_STATED, "metaiqa.pth"),
        _of_pyiqa("Metaiqa_livec.pth", "LIVE Challenge"),
        _of_pyiqa("Metaiqa_prior.pth", "TID2013 and KADID-10k"),
    ),
    "spaq_bl": _original("h4nwei/SPAQ", "SPAQ", "BL_release.pt"),
    "spaq_mta": _original("h4nwei/SPAQ", "SPAQ", "MT-A_release.pt"),
    "spaq_mte": _original("h4nwei/SPAQ", "SPAQ", "MT-E_release.pt"),
    "spaq_mts": _original("h4nwei/SPAQ", "SPAQ", "MT-S_release.pt"),
}
