"""An open_clip model built from its configuration and filled with exactly the tensors of a checkpoint.

open_clip never sees a path: its loaders fall back to unsafe ones, resize embeddings and fill gaps. Here the
model is constructed without its random start, every parameter comes from the checkpoint, and what is
missing, left over, of another shape or not finite is refused by name. A verdict must not rest on a value
that nobody trained.
"""

import contextlib
import copy
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from types import MethodType
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.modified_resnet import AttentionPool2d
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pargate import memory
from pargate.core.model import Checkpoint
from pargate.errors import InputError, is_out_of_memory, nearest
from pargate.models.archive import StoredTensor
from pargate.models.shapes import Shapes, Wanted, plain_names, refuse, refuse_others

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
"""What the dtypes of a checkpoint are in torch."""

ACTIVATION = 1 << 27
"""Bound of the values of the largest tensor that one picture or caption makes; CLIPs of 1024 tokens take 17 million."""


Network = nn.Module
"""A CLIP of open_clip's, both towers."""


def load(checkpoint: Checkpoint, tensors: Sequence[StoredTensor], take: Callable[[], mmap.mmap]) -> Network:
    """Return the checkpoint's model on the CPU, in float32 and evaluation mode, its parameters frozen.

    The bytes that `take` gives are freed as they are copied, so that the model is in memory once.

    Raises:
        InputError: tensors are missing, left over, of another shape or not finite, or the configuration
            does not describe a model that the installed open_clip can build.
        OperationalError: it does not fit into memory.
    """
    check(checkpoint)
    memory.share_one_arena()
    with memory.guard(f"loading {checkpoint.source}", "use a machine with more memory"), torch.no_grad():
        model = _build(checkpoint)
        _fill(model, plain_names(tensors, checkpoint.source), take(), checkpoint.source)
        ask_one_token(model.get_submodule("visual"))
    return model.eval().requires_grad_(False)


