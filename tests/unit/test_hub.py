"""Models on a hub, against a hub of the test's own: what is fetched, and what is said when it cannot be."""

import http.server
import io
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

from pargate.errors import InputError, OperationalError, UnsafeCheckpoint
from pargate.images.hub import PROXIES
from pargate.models import config, hub
from pargate.models.open import inspect

COMMIT = "0123456789abcdef0123456789abcdef01234567"

MODEL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}

SETTINGS = json.dumps({"model_cfg": MODEL, "preprocess_cfg": {"resize_mode": "squash"}}).encode()
WEIGHTS = save({"a": np.ones(3, np.float32)})


class Hub(http.server.ThreadingHTTPServer):
    """As much of the Hub's protocol as one download needs: resolve, with commit and ETag."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        organisation, name, _, revision, file = self.path.lstrip("/").split("/", 4)
        repository = f"{organisation}/{name}"
        if repository in self.server.refusals:
            status, code = self.server.refusals[repository]
            return self.refuse(status, code)
        if repository not in self.server.repositories:
            return self.refuse(404, "RepoNotFound")
        if revision not in ("main", "v1", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        content = self.server.repositories[repository].get(file)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{abs(hash((repository, file, content)))}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)
        return None

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for variable in ("HF_TOKEN", *PROXIES):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between attempts, where there is nothing to wait for
    here = Hub()
    monkeypatch.setenv("HF_ENDPOINT", here.address)
    thread = threading.Thread(target=here.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    here.repositories["org/model"] = {"open_clip_config.json": SETTINGS, "open_clip_model.safetensors": WEIGHTS}
    yield here
    huggingface_hub.close_session()
    here.shutdown()
    here.server_close()
    thread.join()


def test_a_repository_is_fetched_and_inspected(server):
    found = inspect("hf-hub:org/model")
    assert found.source == "hf-hub:org/model"
    assert Path(found.weights).read_bytes() == WEIGHTS
    assert found.config == MODEL
    assert found.preprocess.resize == "squash"
    assert found.activation_known
    assert Path(found.weights).parent.name == COMMIT


def test_weights_and_configuration_come_from_one_commit(server):
    hub.repository("hf-hub:org/model@v1")
    assert f"HEAD /org/model/resolve/v1/{config.CONFIG_NAME}" in server.asked
    assert f"HEAD /org/model/resolve/{COMMIT}/open_clip_model.safetensors" in server.asked


def test_what_was_fetched_once_needs_no_network(server, monkeypatch):
    hub.repository("hf-hub:org/model")
    server.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.repository("hf-hub:org/model").weights.read_bytes() == WEIGHTS
    assert not server.asked


def test_a_repository_with_a_pickle_alone_gives_the_pickle(server):
    server.repositories["org/model"] = {"open_clip_config.json": SETTINGS, "open_clip_pytorch_model.bin": b"x"}
    assert hub.repository("hf-hub:org/model").weights.name == "open_clip_pytorch_model.bin"


def test_the_file_that_open_clip_downloads_is_fetched_and_no_other(server, monkeypatch):
    files = {"open_clip_pytorch_model.bin": b"x", "model.safetensors": b"y", "pytorch_model.bin": b"z"}
    server.repositories["org/model"] |= files
    assert hub.repository("hf-hub:org/model").weights.name == "open_clip_model.safetensors"
    assert not [asked for asked in server.asked if any(asked.endswith(f"/{name}") for name in files)]
    assert downloaded(server, monkeypatch) == "open_clip_model.safetensors"


def downloaded(server: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of the file that open_clip downloads."""
    from open_clip import pretrained

    ours = partial(huggingface_hub.hf_hub_download, endpoint=server.address)
    monkeypatch.setattr(pretrained, "hf_hub_download", ours)
    return Path(pretrained.download_pretrained_from_hf("org/model", cache_dir=constants.HF_HUB_CACHE)).name


def test_weights_that_a_download_and_a_folder_would_choose_differently_are_refused(server, monkeypatch):
    import torch

    def zipped(value: float) -> bytes:
        buffer = io.BytesIO()
        torch.save({"a": torch.full((3,), value)}, buffer)
        return buffer.getvalue()

    server.repositories["org/model"] = {
        "open_clip_config.json": SETTINGS,
        "open_clip_pytorch_model.safetensors": WEIGHTS,
        "open_clip_pytorch_model.bin": zipped(2.0),
    }
    assert downloaded(server, monkeypatch) == "open_clip_pytorch_model.bin"
    with pytest.raises(UnsafeCheckpoint, match=r"open_clip_pytorch_model\.safetensors beside"):
        inspect("hf-hub:org/model")
    server.repositories["org/same"] = {**server.repositories["org/model"], "open_clip_pytorch_model.bin": zipped(1.0)}
    assert inspect("hf-hub:org/same").format == "torch-zip"


