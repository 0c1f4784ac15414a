"""Embedding by workers: the same files whatever happens to them, and one message where a worker is another."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_ray import FakeRay, RayTaskError

from pargate import cluster as tasks
from pargate.cluster import Cluster, Needs, connected
from pargate.core.choices import Executor
from pargate.core.model import EncoderSpec, Preprocess
from pargate.errors import ExitCode, InputError, OperationalError
from pargate.events import Advanced
from pargate.images.dataset import Listed
from pargate.images.opening import open_pairs
from pargate.images.prefetch import Block, Decoder
from pargate.images.shards import Sample, encode, write_shard
from pargate.models.open import open_model
from pargate.scenes.render import render
from pargate.screening import cluster, embed
from pargate.screening.cluster import Answer, Setup, WorkerEnded, work
from pargate.screening.embed import Embedder, Trial
from pargate.screening.run import ScreenRequest, screen
from pargate.screening.scores import Sampling

CLEAN = Path(__file__).parents[2] / "examples" / "models" / "clean"
RULE = Preprocess((8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SPEC = EncoderSpec("none", "toy", RULE, 3, 1.0, "fp32", "cpu", "gelu")
COUNT, BROKEN = 300, 131


@dataclass
class Arithmetic:
    """Towers of which everybody knows what they give."""

    spec: EncoderSpec = SPEC

    def put(self, pixels: Any) -> Any:
        return pixels

    def image_features(self, batch: Any) -> Any:
        return batch.mean(axis=(1, 2), dtype=np.float32).reshape(-1, 3)

    def encode_texts(self, texts: Any) -> Any:
        return np.array([[len(text), len(set(text)), 1] for text in texts], dtype=np.float32)


def written(path: Path, broken: set[int]) -> Listed:
    """Pairs of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)
    samples = [
        Sample(b"nothing" if n in broken else encode(image, ".png"), f"a text {n % 7}") for n, image in enumerate(noise)
    ]
    write_shard(path, samples, 0)
    found = open_pairs(str(path), seed=0)
    assert isinstance(found, Listed)
    return found


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    return written(tmp_path_factory.mktemp("pairs") / "pairs.tar", {BROKEN})


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Embedder]:
    """Towers here and on workers; shards of 64 pairs and blocks of 32."""
    monkeypatch.setattr(embed, "SHARD", 64)
    monkeypatch.setattr(embed, "BLOCK", 32)
    monkeypatch.setattr(cluster, "BLOCK", 32)
    with Decoder(RULE) as decoder:
        model: Any = SimpleNamespace(checkpoint=SimpleNamespace(digest="d", source="toy"))
        found = Embedder(model, Arithmetic(), "", decoder)  # type: ignore[arg-type]
        monkeypatch.setattr(cluster, "_opened", lambda setup: found)
        yield found


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(cluster, "processor_threads", lambda: 1)
    return fake


@pytest.fixture
def checkpoint() -> Any:
    return SimpleNamespace(source="toy", digest="d", files={})


def embedded(checkpoint: Any, embedder: Embedder, pairs: Listed, folder: Path, emit: Any = lambda _: None) -> bytes:
    """The bytes of all files that workers gave."""
    trial = Trial(np.zeros((0, 8, 8, 3), np.uint8), ())
    with connected(None, 2) as found_cluster:
        workers = cluster.open_workers(found_cluster, checkpoint, None, "cpu", "auto", embedder.decoder, trial)
        found = embed.embed(workers, embedder.model, pairs, folder, emit)
    return b"".join(path.read_bytes() for path in found.shards)


@pytest.fixture
def local(embedder: Embedder, pairs: Listed, tmp_path: Path) -> bytes:
    found = embed.embed(embedder, embedder.model, pairs, tmp_path / "local")
    return b"".join(path.read_bytes() for path in found.shards)


def test_workers_give_the_same_files_in_any_order_with_few_tasks_at_a_time(
    ray: FakeRay, local: bytes, checkpoint: Any, embedder: Embedder, pairs: Listed, tmp_path: Path
) -> None:
    told: list[Any] = []
    assert embedded(checkpoint, embedder, pairs, tmp_path / "ray", told.append) == local
    assert ray.at_a_time == 4, "five shards, two processors, and as many tasks ahead"
    assert ray.is_shut and ray.options == [{"num_cpus": 1, "num_gpus": 0, "max_retries": 2, "retry_exceptions": False}]
    assert told[-1] == Advanced(10, 10)
    assert [path.name for path in next((tmp_path / "ray").iterdir()).iterdir() if path.suffix == ".npy"]