def check(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose tensors are not those of its architecture, by building that without its weights.

    Raises:
        InputError, OperationalError: as `load`, but for values that are not finite.
    """
    with torch.device("meta"):  # which gives shapes without memory: a configuration can ask for any amount of it
        model = _build(checkpoint)
    refuse_others(plain_names(checkpoint.tensors, checkpoint.source), _shapes(model), checkpoint.source)
    _check_forward(model, checkpoint)


# --- building ----------------------------------------------------------------------------------------


class _WithoutStart(TorchFunctionMode):
    """Leaves parameters as they were allocated: each is replaced by a trained one before it is used.

    Only random fills of parameters are skipped. Buffers and constants are computed as ever, since those that
    are not saved (masks, rotary tables) keep the value that construction gives them.
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
"""What constructors raise at settings that make no sense together: they check little, and nothing in one way."""


def _build(checkpoint: Checkpoint) -> nn.Module:
    """The model that the configuration describes, of the class that open_clip's `create_model` would take."""
    config = copy.deepcopy(checkpoint.config)
    kind: type[nn.Module] = open_clip.CLIP
    if config.pop("custom_text", False):
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    for section, known in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        names = [item.name for item in fields(known)]
        for key in config[section]:
            if key not in names:
                raise InputError(
                    f"{checkpoint.source}: {section} has the field {key[:40]!r}, which open_clip "
                    f"{open_clip.__version__} does not know.{nearest(key, names)}",
                    "a newer open_clip may know it",
                )
    # Weights of a tower alone would be downloaded, and be replaced at once.
    config["vision_cfg"]["timm_model_pretrained"] = False
    # open_clip draws a few values even so; the process's own random stream stays as it was.
    with torch.random.fork_rng(devices=[]), _WithoutStart(), _buildable(checkpoint):
        return kind(**config)


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes how many values the largest tensor has that is computed within."""

    values = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        self.values = max(self.values, *(part.numel() for part in tree_leaves(found) if isinstance(part, Tensor)), 0)
        return found


def _check_forward(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Refuse a model without memory that gives no vectors, or that one picture or caption would fill memory with."""
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
                raise ValueError(f"{name} gives {found}, not {wanted}")
    if largest.values > ACTIVATION:
        raise InputError(
            f"{checkpoint.source}: one picture or caption would need {largest.values:,} values at once",
            "restore the configuration: look at image_size, patch_size and context_length",
        )


@contextlib.contextmanager
def _buildable(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn what open_clip raises at settings that make no sense together into an `InputError`."""
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
    """Every parameter, saved or not: none may keep the memory it happened to be allocated with."""
    return {**dict(model.named_parameters()), **model.state_dict()}


def _shapes(model: nn.Module) -> Shapes:
    return {name: Wanted(tuple(value.shape), value.is_floating_point()) for name, value in _tensors(model).items()}


def _fill(model: nn.Module, tensors: dict[str, StoredTensor], content: mmap.mmap, source: str) -> None:
    wanted = _tensors(model)
    for name in wanted.keys() - tensors.keys():
        tensors[name] = StoredTensor(name, "", tuple(wanted[name].shape), 0, ())
    values, given_back = {}, 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        # All that follow begin here or later, also those that share bytes.
        given_back = _give_back(content, given_back, tensor.offset)
        values[name] = _value(tensor, wanted[name], content)
    refuse(
        [name for name, value in values.items() if value.is_floating_point() and not _finite(value)],
        source,
        "holds tensors that are not finite (NaN or infinity)",
    )
    model.load_state_dict(values, strict=True, assign=True)


def _value(tensor: StoredTensor, wanted: Tensor, content: mmap.mmap) -> Tensor:
    """One tensor of the file, copied; in float32 where the model computes with it."""
    if not tensor.dtype:
        return wanted
    dtype = DTYPES[tensor.dtype]
    value = torch.empty(tensor.shape, dtype=torch.float32 if wanted.is_floating_point() else wanted.dtype)
    return value.copy_(_view(tensor, dtype, content)).view(wanted.shape)


def _view(tensor: StoredTensor, dtype: torch.dtype, content: mmap.mmap) -> Tensor:
    if 0 in tensor.shape:
        return torch.empty(tensor.shape, dtype=dtype)
    reach = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if tensor.offset % dtype.itemsize == 0:
        flat = torch.frombuffer(content, dtype=dtype, count=reach, offset=tensor.offset)
    else:  # safetensors pads its header to 8 bytes, but need not
        end = tensor.offset + reach * dtype.itemsize
        flat = torch.frombuffer(bytearray(content[tensor.offset : end]), dtype=dtype)
    return flat.as_strided(tensor.shape, tensor.strides)


def _give_back(content: mmap.mmap, begin: int, end: int) -> int:
    """Free the memory of `content` from `begin` to `end`, in whole pages; where the next such range begins."""
    end -= end % mmap.PAGESIZE
    # Without this call, on Windows, the memory is freed as a whole, once the model stands.
    if end > begin and hasattr(mmap, "MADV_DONTNEED"):
        content.madvise(mmap.MADV_DONTNEED, begin, end - begin)
    return max(begin, end)


def _finite(value: Tensor) -> bool:
    if not value.numel():
        return True
    # NaN wins both comparisons, so that two numbers answer for all without a mask in memory.
    return all(bool(torch.isfinite(bound)) for bound in torch.aminmax(value))


def largest_activation(tower: nn.Module, image: Tensor) -> int:
    """How many values the largest output of a layer has, for one image [1, 3, H, W]."""
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


def ask_one_token(visual: nn.Module) -> None:
    """Let the last attention of an image tower answer for the token that becomes the picture's vector alone.

    Weights and results stay what they are; a ViT-B-32 and a ResNet take a fifteenth less time, a ViT with six blocks a
    ninth. Known are open_clip's ViT that reads its class token, and the attention pool of its ResNet, which reads the
    mean's. Any other tower is left as it is.
    """
    pool = getattr(visual, "attnpool", None)
    if isinstance(pool, AttentionPool2d):
        pool.__dict__["forward"] = MethodType(_pool, pool)  # of this instance alone
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
    """Replace `forward` of the attention pool: [n, d, height, width] in, what the mean's token sees, [n, out], out."""
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
    """A tower with the same tensors whose transformers use QuickGELU, or GELU. timm's towers keep their own.

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
    """The same arithmetic whatever the process has switched on or off: no TensorFloat-32, fixed algorithms.

    The fused attention of torch is on. It is a fifth faster in bfloat16 on the CPU, and what matters is that
    it is not on at one time and off at another.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
