"""`BASE+ADAPTER`: a model and a LoRA adapter of PEFT, merged into it, or an adapter that names a local base."""

from pathlib import Path

from pargate.errors import InputError
from pargate.models.adapter_config import Settings, settings
from pargate.models.config import CONFIG_NAME
from pargate.models.layouts import LAYOUTS, open_source
from pargate.models.located import HUGGING_FACE, stay_inside
from pargate.models.merging import adapted
from pargate.models.model import Model
from pargate.models.sources import ADAPTER_CONFIG, SEPARATOR, divided, parts
from pargate.models.transformers_folder import SETTINGS


@LAYOUTS.add("adapter")
class PeftAdapter:
    """Adapters of PEFT on their base, in any layout of a checkpoint."""

    pickle = True
    graph = False

    @staticmethod
    def match(source: str) -> bool:
        """Return whether the source names a base and an adapter, or is the folder of an adapter alone."""
        if divided(source) is not None:
            return True
        path = Path(source)
        try:
            return (path / ADAPTER_CONFIG).is_file() and not any(
                (path / name).is_file() for name in (CONFIG_NAME, SETTINGS)
            )
        except (OSError, ValueError):  # not a valid path
            return False

    @staticmethod
    def open(source: str, arch: str | None, keep: bool) -> Model:
        """Return the base with its adapters, checked."""
        base, *names = parts(source)
        folders = [Path(name) for name in names or [source]]
        given = [_settings(folder) for folder in folders]
        model = open_source(base if names else _own_base(given[0], folders[0]), arch, keep)
        for folder, said in zip(folders, given, strict=True):
            model = adapted(model, folder, said, keep)
        return model


def _settings(folder: Path) -> Settings:
    stay_inside(folder, folder / ADAPTER_CONFIG)
    return settings(folder / ADAPTER_CONFIG)


def _own_base(given: Settings, folder: Path) -> str:
    """Return the base that an adapter names, if it is a folder here; nothing is downloaded because a file says so."""
    name = given.base_model_name_or_path
    # Asking whether a network share exists would already log in there.
    if name and not name.startswith(("//", "\\\\")) and _is_folder(name):
        if (Path(name) / ADAPTER_CONFIG).is_file():
            raise InputError(
                f"{folder} is an adapter of PEFT for {name}, which is an adapter or holds one",
                f"name the base and each adapter on it, as BASE{SEPARATOR}{name}{SEPARATOR}{folder}",
            )
        return name
    if not name:
        raise InputError(
            f"{folder} is an adapter of PEFT and does not say which base it is merged into",
            f"name both, as BASE{SEPARATOR}{folder}",
        )
    at = f"@{given.revision}" if given.revision else ""
    raise InputError(
        f"{folder} is an adapter of PEFT for the base {name[:80]!r}, which is no folder here",
        f"name both: {HUGGING_FACE}{name[:80]}{at}{SEPARATOR}{folder} downloads it, or BASE{SEPARATOR}{folder}",
    )


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):  # not a valid path
        return False
