"""Saved states of a run, from which it continues to the same result."""

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
    """The logged values of every step."""

    steps: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, step: int, **values: float) -> None:
        """Add the values of one step."""
        self.steps.append(step)
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)

    def frozen(self) -> StepLog:
        """Return the log in the form of a record."""
        return StepLog(steps=tuple(self.steps), values={name: tuple(v) for name, v in self.values.items()})


@dataclass(slots=True)
class Running:
    """Everything in a run that changes from step to step."""

    towers: Towers
    log_scale: nn.Parameter
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    universal: Universal | None
    reference: Reference
    log: Log = field(default_factory=Log)
    mean: dict[str, Tensor] = field(default_factory=dict)
    """Running means of the trained weights, by name; empty until averaging starts."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Reasons why images of this rank's pairs could not be decoded, by number."""
    seconds: float = 0.0
    """Seconds of training up to the last step, including those before an interruption."""

    def trained(self) -> list[nn.Parameter]:
        """Return the parameters that the optimiser trains."""
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def average(self, decay: float) -> None:
        """Add the current weights to their running means."""
        for name, parameter in self.towers.named_parameters():
            if parameter.requires_grad:
                if name in self.mean:
                    self.mean[name].lerp_(parameter.detach(), 1 - decay)
                else:
                    self.mean[name] = parameter.detach().clone()

    def keep_average(self) -> None:
        """Replace the weights by their running means, if there are any."""
        with torch.no_grad():
            for name, mean in self.mean.items():
                self.towers.get_parameter(name).copy_(mean)

    def state(self) -> dict[str, Any]:
        """Return the state as tensors, numbers and strings, which can be loaded without running code."""
        return {
            "towers": self.towers.state_dict(), "log_scale": self.log_scale.detach(),
            "optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict(), "mean": self.mean,
            "universal": None if self.universal is None else self.universal.perturbations.detach(),
            "reference": self.reference.state(), "steps": self.log.steps, "values": self.log.values,
            "unreadable": self.unreadable, "seconds": self.seconds,
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Restore everything from `state`."""
        with torch.no_grad():
            self.towers.load_state_dict(state["towers"])
            self.log_scale.copy_(state["log_scale"])
            if self.universal is not None:
                self.universal.perturbations.copy_(state["universal"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.reference.load(state["reference"])
        self.mean = {name: mean.to(self.log_scale.device) for name, mean in state["mean"].items()}
        self.log.steps, self.log.values = state["steps"], state["values"]
        self.unreadable.update(state["unreadable"])
        self.seconds = state["seconds"]


@dataclass(slots=True)
class StateStore:
    """One file, replaced as a whole at every save; rank zero writes it, all ranks read it."""

    path: Path
    identity: str
    """Digest of parent, pairs and settings; a state with another digest is refused."""
    group: Group
    resume: bool
    saved: int = 0
    """Number of steps before the last state."""

    def restore(self, run: Running) -> int:
        """Restore the last state; return the next step, 0 where there is no state.

        Raises:
            InputError: the state is of another run, or damaged.
            OperationalError: the state cannot be read, or memory ran out.
        """
        if not self.resume or not self.path.exists():
            return 0
        try:
            with zipfile.ZipFile(self.path) as archive:
                damaged = archive.testzip()  # torch does not look at the checksums
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} is damaged")
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds of errors for damaged files
            if isinstance(error, OSError) or is_out_of_memory(error):
                raise OperationalError(
                    f"cannot read {self.path}: {first_line(error)}", "it is kept: make it readable, or memory free"
                ) from error
            raise InputError(
                f"{self.path} is not the state of a run: {first_line(error)}", "remove it to start again"
            ) from error
        if not isinstance(state, dict) or state.get("form") != FORM:
            raise InputError(f"{self.path} is not a state of this version", "remove it to start again")
        if state.get("identity") != self.identity:
            raise InputError(
                f"{self.path} is the state of a run with another model, pairs or settings",
                "give the same ones, or remove it to start again",
            )
        run.load(state)
        self.saved = int(state["step"])
        return self.saved

    def save(self, step: int, run: Running) -> None:
        """Save the state after `step` steps.

        Raises:
            OperationalError: the disk is full; the previous state is kept.
        """
        if self.group.leads:
            state = {"form": FORM, "identity": self.identity, "step": step, **run.state()}
            with atomic_file(self.path) as stream:
                try:
                    torch.save(state, stream)
                except RuntimeError as error:
                    # After a full disk or Ctrl-C, torch raises an error of its own about its unfinished file.
                    if error.__context__ is None:
                        raise
                    raise error.__context__ from None
        self.saved = step
