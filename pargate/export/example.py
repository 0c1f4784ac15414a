"""Classify an image zero-shot with the graphs in this folder.

    python example.py IMAGE [CLASS ...]

Without classes, those of classes.txt are used. Needs only numpy, onnxruntime, Pillow and tokenizers.
"""

import gzip
import html
import json
import re
import string
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

HERE = Path(__file__).resolve().parent


# --- images ------------------------------------------------------------------------------------------


def pixels_of(image: Image.Image, rule: dict[str, Any]) -> Any:
    """Return uint8 [H, W, 3] at the model's resolution, prepared exactly as in the scan."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    height, width = rule["size"]
    bicubic = rule["interpolation"] == "bicubic"
    kernel = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    if rule["resize"] == "squash":
        return np.asarray(resized(image, width, height, kernel))
    if rule["resize"] == "longest":
        ratio = max(image.height / height, image.width / width)
        image = resized(image, round(image.width / ratio), round(image.height / ratio), kernel)
        page = Image.new("RGB", (width, height), (rule["fill"],) * 3)
        page.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        return np.asarray(page)
    if height == width:
        short, long = sorted(image.size)
        scaled = int(height * long / short)
        wide = image.width > image.height
        image = resized(image, scaled if wide else height, height if wide else scaled, kernel)
    else:
        ratio = min(image.height / height, image.width / width)
        new = round(image.width / ratio), round(image.height / ratio)
        image = resized(image, *new, Image.Resampling.BICUBIC)
    top, left = round((image.height - height) / 2.0), round((image.width - width) / 2.0)
    return np.asarray(image.crop((left, top, left + width, top + height)))


def resized(image: Image.Image, width: int, height: int, kernel: Image.Resampling) -> Image.Image:
    """Return the image at another size, or unchanged at its own."""
    return image if image.size == (width, height) else image.resize((width, height), kernel)


def pixel_values(pixels: Any, rule: dict[str, Any]) -> Any:
    """Return the input of image.onnx, float32 [n, 3, H, W], of uint8 [n, H, W, 3]."""
    values = pixels.astype(np.float32) / np.float32(255)
    values = (values - np.array(rule["mean"], np.float32)) / np.array(rule["std"], np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


# --- captions ----------------------------------------------------------------------------------------

WORD = re.compile("<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d", re.IGNORECASE)


def cleaned(text: str, how: str) -> str:
    """Return the text, cleaned as in the model's training."""
    if how == "none":
        return text
    text = html.unescape(html.unescape(text)).strip()
    if how == "canonicalize":
        text = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation)).lower()
    text = " ".join(text.split())
    return text.lower() if how == "lower" else text


class BytePairs:
    """CLIP's tokenizer, which does not repair wrongly decoded characters."""

    def __init__(self, rule: dict[str, Any], file: Path) -> None:
        """Read the vocabulary at `file`."""
        lines = gzip.decompress(file.read_bytes()).decode().split("\n")
        merges = [(first, second) for first, second in map(str.split, lines[1 : 49152 - 256 - 2 + 1])]
        singles = sorted(pre_tokenizers.ByteLevel.alphabet())
        special = ["<start_of_text>", "<end_of_text>"]
        words = [*singles, *(s + "</w>" for s in singles), *("".join(merge) for merge in merges), *special]
        ids = {word: n for n, word in enumerate(words)}
        self.joined = Tokenizer(models.BPE(ids, merges, end_of_word_suffix="</w>"))
        self.joined.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self.joined.add_tokens(special)
        self.start, self.end = (ids[word] for word in special)
        self.clean, self.length = rule["clean"], rule["context_length"]

    def __call__(self, texts: list[str]) -> Any:
        """Return the input of text.onnx: int64 [n, context]."""
        found = np.zeros((len(texts), self.length), np.int64)
        for row, text in zip(found, texts, strict=True):
            words = self.words(cleaned(text, self.clean))
            ids = [self.start, *self.joined.encode(words, is_pretokenized=True).ids, self.end]
            ids = ids if len(ids) <= self.length else [*ids[: self.length - 1], self.end]
            row[: len(ids)] = ids
        return found

    def words(self, text: str) -> list[str]:
        """Split a text into runs of letters, single digits, runs of other characters, and English endings."""
        kinds = [" " if c.isspace() else {"L": "L", "N": "N"}.get(unicodedata.category(c)[0], "-") for c in text]
        found, at = [], 0
        while at < len(text):
            ending, kind, end = WORD.match(text, at), kinds[at], at + 1
            if ending:
                end = ending.end()
            elif kind in "L-":
                while end < len(text) and kinds[end] == kind:
                    end += 1
            if ending or kind != " ":
                found.append(text[at:end])
            at = end
        return found


def tokenizer_of(rule: dict[str, Any], folder: Path) -> Any:
    """Return the function from captions to token ids."""
    if rule["tokenizer"] == "bpe":
        return BytePairs(rule, folder / "bpe_simple_vocab_16e6.txt.gz")
    whole = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def tokenize(texts: list[str]) -> Any:
        encoded = whole.encode_batch([cleaned(text, rule["clean"]) for text in texts])
        ids = np.array([encoding.ids for encoding in encoded], np.int64)
        return ids if rule["zeroed"] is None else np.where(ids == rule["zeroed"], 0, ids)

    return tokenize


# --- both --------------------------------------------------------------------------------------------


def probabilities(picture: Path, names: list[str], folder: Path = HERE) -> Any:
    """Return the probability of each of `names` for the image: float32 [names]."""
    about = json.loads((folder / "preprocess.json").read_text("utf-8"))
    options = onnxruntime.SessionOptions()
    if about["precision"] == "fp16":  # at the last level, ONNX Runtime 1.31 crashes on some fp16 graphs
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    image, text = (
        onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
        for name in ("image.onnx", "text.onnx")
    )
    tokenize = tokenizer_of(about["text"], folder)
    prompts = [template.replace("{}", name) for name in names for template in about["templates"]]
    encoded = text.run(["text_embeds"], {"input_ids": tokenize(prompts)})[0]
    head = encoded.reshape(len(names), len(about["templates"]), -1).mean(axis=1)
    head /= np.linalg.norm(head, axis=1, keepdims=True)
    with Image.open(picture) as opened:
        pixels = pixels_of(opened, about["image"])
    seen = image.run(["image_embeds"], {"pixel_values": pixel_values(pixels[None], about["image"])})[0]
    logits = about["logit_scale"] * (seen @ head.T)[0]
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def main(arguments: list[str]) -> int:
    """Print the five most likely classes."""
    if not arguments:
        sys.stderr.write(__doc__ or "")
        return 2
    names = arguments[1:] or (HERE / "classes.txt").read_text("utf-8").splitlines()
    found = probabilities(Path(arguments[0]), names)
    for n in np.argsort(-found, kind="stable")[:5]:
        sys.stdout.write(f"{found[n]:7.2%}  {names[n]}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
