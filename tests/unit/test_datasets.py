"""Data sets on a hub, against a hub of the test's own: what is fetched, and what is said when it cannot be."""

import http.server
import io
import json
import tarfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pytest
from huggingface_hub import constants
from pyarrow import parquet

from pargate.errors import InputError, OperationalError
from pargate.images.hub import PROXIES
from pargate.images.opening import open_images, open_pairs

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """As much of the Hub's protocol as one data set needs: what it is, its files, and each of them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.fetched: list[str] = []


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        parts = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/").removeprefix("api/").split("/")
        _, organisation, name, what, revision, *rest = [*parts, "", ""][: max(len(parts), 5)]
        dataset = f"{organisation}/{name}"
        if dataset in self.server.refusals:
            return self.say(*self.server.refusals[dataset])
        if dataset not in self.server.datasets:
            return self.say(404, "RepoNotFound")
        if revision not in ("", "main", COMMIT):
            return self.say(404, "RevisionNotFound")
        files = self.server.datasets[dataset]
        if what == "resolve":
            content = files["/".join(rest)]
            if body:
                self.server.fetched.append("/".join(rest))
            return self.say(200, "", content, body=body)
        if what == "tree":
            listed = [{"type": "file", "path": path, "size": len(files[path]), "oid": f"{i:040x}"}
                      for i, path in enumerate(sorted(files))]  # fmt: skip
            return self.say(200, "", json.dumps(listed).encode())
        return self.say(200, "", json.dumps({"id": dataset, "sha": COMMIT, "siblings": []}).encode())

    def say(self, status: int, code: str, content: bytes = b"", body: bool = True) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{len(content)}-{abs(hash(content))}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for variable in ("HF_TOKEN", *PROXIES):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between attempts, where there is nothing to wait for
    here = Hub()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{here.server_port}")
    thread = threading.Thread(target=here.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield here
    huggingface_hub.close_session()
    here.shutdown()
    here.server_close()
    thread.join()


def table(*captions: str) -> bytes:
    buffer = io.BytesIO()
    pictures = [{"bytes": caption.encode(), "path": None} for caption in captions]
    parquet.write_table(pa.table({"image": pictures, "caption": list(captions)}), buffer)
    return buffer.getvalue()


def tar(*captions: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, caption in enumerate(captions):
            for suffix in ("jpg", "txt"):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(caption)
                archive.addfile(info, io.BytesIO(caption.encode()))
    return buffer.getvalue()


def test_of_a_data_set_the_training_part_is_fetched(server, tmp_path):
    server.datasets["org/pairs"] = {
        "README.md": b"#", "data/train-00000-of-00002.parquet": table("a", "b"), "data/train-00001-of-00002.parquet":
        table("c"), "data/test-00000-of-00001.parquet": table("secret"),
    }  # fmt: skip
    for _ in range(2):
        pairs = open_pairs("hf:org/pairs", seed=0, cache=tmp_path / "cache")
        assert pairs.captions(range(pairs.count)) == ["a", "b", "c"]
        assert [place.read() for place in pairs.places(range(3))] == [b"a", b"b", b"c"]
    assert sorted(server.fetched) == [f"data/train-0000{i}-of-00002.parquet" for i in range(2)]


@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_to_judge_a_model_the_held_out_part_is_fetched(held_out, server):
    server.datasets["org/images"] = {"data/train-0.parquet": table("a"), f"data/{held_out}-0.parquet": table("b", "c")}
    images = open_images("hf:org/images")
    assert [(item.caption, item.place.read()) for item in images.items()] == [("b", b"b"), ("c", b"c")]
    assert server.fetched == [f"data/{held_out}-0.parquet"]
    assert len(images.digest) == 64


def test_a_data_set_may_be_tars_without_a_training_part(server):
    server.datasets["org/tars"] = {"shards/00.tar": tar("a", "b"), "shards/01.tar": tar("c"), "notes.txt": b"x"}
    pairs = open_pairs(f"hf:org/tars@{COMMIT}", seed=0)
    assert pairs.captions(range(3)) == ["a", "b", "c"]
    assert "notes.txt" not in server.fetched


def test_a_data_set_of_other_files_is_refused(server):
    server.datasets["org/text"] = {"data.jsonl": b"{}"}
    with pytest.raises(InputError, match="holds neither Parquet files nor tars"):
        open_pairs("hf:org/text", seed=0)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:org/none", "there is no repository org/none at http://127"),
        ("hf:org/pairs@v9", "has no revision v9"),
        ("hf:org/gated", "is gated"),
        ("hf:", "names no repository"),
        ("hf:a/b/c", "names no repository"),
    ],
)
def test_what_the_hub_refuses_is_said(source, message, server):
    server.datasets["org/pairs"] = {"a.tar": tar("a", "b")}
    server.refusals["org/gated"] = (403, "GatedRepo")
    with pytest.raises(InputError, match=message):
        open_pairs(source, seed=0)


def test_a_hub_that_cannot_be_reached_is_an_operational_error(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OperationalError, match="cannot fetch the files of org/pairs from http://127"):
        open_pairs("hf:org/pairs", seed=0)