@pytest.mark.parametrize(
    "file",
    ["", "open_clip_pytorch_model.bin", "pytorch_model.bin", "model.pth", "model.pt", "a.safetensors", "a.bin.pt"],
)
def test_a_file_that_a_tag_names_is_looked_for_as_open_clip_does(file):
    from open_clip.pretrained import _get_safe_alternatives

    name = file or "open_clip_pytorch_model.bin"
    assert hub._alternatives(file) == (*_get_safe_alternatives(name), name)


def test_a_tokenizer_comes_from_the_repository_that_is_named(server):
    model = {**MODEL, "text_cfg": {**MODEL["text_cfg"], "hf_tokenizer_name": "org/words"}}
    server.repositories["org/model"]["open_clip_config.json"] = json.dumps({"model_cfg": model}).encode()
    server.repositories["org/words"] = {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}"}
    found = inspect("hf-hub:org/model")
    assert found.folder is not None
    assert (Path(found.folder) / "tokenizer.json").read_bytes() == b"{}"
    assert "words" in found.folder


def test_a_tokenizer_that_is_not_there_is_missed_by_inspection(server):
    model = {**MODEL, "text_cfg": {**MODEL["text_cfg"], "hf_tokenizer_name": "org/words"}}
    server.repositories["org/model"]["open_clip_config.json"] = json.dumps({"model_cfg": model}).encode()
    server.repositories["org/words"] = {}
    with pytest.raises(InputError, match="needs the tokenizer 'org/words'"):
        inspect("hf-hub:org/model")


def test_a_tag_of_open_clip_brings_its_own_preprocessing_and_activation(server):
    server.repositories["timm/resnet50_clip.openai"] = {"open_clip_model.safetensors": WEIGHTS}
    found = inspect("open_clip:RN50/openai")
    assert found.architecture == "RN50"
    assert found.config["quick_gelu"] is True, "the tag knows, whatever the name of the architecture says"
    server.repositories["timm/MobileCLIP2-S0-OpenCLIP"] = {"open_clip_model.safetensors": WEIGHTS}
    found = inspect("open_clip:MobileCLIP2-S0/dfndr2b")
    assert found.preprocess.mean == (0.0, 0.0, 0.0)
    assert found.preprocess.interpolation == "bilinear"
    assert "quick_gelu" not in found.config


def test_a_tag_that_names_a_pickle_takes_the_safetensors_beside_it(server):
    server.repositories["jienengchen/ViTamin-S"] = {"pytorch_model.safetensors": WEIGHTS, "pytorch_model.bin": b"x"}
    assert hub.published("open_clip:ViTamin-S/datacomp1b").weights.name == "pytorch_model.safetensors"


def test_an_unknown_tag_is_answered_with_the_closest(server):
    for source in ("open_clip:RN50/openay", "open_clip:RN50", "open_clip:", "open_clip:NN50/openai"):
        with pytest.raises(InputError, match="has no weights"):
            hub.published(source)
    with pytest.raises(InputError, match="'RN50/openai'"):
        hub.published("open_clip:RN50/openay")


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("hf-hub:org/absent", "no repository org/absent"),
        ("hf-hub:org/model@v9", "no revision v9"),
        ("hf-hub:org/empty", "holds no open_clip_config.json"),
        ("hf-hub:org/bare", "holds no open_clip_model.safetensors"),
        ("hf-hub:org/odd", "no model_cfg"),
        ("hf-hub:org/gated", "is gated"),
        ("hf-hub:", "names no repository"),
        ("hf-hub:a/b/c", "names no repository"),
        ("hf-hub:../..", "names no repository"),
    ],
)
def test_what_the_hub_does_not_have_or_give_is_wrong_input(server, source, named):
    server.repositories["org/empty"] = {}
    server.repositories["org/bare"] = {"open_clip_config.json": SETTINGS}
    server.repositories["org/odd"] = {"open_clip_config.json": b"{}"}
    server.refusals["org/gated"] = (403, "GatedRepo")
    with pytest.raises(InputError, match=named) as caught:
        hub.repository(source)
    assert caught.value.hint
    if "absent" in source or "empty" in source:
        assert server.address in caught.value.message


def test_a_dead_address_is_named_with_the_way_it_was_tried(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OperationalError) as caught:
        hub.repository("hf-hub:org/model")
    assert "http://127.0.0.1:9" in caught.value.message
    assert "without a proxy" in caught.value.message
    assert "HTTPS_PROXY" in caught.value.hint


