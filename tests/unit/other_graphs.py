"""Graphs of a CLIP as other tools export them."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from foreign_layouts import clip_tokenizer, processor, tokens
from torch import Tensor, nn
from transformers import CLIPModel


class Both(nn.Module):
    """Both towers, with the outputs of optimum."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        found = self.model(input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask)
        return found.logits_per_image, found.logits_per_text, found.text_embeds, found.image_embeds


class Image(nn.Module):
    """The image tower; `whole` has the outputs of transformers' `CLIPVisionModelWithProjection`, else the vectors."""

    def __init__(self, model: CLIPModel, whole: bool) -> None:
        super().__init__()
        self.model, self.whole = model, whole

    def forward(self, pixel_values: Tensor) -> Any:
        found = self.model.vision_model(pixel_values=pixel_values)
        vectors = self.model.visual_projection(found.pooler_output)
        return (vectors, found.last_hidden_state) if self.whole else vectors


class Text(nn.Module):
    """The text tower; `whole` has the outputs of transformers' `CLIPTextModelWithProjection`, else the vectors."""

    def __init__(self, model: CLIPModel, whole: bool) -> None:
        super().__init__()
        self.model, self.whole = model, whole

    def forward(self, input_ids: Tensor) -> Any:
        found = self.model.text_model(input_ids=input_ids)
        vectors = self.model.text_projection(found.pooler_output)
        return (vectors, found.last_hidden_state) if self.whole else vectors


def export(
    module: nn.Module,
    examples: Sequence[Tensor],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: dict[str, dict[int, str]],
) -> None:
    """Write a graph with torch's older exporter, as these tools do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), tuple(examples), path, input_names=inputs, output_names=outputs, dynamic_axes=dynamic,
            opset_version=14, dynamo=False,
        )  # fmt: skip


def settings(model: CLIPModel, folder: Path) -> None:
    """Write what transformers keeps beside the weights of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    processor(model.config.vision_config.image_size).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)


def ids(model: CLIPModel, count: int = 2) -> Tensor:
    texts = ["a photo of a dog", "two"][:count]
    return tokens(texts, model.config.text_config.max_position_embeddings)


def pixels(model: CLIPModel, count: int = 3) -> Tensor:
    side = model.config.vision_config.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


CAPTION_AXES = {0: "text_batch_size", 1: "sequence_length"}
IMAGE_AXES = {0: "image_batch_size", 1: "num_channels", 2: "height", 3: "width"}


def optimum(model: CLIPModel, folder: Path) -> None:
    """One graph with both towers, a mask, and sizes that are not fixed."""
    settings(model, folder)
    export(
        Both(model), (ids(model), pixels(model), torch.ones_like(ids(model))), folder / "model.onnx",
        ["input_ids", "pixel_values", "attention_mask"],
        ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"],
        {
            "input_ids": CAPTION_AXES, "attention_mask": CAPTION_AXES, "pixel_values": IMAGE_AXES,
            "text_embeds": {0: "text_batch_size"}, "image_embeds": {0: "image_batch_size"},
        },
    )  # fmt: skip


def transformers_js(model: CLIPModel, folder: Path) -> None:
    """Two graphs in a folder of their own, with outputs that are not used."""
    settings(model, folder)
    export(
        Image(model, True), (pixels(model),), folder / "onnx" / "vision_model.onnx", ["pixel_values"],
        ["image_embeds", "last_hidden_state"], {"pixel_values": IMAGE_AXES, "image_embeds": {0: "n"}},
    )  # fmt: skip
    export(
        Text(model, True), (ids(model),), folder / "onnx" / "text_model.onnx", ["input_ids"],
        ["text_embeds", "last_hidden_state"], {"input_ids": CAPTION_AXES, "text_embeds": {0: "n"}},
    )  # fmt: skip


def clip_onnx(model: CLIPModel, folder: Path) -> None:
    """Two graphs whose ends are all called input and output, with 32-bit ids."""
    settings(model, folder)
    batch = {"input": {0: "batch_size"}, "output": {0: "batch_size"}}
    export(Image(model, False), (pixels(model),), folder / "visual.onnx", ["input"], ["output"], batch)
    export(Text(model, False), (ids(model).int(),), folder / "textual.onnx", ["input"], ["output"], batch)


def one_at_a_time(model: CLIPModel, folder: Path) -> None:
    """Two graphs with a batch of one."""
    settings(model, folder)
    image, text = folder / "clip_image_encoder.onnx", folder / "clip_text_encoder.onnx"
    export(Image(model, False), (pixels(model, 1),), image, ["image"], ["embedding"], {})
    export(Text(model, False), (ids(model, 1),), text, ["text"], ["embedding"], {})


AS_GRAPHS: dict[str, Callable[[CLIPModel, Path], None]] = {
    "ONNX, optimum's one graph": optimum,
    "ONNX, transformers.js": transformers_js,
    "ONNX, visual and textual": clip_onnx,
    "ONNX, one at a time": one_at_a_time,
}
"""Graphs of a `CLIPModel` in a folder with its settings, by name."""
