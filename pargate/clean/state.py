"""States of an unfinished run: all that it needs to go on as if nothing had happened."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pargate.clean.distributed import Group
from pargate.clean.towers import Towers
from pargate.core.provenance import StepLog
from pargate.errors import InputError
from pargate.files import write_atomic

FORM = "pargate/clean-state/1"


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
class StateStore:
    """One file, replaced as a whole at every save; rank zero writes it, all read it."""

    path: Path
    identity: str
    """Digest of parent, pairs and settings: a state of another run is not gone on from."""
    group: Group
    resume: bool
    saved: int = 0
    """Steps that the last state holds."""

    def restore(
        self, towers: Towers, log_scale: nn.Parameter, optimiser: torch.optim.Optimizer, scaler: Any, log: Log
    ) -> int:
        """Put everything back as the last state has it; the step to go on with, 0 where there is none.

        Raises:
            InputError: the state is of another run, or damaged.
        """
        if not self.resume or not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            form, identity = state["form"], state["identity"]
        except Exception as error:  # whatever a damaged or foreign file makes torch raise
            raise InputError(f"{self.path} is no state of a run: {str(error)[:120]}", "remove it") from error
        if form != FORM or identity != self.identity:
            raise InputError(
                f"{self.path} is the state of a run with another model, pairs or settings",
                "give the same ones, or remove it to begin anew",
            )
        with torch.no_grad():
            towers.load_state_dict(state["towers"])
            log_scale.copy_(state["log_scale"])
        optimiser.load_state_dict(state["optimiser"])
        scaler.load_state_dict(state["scaler"])
        log.steps, log.values = state["steps"], state["values"]
        self.saved = int(state["step"])
        return self.saved

    def save(
        self,
        step: int,
        towers: Towers,
        log_scale: nn.Parameter,
        optimiser: torch.optim.Optimizer,
        scaler: Any,
        log: Log,
    ) -> None:
        """Keep the state after `step` steps.

        Raises:
            OperationalError: the disk is full; the state before is still there.
        """
        if self.group.leads:
            state = {
                "form": FORM, "identity": self.identity, "step": step, "towers": towers.state_dict(),
                "log_scale": log_scale.detach(), "optimiser": optimiser.state_dict(),
                "scaler": scaler.state_dict(), "steps": log.steps, "values": log.values,
            }  # fmt: skip
            content = io.BytesIO()
            torch.save(state, content)
            write_atomic(self.path, content.getvalue())
        self.saved = step
