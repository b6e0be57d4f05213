"""Rule tables, one per model and checkpoint layout; data only."""

from weights_convert.pieces import (
    clip_vit,
    contained,
    layer,
    lpips,
    norm,
    prelu,
    resnet,
    resnet_in_sequence,
    scnn,
    swin_layer,
    to_kernel,
    to_vector,
    unused,
    vgg16,
    vit,
)
from weights_convert.rules import Layout, Rule

CNNIQA = layer(r"(conv1|fc[123])", r"\1")

# Zhang et al., TCSVT 2020; also the names of SMA and, in a container `params` and for scores of about 0..1, of pyiqa.
DBCNN = (*vgg16("features1", "features1"), *scnn("features2", "features2"), *layer("fc", "fc"))

# Its branch for synthetic distortions as published alone (`scnn.pkl`), with the classifier that it was trained with.
SCNN = (*scnn("features", "features2"), unused(r"(projection|classifier)\..*"))

# Su et al., CVPR 2020; the gradient-norm training release (DefenseIQA-NT) has the same names in a container `model`.
HYPERIQA = (
    *resnet("res", "res"),
    *layer(r"res\.(lda[123]_pool)\.0", r"\1"),
    *layer(r"res\.(lda[1234]_fc)", r"\1"),
    *layer(r"conv1\.([024])", r"conv1_\1"),
    *layer(r"(fc[1234]w_conv|fc5w_fc|fc[12345]b_fc)", r"\1"),
)

# The same network in pyiqa; its lists count from 0, and its weights give scores of about 0..1 instead of 0..100.
HYPERIQA_PYIQA = (
    *resnet("base_model", "res"),
    *(rule for i in range(3) for rule in layer(rf"lda_modules\.{i}\.0", f"lda{i + 1}_pool")),
    *(rule for i in range(3) for rule in layer(rf"lda_modules\.{i}\.3", f"lda{i + 1}_fc")),
    *layer(r"lda_modules\.3\.2", "lda4_fc"),
    *layer(r"conv1\.([024])", r"conv1_\1"),
    *(rule for i in range(4) for rule in layer(rf"fc_w_modules\.{i}", f"fc{i + 1}w_conv")),
    *layer(r"fc_w_modules\.4\.2", "fc5w_fc"),
    *(rule for i in range(5) for rule in layer(rf"fc_b_modules\.{i}\.2", f"fc{i + 1}b_fc")),
)

# Yang et al., CVPR Workshops 2022, and pyiqa; what is unused is in the published checkpoints too.
_TAB = r"(tablock[12])\.([01])"
MANIQA = (
    *vit("vit", "vit", blocks=r"\d"),
    unused(r"vit\.(blocks\.1[01]|norm|head)\..*"),
    Rule(rf"{_TAB}\.(c_[qk])\.weight", r"params/\1_\2/\3_kernel", to_kernel),
    Rule(rf"{_TAB}\.c_q\.bias", r"params/\1_\2/c_q_bias"),
    unused(rf"{_TAB}\.c_k\.bias"),  # which has no effect
    *layer(rf"{_TAB}\.c_v", r"\1_\2/c_v"),
    *layer("(conv[12])", r"\1"),
    *swin_layer(r"(swintransformer[12])\.layers\.([01])", r"\1/layers_\2"),
    unused(r"swintransformer[12]\.downsample\..*"),
    *layer(r"(fc_score|fc_weight)\.([03])", r"\1_\2"),
)

# Zhu et al., CVPR 2020, who publish pickled modules; a state dict of them has the same names.
METAIQA, _METAIQA_PYIQA = (
    (
        *resnet("resnet_layer", "resnet_layer"),
        *layer(r"resnet_layer\.fc", "fc"),
        *layer(rf"{head}\.(fc[123])", r"\1"),
        *norm(rf"{head}\.(bn[12])", r"\1"),
        prelu(rf"{head}\.(relu[12])", r"\1"),
    )
    for head in ("net", "head")
)
METAIQA_PYIQA = (*_METAIQA_PYIQA, unused("mean|std"))

