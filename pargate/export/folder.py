"""Write a folder of graphs with everything that is needed to use them.

`preprocess.json` holds the rule by which a scan decodes images, the tokenizer's files are those of the checkpoint, and
`example.py` shows how to use both without torch.
"""

from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from open_clip.tokenizer import HFTokenizer

from pargate.core.model import Checkpoint, GraphPrecision
from pargate.errors import InputError
from pargate.export import onnx as graphs
from pargate.export.onnx import LOWEST_OPSET
from pargate.export.reduced import reduce
from pargate.files import write_atomic
from pargate.models import tokenizer as tokens
from pargate.models.graphs import DESCRIPTION, Description, ImageRule
from pargate.models.torch.encoder import OpenClipEncoder
from pargate.models.torch.siglip import Uncleaned
from pargate.version import __version__

CLASSES = "classes.txt"
EXAMPLE = "example.py"


def write(
    encoder: OpenClipEncoder,
    checkpoint: Checkpoint,
    folder: Path,
    *,
    precisions: Sequence[GraphPrecision] = ("fp32",),
    opset: int = LOWEST_OPSET,
    classes: Sequence[str],
    templates: Sequence[str],
    digests: dict[str, str] | None = None,
) -> dict[GraphPrecision, Path]:
    """Write one folder of graphs for each precision into `folder`; return the path of each.

    `encoder` is `checkpoint`, open in float32 on the CPU. `digests`, such as that of the policy, go into the graphs'
    metadata with that of the checkpoint.

    Raises:
        InputError: a part of the model has no ONNX form, or its tokenizer needs torch.
        OperationalError: memory or the disk is full.
    """
    rule, vocabulary = _tokenizer(encoder, checkpoint)
    notes = {f"pargate.{name}": value for name, value in {"model": checkpoint.digest, **(digests or {})}.items()}
    places = {precision: folder / folder_name(precision) for precision in precisions}
    plain = places.get("fp32", folder / ".fp32")
    plain.mkdir()
    graphs.write(encoder, plain, opset=opset, labels=_labels(encoder, notes))
    for precision, place in places.items():
        if precision != "fp32":
            place.mkdir()
            for tower in (graphs.IMAGE, graphs.TEXT):
                reduce(plain / tower.file, place / tower.file, precision)
        described = _description(encoder, checkpoint, rule, precision, opset, templates)
        _write(place / DESCRIPTION, described.model_dump_json(by_alias=True, indent=1) + "\n")
        (place / tokens.FILES[rule.tokenizer]).write_bytes(vocabulary)
        _write(place / CLASSES, "".join(f"{name}\n" for name in classes))
        _write(place / EXAMPLE, (resources.files("pargate.export") / EXAMPLE).read_text("utf-8"))
    if "fp32" not in places:
        for file in plain.iterdir():
            file.unlink()
        plain.rmdir()
    return places


def folder_name(precision: GraphPrecision) -> str:
    """Return the name of the folder for graphs of a precision."""
    return "onnx" if precision == "fp32" else f"onnx-{precision}"


def _write(path: Path, text: str) -> None:
    # `atomic_folder` flushes the files when it renames the folder.
    write_atomic(path, text.encode(), durable=False)


def _labels(encoder: OpenClipEncoder, notes: dict[str, str]) -> dict[str, str]:
    spec = encoder.spec
    bias = {} if spec.logit_bias is None else {"pargate.logit_bias": repr(spec.logit_bias)}
    return {
        "pargate.version": __version__,
        "pargate.architecture": spec.architecture,
        "pargate.logit_scale": repr(spec.logit_scale),
        **bias,
        **notes,
    }


def _description(
    encoder: OpenClipEncoder,
    checkpoint: Checkpoint,
    rule: tokens.TextRule,
    precision: GraphPrecision,
    opset: int,
    templates: Sequence[str],
) -> Description:
    spec = encoder.spec
    return Description(
        schema="pargate/onnx/1",
        architecture=spec.architecture,
        checkpoint=checkpoint.digest,
        precision=precision,
        opset=opset,
        dim=spec.dim,
        logit_scale=spec.logit_scale,
        logit_bias=spec.logit_bias,
        activation=spec.activation,
        image=ImageRule.model_validate(asdict(spec.preprocess)),
        text=rule,
        templates=tuple(templates),
    )


# --- tokenizers --------------------------------------------------------------------------------------


def _tokenizer(encoder: OpenClipEncoder, checkpoint: Checkpoint) -> tuple[tokens.TextRule, bytes]:
    """Return the rule by which captions become token ids, and the tokenizer's file."""
    options: dict[str, Any] = checkpoint.config["text_cfg"].get("tokenizer_kwargs") or {}
    if not isinstance(encoder.tokenize, HFTokenizer):
        rule = tokens.TextRule(
            context_length=encoder.context, tokenizer="bpe", clean=options.get("clean", "lower"), zeroed=None
        )
        return rule, tokens.clips_vocabulary()
    hugging = encoder.tokenize
    backend = getattr(hugging.tokenizer, "backend_tokenizer", None)
    if backend is None or hugging.tokenizer_mode:
        raise InputError(
            f"{checkpoint.source}: its tokenizer cannot be exported, since it cannot be saved as one file"
            + (f" (tokenizer_mode {hugging.tokenizer_mode})" if hugging.tokenizer_mode else ""),
            "convert it to tokenizer.json with the tokenizers package",
        )
    hugging([""])  # the first call sets length and padding
    rule = tokens.TextRule(
        context_length=encoder.context,
        tokenizer="huggingface",
        clean="none" if isinstance(hugging, Uncleaned) else options.get("clean", "whitespace"),
        zeroed=hugging.tokenizer.sep_token_id if hugging.strip_sep_token else None,
    )
    return rule, backend.to_str().encode()
