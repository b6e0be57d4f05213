"""Pieces of rule tables: the layers and backbones that several checkpoints have.

Variables are named after the authors' checkpoints, so most rules only change the leaf: ``weight`` becomes ``kernel`` in
JAX's layout (HWIO for a convolution, (in, out) for a dense layer), the four leaves of a batch norm become ``scale``,
``bias``, ``mean`` and ``var``. The models flatten feature maps in PyTorch's NCHW order at run time, so that no columns
have to be permuted here.
"""

import dataclasses

import numpy as np

from weights_convert.rules import Rule


def to_kernel(weight: np.ndarray) -> np.ndarray:
    """OIHW -> HWIO for a convolution, (out, in) -> (in, out) for a dense layer; other ranks are left alone."""
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(weight.ndim)
    return weight if order is None else weight.transpose(order)


def layer(source: str, target: str) -> tuple[Rule, ...]:
    """A convolution or a dense layer; ``source`` is a pattern, ``target`` a path that may refer to its groups."""
    return (
        Rule(rf"{source}\.weight", f"params/{target}/kernel", to_kernel),
        Rule(rf"{source}\.bias", f"params/{target}/bias"),
    )


def norm(source: str, target: str) -> tuple[Rule, ...]:
    """A batch norm with its running statistics."""
    return (
        Rule(rf"{source}\.weight", f"params/{target}/scale"),
        Rule(rf"{source}\.bias", f"params/{target}/bias"),
        Rule(rf"{source}\.running_mean", f"batch_stats/{target}/mean"),
        Rule(rf"{source}\.running_var", f"batch_stats/{target}/var"),
    )


def layer_norm(source: str, target: str) -> tuple[Rule, ...]:
    """A layer norm."""
    return (
        Rule(rf"{source}\.weight", f"params/{target}/scale"),
        Rule(rf"{source}\.bias", f"params/{target}/bias"),
    )


def resnet(source: str, target: str) -> tuple[Rule, ...]:
    """A ResNet without its classifier; timm and torchvision use the same names."""
    return (
        *layer(rf"{source}\.conv1", f"{target}/conv1"),
        *norm(rf"{source}\.bn1", f"{target}/bn1"),
        *_residual(rf"{source}\.layer(\d)\.(\d+)", rf"{target}/layer\1_\2"),
    )


def resnet_in_sequence(source: str, target: str) -> tuple[Rule, ...]:
    """The same where its parts are numbered: convolution, batch norm, activation, pooling, four layers."""
    layers = (_residual(rf"{source}\.{3 + i}\.(\d+)", rf"{target}/layer{i}_\1") for i in range(1, 5))
    return (
        *layer(rf"{source}\.0", f"{target}/conv1"),
        *norm(rf"{source}\.1", f"{target}/bn1"),
        *(rule for rules in layers for rule in rules),
    )


def _residual(source: str, target: str) -> tuple[Rule, ...]:
    """A block of a ResNet."""
    return (
        *layer(rf"{source}\.(?P<part>conv\d)", rf"{target}/\g<part>"),
        *norm(rf"{source}\.(?P<part>bn\d)", rf"{target}/\g<part>"),
        *layer(rf"{source}\.downsample\.0", f"{target}/downsample_0"),
        *norm(rf"{source}\.downsample\.1", f"{target}/downsample_1"),
    )


def vgg16(source: str, target: str) -> tuple[Rule, ...]:
    """The convolutions of VGG-16; ``source`` is the pattern of what torchvision calls ``features``."""
    return layer(rf"{source}\.(\d+)", rf"{target}/conv\1")


def scnn(source: str, target: str) -> tuple[Rule, ...]:
    """The branch of DBCNN for synthetic distortions: convolutions and batch norms, with a ReLU after each pair."""
    return (
        *layer(rf"{source}\.(0|3|6|9|12|15|18|21|24)", rf"{target}/conv\1"),
        *norm(rf"{source}\.(1|4|7|10|13|16|19|22|25)", rf"{target}/norm\1"),
    )


def prelu(source: str, target: str) -> Rule:
    """A PReLU, whose only tensor has the leaf of a kernel."""
    return Rule(rf"{source}\.weight", f"params/{target}/slope")


