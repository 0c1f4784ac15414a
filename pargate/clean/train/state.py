"""States of an unfinished run: all that it needs to go on as if nothing had happened."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pargate.clean.train.distributed import Group
from pargate.clean.train.reference import Reference
from pargate.clean.train.towers import Towers
from pargate.clean.train.universal import Universal
from pargate.core.provenance import StepLog
from pargate.errors import InputError, OperationalError, first_line, is_out_of_memory
from pargate.files import atomic_file

FORM = "pargate/clean-state/2"


@dataclass(slots=True)
class Log:
    """Values of every step, collected."""

    steps: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, step: int, **values: float) -> None:
        """Note the values of one step."""
        self.steps.append(step)
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def frozen(self) -> StepLog:
        """As it goes into a record."""
        return StepLog(steps=tuple(self.steps), values={name: tuple(v) for name, v in self.values.items()})


@dataclass(slots=True)
class Running:
    """All of a run that changes from step to step."""

    towers: Towers
    log_scale: nn.Parameter
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    universal: Universal | None
    reference: Reference
    log: Log = field(default_factory=Log)
    mean: dict[str, Tensor] = field(default_factory=dict)
    """Running means of the trained weights, by name, once there are any."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Pairs of this rank whose picture does not decode, and why."""
    seconds: float = 0.0
    """Of training, up to the last step, all parts of an interrupted run together."""

    def trained(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def average(self, decay: float) -> None:
        """Take the weights as they are now into their running means."""
        for name, parameter in self.towers.named_parameters():
            if parameter.requires_grad:
                if name in self.mean:
                    self.mean[name].lerp_(parameter.detach(), 1 - decay)
                else:
                    self.mean[name] = parameter.detach().clone()

    def keep_average(self) -> None:
        """Put the running means, where there are any, in the place of the weights."""
        with torch.no_grad():
            for name, mean in self.mean.items():
                self.towers.get_parameter(name).copy_(mean)

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and words alone, so that reading them back runs no code."""
        return {
            "towers": self.towers.state_dict(), "log_scale": self.log_scale.detach(),
            "optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict(), "mean": self.mean,
            "universal": None if self.universal is None else self.universal.pictures.detach(),
            "reference": self.reference.state(), "steps": self.log.steps, "values": self.log.values,
            "unreadable": self.unreadable, "seconds": self.seconds,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Put everything back as `state` has it."""
        with torch.no_grad():
            self.towers.load_state_dict(state["towers"])
            self.log_scale.copy_(state["log_scale"])
            if self.universal is not None:
                self.universal.pictures.copy_(state["universal"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.reference.load(state["reference"])
        self.mean = {name: mean.to(self.log_scale.device) for name, mean in state["mean"].items()}
        self.log.steps, self.log.values = state["steps"], state["values"]
        self.unreadable.update(state["unreadable"])
        self.seconds = state["seconds"]


@dataclass(slots=True)
class StateStore:
    """One file, replaced as a whole at every save; rank zero writes it, all read it."""

    path: Path
    identity: str
    """Digest of parent, pairs and settings: a state of another run is not gone on from."""
    group: Group
    resume: bool
    saved: int = 0
    """Steps that the last state holds."""

    def restore(self, run: Running) -> int:
        """Put everything back as the last state has it; the step to go on with, 0 where there is none.

        Raises:
            InputError: the state is of another run, or damaged.
            OperationalError: it cannot be read, or there is too little memory for it.
        """
        if not self.resume or not self.path.exists():
            return 0
        try:
            with zipfile.ZipFile(self.path) as archive:
                damaged = archive.testzip()  # torch does not look at the checksums
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} is damaged")
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged file makes torch raise
            if isinstance(error, OSError) or is_out_of_memory(error):
                raise OperationalError(
                    f"cannot read {self.path}: {first_line(error)}", "it is kept: make it readable, or memory free"
                ) from error
            raise InputError(
                f"{self.path} is no state of a run: {first_line(error)}", "remove it to begin anew"
            ) from error
        if not isinstance(state, dict) or state.get("form") != FORM:
            raise InputError(f"{self.path} is no state of a run of this version", "remove it to begin anew")
        if state.get("identity") != self.identity:
            raise InputError(
                f"{self.path} is the state of a run with another model, pairs or settings",
                "give the same ones, or remove it to begin anew",
            )
        run.load(state)
        self.saved = int(state["step"])
        return self.saved

    def save(self, step: int, run: Running) -> None:
        """Keep the state after `step` steps.

        Raises:
            OperationalError: the disk is full; the state before is still there.
        """
        if self.group.leads:
            state = {"form": FORM, "identity": self.identity, "step": step, **run.state()}
            with atomic_file(self.path) as stream:
                try:
                    torch.save(state, stream)
                except RuntimeError as error:
                    # Whatever ends a write, a full disk or Ctrl-C, leaves torch's own file unfinished, and it says so.
                    if error.__context__ is None:
                        raise
                    raise error.__context__ from None
        self.saved = step
