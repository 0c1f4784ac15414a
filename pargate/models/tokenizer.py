"""Turn captions into token ids without torch, as input of the text graph.

The ids are those of open_clip's own tokenizers: its byte-pair encoding, read from the vocabulary beside the graphs, or
a Hugging Face tokenizer from its one file. Nothing is looked up by name or downloaded.
"""

import contextlib
import gzip
import importlib.util
import io
import json
import os
import shutil
import string
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pargate import limits, memory
from pargate.core.names import repaired
from pargate.core.value import Value
from pargate.errors import InputError, OperationalError, PargateError, first_line
from pargate.files import read_bytes
from pargate.models.config import TOKENIZER_FILES, load_json, parse_object

Tokens = NDArray[np.int64]
Tokenize = Callable[[Sequence[str]], Tokens]
"""Captions to token ids, int64 [n, context]."""

FILES = {"bpe": "bpe_simple_vocab_16e6.txt.gz", "huggingface": "tokenizer.json"}
"""File name of each kind of tokenizer."""

MERGES = 49152 - 256 - 2
"""Number of merges in CLIP's vocabulary; the file holds more, and CLIP uses the first."""

VOCABULARY = MERGES + 2 * 256 + 2
"""Number of CLIP's tokens: bytes within and at the end of a word, merges, start and end."""

START, END = "<start_of_text>", "<end_of_text>"

