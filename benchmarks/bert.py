"""Make a Chinese CLIP or an AltCLIP of transformers from a sample model: its image tower, and a text tower taught by its."""

from pathlib import Path
from typing import Any

import foreign_layouts as layouts
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import CLIPModel

from benchmarks.siglip import BATCH, fit, pairs_in, texts_of, vectors
from pargate.models.torch.bert import captions
from pargate.models.transformers_folder import located

STEPS = 300


def taught(teacher: CLIPModel, kind: str, data: Path, folder: Path) -> Path:
    """Write a model of `kind` with the teacher's image tower, whose captions have vectors near the teacher's.

    Captions are prompts of the classes, and those of `pairs-64.tar`. Every word is one piece of the vocabulary.
    """
    torch.manual_seed(0)
    prompts, texts = texts_of(data, pairs_in(data / "pairs-64.tar")[1])
    words = sorted({word.strip(".").lower() for text in texts for word in text.split()})
    layouts.WORDS.extend(words)
    layouts.PIECES_OF_XLM.update({f"▁{word}": -4.0 for word in words if f"▁{word}" not in layouts.PIECES_OF_XLM})
    student = _student(teacher, kind)
    layouts.BERTS[kind](student, folder)
    settings = located(folder).model_cfg
    tokenizer = captions(folder, settings)
    ids = tokenizer(texts)
    mask = ids.ne(student.config.text_config.pad_token_id).long()
    most = teacher.config.text_config.max_position_embeddings
    theirs = layouts.clip_tokenizer()(
        texts, padding="max_length", max_length=most, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        wanted = vectors(teacher.get_text_features(**theirs))

    def apart() -> Tensor:
        # Half of each batch are prompts, with which a scan classifies.
        drawn = torch.cat([torch.randint(len(prompts), (BATCH,)), torch.randint(len(texts), (BATCH,))])
        own = vectors(student.get_text_features(input_ids=ids[drawn], attention_mask=mask[drawn]))
        return 1 - cosine_similarity(own, wanted[drawn]).mean()

    fit(torch.nn.ModuleList([student.text_model, student.text_projection]), apart, STEPS, 2e-3)
    layouts.BERTS[kind](student.eval(), folder)
    # transformers reads this form without the package sentencepiece.
    tokenizer.tokenizer.save_pretrained(folder)
    (folder / "sentencepiece.bpe.model").unlink(missing_ok=True)
    return folder


def _student(teacher: CLIPModel, kind: str) -> Any:
    """Return a model with the teacher's image tower and a small text tower."""
    model, config, more = layouts.BERT_CLASSES[kind]
    vision = teacher.config.vision_config.to_dict()
    text = {
        "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": max(len(layouts.WORDS), len(layouts.PIECES_OF_XLM) + 2), "max_position_embeddings": 80, **more,
    }  # fmt: skip
    student = model(config(text_config=text, vision_config=vision, projection_dim=teacher.config.projection_dim))
    student.vision_model.load_state_dict(teacher.vision_model.state_dict())
    student.visual_projection.load_state_dict(teacher.visual_projection.state_dict())
    with torch.no_grad():
        student.logit_scale.copy_(teacher.logit_scale)
    return student
