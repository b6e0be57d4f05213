"""MANIQA (Yang et al., CVPR Workshops 2022) with the names of its authors' checkpoints."""

import torch
from torch import Tensor, nn
from torch.nn import functional

_WINDOW, _SHIFT = 4, 2


class Attention(nn.Module):
    """Self-attention with several heads."""

    def __init__(self, width: int, heads: int) -> None:
        """Layers."""
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Mix tokens; ``bias`` is added to the logits."""
        batch, tokens, width = x.shape
        query, key, value = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two layers for each token."""

    def __init__(self, width: int, hidden: int) -> None:
        """Layers."""
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        """Layers."""
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A vision transformer; its last blocks, norm and classifier are in the checkpoint and not computed."""

    def __init__(self, width: int, heads: int, patch: int, tokens: int, taps: tuple[int, ...]) -> None:
        """Layers; ``taps`` are the blocks whose outputs are features."""
        super().__init__()
        self.taps = taps
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + tokens, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(12))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 1000)

    def forward(self, views: Tensor) -> Tensor:
        """Features of all taps, for each patch."""
        x = self.patch_embed["proj"](views).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        features = []
        for index, block in enumerate(self.blocks[: max(self.taps) + 1]):
            x = block(x)
            if index in self.taps:
                features.append(x[:, 1:])
        return torch.cat(features, 2)


class TransposedAttention(nn.Module):
    """Attention between channels; the result is read in another order, as published."""

    def __init__(self, tokens: int) -> None:
        """Layers."""
        super().__init__()
        self.c_q, self.c_k, self.c_v = (nn.Linear(tokens, tokens) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Mix channels."""
        weights = (self.c_q(x) @ self.c_k(x).transpose(1, 2) * x.shape[2] ** -0.5).softmax(-1)
        return (weights @ self.c_v(x)).transpose(1, 2).reshape(x.shape) + x


class WindowAttention(Attention):
    """Self-attention within windows, with a bias for each relative position."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int) -> None:
        """Layers and constants."""
        super().__init__(width, heads)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * _WINDOW - 1) ** 2, heads))
        places = torch.cartesian_prod(torch.arange(_WINDOW), torch.arange(_WINDOW))
        offset = places[:, None] - places + _WINDOW - 1
        self.register_buffer("relative_position_index", offset[..., 0] * (2 * _WINDOW - 1) + offset[..., 1])

    def mix(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows ``[n, windows, tokens, width]``; ``mask`` is for each window."""
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(len(windows), 1, 1, 1)
        return self(windows.flatten(0, 1), bias).view(windows.shape)


class SwinBlock(nn.Module):
    """A pre-norm block with attention in windows, which may be shifted."""

    attn_mask: Tensor | None

    def __init__(self, width: int, heads: int, hidden: int, side: int, shift: int) -> None:
        """Layers and constants."""
        super().__init__()
        self.side, self.shift = side, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = WindowAttention(width, heads), Mlp(width, hidden)
        self.register_buffer("attn_mask", self._mask() if shift else None)

    def _mask(self) -> Tensor:
        line = torch.bucketize(
            torch.arange(self.side), torch.tensor([self.side - _WINDOW, self.side - _SHIFT]), right=True
        )
        labels = self.windows((line[:, None] * 3 + line).view(1, -1, 1))[0, :, :, 0]
        return torch.where(labels[:, None] == labels[:, :, None], 0.0, -100.0)

    def windows(self, x: Tensor) -> Tensor:
        """Tokens ``[n, side * side, width]`` as ``[n, windows, tokens, width]``."""
        count = self.side // _WINDOW
        x = x.view(len(x), count, _WINDOW, count, _WINDOW, -1).transpose(2, 3)
        return x.reshape(len(x), count * count, _WINDOW * _WINDOW, -1)

    def tokens(self, windows: Tensor) -> Tensor:
        """The inverse of `windows`."""
        count = self.side // _WINDOW
        x = windows.view(len(windows), count, count, _WINDOW, _WINDOW, -1).transpose(2, 3)
        return x.reshape(len(windows), self.side**2, -1)

    def roll(self, x: Tensor, shift: int) -> Tensor:
        """Move rows and columns around."""
        grid = x.view(len(x), self.side, self.side, -1)
        return grid.roll((shift, shift), (1, 2)).view(x.shape) if shift else x

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y = self.attn.mix(self.windows(self.roll(self.norm1(x), -self.shift)), self.attn_mask)
        x = x + self.roll(self.tokens(y), self.shift)
        return x + self.mlp(self.norm2(x))


