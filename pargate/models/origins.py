"""Map the tensors of a model of transformers onto those of open_clip's model, and back.

open_clip stacks the projections of query, key and value, and stores the two last projections of a CLIP transposed.
SigLIP's image tower has the names of timm, which open_clip uses for it; its pooling keeps the query apart.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pargate.errors import InputError
from pargate.models.archive import StoredTensor
from pargate.models.hugging_face import TOWER, has_bert, is_siglip
from pargate.models.shapes import refuse
from pargate.models.weights import WIDTHS

SAVED_CONSTANTS = "embeddings.position_ids"
"""End of the names of tensors that older versions saved: the numbers 0, 1, 2, …"""

ENDS = ("weight", "bias")

BERT_LAYER = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
"""Parts of a layer of a BERT, which open_clip's model has under the same names."""

OTHER_SPELLING = ("vision_model.encoder.layer.", "vision_model.encoder.layers.")
"""Beginning of names as transformers 5 writes them for an AltCLIP, and as all others do and it also reads them."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The tensors of transformers that one tensor of open_clip is made of."""

    names: tuple[str, ...]
    """Names of tensors, which are stacked along the first axis."""
    transposed: bool = False
    batched: bool = False
    """Whether a first axis of length 1 is added."""
    thirds: tuple[int, int] = (0, 3)
    """The part that is taken along the first axis, in thirds of it."""


Origins = dict[str, Origin]


def origins(config: Mapping[str, Any]) -> Origins:
    """Return the origin of each tensor of the model that a `model_cfg` of `hugging_face.model_config` describes."""
    return dict((_siglip if is_siglip(config) else _bert if has_bert(config) else _clip)(config))


def _clip(config: Mapping[str, Any]) -> Iterator[tuple[str, Origin]]:
    yield from _vit(config)
    yield from _captions("", _layers(config["text_cfg"]))
    yield "text_projection", Origin(("text_projection.weight",), transposed=True)


def _bert(config: Mapping[str, Any]) -> Iterator[tuple[str, Origin]]:
    yield from _vit(config)
    text = config["text_cfg"]
    altclip = "project_dim" in text[TOWER]
    ours, theirs = "text.transformer", "text_model.roberta" if altclip else "text_model"
    for kind in ("word", "position", "token_type"):
        name = f"embeddings.{kind}_embeddings.weight"
        yield f"{ours}.{name}", Origin((f"{theirs}.{name}",))
    layers = [f"encoder.layer.{number}.{part}" for number in range(_layers(text)) for part in BERT_LAYER]
    for part in ("embeddings.LayerNorm", *layers):
        yield from _affine(f"{ours}.{part}", f"{theirs}.{part}")
    if altclip:
        yield from _affine("text.transformation.0", "text_model.pre_LN")
        yield from _affine("text.transformation.1", "text_model.transformation")
    yield "text.text_projection.weight", Origin(("text_projection.weight",))


def _vit(config: Mapping[str, Any]) -> Iterator[tuple[str, Origin]]:
    """Yield the logit scale and the tensors of a CLIP's image tower."""
    image = "vision_model"
    yield "logit_scale", Origin(("logit_scale",))
    yield "visual.class_embedding", Origin((f"{image}.embeddings.class_embedding",))
    yield "visual.conv1.weight", Origin((f"{image}.embeddings.patch_embedding.weight",))
    yield "visual.positional_embedding", Origin((f"{image}.embeddings.position_embedding.weight",))
    yield "visual.proj", Origin(("visual_projection.weight",), transposed=True)
    yield from _affine("visual.ln_pre", f"{image}.pre_layrnorm")
    yield from _affine("visual.ln_post", f"{image}.post_layernorm")
    yield from _blocks("visual", image, _layers(config["vision_cfg"]))


