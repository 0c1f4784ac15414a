"""Build an open_clip model from its configuration, and fill it with exactly the tensors of a checkpoint.

open_clip's loaders are not used: they fall back to unsafe readers, resize embeddings and fill gaps. Every parameter
comes from the checkpoint, and tensors that are missing, left over, of another shape or not finite are refused by name.
"""

import contextlib
import copy
import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from types import MethodType
from typing import Any, cast

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.modified_resnet import AttentionPool2d
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from timm.layers.activations import GELUTanh
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pargate import limits, memory
from pargate.core.model import Checkpoint
from pargate.errors import InputError, is_out_of_memory, nearest
from pargate.models.archive import StoredTensor
from pargate.models.config import architectures, image_size, name_of
from pargate.models.hugging_face import EPS, TOWER, has_bert, is_siglip
from pargate.models.shapes import Shapes, Wanted, refuse, refuse_others
from pargate.models.torch.bert import BertTower

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Dtypes of torch, by the name in a checkpoint."""


COPIED = 8 << 20
"""Bytes that are copied before their memory is freed."""


Network = nn.Module
"""A CLIP of open_clip with both towers."""


def load(checkpoint: Checkpoint, tensors: Sequence[StoredTensor], take: Callable[[], mmap.mmap]) -> Network:
    """Return the checkpoint's model on the CPU, in float32 and evaluation mode, with frozen parameters.

    The bytes that `take` returns are freed as they are copied, so that the model is in memory once.

    Raises:
        InputError: tensors are missing, left over, of another shape or not finite, or the installed open_clip cannot
            build the configuration.
        OperationalError: the model does not fit into memory.
    """
    check(checkpoint)
    memory.share_one_arena()
    with memory.guard(f"loading {checkpoint.source}", "use a machine with more memory"), torch.no_grad():
        model = _build(checkpoint)
        _fill(model, {tensor.name: tensor for tensor in tensors}, take(), checkpoint.source)
        compute_one_token(model.get_submodule("visual"))
    return model.eval().requires_grad_(False)


def check(checkpoint: Checkpoint) -> None:
    """Raise if a checkpoint's tensors are not those of its architecture, which is built without weights.

    Raises:
        InputError, OperationalError: as `load`, except for values that are not finite.
    """
    with torch.device("meta"):  # shapes without memory, since a configuration can ask for any amount
        model = _build(checkpoint)
    refuse_others({tensor.name: tensor for tensor in checkpoint.tensors}, _shapes(model), checkpoint.source)
    own = name_of(checkpoint.config) in architectures()
    if not own or checkpoint.preprocess.size != image_size(checkpoint.config):  # open_clip's own need no trial
        _check_forward(model, checkpoint)


# --- building ----------------------------------------------------------------------------------------


class _WithoutStart(TorchFunctionMode):
    """A mode that skips random fills of parameters, since each is replaced by a trained one before it is used.

    Buffers and constants are computed as usual, since those that are not saved (masks, rotary tables) keep their value.
    """

    skipped = frozenset(
        {
            Tensor.normal_,
            Tensor.uniform_,
            Tensor.erfinv_,
            nn.init.normal_,
            nn.init.uniform_,
            nn.init.trunc_normal_,
            nn.init.kaiming_uniform_,
            nn.init.kaiming_normal_,
            nn.init.xavier_uniform_,
            nn.init.xavier_normal_,
        }
    )

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        target = args[0] if args else kwargs.get("tensor")
        if func in self.skipped and isinstance(target, nn.Parameter):
            return target
        return func(*args, **kwargs)


_UNBUILDABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""Errors that constructors raise for settings that contradict each other."""


def _build(checkpoint: Checkpoint) -> nn.Module:
    """Return the model that the configuration describes, of the class that open_clip's `create_model` would use."""
    config = copy.deepcopy(checkpoint.config)
    kind: type[nn.Module] = open_clip.CLIP
    if config.pop("custom_text", False):
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    for section, known in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        names = [item.name for item in fields(known)]
        for key in config[section].keys() - {TOWER}:
            if key not in names:
                raise InputError(
                    f"{checkpoint.source}: {section} has the field {key[:40]!r}, which open_clip "
                    f"{open_clip.__version__} does not know.{nearest(key, names)}",
                    "a newer open_clip may know it",
                )
    # Pretrained weights of the tower would be downloaded and replaced at once.
    config["vision_cfg"]["timm_model_pretrained"] = False
    siglip, bert = is_siglip(config), has_bert(config)
    given = {**config, **({"vision_cfg": PLACEHOLDER} if siglip else {}), **({"text_cfg": NO_CAPTIONS} if bert else {})}
    # open_clip still draws a few values; the process's own random state is kept.
    with torch.random.fork_rng(devices=[]), _WithoutStart(), _buildable(checkpoint):
        model = kind(**given)
        if siglip:
            model.visual = _siglip_tower(config)
        if bert:
            model.text = BertTower(config)
    return model


PLACEHOLDER = {"image_size": 16, "patch_size": 16, "width": 64, "layers": 1}
NO_CAPTIONS = {"context_length": 2, "vocab_size": 2, "width": 64, "heads": 1, "layers": 1}
"""Towers that are replaced as soon as they are built."""


