"""A cleaning method: PAR with a smaller τ, which moves a model less."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pargate.clean.methods.base import PUBLISHED, Method


class Gentle(Method):
    """PAR with τ = 1."""

    name = "par-gentle"
    published: ClassVar[Mapping[str, Any]] = {**PUBLISHED, "perturbation": 1.0, "tau": 1.0}