def test_a_worker_that_dies_changes_nothing(
    ray: FakeRay, local: bytes, checkpoint: Any, embedder: Embedder, pairs: Listed, tmp_path: Path
) -> None:
    ray.dies = {1, 4, 5}.__contains__
    assert embedded(checkpoint, embedder, pairs, tmp_path / "ray") == local
    assert ray.attempts == 1 + 5 + 3


def test_a_shard_that_ends_every_worker_ends_the_run_which_then_goes_on(
    ray: FakeRay, local: bytes, checkpoint: Any, embedder: Embedder, pairs: Listed, tmp_path: Path
) -> None:
    ray.dies = {3, 4, 5}.__contains__
    with pytest.raises(OperationalError, match="a worker was lost: WorkerCrashedError") as error:
        embedded(checkpoint, embedder, pairs, tmp_path / "ray")
    assert "the next run resumes" in error.value.hint and ray.is_shut
    ray.dies, ray.attempts = (lambda attempt: False), 0
    assert embedded(checkpoint, embedder, pairs, tmp_path / "ray") == local
    assert ray.attempts == 1 + 3, "two shards were finished"


def changed(answer: Answer, *, host: str = "b", spec: EncoderSpec | None = None, row: int | None = None) -> Answer:
    """The answer of another worker, which reads other bytes at a row or computes otherwise."""
    if answer.result is None:
        return answer
    vectors, (first, *rest) = answer.result
    if row is not None:
        digests = tuple("0" * 64 if at == row else digest for at, digest in enumerate(first.digests))
        first = replace(first, digests=digests)
    return replace(answer, host=host, spec=spec or answer.spec, result=(vectors, [first, *rest]))


def lost(answer: Answer) -> Answer:
    """The answer of a worker that cannot read an image."""
    if answer.result is None:
        return answer
    vectors, (first, *rest) = answer.result
    keys = tuple((f"{n:09d}", "No such file or directory") for n in range(192, 192 + 32))
    return replace(answer, host="b", result=(vectors, [Block(first.pixels, (), first.rows[:0], keys), *rest]))


@pytest.mark.parametrize(
    ("returns", "told"),
    [
        (lambda a: changed(a, row=7), r"the worker on b reads other bytes in .*pairs\.tar than this machine "
         r"\(image 000000199\)"),
        (lost, r"the worker on b cannot read .*pairs\.tar: No such file or directory \(image 000000192\)"),
        (lambda a: changed(a, spec=replace(SPEC, threads=2)), r"the worker on b computes otherwise than that on .*: "
         "threads 2, not 1"),
    ],
)  # fmt: skip
def test_a_worker_that_is_another_is_named(
    ray: FakeRay, checkpoint: Any, embedder: Embedder, pairs: Listed, tmp_path: Path, returns: Any, told: str
) -> None:
    ray.returns = returns
    with pytest.raises(OperationalError, match=told):
        embedded(checkpoint, embedder, pairs, tmp_path / "ray")
    assert not list((tmp_path / "ray").rglob("*.npy"))


def test_images_that_no_machine_can_read_are_counted_over_all_shards(
    ray: FakeRay, checkpoint: Any, embedder: Embedder, tmp_path: Path
) -> None:
    found = written(tmp_path / "pairs.tar", {9, 79, 149, 219, 289})
    with pytest.raises(InputError, match=r"4 of the 300 images in .* cannot be read, more than 1%"):
        embedded(checkpoint, embedder, found, tmp_path / "ray")


def test_pairs_that_change_meanwhile_are_no_fault_of_a_worker(
    ray: FakeRay, checkpoint: Any, embedder: Embedder, tmp_path: Path
) -> None:
    found = written(tmp_path / "p.tar", set())
    (tmp_path / "p.tar").touch()
    ray.returns = lambda answer: changed(answer, row=0)
    with pytest.raises(InputError, match="changed while it was in use"):
        embedded(checkpoint, embedder, found, tmp_path / "ray")


@pytest.mark.parametrize(
    ("error", "raised", "told"),
    [
        (
            OSError("ray::work()\nSystem error: No module named 'pargate'\ntraceback"),
            OperationalError,
            "^a worker cannot load pargate: No module named 'pargate'$",
        ),
        (ZeroDivisionError("bug"), RayTaskError, "bug"),
    ],
)
def test_a_worker_without_pargate_is_told_from_a_bug(
    ray: FakeRay, checkpoint: Any, embedder: Embedder, pairs: Listed, tmp_path: Path, error: Any, raised: Any, told: str
) -> None:
    def fails(answer: Any) -> Any:
        raise RayTaskError(error)

    ray.returns = fails
    with pytest.raises(raised, match=told):
        embedded(checkpoint, embedder, pairs, tmp_path)