def contained(container: str, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The same rules for tensors in one container only; for layouts that nothing else tells apart."""
    return tuple(dataclasses.replace(rule, pattern=rf"{container}\.(?:{rule.pattern})", outside=True) for rule in rules)


def clip_transformer(source: str, target: str) -> tuple[Rule, ...]:
    """The blocks of one of CLIP's transformers."""
    block, to = rf"{source}\.resblocks\.(\d+)", rf"{target}/resblocks_\1"
    return (
        Rule(rf"{block}\.attn\.in_proj_weight", f"params/{to}/attn/qkv/kernel", to_kernel),
        Rule(rf"{block}\.attn\.in_proj_bias", f"params/{to}/attn/qkv/bias"),
        *layer(rf"{block}\.attn\.out_proj", f"{to}/attn/proj"),
        *layer(rf"{block}\.mlp\.c_fc", f"{to}/mlp/fc1"),
        *layer(rf"{block}\.mlp\.c_proj", f"{to}/mlp/fc2"),
        *layer_norm(rf"{block}\.ln_([12])", rf"{to}/norm\2"),
    )


def clip_vit(source: str = "") -> tuple[Rule, ...]:
    """CLIP with a vision transformer; the tensors of the text tower have no prefix of their own."""
    return (
        *layer(rf"{source}visual\.conv1", "visual/conv1"),
        *layer_norm(rf"{source}visual\.(ln_pre|ln_post)", r"visual/\1"),
        *clip_transformer(rf"{source}visual\.transformer", "visual/transformer"),
        Rule(rf"{source}visual\.(class_embedding|positional_embedding|proj)", r"params/visual/\1"),
        *clip_transformer(rf"{source}transformer", "text/transformer"),
        *layer_norm(rf"{source}ln_final", "text/ln_final"),
        Rule(rf"{source}token_embedding\.weight", "params/text/token_embedding"),
        Rule(rf"{source}(positional_embedding|text_projection)", r"params/text/\1"),
        Rule(rf"{source}logit_scale", "params/logit_scale"),
    )


def vit(source: str, target: str, blocks: str = r"\d+") -> tuple[Rule, ...]:
    """A vision transformer of timm without final norm and classifier; ``blocks`` is the pattern of those in use."""
    block, to = rf"{source}\.blocks\.({blocks})", rf"{target}/blocks_\1"
    return (
        Rule(rf"{source}\.patch_embed\.proj\.weight", f"params/{target}/patch_embed/kernel", to_kernel),
        Rule(rf"{source}\.patch_embed\.proj\.bias", f"params/{target}/patch_embed_bias"),
        Rule(rf"{source}\.(cls_token|pos_embed)", rf"params/{target}/\1"),
        *layer_norm(rf"{block}\.(norm[12])", rf"{to}/\2"),
        *layer(rf"{block}\.(attn|mlp)\.(qkv|proj|fc[12])", rf"{to}/\2/\3"),
    )


def swin_layer(source: str, target: str) -> tuple[Rule, ...]:
    """A layer of the Swin transformer of MANIQA; ``source`` is a pattern of two groups."""
    block, to = rf"{source}\.blocks\.([01])", rf"{target}/blocks_\3"
    return (
        *layer(rf"{source}\.conv", f"{target}/conv"),
        *layer_norm(rf"{block}\.(norm[12])", rf"{to}/\4"),
        *layer(rf"{block}\.(attn|mlp)\.(qkv|proj|fc[12])", rf"{to}/\4/\5"),
        Rule(rf"{block}\.attn\.(relative_position_bias_table)", rf"params/{to}/\4"),
        unused(rf"{block}\.(attn\.relative_position_index|attn_mask)"),
    )


def to_vector(weight: np.ndarray) -> np.ndarray:
    """(1, n, 1, 1) -> (n), for one weight a channel; other shapes are left alone."""
    return weight.reshape(-1) if weight.ndim == 4 and weight.size == weight.shape[1] else weight


def lpips(heads: str, copies: str) -> tuple[Rule, ...]:
    """LPIPS with any backbone, named as in its slices or by torchvision.

    The authors' networks list their heads a second time; ``heads`` is the pattern of the names that count.
    """
    return (
        *layer(r"(?:net\.slice\d|features)\.(\d+)", r"net/conv\1"),
        unused(r"classifier\..*"),
        Rule(rf"{heads}(\d)\.model\.[01]\.weight", r"params/lin\1", to_vector),
        unused(rf"{copies}\d\.model\.[01]\.weight"),
        unused(r"scaling_layer\.(shift|scale)"),
    )


def unused(pattern: str) -> Rule:
    """Tensors that a checkpoint carries and the model has no use for."""
    return Rule(pattern, None)