WORDS = json.dumps(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")[1:-1]
"""Regular expression for the words of CLIP's tokenizer in a `tokenizer.json`, as JSON."""


ADDED = ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens")
"""Settings that name tokens beside the vocabulary, by number, or as a list."""


class TextRule(Value):
    """The rule by which a caption becomes token ids."""

    context_length: int
    tokenizer: Literal["bpe", "huggingface"]
    clean: Literal["lower", "whitespace", "canonicalize", "none"]
    """Cleaning of the caption before it is tokenized."""
    zeroed: int | None = None
    """Token id that is replaced by 0, as some models were trained."""


SETTINGS = "config.json"
DECIDING = ("model_type", "model_name", "tokenizer_class", "transformers_version")
"""Configuration of the model, and its keys by which transformers chooses the class of the tokenizer and its steps."""

NAMING = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", SETTINGS)
"""Files beside a vocabulary that name tokens or, the first and the last, the class of the tokenizer."""

CLASS = "CLIPTokenizer"
"""Class of transformers for CLIP's tokenizer."""

OWN = {START: "<|startoftext|>", END: "<|endoftext|>"}
"""Special tokens of CLIP as transformers writes them."""

TRIAL = f"""
import sys
try:
    import resource
except ImportError:  # on Windows time alone is bounded
    pass
else:
    resource.setrlimit(resource.RLIMIT_CPU, ({limits.TRIAL_SECONDS}, {limits.TRIAL_SECONDS}))
    resource.setrlimit(resource.RLIMIT_AS, ({limits.TRIAL_BYTES}, {limits.TRIAL_BYTES}))
from tokenizers import Tokenizer
whole = Tokenizer.from_str(sys.stdin.buffer.read().decode())
whole.encode_batch(["a photo of a cat, and of another", bytes(range(32, 127)).decode()])
"""


def refuse_unusable(content: bytes, name: str) -> None:
    """Raise if a tokenizer cannot be used; try it in a separate process with limits on memory and time.

    A tokenizer's file can ask for any amount of both: padding to any length, or replacing a letter by two repeatedly.

    Raises:
        InputError: it cannot be read or used within `TRIED` seconds.
        OperationalError: no process could be started.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", TRIAL], input=content, capture_output=True, check=False, timeout=limits.TRIED,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                 "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InputError(f"cannot use the tokenizer {name}: it does not finish", "restore the file") from error
    except OSError as error:
        raise OperationalError(
            f"cannot try the tokenizer {name}: {error.strerror}", "free memory or processes"
        ) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it does not finish"]
        # Python prints the error last; a process that a signal ended prints the reason first.
        said = lines[-1 if done.returncode > 0 else 0]
        raise InputError(f"cannot use the tokenizer {name}: {said[:200]}", "restore the file")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[Path]:
    """Give a copy of the tokenizer in a folder with nothing beside it, as transformers may read it.

    transformers reads other files that lie there, of which no digest is taken, and builds the whole configuration in
    `config.json`, where a number can ask for any amount of memory. The copy holds what decides on the tokenizer.

    Raises:
        InputError: `config.json` cannot be read.
    """
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        for name in TOKENIZER_FILES:
            if (folder / name).is_file() and name != SETTINGS:
                shutil.copyfile(folder / name, place / name)
        if (folder / SETTINGS).is_file():
            said = load_json(folder / SETTINGS)
            (place / SETTINGS).write_text(json.dumps({key: said[key] for key in DECIDING if key in said}))
        yield place


@contextlib.contextmanager
def usable(name: str) -> Iterator[None]:
    """Turn every error that a library raises about a tokenizer's files into an `InputError`; `name` is for messages.

    A Rust panic is caught too: it is not an `Exception`, and would end the process with the exit code of a breach.
    """
    try:
        yield
    except (PargateError, ImportError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # such as Ctrl-C
        raise InputError(f"cannot use the tokenizer {name}: {first_line(error, 200)}", "restore its files") from error


def tokenizer(rule: TextRule, content: bytes, name: str) -> Tokenize:
    """Return the tokenizer that `rule` describes, from its file's `content`; `name` is for messages.

    Raises:
        InputError: the file is damaged.
        OperationalError: the process that tries the file could not be started.
    """
    if rule.tokenizer == "bpe":
        return BytePairs(content, rule, name)
    from tokenizers import Tokenizer

    refuse_unusable(content, name)
    with usable(name):
        whole = Tokenizer.from_str(content.decode())

    def tokenize(texts: Sequence[str]) -> Tokens:
        with usable(name):
            rows = [encoding.ids for encoding in whole.encode_batch([CLEANINGS[rule.clean](text) for text in texts])]
        if any(len(row) != rule.context_length for row in rows):
            raise InputError(f"{name} does not give {rule.context_length} token ids a caption", "restore the file")
        ids = np.array(rows, dtype=np.int64).reshape(len(rows), rule.context_length)
        return ids if rule.zeroed is None else np.where(ids == rule.zeroed, 0, ids)

    return tokenize


def of_one_length(folder: Path, context: int) -> bytes:
    """Return the `tokenizer.json` in a folder, set to give `context` token ids a caption, as open_clip calls it.

    Raises:
        InputError: it is missing, or does not name the token that captions are filled with.
    """
    name, settings = folder / FILES["huggingface"], folder / "tokenizer_config.json"
    if not name.is_file():
        raise InputError(
            f"{folder} holds no {name.name}, the only form of a tokenizer that is read beside graphs",
            "convert it with the tokenizers package",
        )
    whole = parse_object(read_bytes(name, limits.TOKENIZER_BYTES), str(name))
    said = load_json(settings).get("pad_token") if settings.is_file() else None
    token = said.get("content") if isinstance(said, dict) else said
    model, added = whole.get("model"), whole.get("added_tokens")
    known = model.get("vocab") if isinstance(model, dict) else None
    ids = {entry.get("content"): entry.get("id") for entry in added or () if isinstance(entry, dict)}
    number = ids.get(token, known.get(token) if isinstance(known, dict) else None)
    if not isinstance(token, str) or type(number) is not int:
        raise InputError(f"{settings} names no pad_token of {name.name}", "copy both from the checkpoint")
    cut = {"direction": "Right", "max_length": context, "strategy": "LongestFirst", "stride": 0}
    filled = {
        "strategy": {"Fixed": context}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": number,
        "pad_type_id": 0, "pad_token": token,
    }  # fmt: skip
    return json.dumps({**whole, "truncation": cut, "padding": filled}).encode()


# --- cleaning ----------------------------------------------------------------------------------------


def _one_line(text: str) -> str:
    return " ".join(repaired(text).split())


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _canonical(text: str) -> str:
    return " ".join(repaired(text).replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


CLEANINGS: dict[str, Callable[[str], str]] = {
    "lower": lambda text: _one_line(text).lower(),
    "whitespace": _one_line,
    "canonicalize": _canonical,
    "none": str,
}
"""Cleaning functions by name, as in `open_clip/tokenizer.py`; SigLIP of transformers cleans within its tokenizer."""


# --- byte pairs --------------------------------------------------------------------------------------


def vocabulary(content: bytes, name: str) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Return the merges and the ids of CLIP's tokens from gzipped `content`: one merge per line, after the first line.

    Raises:
        InputError: it is damaged, or another vocabulary.
    """
    from tokenizers import pre_tokenizers

    try:
        with gzip.open(io.BytesIO(content)) as stream:
            lines = stream.read(limits.VOCABULARY_BYTES).decode().split("\n")
        merges = [(first, second) for first, second in map(str.split, lines[1 : 1 + MERGES])]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"cannot read the vocabulary {name}: {str(error)[:120]}", "restore the file") from error
    if len(merges) != MERGES:
        raise InputError(f"{name} is not CLIP's vocabulary", "restore the file")
    singles = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*singles, *(s + "</w>" for s in singles), *("".join(merge) for merge in merges), START, END]
    return merges, {word: number for number, word in enumerate(words)}


def clips_vocabulary() -> bytes:
    """Return the file of CLIP's vocabulary, from the open_clip package, which is not imported."""
    found = importlib.util.find_spec("open_clip")
    assert found is not None and found.origin is not None  # it is one of pargate's dependencies
    return (Path(found.origin).parent / FILES["bpe"]).read_bytes()


def word_of(token: Any, default: str) -> str:
    """Return a token of a `tokenizer_config.json`, which is a word or an object that holds one."""
    word = token.get("content") if isinstance(token, dict) else token
    return word if isinstance(word, str) and word else default


