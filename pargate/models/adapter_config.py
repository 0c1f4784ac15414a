"""Read the settings of a LoRA adapter of PEFT, and find the modules that they name, as PEFT finds them."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pargate import limits
from pargate.errors import InputError
from pargate.models.config import load_json
from pargate.models.expressions import Expression, matched

WITHOUT_EFFECT = frozenset({
    "auto_mapping", "eva_config", "inference_mode", "lora_dropout", "megatron_core", "peft_version",
    "qalora_group_size", "runtime_config", "task_type",
})  # fmt: skip
"""Settings that a merged model does not depend on. Every other one must be off."""

STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Ways to start a training that leave the base as it is (`init_lora_weights`)."""

FIRST_NUMBER = r".*?\.[^.]*\.(\d+)\."
"""PEFT's pattern of a layer's number, where no `layers_pattern` is given."""


def by_peft(folder: str | Path) -> str:
    """Return the advice to merge an adapter with PEFT."""
    return (
        f"merge it with PEFT: PeftModel.from_pretrained(base, {str(folder)!r}).merge_and_unload(), where base is the "
        "loaded model; then save the result and give that"
    )


Rank = Annotated[int, Field(ge=1, le=limits.ADAPTER_RANK)]
Alpha = Annotated[float, Field(ge=-limits.ADAPTER_ALPHA, le=limits.ADAPTER_ALPHA)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[list[Name], Field(max_length=limits.ADAPTER_NAMES)]
Plain = Annotated[str, Field(pattern="^[A-Za-z_]+$")]
"""A name that is its own pattern."""


class Settings(BaseModel):
    """The settings of an `adapter_config.json` that decide what is merged; PEFT's names and defaults."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    r: Rank = 8
    lora_alpha: Alpha = 8
    use_rslora: bool = False
    rank_pattern: Annotated[dict[str, Rank], Field(max_length=limits.ADAPTER_NAMES)] = {}
    alpha_pattern: Annotated[dict[str, Alpha], Field(max_length=limits.ADAPTER_NAMES)] = {}
    """Other values by the pattern of a module's name."""
    target_modules: Name | Names
    exclude_modules: str | Names = []
    """Pattern of the names of modules, or ends of them."""
    layers_to_transform: int | Annotated[list[int], Field(max_length=limits.ADAPTER_NAMES)] = []
    """Numbers of the adapted layers; none for all."""
    layers_pattern: Plain | Annotated[list[Plain], Field(max_length=8)] = []
    modules_to_save: Names = []
    """Ends of the names of modules that the adapter replaces."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases that it replaces."""
    fan_in_fan_out: bool = False
    """Whether weights are stored transposed, which PEFT ignores for linear layers."""
    base_model_name_or_path: str | None = None
    revision: str | None = None

    def scaling(self, alpha: float, r: int) -> float:
        """Return the factor of B·A."""
        return alpha / (math.sqrt(r) if self.use_rslora else r)


READ = Settings.model_fields.keys() | {"peft_type", "init_lora_weights"}
"""Settings that are read."""


def settings(path: Path) -> Settings:
    """Read an `adapter_config.json`.

    Raises:
        InputError: it is none, has a wrong value, or describes an adapter that is not merged exactly.
    """
    found = {key: value for key, value in load_json(path).items() if value is not None}
    advice = by_peft(path.parent)
    if found.get("peft_type") != "LORA":
        raise InputError(f"{path} is the configuration of an adapter of type {_told(found, 'peft_type')}", advice)
    if others := sorted(key for key, value in found.items() if value and key not in READ | WITHOUT_EFFECT):
        said = f"{others[0][:40]} ({_told(found, others[0])})"
        raise InputError(f"{path} sets {said}, which pargate does not merge", advice)
    if found.get("init_lora_weights", True) not in STARTS:
        start = _told(found, "init_lora_weights")
        raise InputError(f"{path} has init_lora_weights {start}, for which PEFT changes the base first", advice)
    try:
        return Settings.model_validate(found)
    except ValidationError as error:
        problem = error.errors(include_input=False)[-1]  # of two types that a value may have, the list's
        raise InputError(f"{path}: {problem['loc'][0]}: {problem['msg']}", "restore the file") from error


def _told(found: Mapping[str, Any], key: str) -> str:
    """Return a setting for a message; lists and objects, which may be deep, by their kind alone."""
    value = found.get(key)
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else repr(value)[:60]


# --- which modules -----------------------------------------------------------------------------------


class Modules:
    """Which modules PEFT adapts, and with which rank and alpha (`check_target_module_exists`, `get_pattern_key`)."""

    def __init__(self, given: Settings, names: Sequence[str], where: str) -> None:
        """Find them among `names`; `where` names the configuration in messages.

        Raises:
            InputError, OperationalError: as `expressions.matched`.
        """
        self._given = given
        whole = [_whole(one) for one in (given.target_modules, given.exclude_modules) if isinstance(one, str)]
        saved = [_saved(name) for name in given.modules_to_save]
        ends = [_end(key) for key in (*given.rank_pattern, *given.alpha_pattern)]
        self._rows = matched([*whole, *saved, *ends], names, where)
        left_out = set[str]().union(*(self._rows[one] for one in saved), self._named(given.exclude_modules, names))
        found = self._named(given.target_modules, names)
        if not isinstance(given.target_modules, str) and given.layers_to_transform != []:
            layers = set(_listed(given.layers_to_transform))
            found = {name for name in found if name in given.target_modules or self._layer(name) in layers}
        self.adapted = found - left_out

    def _named(self, given: str | list[str], names: Sequence[str]) -> set[str]:
        """Return the names that a pattern matches, or that end in one of several."""
        if isinstance(given, str):
            return self._rows[_whole(given)] if given else set()
        ends = set(given)
        return {name for name in names if not ends.isdisjoint(_tails(name))}

    def _layer(self, name: str) -> int | None:
        """Return the number of the layer that a module belongs to."""
        for way in [rf"(?:^|.*?\.){layer}\.(\d+)\." for layer in _listed(self._given.layers_pattern)] or [FIRST_NUMBER]:
            if found := re.match(way, name):
                return int(found[1])
        return None

    def settings(self, name: str) -> tuple[int, float]:
        """Return the rank and alpha of a module: those of the first pattern that it has."""
        given = self._given
        rank, alpha = (
            values.get(next((key for key in values if name in self._rows[_end(key)]), name), default)
            for values, default in ((given.rank_pattern, given.r), (given.alpha_pattern, given.lora_alpha))
        )
        return int(rank), float(alpha)


def _whole(pattern: str) -> Expression:
    return "fullmatch", pattern


def _saved(name: str) -> Expression:
    return "match", rf"(^|.*\.){name}($|\..*)"


def _end(key: str) -> Expression:
    return "match", rf"(.*\.)?({key})$"


def _tails(name: str) -> Iterator[str]:
    """Yield a name, and what follows each of its dots."""
    yield name
    while "." in name:
        name = name.partition(".")[2]
        yield name


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
