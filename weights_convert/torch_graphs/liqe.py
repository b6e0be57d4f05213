"""LIQE (Zhang et al., CVPR 2023): CLIP ViT-B/32 with the names of OpenAI's checkpoints."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nriqa_jax.models import liqe_prompts


class QuickGELU(nn.Module):
    """The sigmoid approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Attention and a two-layer network, each behind a layer norm and beside a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        """Layers."""
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply the block."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        """Layers."""
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply the blocks."""
        for block in self.resblocks:
            x = block(x, mask)
        return x


class ImageTower(nn.Module):
    """The vision transformer on 224x224 views in patches of 32."""

    def __init__(self, features: int, width: int, depth: int, heads: int) -> None:
        """Layers."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 32, 32, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(50, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, depth, heads)
        self.proj = nn.Parameter(torch.zeros(width, features))

    def forward(self, views: Tensor) -> Tensor:
        """Features of the views."""
        x = self.conv1(views).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class LIQE(nn.Module):
    """Logits of texts for normalised 224x224 views.

    The features of the texts are computed when they are first needed, and kept until weights are loaded, moved or
    cast.
    """

    def __init__(
        self,
        prompts: Callable[[], np.ndarray] = liqe_prompts.quality_only,
        features: int = 512,
        width: int = 768,
        depth: int = 12,
        text_width: int = 512,
        text_depth: int = 12,
        vocabulary: int = 49408,
        head_width: int = 64,
    ) -> None:
        """Layers; the text tower's are not in a module of their own."""
        super().__init__()
        self.visual = ImageTower(features, width, depth, width // head_width)
        self.transformer = Transformer(text_width, text_depth, text_width // head_width)
        self.token_embedding = nn.Embedding(vocabulary, text_width)
        self.positional_embedding = nn.Parameter(torch.zeros(77, text_width))
        self.ln_final = nn.LayerNorm(text_width)
        self.text_projection = nn.Parameter(torch.zeros(text_width, features))
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self._ids = torch.from_numpy(prompts()).long()
        self._texts: Tensor | None = None
        self.register_load_state_dict_post_hook(lambda *_: setattr(self, "_texts", None))

    def forward(self, views: Tensor) -> Tensor:
        """One logit per view and text."""
        if self._texts is None:
            self._texts = self.encode_texts()
        features = nn.functional.normalize(self.visual(views))
        return self.logit_scale.exp() * features @ self._texts.T.to(features)

    @torch.no_grad()
    def encode_texts(self) -> Tensor:
        """Unit features of the texts."""
        ids = self._ids.to(self.token_embedding.weight.device)
        length = ids.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1).to(self.positional_embedding)
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding[:length], mask)
        ends = x[torch.arange(len(ids)), ids.argmax(1)]
        return nn.functional.normalize(self.ln_final(ends) @ self.text_projection)

    def _apply(self, *arguments: Any, **options: Any) -> nn.Module:
        self._texts = None
        return super()._apply(*arguments, **options)


liqe_mix: Callable[..., Any] = partial(LIQE, prompts=liqe_prompts.multitask)