def added(settings: dict[str, Any]) -> set[str]:
    """Return the tokens that a `tokenizer_config.json` adds to the vocabulary.

    Raises:
        TypeError: they are no list and no object.
    """
    listed = (settings.get(key) or () for key in ADDED)
    return {word_of(token, "") for some in listed for token in (some.values() if isinstance(some, dict) else some)}


def _adds(*said: dict[str, Any]) -> bool:
    """Return whether one of the files `NAMING`, without `config.json`, names other special tokens than CLIP's own."""
    *settings, more = said
    first, last = OWN.values()
    ends = {"bos_token": first, "eos_token": last}
    try:
        found = set(more).union(*map(added, settings))
    except TypeError:  # in another form
        return True
    pairs = [(key, word_of(value, "")) for part in settings for key, value in part.items() if key.endswith("_token")]
    named = [(key, word) for key, word in pairs if word]
    found.update(word for _, word in named)
    return bool(found - set(OWN.values())) or any(word != ends.get(key, word) for key, word in named)


@memory.without_collection()  # the merges are 49,000 lists, and a collection would look at every object of torch
def is_clips_own(folder: Path) -> bool:
    """Return whether the tokenizer that transformers reads from `folder` splits captions as CLIP's own does.

    The files are compared: merges, ids and, in a `tokenizer.json`, the steps before them. No file may add a token.
    """
    whole = folder / FILES["huggingface"]
    said = [load_json(folder / name) if (folder / name).is_file() else {} for name in NAMING]
    kind = str(said[0].get("tokenizer_class") or said[-1].get("tokenizer_class") or CLASS)
    if kind.removesuffix("Fast") != CLASS or _adds(*said[:-1]):
        return False
    try:
        if whole.is_file():
            given = parse_object(read_bytes(whole, limits.TOKENIZER_BYTES), str(whole))
            steps = json.dumps([given.get("normalizer"), given.get("pre_tokenizer")])
            if not all(f'"{step}"' in steps for step in ("Lowercase", "Split", "ByteLevel")) or WORDS not in steps:
                return False
            listed = given.get("added_tokens") or ()
            if not isinstance(listed, list | tuple) or {word_of(token, "") for token in listed} - set(OWN.values()):
                return False
            model = given.get("model")
            stated = (model.get("merges"), model.get("vocab")) if isinstance(model, dict) else (None, None)
        else:
            lines = read_bytes(folder / "merges.txt", limits.TOKENIZER_BYTES).decode().split("\n")
            ids_there = parse_object(read_bytes(folder / "vocab.json", limits.TOKENIZER_BYTES), "vocab.json")
            stated = ([line for line in lines if line and not line.startswith("#version")], ids_there)
    except (OSError, UnicodeError):
        return False
    merges, ids = vocabulary(clips_vocabulary(), FILES["bpe"])
    ours = {OWN.get(word, word): number for word, number in ids.items()}
    listed = stated[0] if isinstance(stated[0], list) else []
    return (
        stated[1] == ours
        and [
            tuple(merge.split(" ") if isinstance(merge, str) else merge)
            for merge in listed
            if isinstance(merge, str | list)
        ]
        == merges
    )


class BytePairs:
    """CLIP's byte-pair encoding (Radford et al. 2021, after Sennrich et al. 2016), from its list of merges.

    `tokenizers` merges the bytes of a word. Words are found by open_clip's regular expression, which covers more
    letters than those of `tokenizers` and treats `<start_of_text>` in another way.
    """

    def __init__(self, content: bytes, rule: TextRule, name: str) -> None:
        """Read the merges from gzipped `content`: one per line, after the first line.

        Raises:
            InputError: it is damaged, or another vocabulary.
        """
        import regex  # type: ignore[import-untyped]  # `re` has no Unicode letter classes
        from tokenizers import Tokenizer, models, pre_tokenizers

        merges, ids = vocabulary(content, name)
        with usable(name):
            self._joined = Tokenizer(models.BPE(ids, merges, end_of_word_suffix="</w>"))
        self._joined.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._joined.add_tokens([START, END])
        self._rule, self._start, self._end = rule, ids[START], ids[END]
        self._pattern = regex.compile(
            rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; a space follows the end of a word."""
        from tokenizers import decoders

        whole = decoders.ByteLevel().decode([str(self._joined.id_to_token(number)) for number in ids])
        return str(whole).replace("</w>", " ")

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Return int64 [n, context]: start, words, end, zeros; long captions are cut before the end token."""
        clean = CLEANINGS[self._rule.clean]
        ids = np.zeros((len(texts), self._rule.context_length), dtype=np.int64)
        for row, text in zip(ids, texts, strict=True):
            words = self._pattern.findall(clean(text))
            found = [self._start, *self._joined.encode(words, is_pretokenized=True).ids, self._end]
            if len(found) > len(row):
                found = [*found[: len(row) - 1], self._end]
            row[: len(found)] = found
        return ids