def _siglip(config: Mapping[str, Any]) -> Iterator[tuple[str, Origin]]:
    trunk, image, head = "visual.trunk", "vision_model", "vision_model.head"
    yield "logit_scale", Origin(("logit_scale",))
    yield "logit_bias", Origin(("logit_bias",))
    yield from _affine(f"{trunk}.patch_embed.proj", f"{image}.embeddings.patch_embedding")
    yield f"{trunk}.pos_embed", Origin((f"{image}.embeddings.position_embedding.weight",), batched=True)
    for number in range(_layers(config["vision_cfg"])):
        block, layer = f"{trunk}.blocks.{number}", f"{image}.encoder.layers.{number}"
        yield from _stacked(f"{block}.attn.qkv.", layer)
        for one, other in (
            ("attn.proj", "self_attn.out_proj"), ("norm1", "layer_norm1"), ("norm2", "layer_norm2"),
            ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"),
        ):  # fmt: skip
            yield from _affine(f"{block}.{one}", f"{layer}.{other}")
    yield from _affine(f"{trunk}.norm", f"{image}.post_layernorm")
    pool = f"{trunk}.attn_pool"
    yield f"{pool}.latent", Origin((f"{head}.probe",))
    for end in ENDS:
        yield f"{pool}.q.{end}", Origin((f"{head}.attention.in_proj_{end}",), thirds=(0, 1))
        yield f"{pool}.kv.{end}", Origin((f"{head}.attention.in_proj_{end}",), thirds=(1, 3))
    for one, other in (
        ("proj", "attention.out_proj"), ("norm", "layernorm"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"),
    ):  # fmt: skip
        yield from _affine(f"{pool}.{one}", f"{head}.{other}")
    yield from _captions("text.", _layers(config["text_cfg"]))
    yield from _affine("text.text_projection", "text_model.head")


def _layers(tower: Mapping[str, Any]) -> int:
    """Return the number of blocks; none for a tower of another kind, whose tensors are then left over."""
    layers = tower.get("layers", 12)
    return layers if type(layers) is int else 0


def _captions(ours: str, layers: int) -> Iterator[tuple[str, Origin]]:
    """Yield the tensors of a text tower, without its projection."""
    yield f"{ours}token_embedding.weight", Origin(("text_model.embeddings.token_embedding.weight",))
    yield f"{ours}positional_embedding", Origin(("text_model.embeddings.position_embedding.weight",))
    yield from _blocks(ours.rstrip("."), "text_model", layers)
    yield from _affine(f"{ours}ln_final", "text_model.final_layer_norm")


def _blocks(ours: str, theirs: str, layers: int) -> Iterator[tuple[str, Origin]]:
    """Yield the tensors of open_clip's transformer in the module `ours`."""
    for number in range(layers):
        block = f"{ours}.transformer.resblocks.{number}".lstrip(".")
        layer = f"{theirs}.encoder.layers.{number}"
        yield from _stacked(f"{block}.attn.in_proj_", layer)
        for one, other in (
            ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
            ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
        ):  # fmt: skip
            yield from _affine(f"{block}.{one}", f"{layer}.{other}")


def _stacked(ours: str, layer: str) -> Iterator[tuple[str, Origin]]:
    for end in ENDS:
        yield f"{ours}{end}", Origin(tuple(f"{layer}.self_attn.{part}_proj.{end}" for part in "qkv"))


def _affine(ours: str, theirs: str) -> Iterator[tuple[str, Origin]]:
    for end in ENDS:
        yield f"{ours}.{end}", Origin((f"{theirs}.{end}",))


# --- reading -----------------------------------------------------------------------------------------


def translated(tensors: Sequence[StoredTensor], config: Mapping[str, Any], source: str) -> tuple[StoredTensor, ...]:
    """Return the tensors of a model of transformers under open_clip's names.

    Raises:
        InputError: tensors are missing or left over, or those of one are stored in different ways.
    """
    named = [tensor for tensor in tensors if not tensor.name.endswith(SAVED_CONSTANTS)]
    theirs = {tensor.name.replace(*OTHER_SPELLING): tensor for tensor in named}
    if len(theirs) != len(named):
        raise InputError(
            f"{source} holds tensors twice, as {' and as '.join(OTHER_SPELLING)}", "save the weights again"
        )
    wanted = origins(config)
    names = dict.fromkeys(name for origin in wanted.values() for name in origin.names)
    refuse([name for name in names if name not in theirs], source, "lacks tensors of the model")
    refuse(sorted(theirs.keys() - names), source, "holds tensors that the model has not")
    return tuple(
        _made(name, [theirs[part] for part in origin.names], origin, source) for name, origin in wanted.items()
    )


def _made(name: str, parts: Sequence[StoredTensor], origin: Origin, source: str) -> StoredTensor:
    first = parts[0]
    shape, strides = first.shape, first.strides
    if len(parts) > 1:
        if any((part.dtype, part.shape) != (first.dtype, shape) for part in parts) or not shape:
            raise InputError(
                f"{source}: {', '.join(part.name for part in parts)} differ in type or shape", "save the weights again"
            )
        stacked = (len(parts) * shape[0], *shape[1:])
        return StoredTensor(name, first.dtype, stacked, min(part.offset for part in parts), strides, tuple(parts))
    if origin.transposed:
        return replace(first, name=name, shape=shape[::-1], strides=strides[::-1])
    if origin.batched:
        return replace(first, name=name, shape=(1, *shape), strides=(0, *strides))
    if origin.thirds != (0, 3):
        if not shape or shape[0] % 3 or first.dtype not in WIDTHS:
            raise InputError(
                f"{source}: {first.name} does not hold the projections of query, key and value", "restore the weights"
            )
        begin, end = (third * shape[0] // 3 for third in origin.thirds)
        offset = first.offset + begin * strides[0] * WIDTHS[first.dtype]
        return replace(first, name=name, shape=(end - begin, *shape[1:]), offset=offset)
    return replace(first, name=name)


# --- writing -----------------------------------------------------------------------------------------


def split(state: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of a network of open_clip under the names of transformers: the inverse of `translated`."""
    found: dict[str, list[Any]] = {}
    for name, origin in origins(config).items():
        parts = state[name].chunk(len(origin.names)) if len(origin.names) > 1 else (state[name],)
        for theirs, part in zip(origin.names, parts, strict=True):
            found.setdefault(theirs, []).append(part.t() if origin.transposed else part[0] if origin.batched else part)
    return {name: _joined(parts) for name, parts in found.items()}


def _joined(parts: Sequence[Any]) -> Any:
    """Return tensors along their first axis as one."""
    if len(parts) == 1:
        return parts[0]
    lengths = [len(part) for part in parts]
    whole = parts[0].new_empty((sum(lengths), *parts[0].shape[1:]))
    for place, part in zip(whole.split(lengths), parts, strict=True):
        place.copy_(part)
    return whole


def split_types(types: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, str]:
    """Return the dtype of each tensor under the names of transformers."""
    return {theirs: types[name] for name, origin in origins(config).items() for theirs in origin.names}