class SwinLayer(nn.Module):
    """A block, a shifted block, and a convolution."""

    def __init__(self, width: int, heads: int, hidden: int, side: int) -> None:
        """Layers."""
        super().__init__()
        self.side = side
        self.blocks = nn.Sequential(*(SwinBlock(width, heads, hidden, side, shift) for shift in (0, _SHIFT)))
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to tokens."""
        grid = self.blocks(x).transpose(1, 2).reshape(len(x), -1, self.side, self.side)
        return functional.relu(self.conv(grid)).flatten(2).transpose(1, 2)


class SwinStage(nn.Module):
    """Two layers, each added to its input; a strided convolution is in the checkpoint and not computed."""

    def __init__(self, width: int, heads: int, hidden: int, side: int, scale: float) -> None:
        """Layers."""
        super().__init__()
        self.scale = scale
        self.layers = nn.ModuleList(SwinLayer(width, heads, hidden, side) for _ in range(2))
        self.downsample = nn.Conv2d(width, width, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the stage to maps."""
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = self.scale * layer(tokens) + tokens
        return tokens.transpose(1, 2).reshape(x.shape)


class MANIQA(nn.Module):
    """MANIQA on normalised views of one size."""

    def __init__(
        self, width: int = 768, heads: int = 12, hidden: int = 768, patch: int = 8, size: int = 224, scale: float = 0.8
    ) -> None:
        """Layers; ``hidden`` is the width inside of Swin blocks, ``scale`` 0.13 for the weights from PIPAL."""
        super().__init__()
        side, half = size // patch, width // 2
        self.side = side
        self.vit = ViT(width, heads, patch, side * side, (6, 7, 8, 9))
        self.tablock1, self.tablock2 = (
            nn.Sequential(*(TransposedAttention(side * side) for _ in range(2))) for _ in range(2)
        )
        self.conv1, self.conv2 = nn.Conv2d(4 * width, width, 1), nn.Conv2d(width, half, 1)
        self.swintransformer1 = SwinStage(width, 4, hidden, side, scale)
        self.swintransformer2 = SwinStage(half, 4, hidden, side, scale)
        self.fc_score, self.fc_weight = (
            nn.Sequential(nn.Linear(half, half), nn.ReLU(), nn.Dropout(0.1), nn.Linear(half, 1), end)
            for end in (nn.ReLU(), nn.Sigmoid())
        )

    def forward(self, views: Tensor) -> Tensor:
        """For each view, the sum of weighted scores of its patches, and the sum of their weights."""
        x = self.vit(views).transpose(1, 2)
        for mix, reduce, swin in (
            (self.tablock1, self.conv1, self.swintransformer1),
            (self.tablock2, self.conv2, self.swintransformer2),
        ):
            maps = mix(x).view(len(x), -1, self.side, self.side)
            x = swin(reduce(maps)).flatten(2)
        tokens = x.transpose(1, 2)
        score, weight = self.fc_score(tokens)[..., 0], self.fc_weight(tokens)[..., 0]
        return torch.stack([(score * weight).sum(1), weight.sum(1)], 1)


def maniqa_pipal(**options: int) -> MANIQA:
    """MANIQA as trained on PIPAL."""
    return MANIQA(scale=0.13, **options)
