"""Rule tables, one per model and checkpoint layout; data only."""

from weights_convert.pieces import layer, resnet
from weights_convert.rules import Layout

CNNIQA = layer(r"(conv1|fc[123])", r"\1")

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

LAYOUTS: dict[str, dict[str, Layout]] = {
    "cnniqa": {"original": Layout(CNNIQA)},
    "hyperiqa": {"original": Layout(HYPERIQA), "pyiqa": Layout(HYPERIQA_PYIQA, score_range=(0.0, 1.0))},
}