def test_a_task_that_fits_on_no_machine_is_refused(
    ray: FakeRay, checkpoint: Any, embedder: Embedder, pairs: Listed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "processor_threads", lambda: 3)
    with pytest.raises(
        OperationalError, match=r"no machine of the Ray cluster has what a task takes \(CPU: 3, GPU: 0\)"
    ):
        embedded(checkpoint, embedder, pairs, tmp_path)
    needs = Cluster(FakeRay(8, 2)).needs("auto", 3)
    assert (needs.graphics, Cluster(FakeRay(8, 2)).room(needs), Cluster(FakeRay(8, 1)).room(needs)) == (
        1,
        2,
        1,
    )
    assert Cluster(FakeRay(8, 2)).needs("cpu", 3).graphics == 0


def test_a_cluster_whose_machines_are_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_S", "ANSWER_S", "GONE_S"):
        monkeypatch.setattr(tasks, name, 0)
    gone = FakeRay(processors=0)
    monkeypatch.setattr(gone, "wait", lambda promises, **_: ([], promises))
    with pytest.raises(OperationalError, match="no machine of the Ray cluster is left"):
        Cluster(gone).ended(["promise"], Needs(1, 0))


# --- a worker with a real model --------------------------------------------------------------------------


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker that has opened no model yet."""
    decoders: list[Decoder] = []

    def decoder(rule: Preprocess) -> Decoder:
        decoders.append(Decoder(rule))
        return decoders[-1]

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(cluster, "Decoder", decoder)
    cluster._opened.cache_clear()
    yield
    cluster._opened.cache_clear()
    for one in decoders:
        one.__exit__(None, None, None)


@pytest.fixture
def setup(worker: None) -> Setup:
    with open_model(str(CLEAN)) as model:
        found = model.checkpoint
    return Setup(str(Path.cwd()), str(CLEAN), None, "cpu", "fp32", found.digest, 1, dict(found.files),
                cluster._libraries(), Trial(np.zeros((0, 64, 64, 3), np.uint8), ()))  # fmt: skip


def test_a_worker_opens_the_model_once(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = work(setup, cluster._ready)
    assert not answer.lines and answer.spec is not None and answer.spec.backend
    monkeypatch.setattr(cluster, "open_model", lambda *_: pytest.fail("opened again"))
    assert work(replace(setup, trial=setup.trial), cluster._ready).spec == answer.spec


def test_a_worker_with_another_model_names_the_file(setup: Setup) -> None:
    (weights, *_) = [path for path in setup.files if path.endswith("safetensors")]
    answer = work(replace(setup, digest="0", files=setup.files | {weights: "0"}), cluster._ready)
    assert answer.lines == (f"has another model: {weights} differs",) and "shared file system" in answer.hint
    assert answer.code == ExitCode.OPERATIONAL and f"the worker on {answer.host}: has" in WorkerEnded(answer).message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"source": "models/away"}, "cannot open the model: no model at models/away"),
        ({"folder": "/nowhere/at/all"}, "there is no folder /nowhere/at/all"),
        ({"libraries": {"torch": "1.0"}}, "and not (none)"),
    ],
)
def test_a_worker_that_lacks_something_says_so(setup: Setup, change: dict[str, Any], told: str) -> None:
    answer = work(replace(setup, **change), cluster._ready)
    assert told in answer.lines[0] and answer.code == ExitCode.OPERATIONAL and answer.hint


def test_a_screening_by_workers_is_that_of_one_machine(
    ray: FakeRay, worker: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "SHARD", 64)
    monkeypatch.setattr(embed, "BLOCK", 32)
    drawn = render(range(160), 64, 0)
    samples = [Sample(encode(image, ".png"), text) for image, text in zip(drawn.pixels, drawn.captions, strict=True)]
    write_shard(tmp_path / "pairs.tar", samples, 0)
    request = ScreenRequest(
        str(tmp_path / "pairs.tar"), str(CLEAN), tmp_path / "one", by=Sampling(rounds=1), device="cpu"
    )
    one = screen(request)
    other = screen(replace(request, out=tmp_path / "other", executor=Executor.RAY))
    assert one.pictures == other.pictures
    reports = [json.loads((tmp_path / name / "screen.json").read_text()) | {"started": ""} for name in ("one", "other")]
    assert reports[0] == reports[1]
    for name in ("left.pairs", "left.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