def _siglip_tower(config: dict[str, Any]) -> nn.Module:
    """Return SigLIP's image tower: timm's, as in open_clip, with the sizes and the GELU of the configuration."""
    vision = config["vision_cfg"]
    width = vision["width"]
    trunk = TimmVisionTransformer(
        img_size=image_size(config),
        patch_size=vision["patch_size"],
        num_classes=0,
        global_pool="map",
        class_token=False,
        embed_dim=width,
        depth=vision["layers"],
        num_heads=width // vision.get("head_width", 64),
        mlp_ratio=vision.get("mlp_ratio", 4.0),
        norm_layer=partial(nn.LayerNorm, **vision.get("norm_kwargs", {"eps": EPS})),
        act_layer=GELUTanh if "act_kwargs" in vision else nn.GELU,
        weight_init="skip",
    )
    return _Trunk(OrderedDict(trunk=trunk))


class _Trunk(nn.Sequential):
    """An image tower of timm, under the name that open_clip has for it."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch the recomputation of activations in the backward pass on or off."""
        cast(Any, self.get_submodule("trunk")).set_grad_checkpointing(enable)


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that records the size of the largest tensor that is computed."""

    values = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        self.values = max(self.values, *(part.numel() for part in tree_leaves(found) if isinstance(part, Tensor)), 0)
        return found


def _check_forward(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Raise if a meta model returns no vectors, or if one image or caption would need too much memory."""
    given = {
        "encode_image": torch.zeros(1, 3, *checkpoint.preprocess.size, device="meta"),
        "encode_text": torch.zeros(1, checkpoint.context_length, dtype=torch.long, device="meta"),
    }
    wanted = [1, checkpoint.config["embed_dim"]]
    largest = _Largest()  # type: ignore[no-untyped-call]
    with torch.device("meta"), torch.inference_mode(), largest, _buildable(checkpoint):
        for name, values in given.items():
            found = list(getattr(model.eval(), name)(values).shape)
            if found != wanted:
                raise ValueError(f"{name} returns {found}, not {wanted}")
    if largest.values > limits.ACTIVATION:
        raise InputError(
            f"{checkpoint.source}: one image or caption would need {largest.values:,} values at once",
            "restore the configuration: check image_size, patch_size and context_length",
        )


@contextlib.contextmanager
def _buildable(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn the errors of open_clip's constructors into an `InputError`."""
    try:
        yield
    except _UNBUILDABLE as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{checkpoint.source}: its configuration describes no model that open_clip "
            f"{open_clip.__version__} can build ({type(error).__name__}: {str(error)[:120]})",
            "restore the configuration",
        ) from error


