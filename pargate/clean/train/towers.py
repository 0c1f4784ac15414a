"""The two towers of a model as one module that is trained: pictures and tokens in, unit vectors out."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

EmbedText = Callable[[nn.Module, Tensor], Tensor]
"""Text tower and token ids [n, any length up to the context] to vectors [n, d]."""


class Towers(nn.Module):
    """An image tower and a text tower. In evaluation mode: nothing is dropped out."""

    def __init__(self, visual: nn.Module, text: nn.Module, embed_text: EmbedText) -> None:
        """Take the towers as they are; parameters stay shared with the model they come from."""
        super().__init__()
        self.visual = visual
        self.text = text
        self._embed_text = embed_text
        self._by_channel = False
        self.eval()

    def forward(self, images: Tensor, tokens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Unit rows, float32 [n, d] and [m, d], of normalised images [n, 3, H, W] and token ids int64 [m, length].

        One call for both towers, since that is how DDP learns that a pass is over.
        """
        return self.embed_images(images), None if tokens is None else self.embed_texts(tokens)

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit rows, float32 [n, d], of normalised images [n, 3, H, W]."""
        pooled = self.visual(images.contiguous() if self._by_channel else images)
        return _unit(pooled[0] if isinstance(pooled, tuple) else pooled)  # some towers give their tokens besides

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """Unit rows, float32 [m, d], of token ids int64 [m, length]."""
        return _unit(self._embed_text(self.text, tokens))

    def order_pixels(self, device: torch.device) -> None:
        """Lay out the image tower for its convolutions: channels last takes a ResNet a quarter less time on a CPU.

        Not where a 1×1 convolution has a stride, as in FastViT and timm's ResNets: on a CPU torch 2.15 writes out of
        bounds there when it takes the gradient, and the process ends in a segmentation fault.
        """
        self._by_channel = device.type == "cpu" and any(
            isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1) for m in self.visual.modules()
        )
        if not self._by_channel:
            self.visual.to(memory_format=torch.channels_last)

    def train_only(self, which: str) -> None:
        """Let gradients reach `both` towers, or the `image` or the `text` tower alone."""
        self.visual.requires_grad_(which in ("both", "image"))
        self.text.requires_grad_(which in ("both", "text"))
        # A text tower may carry the model's own scale, which is not part of any embedding.
        for name, parameter in self.text.named_parameters():
            if name in ("logit_scale", "logit_bias"):
                parameter.requires_grad_(False)

    def use_batch_statistics(self, wanted: bool) -> None:
        """Put batch normalisation alone into training mode, or back."""
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(wanted)


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=-1)
