"""Token ids without torch: those of open_clip, whatever the caption."""

import gzip
import importlib.util
import json
import string
import unicodedata
from pathlib import Path

import ftfy
import numpy as np
import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from pargate.errors import InputError
from pargate.export import example
from pargate.models import tokenizer as tokens
from pargate.models.tokenizer import BytePairs, TextRule, tokenizer

VOCABULARY = Path(open_clip.__file__).parent / tokens.FILES["bpe"]
CLEANINGS = ("lower", "whitespace", "canonicalize")

OURS = {how: BytePairs(VOCABULARY.read_bytes(), TextRule(context_length=24, tokenizer="bpe", clean=how), "vocabulary")
        for how in CLEANINGS}  # fmt: skip
THEIRS = {how: SimpleTokenizer(context_length=24, clean=how) for how in CLEANINGS}
SHIPPED = {how: example.BytePairs({"clean": how, "context_length": 24}, VOCABULARY) for how in CLEANINGS}

ODD = "   \téïß北京\u017f²Ⅷ½😀'"
LIKELY = st.text(st.sampled_from(string.ascii_letters + string.digits + string.punctuation + ODD))
PIECES = ("'s", "'t", "'re", "'VE", "<start_of_text>", "<END_OF_TEXT>", "&amp;lt;", "don't", "Dog", "_")
WORDS = st.lists(st.sampled_from(PIECES))
CAPTIONS = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), LIKELY, WORDS.map(" ".join), WORDS.map("".join))


@settings(max_examples=300, deadline=None)
@given(CAPTIONS, st.sampled_from(CLEANINGS))
def test_ids_are_open_clips(caption, how):
    np.testing.assert_array_equal(OURS[how]([caption]), THEIRS[how]([caption]).numpy())


@settings(max_examples=300, deadline=None)
@given(CAPTIONS, st.sampled_from(CLEANINGS))
def test_the_example_gives_open_clips_ids_for_text_in_which_nothing_is_broken(caption, how):
    # What it does not do, as it says: repair text, or know letters that are younger than this Python.
    sound = ftfy.fix_text(caption) == caption and all(unicodedata.category(c) not in ("Cn", "Mn") for c in caption)
    if sound:
        np.testing.assert_array_equal(SHIPPED[how]([caption]), THEIRS[how]([caption]).numpy())


def test_a_caption_that_is_too_long_ends_with_the_end():
    ids = OURS["lower"](["word " * 50, ""])
    assert ids.shape == (2, 24) and ids.dtype == np.int64
    assert ids[0, -1] == 49407 and ids[1].tolist() == [49406, 49407, *[0] * 22]


@pytest.mark.parametrize(
    "content",
    [b"", b"not gzip", gzip.compress(b"one line"), gzip.compress(b"\xff" * 99), gzip.compress(b"a\n" * 60000)],
    ids=["empty", "not gzip", "one line", "not text", "too few merges"],
)
def test_a_damaged_vocabulary_is_refused(content):
    with pytest.raises(InputError, match="vocabulary"):
        tokenizer(TextRule(context_length=24, tokenizer="bpe", clean="lower"), content, "words.gz")


def hugging_face(folder: Path) -> HFTokenizer:
    """A small tokenizer of theirs."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: n for n, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "dog", "photo", "of", "!"])}
    whole = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    whole.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    whole.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "sep_token": "[SEP]",
                    "cls_token": "[CLS]", "unk_token": "[UNK]"})
    )  # fmt: skip
    return HFTokenizer(str(folder), context_length=8, strip_sep_token=True, local_files_only=True)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_a_hugging_face_tokenizer_becomes_one_file_with_the_same_ids(tmp_path):
    theirs = hugging_face(tmp_path)
    captions = ["a photo of a dog!", "", "a " * 20, "strange words", "  a\n dog "]
    wanted = theirs(captions).numpy()
    rule = TextRule(context_length=8, tokenizer="huggingface", clean="whitespace", zeroed=2)
    content = theirs.tokenizer.backend_tokenizer.to_str().encode()
    np.testing.assert_array_equal(tokenizer(rule, content, "tokenizer.json")(captions), wanted)
    (tmp_path / "tokenizer.json").write_bytes(content)
    shipped = example.tokenizer_of(rule.model_dump(), tmp_path)
    np.testing.assert_array_equal(shipped(captions), wanted)


@pytest.mark.parametrize("content", [b"{}", b"\xff", b""])
def test_a_damaged_tokenizer_is_refused(content):
    with pytest.raises(InputError, match="tokenizer"):
        tokenizer(TextRule(context_length=8, tokenizer="huggingface", clean="lower"), content, "tokenizer.json")