@pytest.mark.parametrize("failing", ["http://127.0.0.1:9", "500"])
def test_a_hub_that_cannot_be_asked_is_asked_once_and_silently(server, monkeypatch, capfd, caplog, failing):
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.refusals["org/model"] = (500, "")
    if failing != "500":
        monkeypatch.setenv("HF_ENDPOINT", failing)
    with pytest.raises(OperationalError) as caught:
        hub.repository("hf-hub:org/model")
    assert caught.value.exit_code == 5
    assert len(caught.value.lines) == 1
    assert waits == []
    assert len(server.asked) == (failing == "500")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_file_that_was_fetched_once_is_used_where_the_hub_cannot_be_reached(server, monkeypatch):
    first = hub.repository("hf-hub:org/model").weights
    monkeypatch.setattr(hub, "_ANSWERED", set())
    server.refusals["org/model"] = (500, "")
    assert hub._present("hf-hub:org/model", "org/model", first.name, None) == first


def test_a_dead_proxy_is_named(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    huggingface_hub.close_session()  # a session reads the proxies when it is made
    with pytest.raises(OperationalError, match="through the proxy of HTTP_PROXY"):
        hub.repository("hf-hub:org/model")


def test_a_hub_that_fails_is_an_operational_error(server):
    server.refusals["org/model"] = (500, "")
    with pytest.raises(OperationalError, match="500"):
        hub.repository("hf-hub:org/model")


def test_an_address_that_is_no_hub_is_an_operational_error(server, monkeypatch):
    monkeypatch.setattr(Answer, "send_header", no_commit(Answer.send_header))
    with pytest.raises(OperationalError, match=server.address):
        hub.repository("hf-hub:org/model")


def no_commit(send):
    return lambda self, name, value: None if name == "X-Repo-Commit" else send(self, name, value)


def test_offline_without_a_copy_says_so(server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OperationalError, match="HF_HUB_OFFLINE") as caught:
        hub.repository("hf-hub:org/model")
    assert "cache" in caught.value.message
    assert not server.asked


def test_two_towers_of_a_pipeline_are_fetched(server: Hub, tmp_path: Path) -> None:
    from foreign_layouts import clip_model, towers_apart

    made = towers_apart(clip_model(hidden_size=32), tmp_path / "pipeline")
    files = {path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*.*")}
    server.repositories["org/pipeline"] = {**files, "unet/config.json": b"{}"}
    found, ours = inspect("hf-hub:org/pipeline"), inspect(str(made))
    assert (found.digest, found.layout, found.preprocess) == (ours.digest, "towers", ours.preprocess)
    assert not any("unet" in asked for asked in server.asked)
    del server.repositories["org/pipeline"]["text_encoder/config.json"]
    with pytest.raises(InputError, match="not an open_clip model"):
        inspect("hf-hub:org/pipeline@v1")


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        ("text_encoder/adapter_config.json", UnsafeCheckpoint, "text_encoder means different models"),
        ("image_encoder/model.safetensors.index.json", InputError, "a tower in several files is not read"),
    ],
)
def test_what_makes_other_towers_of_a_pipeline_is_refused(
    file: str, error: type[Exception], message: str, server: Hub, tmp_path: Path
) -> None:
    from foreign_layouts import clip_model, towers_apart

    made = towers_apart(clip_model(hidden_size=32), tmp_path / "pipeline")
    files = {path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*.*")}
    server.repositories["org/pipeline"] = {**files, file: b"{}"}
    with pytest.raises(error, match=message):
        inspect("hf-hub:org/pipeline")


def test_an_adapter_beside_the_weights_of_a_repository_is_refused(server: Hub, tmp_path: Path) -> None:
    from foreign_layouts import clip_model, transformers_folder

    folder = transformers_folder(clip_model(), tmp_path / "clip", tokenizer=False)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server.repositories["org/clip"] = {**files, "adapter_config.json": b"{}"}
    with pytest.raises(UnsafeCheckpoint, match="means different models to different readers: adapter_config"):
        inspect("hf-hub:org/clip")


@pytest.mark.parametrize("place", ["", "0_CLIPModel/"])
def test_a_repository_of_transformers_is_fetched_with_its_shards(place: str, server: Hub, tmp_path: Path) -> None:
    from foreign_layouts import clip_model, sharded

    folder = sharded(clip_model(), tmp_path / "clip")
    server.repositories["org/clip"] = {f"{place}{path.name}": path.read_bytes() for path in folder.iterdir()}
    assert inspect("hf-hub:org/clip").sha256 == inspect(str(folder)).sha256
