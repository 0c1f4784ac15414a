"""SigLIP's captions: the tokenizer that transformers reads beside the weights, given captions as they are.

`SiglipTokenizer` of transformers needs the package sentencepiece. Here its vocabulary, `spiece.model`, is read by the
package tokenizers, with the same steps before it, so that the ids are the same and the tokenizer can be exported.
"""

import re
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from open_clip.tokenizer import HFTokenizer

from pargate import limits
from pargate.errors import InputError
from pargate.files import read_bytes
from pargate.models import tokenizer as tokens
from pargate.models.config import load_json

VOCABULARY = "spiece.model"

OWN = "SiglipTokenizer"
"""Class of transformers that reads the vocabulary, and that a configuration without a class means."""

UNLIMITED = 1 << 20
"""Lengths from here on mean that a tokenizer has none."""

UNIGRAM = 1
"""Number of the kind of vocabulary that SigLIP has, in `spiece.model`."""

SPACE = "▁"
"""What stands for a space in the vocabulary."""

PUNCTUATION = f"[{re.escape(string.punctuation)}]"
SPACES = "[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
"""Regular expressions for what `SiglipTokenizer` removes, and for what it makes one space, by Python's definitions."""


class Uncleaned(HFTokenizer):  # type: ignore[misc]  # open_clip has no types
    """A tokenizer of transformers that gets captions without cleaning, and pads them to the context."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        """Use a tokenizer of transformers."""
        self.tokenizer_mode, self.strip_sep_token, self.context_length, self.clean_fn = "", False, context, str
        self.tokenizer = tokenizer


class Captions(Uncleaned):
    """The tokenizer of a SigLIP."""

    def __init__(self, folder: Path, context: int) -> None:
        """Read the tokenizer in `folder`.

        Raises:
            InputError: it cannot be read, or pads to another length than the context.
            ImportError: transformers is not installed.
        """
        path = folder / "tokenizer_config.json"
        settings = load_json(path) if path.is_file() else {}
        length = settings.get("model_max_length")
        if type(length) is int and length < UNLIMITED and length != context:
            raise InputError(
                f"{path} pads captions to {length} tokens (model_max_length), and the text tower has {context}",
                "correct the one that is wrong",
            )
        kind = str(settings.get("tokenizer_class") or OWN).removesuffix("Fast")
        super().__init__(_own(folder, settings) if kind == OWN else from_transformers(folder), context)


def from_transformers(folder: Path) -> Any:
    """Return the tokenizer that transformers finds in a folder."""
    from transformers import AutoTokenizer

    with tokens.alone(folder) as place:
        return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)


def _own(folder: Path, settings: dict[str, Any]) -> Any:
    """Return the tokenizer that `SiglipTokenizer` is with the vocabulary in a folder."""
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    path = folder / VOCABULARY
    if not path.is_file():
        raise InputError(
            f"{folder} names {OWN}, whose {VOCABULARY} does not lie beside the weights", f"put {VOCABULARY} there"
        )
    named = {
        name: tokens.word_of(settings.get(f"{name}_token"), default)
        for name, default in (("eos", "</s>"), ("unk", "<unk>"), ("pad", "</s>"))
    }
    refuse_added(folder, settings, named.values())
    whole = _unigram(read_bytes(path, limits.TOKENIZER_BYTES), str(path), settings.get("do_lower_case") is not False)
    end = named["eos"]
    if missing := sorted(word for word in set(named.values()) if whole.token_to_id(word) is None):
        raise InputError(f"{path} does not hold the token {missing[0][:40]!r}", "restore the file")
    whole.post_processor = processors.TemplateProcessing(f"$A {end}", None, [(end, whole.token_to_id(end))])
    tokens.refuse_unusable(whole.to_str().encode(), str(path))
    sides = {name: settings[name] for name in ("padding_side", "truncation_side") if name in settings}
    special = {
        f"{name}_token": AddedToken(word, lstrip=True, rstrip=True, normalized=False, special=True)
        for name, word in named.items()
    }
    return PreTrainedTokenizerFast(tokenizer_object=whole, **special, **sides)  # type: ignore[no-untyped-call]


def refuse_added(folder: Path, settings: dict[str, Any], known: Iterable[str]) -> None:
    """Raise if a `tokenizer_config.json` adds tokens to the vocabulary besides those that are known.

    Raises:
        InputError: as above.
    """
    if added := sorted(tokens.added(settings) - set(known)):
        raise InputError(
            f"{folder}: the tokenizer adds {added[0][:40]!r} to its vocabulary, which pargate does not read",
            "give the tokenizer that the model was trained with",
        )


def unigram(content: bytes, name: str) -> Any:
    """Return the vocabulary of sentencepiece in a file's `content`; `name` is for messages.

    Raises:
        InputError: it is of another kind.
    """
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto.FromString(content)  # type: ignore[no-untyped-call]
    if proto.trainer_spec.model_type != UNIGRAM or proto.trainer_spec.byte_fallback:
        raise InputError(f"{name} is not the kind of vocabulary that the model has (unigram)", "restore the file")
    return proto


def _unigram(content: bytes, name: str, lower: bool) -> Any:
    """Return the vocabulary of a `spiece.model`, with the steps of `SiglipTokenizer` before it."""
    from tokenizers import Regex, Tokenizer, models, normalizers

    proto = unigram(content, name)
    trainer, spec = proto.trainer_spec, proto.normalizer_spec
    if not (spec.remove_extra_whitespaces and spec.escape_whitespaces):
        raise InputError(f"{name} keeps spaces in another way than SigLIP's vocabulary", "restore the file")
    whole = Tokenizer(models.Unigram([(piece.piece, piece.score) for piece in proto.pieces], trainer.unk_id, False))
    steps = [normalizers.Replace(SPACE, " "), normalizers.Prepend(SPACE)]
    if lower:
        # Python knows the sigma at the end of a Greek word.
        steps += [normalizers.Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς"), normalizers.Lowercase()]
    steps += [normalizers.Replace(Regex(PUNCTUATION), ""), normalizers.Replace(Regex(SPACES), " ")]
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    # What sentencepiece does: spaces become one, and none remains at the end.
    steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(" ", SPACE)]
    whole.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(rf"{SPACE}+\z"), "")])
    return whole