# Li et al., ACM MM 2020, with any ResNet; the lines from heads to scores are lists beside the container `model`.
LINEARITY = (
    *resnet_in_sequence("features", "features"),
    *layer(r"(dr[67])\.([024])", r"\1_\2"),
    *norm(r"(dr[67])\.([135])", r"\1_\2"),
    *layer("(regr6|regr7|regression)", r"\1"),
    Rule("[kb]", r"calibration/\g<0>", outside=True),
)

# Fang et al., CVPR 2020: BL, MT-A and MT-E; the second network of MT-S tells scenes apart.
SPAQ = (*resnet("backbone", "backbone"), *layer(r"backbone\.fc", "fc"), *layer("exifCNN", "exifCNN"))
SPAQ_MTS = (
    *resnet("backbone_quality", "backbone"),
    *layer(r"backbone_quality\.fc", "fc"),
    unused(r"backbone_semantic\..*"),
)

# Zhang et al., CVPR 2023: the names of OpenAI's CLIP, whose own files say three sizes too.
LIQE = (*clip_vit(), unused("input_resolution|context_length|vocab_size"))
LIQE_LAYOUTS = {"original": Layout(LIQE), "pyiqa": Layout(clip_vit(r"clip_model\."))}

# Zhang et al., CVPR 2018, and pyiqa: heads stand in a state dict as `lin0` and again in the list `lins`.
LPIPS_LAYOUTS = {"original": Layout(lpips("lin", r"lins\.")), "lists": Layout(lpips(r"lins\.", "lin"))}

# Ding et al., TPAMI 2020, and pyiqa; or their two vectors beside torchvision's backbone.
DISTS = (
    *layer(r"(?:stage\d|features)\.(\d+)", r"net/conv\1"),
    unused(r"classifier\..*"),
    Rule("alpha|beta", r"params/\g<0>", to_vector),
    unused(r"mean|std|stage\d\.\d+\.filter"),
)

LAYOUTS: dict[str, dict[str, Layout]] = {
    "cnniqa": {"original": Layout(CNNIQA)},
    # The first of two that fit equally well counts, so the one that wants a container comes first.
    "dbcnn": {"pyiqa": Layout(contained("params", DBCNN), score_range=(0.0, 1.0)), "original": Layout(DBCNN)},
    "dbcnn_sma": {"original": Layout(DBCNN)},
    "hyperiqa": {"original": Layout(HYPERIQA), "pyiqa": Layout(HYPERIQA_PYIQA, score_range=(0.0, 1.0))},
    **{f"linearity{trunk}": {"original": Layout(LINEARITY)} for trunk in ("", "_resnet18", "_resnet34", "_resnet50")},
    "liqe": LIQE_LAYOUTS,
    "liqe_mix": LIQE_LAYOUTS,
    "maniqa": {"original": Layout(MANIQA)},
    "maniqa_pipal": {"original": Layout(MANIQA)},
    "metaiqa": {"original": Layout(METAIQA), "pyiqa": Layout(METAIQA_PYIQA)},
    **{f"spaq_{kind}": {"original": Layout(SPAQ)} for kind in ("bl", "mta", "mte")},
    "spaq_mts": {"original": Layout(SPAQ_MTS)},
}

# Of full-reference distances, which have no range of scores.
DISTANCE_LAYOUTS: dict[str, dict[str, Layout]] = {
    "dists": {"original": Layout(DISTS)},
    "lpips_alex": LPIPS_LAYOUTS,
    "lpips_vgg": LPIPS_LAYOUTS,
}

# The learned filter of the purification study (arXiv 2404.06957), and its variants.
FCN = layer(r"(conv[123])", r"\1")

EVERY_LAYOUT = LAYOUTS | DISTANCE_LAYOUTS
