"""The two towers of a model as one trainable module: images and tokens in, unit vectors out."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

EmbedText = Callable[[nn.Module, Tensor], Tensor]
"""Function from the text tower and token ids [n, at most the context] to vectors [n, d]."""


class Towers(nn.Module):
    """An image tower and a text tower, in evaluation mode, so without dropout."""

    def __init__(self, visual: nn.Module, text: nn.Module, embed_text: EmbedText) -> None:
        """Use the towers of a model and share their parameters with it."""
        super().__init__()
        self.visual = visual
        self.text = text
        self._embed_text = embed_text
        self._by_channel = False
        self.eval()

    def forward(self, images: Tensor, tokens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return unit vectors, float32 [n, d] and [m, d], of images [n, 3, H, W] and token ids int64 [m, length].

        One call covers both towers, so that DDP knows when a pass is over.
        """
        return self.embed_images(images), None if tokens is None else self.embed_texts(tokens)

    def embed_images(self, images: Tensor) -> Tensor:
        """Return unit vectors, float32 [n, d], of normalised images [n, 3, H, W]."""
        pooled = self.visual(images.contiguous() if self._by_channel else images)
        return _unit(pooled[0] if isinstance(pooled, tuple) else pooled)  # some towers also return their tokens

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """Return unit vectors, float32 [m, d], of token ids int64 [m, length]."""
        return _unit(self._embed_text(self.text, tokens))

    def order_pixels(self, device: torch.device) -> None:
        """Set the memory layout of the image tower to channels last, with which a ResNet is a quarter faster on a CPU.

        Towers with a strided 1×1 convolution, as in FastViT and timm's ResNets, keep their layout on a CPU: there, the
        gradient of torch 2.15 writes out of bounds and crashes the process.
        """
        self._by_channel = device.type == "cpu" and any(
            isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1) for m in self.visual.modules()
        )
        if not self._by_channel:
            self.visual.to(memory_format=torch.channels_last)

    def train_only(self, which: str) -> None:
        """Train `both` towers, or only the `image` or the `text` tower."""
        self.visual.requires_grad_(which in ("both", "image"))
        self.text.requires_grad_(which in ("both", "text"))
        # A text tower may hold the logit scale, which is not part of any embedding.
        for name, parameter in self.text.named_parameters():
            if name in ("logit_scale", "logit_bias"):
                parameter.requires_grad_(False)

    def use_batch_statistics(self, wanted: bool) -> None:
        """Switch only batch normalisation to training mode, or back."""
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(wanted)


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=-1)
