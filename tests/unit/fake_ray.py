"""A module that stands in for Ray: tasks run one after another in this process, the last one that was started first."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """What Ray raises for whatever happens to a task."""


class RayTaskError(RayError):
    """An exception of a task."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class WorkerCrashedError(RayError):
    """The last worker of a task died."""


class Killed(Exception):
    """A worker dies."""


@dataclass(eq=False)
class Promise:
    run: Callable[[], Any]
    value: bytes = b""
    error: RayError | None = None
    attempts: int = 0
    over: bool = False


@dataclass
class FakeRay:
    """Stands in for the module."""

    processors: int = 2
    graphics: int = 0
    dies: Callable[[int], bool] = lambda attempt: False
    """Whether the worker dies at an attempt, counted over all tasks from 0."""
    returns: Callable[[Any], Any] = lambda value: value
    """What arrives of a result."""
    options: list[dict[str, Any]] = field(default_factory=list)
    at_a_time: int = 0
    """Most promises that were waited for together."""
    attempts: int = 0
    is_shut: bool = False
    exceptions: Any = field(default_factory=lambda: SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))

    def init(self, **_: Any) -> None:
        pass

    def shutdown(self) -> None:
        self.is_shut = True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.processors, **({"GPU": self.graphics} if self.graphics else {})}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": self.cluster_resources()}, {"Alive": False, "Resources": {"CPU": 64}}]

    def put(self, value: Any) -> Promise:
        return Promise(lambda: value, pickle.dumps(value), over=True)

    def remote(self, **_: Any) -> Callable[..., Any]:
        return lambda function: SimpleNamespace(options=partial(self._with, function))

    def _with(self, function: Callable[..., Any], **options: Any) -> Any:
        self.options.append(options)

        def started(*given: Any) -> Promise:
            sent = pickle.dumps([one.value if isinstance(one, Promise) else pickle.dumps(one) for one in given])
            return Promise(lambda: function(*map(pickle.loads, pickle.loads(sent))))

        return SimpleNamespace(remote=started)

    def wait(self, promises: Sequence[Promise], num_returns: int = 1, timeout: float = 0) -> tuple[Any, Any]:
        self.at_a_time = max(self.at_a_time, len(promises))
        chosen = promises[-1]
        if not chosen.over:
            self._run(chosen)
        return [chosen], [one for one in promises if one is not chosen]

    def _run(self, promise: Promise) -> None:
        while not promise.over:
            promise.attempts += 1
            self.attempts += 1
            try:
                if self.dies(self.attempts - 1):
                    raise Killed
                promise.value = pickle.dumps(promise.run())
            except Killed:
                promise.error = WorkerCrashedError("the worker died")
                promise.over = promise.attempts > self.options[-1]["max_retries"]
            except Exception as error:
                promise.error, promise.over = RayTaskError(error), True
            else:
                promise.error, promise.over = None, True

    def get(self, promise: Promise) -> Any:
        if promise.error is not None:
            raise promise.error
        return self.returns(pickle.loads(promise.value))
