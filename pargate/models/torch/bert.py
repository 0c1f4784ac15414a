"""Text towers that transformers computes: the BERT of a Chinese CLIP, the XLM-R of an AltCLIP, and their tokenizers.

`ChineseCLIPTextModel` is a BERT, and `AltCLIPTextModel` an XLM-R with a linear layer behind it; a caption's vector is
that of its first token. They are built from a configuration alone: nothing is looked up by name, downloaded, or taken
from a repository as code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pargate import limits
from pargate.errors import InputError, OperationalError
from pargate.files import read_bytes
from pargate.models import tokenizer as tokens
from pargate.models.config import load_json
from pargate.models.hugging_face import TOWER
from pargate.models.torch.siglip import SPACE, Uncleaned, from_transformers, refuse_added, unigram

PIECES = "sentencepiece.bpe.model"
"""Vocabulary of an XLM-R, which transformers reads with the package sentencepiece alone."""

SPECIAL = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
"""First tokens of an XLM-R, in their order."""

REPLACED = ["<unk>", "<s>", "</s>"]
"""First pieces of its vocabulary, in the place of which they stand."""

MASK = "<mask>"
"""Last token of an XLM-R."""


class BertTower(nn.Module):
    """Token ids, int64 [n, at most the context], to vectors [n, d] of any norm; padding behind a caption is masked."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Build the tower that a `model_cfg` of `hugging_face.model_config` describes.

        Raises:
            OperationalError: transformers is not installed.
            ValueError, AssertionError: settings contradict each other.
        """
        super().__init__()
        text = config["text_cfg"]
        settings = dict(text[TOWER])
        width, inner = text["width"], settings.pop("project_dim", None)
        kind, kind_of_settings = _classes(settings.pop("model_type"))
        made = kind_of_settings(
            vocab_size=text["vocab_size"],
            hidden_size=width,
            num_hidden_layers=text["layers"],
            num_attention_heads=text["heads"],
            attn_implementation="eager",  # the form that has an ONNX graph
            **settings,
        )
        self.transformer = kind(made, add_pooling_layer=False)
        self.transformation = nn.Sequential(
            *([] if inner is None else [nn.LayerNorm(width, made.layer_norm_eps), nn.Linear(width, inner)])
        )
        self.text_projection = nn.Linear(width if inner is None else inner, config["embed_dim"], bias=False)
        self.context_length, self.vocab_size = text["context_length"], text["vocab_size"]
        self._pad = settings["pad_token_id"]

    @property
    def token_embedding(self) -> nn.Module:
        """The vectors of the tokens, by the name that they have in open_clip's towers."""
        embedding: nn.Module = self.transformer.embeddings.word_embeddings
        return embedding

    def lengths(self, ids: Tensor) -> Tensor:
        """Return the number of tokens of each caption, without the padding behind it: int64 [n]."""
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        return (ids.ne(self._pad) * places).amax(dim=1)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of token ids."""
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        hidden = torch.finfo(torch.float32).min
        # In the form that is added to attention, since transformers looks at the values of a mask of ones and zeros.
        mask = torch.where(places <= self.lengths(ids)[:, None], 0.0, hidden)[:, None, None]
        first = self.transformer(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        vectors: Tensor = self.text_projection(self.transformation(first))
        return vectors

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Do nothing: captions are short, so that the image tower decides on memory."""


def _classes(kind: str) -> tuple[Any, Any]:
    """Return the classes of a tower and of its settings, by `model_type`."""
    try:
        from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel
    except ImportError as error:
        raise OperationalError(
            "the text tower of a Chinese CLIP or an AltCLIP needs the package transformers",
            "pip install 'pargate[transformers]'",
        ) from error
    return (BertModel, BertConfig) if kind == "bert" else (XLMRobertaModel, XLMRobertaConfig)


def captions(folder: Path, config: Mapping[str, Any]) -> Uncleaned:
    """Return the tokenizer in a folder, which pads as the text tower of `config` expects.

    Raises:
        InputError: it cannot be used, or pads with another token than the tower masks, or in front of a caption.
        ImportError: transformers is not installed.
    """
    text = config["text_cfg"]
    if (folder / tokens.FILES["huggingface"]).is_file():  # which was tried
        found = from_transformers(folder)
    else:
        xlm = text[TOWER]["model_type"] != "bert" and (folder / PIECES).is_file()
        found = _xlm(folder) if xlm else from_transformers(folder)
        backend = getattr(found, "backend_tokenizer", None)
        if backend is None:
            raise InputError(f"{folder} holds a tokenizer in an old form", "convert it to tokenizer.json")
        tokens.refuse_unusable(backend.to_str().encode(), f"in {folder}")
    pad = text[TOWER]["pad_token_id"]
    if found.pad_token_id != pad or found.padding_side != "right":
        raise InputError(
            f"{folder}: the tokenizer pads with the token {found.pad_token_id} on the {found.padding_side}, and the "
            f"text tower masks the token {pad} behind a caption",
            "restore the tokenizer, or pad_token_id in config.json",
        )
    return Uncleaned(found, text["context_length"])


def _xlm(folder: Path) -> Any:
    """Return the tokenizer that `XLMRobertaTokenizer` is with the vocabulary in a folder."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    path = folder / "tokenizer_config.json"
    settings = load_json(path) if path.is_file() else {}
    refuse_added(folder, settings, [*SPECIAL.values(), MASK])
    named = {**SPECIAL, "cls": SPECIAL["bos"], "sep": SPECIAL["eos"], "mask": MASK}
    for name, word in named.items():
        if tokens.word_of(settings.get(f"{name}_token"), word) != word:
            raise InputError(f"{path}: {name}_token is not {word}, that of an XLM-R", "restore the file")
    proto = unigram(read_bytes(folder / PIECES, limits.TOKENIZER_BYTES), str(folder / PIECES))
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    if [word for word, _ in pieces[: len(REPLACED)]] != REPLACED:
        raise InputError(f"{folder / PIECES} does not begin with {', '.join(REPLACED)}", "restore the file")
    words = [*((word, 0.0) for word in SPECIAL.values()), *pieces[len(REPLACED) :], (MASK, 0.0)]
    first, _, last, unknown = SPECIAL.values()
    whole = Tokenizer(models.Unigram(words, list(SPECIAL.values()).index(unknown), False))
    if proto.normalizer_spec.precompiled_charsmap:
        whole.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    whole.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE)])
    ends = [(word, whole.token_to_id(word)) for word in (first, last)]
    whole.post_processor = processors.TemplateProcessing(f"{first} $A {last}", None, ends)
    special = {f"{name}_token": word for name, word in named.items()}
    sides = {name: settings[name] for name in ("padding_side", "truncation_side") if name in settings}
    return PreTrainedTokenizerFast(tokenizer_object=whole, **special, **sides)  # type: ignore[no-untyped-call]