# --- filling -----------------------------------------------------------------------------------------


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter, saved or not, since none may keep uninitialised memory."""
    return {**dict(model.named_parameters()), **model.state_dict()}


def _shapes(model: nn.Module) -> Shapes:
    return {name: Wanted(tuple(value.shape), value.is_floating_point()) for name, value in _tensors(model).items()}


def _fill(model: nn.Module, tensors: dict[str, StoredTensor], content: mmap.mmap, source: str) -> None:
    wanted = _tensors(model)
    for name in wanted.keys() - tensors.keys():
        tensors[name] = StoredTensor(name, "", tuple(wanted[name].shape), 0, ())
    values, given_back = {}, 0
    ordered = sorted(tensors.items(), key=lambda item: item[1].offset)
    for number, (name, tensor) in enumerate(ordered):
        # All later tensors begin here or behind, even those that share bytes.
        given_back = _give_back(content, given_back, tensor.offset)
        value = _value(tensor, wanted[name])
        following = ordered[number + 1][1].offset if number + 1 < len(ordered) else len(content)
        for end in _copy(tensor, value, content):
            given_back = _give_back(content, given_back, min(end, following))
        values[name] = value.view(wanted[name].shape)
    refuse(
        [name for name, value in values.items() if value.is_floating_point() and not _finite(value)],
        source,
        "holds tensors that are not finite (NaN or infinity)",
    )
    model.load_state_dict(values, strict=True, assign=True)


def _value(tensor: StoredTensor, wanted: Tensor) -> Tensor:
    """Return memory for one tensor of the file, in float32 if it is floating-point."""
    if not tensor.dtype:
        return torch.zeros_like(wanted)
    return torch.empty(tensor.shape, dtype=torch.float32 if wanted.is_floating_point() else wanted.dtype)


def _copy(tensor: StoredTensor, value: Tensor, content: mmap.mmap) -> Iterator[int]:
    """Copy one tensor of the file; yield the end of the bytes that it no longer needs, after some rows each."""
    if not tensor.dtype:
        return
    parts = tensor.parts or (tensor,)
    for place, part in zip(value.chunk(len(parts)) if tensor.parts else (value,), parts, strict=True):
        view = _view(part, DTYPES[part.dtype], content)
        if tensor.parts or not part.shape or not view.is_contiguous():
            place.copy_(view)
            continue
        row = view[:1].nbytes
        step = max(1, COPIED // max(1, row))
        for begin in range(0, len(view), step):
            place[begin : begin + step] = view[begin : begin + step]
            yield part.offset + row * min(begin + step, len(view))


def _view(tensor: StoredTensor, dtype: torch.dtype, content: mmap.mmap) -> Tensor:
    if 0 in tensor.shape:
        return torch.empty(tensor.shape, dtype=dtype)
    reach = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if tensor.offset % dtype.itemsize == 0:
        flat = torch.frombuffer(content, dtype=dtype, count=reach, offset=tensor.offset)
    else:  # a safetensors header is usually padded to 8 bytes, but the format does not require it
        end = tensor.offset + reach * dtype.itemsize
        flat = torch.frombuffer(bytearray(content[tensor.offset : end]), dtype=dtype)
    return flat.as_strided(tensor.shape, tensor.strides)


def _give_back(content: mmap.mmap, begin: int, end: int) -> int:
    """Free the memory of `content` from `begin` to `end`, in whole pages; return the begin of the next range."""
    end -= end % mmap.PAGESIZE
    # On Windows, where this call is missing, the memory is freed as a whole at the end.
    if end > begin and hasattr(mmap, "MADV_DONTNEED"):
        content.madvise(mmap.MADV_DONTNEED, begin, end - begin)
    return max(begin, end)


def _finite(value: Tensor) -> bool:
    if not value.numel():
        return True
    # `aminmax` returns NaN if any value is NaN, so that no mask in memory is needed.
    return all(bool(torch.isfinite(bound)) for bound in torch.aminmax(value))


def largest_activation(tower: nn.Module, image: Tensor) -> int:
    """Return the number of values in the largest output of a layer, for one image [1, 3, H, W]."""
    sizes = [image.numel()]

    def note(layer: nn.Module, given: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel())

    hooks = [layer.register_forward_hook(note) for layer in tower.modules()]
    try:
        with torch.inference_mode():
            tower(image)
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


# --- one token ---------------------------------------------------------------------------------------


def compute_one_token(visual: nn.Module) -> None:
    """Make the last attention of an image tower compute only the token that becomes the image's vector.

    Results do not change, and a ViT-B-32 takes a fifteenth less time. It applies to open_clip's ViT that reads its
    class token, and to the attention pool of its ResNet; other towers stay as they are.
    """
    pool = getattr(visual, "attnpool", None)
    if isinstance(pool, AttentionPool2d):
        pool.__dict__["forward"] = MethodType(_pool, pool)  # for this instance only
    elif isinstance(visual, VisionTransformer):
        block = visual.transformer.resblocks[-1]
        if (
            visual.attn_pool is None and visual.pool_type == "tok" and not visual.output_tokens
            and visual.transformer.batch_first and type(block) is ResidualAttentionBlock
        ):  # fmt: skip
            block.__dict__["forward"] = MethodType(_last_block, block)


def _last_block(self: Any, rows: Tensor, *unused: None, attn_mask: None = None) -> Tensor:
    """Replace `forward` of a ViT's last block: [n, length, d] in, the class token's [n, 1, d] out."""
    normal = self.ln_1(rows)
    seen, _ = self.attn(normal[:, :1], normal, normal, need_weights=False)
    first: Tensor = rows[:, :1] + self.ls_1(seen)
    return first.add(self.ls_2(self.mlp(self.ln_2(first))))


def _pool(self: Any, features: Tensor) -> Tensor:
    """Replace `forward` of the attention pool: [n, d, height, width] in, the mean token's output [n, out] out."""
    places = features.flatten(2).transpose(1, 2)
    rows = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1) + self.positional_embedding.to(features.dtype)
    n, _, width = rows.shape
    heads, size = self.num_heads, width // self.num_heads
    query = self.q_proj(rows[:, 0]).view(n, heads, 1, size) * size**-0.5
    keys, values = (layer(rows).view(n, -1, heads, size).transpose(1, 2) for layer in (self.k_proj, self.v_proj))
    weights = (query @ keys.transpose(-1, -2)).softmax(dim=-1)
    made: Tensor = self.c_proj((weights @ values).reshape(n, width))
    return made


# --- siblings ----------------------------------------------------------------------------------------


def reactivated(tower: nn.Module, quick: bool) -> nn.Module:
    """Return a tower with the same tensors that uses QuickGELU or GELU; timm's towers keep their activation.

    Raises:
        InputError: the configuration fixes another form of GELU.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*tower.parameters(), *tower.buffers())}
    sibling = copy.deepcopy(tower, shared)
    for name, module in sibling.named_modules():
        old = getattr(module, "gelu", None)
        if name.startswith("trunk.") or not isinstance(old, nn.GELU | QuickGELU):
            continue
        if isinstance(old, nn.GELU) and old.approximate != "none":
            raise InputError(
                f"the configuration fixes the activation (GELU, {old.approximate})", "leave it as configured"
            )
        module.gelu = QuickGELU() if quick else nn.GELU()
    return sibling


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Fix the settings of torch that affect results: no TensorFloat-32, deterministic algorithms, fused attention.

    Fused attention is a fifth faster in bfloat16 on the CPU; it is always on, so that results do not vary.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
