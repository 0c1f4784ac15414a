"""An open_clip model built from its configuration and filled with exactly the tensors of a checkpoint.

open_clip never sees a path: its loaders fall back to unsafe ones, resize embeddings and fill gaps. Here the
model is constructed without its random start, every parameter comes from the checkpoint, and what is
missing, left over, of another shape or not finite is refused by name. A verdict must not rest on a value
that nobody trained.
"""

import contextlib
import copy
import mmap
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pargate import memory
from pargate.core.model import Checkpoint
from pargate.encoders.archive import StoredTensor
from pargate.encoders.config import VOCABULARY
from pargate.encoders.inspect import OpenCheckpoint
from pargate.encoders.pooled import ask_one_token
from pargate.encoders.shapes import Shapes, Wanted, plain_names, refuse, refuse_others
from pargate.errors import InputError, is_out_of_memory, nearest

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

HEADROOM = 1.5
"""A configuration that describes this many times the values of its checkpoint is refused before a byte is
allocated for it; the exact comparison follows once the model stands."""


def load(opened: OpenCheckpoint) -> nn.Module:
    """The checkpoint's model on the CPU, in float32 and evaluation mode, its parameters frozen.

    Takes the checkpoint's bytes and gives them back as it copies them, so that the model is in memory once.

    Raises:
        InputError: tensors are missing, left over, of another shape or not finite, or the configuration
            does not describe a model that the installed open_clip can build.
        OperationalError: it does not fit into memory.
    """
    checkpoint = opened.checkpoint
    _refuse_larger(checkpoint)
    memory.share_one_arena()
    with memory.guard(f"loading {checkpoint.source}", "use a machine with more memory"), torch.no_grad():
        model = _build(checkpoint)
        _fill(model, plain_names(opened.tensors, checkpoint.source), opened.take(), checkpoint.source)
        ask_one_token(model.get_submodule("visual"))
    return model.eval().requires_grad_(False)


def check(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose tensors are not those of its architecture, by building that without its weights.

    Raises:
        InputError, OperationalError: as `load`, but for values that are not finite.
    """
    _refuse_larger(checkpoint)
    with memory.guard(f"building {checkpoint.source}", "use a machine with more memory"), torch.no_grad():
        wanted = _shapes(_tensors(_build(checkpoint)))
    refuse_others(plain_names(checkpoint.tensors, checkpoint.source), wanted, checkpoint.source)


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
    try:
        # open_clip draws a few values even so; the process's own random stream stays as it was.
        with torch.random.fork_rng(devices=[]), _WithoutStart():
            return kind(**config)
    except _UNBUILDABLE as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{checkpoint.source}: its configuration describes no model that open_clip "
            f"{open_clip.__version__} can build ({type(error).__name__}: {str(error)[:120]})",
            "restore the configuration",
        ) from error


def _refuse_larger(checkpoint: Checkpoint) -> None:
    """Refuse a configuration that asks for far more memory than its checkpoint could fill."""
    vision, text = checkpoint.config["vision_cfg"], checkpoint.config["text_cfg"]
    wanted = (text.get("vocab_size") or VOCABULARY) * (text.get("width") or 512)
    for tower in (vision, text, checkpoint.config.get("multimodal_cfg", {})):
        layers, width = tower.get("layers"), tower.get("width")
        if tower and isinstance(layers, int) and isinstance(width, int) and not tower.get("timm_model_name"):
            # Attention has 4 · width², the two layers behind it 2 · ratio · width².
            wanted += int(layers * width * width * (4 + 2 * (tower.get("mlp_ratio") or 4)))
    held = sum(tensor.elements for tensor in checkpoint.tensors)
    if wanted > HEADROOM * held:
        raise InputError(
            f"{checkpoint.source}: its configuration describes a model of at least {wanted:,} values, "
            f"the checkpoint holds {held:,}",
            "the weights and the configuration do not belong together",
        )


# --- filling -----------------------------------------------------------------------------------------


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter, saved or not: none may keep the memory it happened to be allocated with."""
    return {**dict(model.named_parameters()), **model.state_dict()}


def _shapes(tensors: dict[str, Tensor]) -> Shapes:
    return {name: Wanted(tuple(value.shape), value.is_floating_point()) for name, value in tensors.items()}


def _fill(model: nn.Module, tensors: dict[str, StoredTensor], content: mmap.mmap, source: str) -> None:
    wanted = _tensors(model)
    refuse_others(tensors, _shapes(wanted), source)
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
