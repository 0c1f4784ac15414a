"""A safetensors file, with `--arch` or with its configuration beside it."""

from dataclasses import replace
from pathlib import Path

from pargate.errors import InputError
from pargate.models import weights
from pargate.models.config import CONFIG_NAME, architecture, base_name, differences, preprocess, says_activation
from pargate.models.layouts import LAYOUTS
from pargate.models.located import DEFAULTS, Located, in_folder, processor
from pargate.models.model import Model, read_located
from pargate.models.naming import NUMBERS, in_model
from pargate.models.preprocessing import named, of_processor, quick_gelu, refuse_contradiction, undecided, ways
from pargate.models.shapes import matching
from pargate.models.sources import ADAPTER_CONFIG, SEPARATOR
from pargate.models.transformers_folder import SETTINGS, located

FILE = "file"
"""Name of the layout of a file without a configuration."""

DIFFERENCES = 4
"""Number of contradictions that a message names."""


@LAYOUTS.add("bare")
class Bare:
    """A safetensors file with `--arch` or with its configuration beside it; any other file may be a pickle."""

    pickle = True
    graph = False

    @staticmethod
    def match(source: str) -> bool:
        """Return whether the source is a safetensors file."""
        return weights.begins_as_safetensors(weights.head(Path(source)))

    @staticmethod
    def open(source: str, arch: str | None, keep: bool) -> Model:
        """Return the model, checked."""
        return read_located(source, locate(source, arch), keep)


def locate(source: str, arch: str | None) -> Located:
    """Return a weights file with its configuration: that of the architecture `arch`, or the one beside it.

    Raises:
        InputError: there is no file, or no architecture.
    """
    path = Path(source)
    try:
        path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a valid path"
        raise InputError(
            f"no model at {source}: {reason}",
            "give an open_clip folder, a checkpoint file with --arch, hf-hub:ORG/NAME, open_clip:ARCH/TAG, or a "
            "folder of ONNX graphs"
            + (f"; in BASE{SEPARATOR}ADAPTER, an ADAPTER with {ADAPTER_CONFIG}" if SEPARATOR in source else ""),
        ) from error
    if arch:
        return by_name(path, arch)
    if (path.parent / CONFIG_NAME).is_file():
        return in_folder(path.parent, path)
    if (path.parent / SETTINGS).is_file():
        return replace(located(path.parent), weights=path, beside=())
    return _inferred(path, source)


def _inferred(path: Path, source: str) -> Located:
    """Return a file with the configuration of the one architecture of open_clip that has its tensors."""
    file = weights.read(path, source, keep=False)  # what is no weights file is named for what it is
    found = in_model(file.tensors, {}, source)
    names = matching({tensor.name: tensor for tensor in found.tensors})
    bases = sorted({base_name(name) for name in names})
    if not bases:
        raise InputError(
            f"{source} does not say which architecture it is, no {CONFIG_NAME} lies beside it, and its tensors are not "
            "those of an architecture that can be told from them",
            "give its name, such as --arch ViT-B-32 (ending in -quickgelu or -gelu where you know its activation)",
        )
    if len(bases) > 1:
        raise InputError(
            f"{source} has the tensors of several architectures: {', '.join(bases)}",
            f"name the one that it is, such as --arch {bases[0]}",
        )
    # Only OpenAI's own files hold these numbers; its models use QuickGELU and one way to prepare images.
    openai = any(tensor.name in NUMBERS[:3] for tensor in file.tensors)
    arch = f"{bases[0]}/openai" if openai else bases[0]
    why = ", and OpenAI's by the numbers beside the weights" if openai else ""
    made = by_name(path, arch)
    return replace(
        made, notes=(*made.notes, f"architecture {bases[0]}: told by the names and shapes of the tensors{why}")
    )


def by_name(path: Path, arch: str) -> Located:
    """Return a file with the configuration of `arch`, which must not contradict one beside it."""
    name, tag = named(arch)
    model = architecture(name)
    known = says_activation(model)
    if tag is not None:
        known, model = True, {**model, **({"quick_gelu": True} if quick_gelu(name, tag) else {})}
    found = ways(name, tag)
    if (path.parent / CONFIG_NAME).is_file():
        beside = in_folder(path.parent, path)
        compared = model if known else {**model, "quick_gelu": beside.model_cfg.get("quick_gelu")}
        if differ := differences(compared, beside.model_cfg):
            raise InputError(
                f"--arch {arch} and {beside.config_name} contradict each other: {'; '.join(differ[:DIFFERENCES])}",
                f"drop --arch if the configuration is right, or move {path.name} away from it",
            )
        if len(found) == 1:
            rule = preprocess(beside.model_cfg, beside.preprocess_cfg, beside.config_name)
            refuse_contradiction(rule, beside.config_name, model, found[0].preprocess_cfg, f"--arch {arch}")
        return replace(beside, architecture=name, layout=FILE)
    said = processor(path.parent)
    if len(found) == 1:
        overlay, by = found[0].preprocess_cfg, f"open_clip's table, for {', '.join(found[0].tags)} of {name}"
    elif said is not None and (rules := of_processor(said)):
        overlay, by = rules, str(said)
    elif found:
        raise undecided(name, model, found)
    else:
        overlay, by = {}, f"{DEFAULTS}, which has no published weights of {name}"
    return Located(path, model, overlay, f"architecture {arch}", by, name, path.parent, known, said, layout=FILE)
