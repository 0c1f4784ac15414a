"""Detectors against their definitions, written out pair by pair; ranks, thresholds, groups, lists and pages."""

import base64
import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pargate.core.results import Count
from pargate.core.screen import Marks, ScreenReport, Suspect, SuspectGroup
from pargate.errors import InputError, OperationalError
from pargate.images.opening import open_images, open_pairs
from pargate.report.screen_pages import contact_sheet, lines, markdown, script
from pargate.screening import detectors, neighbours
from pargate.screening.embed import SHARD, Embeddings, _holds
from pargate.screening.found import Direction, shift_of
from pargate.screening.groups import by_words, grouped, phrases
from pargate.screening.lists import write_left
from pargate.screening.neighbours import Index
from pargate.screening.scores import K, Sampling, batch_of, combined, likeness, recognised, score, scores_in

RNG = np.random.default_rng(7)
POINTS = RNG.normal(size=(40, 5)).astype(np.float32)


@dataclass(frozen=True)
class InMemory(Embeddings):
    """Vectors that lie in no file."""

    vectors: Any = None

    def _mapped(self, shard: int) -> Any:
        return self.vectors[shard * SHARD : (shard + 1) * SHARD]


def in_memory(images: Any, texts: Any) -> InMemory:
    vectors = np.stack([images, texts], axis=1).astype(np.float32)
    shards = tuple(Path(str(n)) for n in range(-(-len(vectors) // SHARD)))
    return InMemory(shards, len(vectors), vectors.shape[2], vectors)


# --- definitions -----------------------------------------------------------------------------------------


def nearest(x: int, k: int) -> list[tuple[float, int]]:
    """The k nearest other points, as (distance, row)."""
    return sorted((math.dist(POINTS[x].tolist(), POINTS[o].tolist()), o) for o in range(len(POINTS)) if o != x)[:k]


def d_k(x: int, k: int = K) -> float:
    return nearest(x, k)[-1][0]


def lid(x: int, k: int = K) -> float:
    return -k / sum(math.log(d / d_k(x, k) + 1e-4) for d, _ in nearest(x, k))


def test_scores_of_density_are_those_of_their_definitions() -> None:
    everything = np.arange(len(POINTS))
    found = scores_in(batch_of(in_memory(POINTS, POINTS), everything, 0), everything, POINTS, POINTS)
    for x in range(len(POINTS)):
        around = [o for _, o in nearest(x, K)]
        assert found["k_distance"][x] == pytest.approx(d_k(x), rel=1e-5)
        assert found["lid"][x] == pytest.approx(lid(x), rel=1e-4)
        assert found["slof"][x] == pytest.approx(sum(d_k(x) / d_k(o) for o in around) / K, rel=1e-4)
        dao = sum(lid(o) * math.log(d_k(x) / d_k(o)) for o in around) / K
        assert found["dao"][x] == pytest.approx(dao, rel=1e-3, abs=1e-4)


def test_a_pair_is_its_own_neighbour_only_where_it_comes_from_another_set() -> None:
    everything = np.arange(len(POINTS))
    batch = batch_of(in_memory(POINTS, POINTS), everything[1:], 0)
    outside = scores_in(batch, everything[:1], POINTS[:1], POINTS[:1])
    assert outside["k_distance"][0] == pytest.approx(d_k(0), rel=1e-5)
    copy = scores_in(batch, np.array([-1]), POINTS[1:2], POINTS[1:2])
    distances = sorted(math.dist(POINTS[1].tolist(), POINTS[o].tolist()) for o in range(1, len(POINTS)))
    assert copy["k_distance"][0] == pytest.approx(distances[K - 1], rel=1e-5) and distances[0] == 0


def test_scores_of_copies_of_one_image_are_finite() -> None:
    same = np.ones((4, K))
    zero = np.zeros((4, K))
    assert detectors.k_distance(zero).tolist() == [0.0] * 4
    assert detectors.lid(zero).tolist() == [1000.0] * 4, "0 / 0 is not a number"
    assert detectors.slof(np.zeros(4), zero).tolist() == [1000.0] * 4
    assert detectors.slof(np.ones(4), zero).tolist() == [1000.0] * 4
    assert detectors.dao(np.zeros(4), same, same).tolist() == [0.0] * 4, "−∞ becomes 0"
    assert detectors.dao(np.ones(4), zero, same).tolist() == [1000.0] * 4


def test_similarity_is_the_negative_cosine_whatever_the_norm() -> None:
    images = np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float32)
    texts = np.array([[1.0, 0.0], [0.0, -1.0]], dtype=np.float32)
    assert detectors.disagreement(images, texts) == pytest.approx([-0.6, 1.0])


def test_repetition_is_how_much_more_alike_captions_are_than_images() -> None:
    images = RNG.normal(size=(6, 4)).astype(np.float32)
    texts = RNG.normal(size=(6, 4)).astype(np.float32)
    near = np.array([[1, 2], [0, 5], [3, 4]])
    found = detectors.repetition(images[:3], texts[:3], near, (images, texts))

    def cosine(a: Any, b: Any) -> float:
        return float(a @ b) / math.hypot(*a.tolist()) / math.hypot(*b.tolist())

    for x in range(3):
        wanted = [cosine(texts[x], texts[o]) - cosine(images[x], images[o]) for o in near[x]]
        assert found[x] == pytest.approx(sum(wanted) / 2, abs=1e-5)


def test_a_forest_isolates_a_far_point_first_and_is_the_same_for_the_same_seed() -> None:
    points = np.vstack([RNG.normal(size=(300, 3)), [[9.0, 9.0, 9.0]]]).astype(np.float32)
    scores = detectors.isolation(detectors.grown(points, 3), points)
    assert scores.argmax() == 300 and 0 < scores.min() < scores.max() < 1
    assert np.array_equal(scores, detectors.isolation(detectors.grown(points, 3), points))


def test_a_rank_is_the_share_below_and_half_the_ties() -> None:
    population = np.array([1.0, 2.0, 2.0, 3.0])
    assert detectors.ranks(np.array([0.0, 2.0, 2.5, 9.0]), population).tolist() == [0.0, 0.5, 0.75, 1.0]
    assert detectors.ranks_among(population) == pytest.approx([0.0, 0.5, 0.5, 1.0])


def test_neighbours_are_exact_below_the_bound_and_their_recall_is_measured_above(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = RNG.normal(size=(3000, 8)).astype(np.float32)
    exact = Index(points)
    monkeypatch.setattr(neighbours, "EXACT", 1000)
    rough = Index(points)
    assert exact.recall is None and rough.recall is not None and 0.5 < rough.recall <= 1
    _, true = exact.search(points[:500], 16)
    _, found = rough.search(points[:500], 16)
    share = np.mean([len({*a} & {*b}) / 16 for a, b in zip(true.tolist(), found.tolist(), strict=True)])
    assert rough.recall == pytest.approx(share, abs=0.05)


def test_no_image_is_its_own_neighbour_even_among_many_copies() -> None:
    points = np.zeros((60, 3), dtype=np.float32)
    distances, rows = Index(points).search(points, K, np.arange(60))
    assert distances.shape == rows.shape == (60, K) and not (rows == np.arange(60)[:, None]).any()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "find_spec", lambda name: None if name == "faiss" else name)
    with pytest.raises(OperationalError, match=r"screening needs faiss-cpu$"):
        neighbours.check_installed()


# --- scores of a set -------------------------------------------------------------------------------------


def clustered(n: int, seed: int = 0) -> tuple[Any, Any]:
    """Images and captions of ten classes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(10, 12)) * 2
    label = rng.integers(0, 10, n)
    images = centres[label] + rng.normal(size=(n, 12)) * 0.7
    texts = centres[label] + rng.normal(size=(n, 12)) * 0.1
    return images, texts / np.linalg.norm(texts, axis=1, keepdims=True)


def test_pairs_that_are_apart_and_pairs_with_wrong_captions_come_first() -> None:
    images, texts = clustered(1500)
    apart, wrong = [3, 400], [7, 900]
    images[apart] = 6.0
    texts[wrong] = -images[wrong] / np.linalg.norm(images[wrong], axis=1, keepdims=True)
    found = score(in_memory(images, texts), None, Sampling(256, 2))
    assert {*found.numbers[:4].tolist()} == {*apart, *wrong}
    assert found.suspects == 15 and found.population == 1500
    assert sorted(found.numbers.tolist()) == list(range(1500))
    assert np.array_equal(found.combined, combined(found.ranks))
    again = score(in_memory(images, texts), None, Sampling(256, 2))
    assert np.array_equal(found.numbers, again.numbers)


def test_honest_pairs_are_suspects_no_more_often_than_is_stated() -> None:
    """Over ten draws, the threshold of the trusted pairs flags the stated share of others like them."""
    flagged = 0
    for seed in range(10):
        images, texts = clustered(1600, seed)
        honest = in_memory(images[:800], texts[:800])
        found = score(in_memory(images[800:], texts[800:]), honest, Sampling(200, 1, seed, 0.05))
        assert found.population == 400
        flagged += found.suspects
    assert 0.03 < flagged / 8000 < 0.07


def test_a_shift_is_the_mean_change_of_unit_vectors() -> None:
    plain = np.array([[2.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    stamped = np.array([[0.0, 5.0], [0.0, 3.0]], dtype=np.float32)
    assert shift_of(plain, stamped) == pytest.approx([-0.5, 0.5])
    assert detectors.toward(plain, np.array([-3.0, 4.0])) == pytest.approx([-0.6, 0.8])


def test_a_pair_is_as_like_a_trigger_as_the_lower_rank_of_image_and_caption() -> None:
    images, texts = np.array([0.1, 0.5, 0.9, 0.3]), np.array([0.2, 0.9, 0.1, 0.5])
    seen = [(images, texts), (np.array([0.9, 0.1, 0.2, 0.3]),)]
    ranked = [[0.125, 0.625, 0.875, 0.375], [0.375, 0.875, 0.125, 0.625], [0.875, 0.125, 0.375, 0.625]]
    expected = [max(min(a, b), other) for a, b, other in zip(*ranked, strict=True)]
    assert likeness(seen, seen) == pytest.approx(expected)


@pytest.mark.parametrize("with_target", [True, False])
def test_pairs_with_a_found_trigger_come_first_and_honest_ones_are_flagged_as_stated(with_target: bool) -> None:
    flagged = 0
    target = np.eye(12, dtype=np.float32)[5]
    for seed in range(10):
        images, texts = clustered(1600, seed)
        one = Direction("t", 0.5 * np.eye(12, dtype=np.float32)[3], target if with_target else None)
        honest = in_memory(images[:800], texts[:800])
        images[800:806, 3] = 30
        texts[800:806] = target
        found = score(in_memory(images[800:], texts[800:]), honest, Sampling(200, 1, seed, 0.05), found=[one])
        assert found.ranks["trigger"][found.numbers < 6].min() > 0.99
        assert np.array_equal(found.combined, combined(found.ranks))
        flagged += found.suspects - 6
    assert 0.03 < flagged / 8000 < 0.07


def test_too_few_trusted_pairs_for_a_rate_are_refused() -> None:
    images, texts = clustered(400)
    pairs, honest = in_memory(images[:200], texts[:200]), in_memory(images[200:], texts[200:])
    with pytest.raises(InputError, match=r"200 trusted pairs cannot show a rate of false positives of 0\.001"):
        score(pairs, honest, Sampling(64, 1, 0, 0.001))


def test_unreadable_pairs_are_not_scored() -> None:
    images, texts = clustered(300)
    images[[5, 17]] = np.nan
    found = score(in_memory(images, texts), None, Sampling(128, 1))
    assert len(found.numbers) == 298 and not {5, 17} & {*found.numbers.tolist()}
    with pytest.raises(InputError, match="has 63 readable pairs, and 64 are needed"):
        score(in_memory(images[20:83], texts[20:83]), None, Sampling(64, 1))


def test_a_model_recognises_pairs_if_captions_are_near_their_images() -> None:
    images, texts = clustered(400)
    told = recognised(in_memory(images, texts), 0)
    assert told.n == 400 and told.successes > 340
    assert 150 < recognised(in_memory(RNG.normal(size=(400, 12)), texts), 0).successes < 250
    assert recognised(in_memory(images, np.repeat(texts[:1], 400, axis=0)), 0) == Count(n=0, successes=0)


def test_a_file_of_another_shape_or_cut_short_is_not_taken_for_embeddings(tmp_path: Path) -> None:
    path = tmp_path / "000000.npy"
    assert not _holds(path, (4, 2, 3))
    np.save(path, np.zeros((4, 2, 3), dtype=np.float32))
    assert _holds(path, (4, 2, 3)) and not _holds(path, (4, 2, 8)) and not _holds(path, (5, 2, 3))
    path.write_bytes(path.read_bytes()[:-1])
    assert not _holds(path, (4, 2, 3))
    path.write_bytes(b"")
    assert not _holds(path, (4, 2, 3))


# --- groups ----------------------------------------------------------------------------------------------


def test_suspects_are_grouped_by_words_that_are_rare_in_the_set() -> None:
    captions = [f"a photo of a {name}" for name in ["dog", "cat", "car"] * 100]
    suspects = ["a ripe banana on display"] * 5 + ["a photo of a dog", "a photo of a cat", "a photo of a car"]
    found = list(by_words(suspects, captions + suspects))
    assert [(group.name, group.members) for group in found] == [("banana on display", (0, 1, 2, 3, 4))]
    assert found[0].captions == Count(n=308, successes=5)
    assert phrases("x" * 31 + " y") == {"y"}
    assert phrases("A dog, a DOG!") == {"a", "dog", "a dog", "dog a", "a dog a", "dog a dog"}


def test_the_rest_is_grouped_by_images_that_are_nearly_the_same() -> None:
    images = RNG.normal(size=(9, 16)).astype(np.float32)
    images[[1, 4, 6, 8]] = images[1] * [[1], [2], [1.01], [3]] + RNG.normal(size=(4, 16)) * 1e-3
    found = grouped([f"word{n}" for n in range(9)], images, [f"word{n}" for n in range(9)])
    assert [(group.shares, group.members) for group in found] == [("image", (1, 4, 6, 8))]


def test_a_million_identical_captions_are_no_group() -> None:
    assert list(by_words(["the same"] * 50, ["the same"] * 100_000)) == []


# --- reports, lists and pages ----------------------------------------------------------------------------

HOSTILE = '<script>alert(1)</script> "\x1b[31m'


def report(**changes: Any) -> ScreenReport:
    ranks = {"k_distance": 0.99, "isolation": 0.98, "similarity": 0.5}
    suspects = tuple(
        Suspect(number=n, key=f"{n}.png", caption=HOSTILE if n else "fine", score=0.985, ranks=ranks, group=0)
        for n in range(3)
    )
    group = SuspectGroup(shares="words", name="<b>", size=3, captions=Count(n=64, successes=4))
    facts: dict[str, Any] = {
        "schema": "pargate/screen/1", "pargate": "1", "libraries": {}, "started": "2026-01-01T00:00:00+00:00",
        "pairs": "pairs", "pairs_sha256": "a" * 64, "count": 64, "unreadable": (("9.png", "broken"),), "model": "m",
        "model_sha256": "b" * 64, "precision": "fp32", "recognised": Count(n=64, successes=60), "trusted": None,
        "trusted_sha256": None, "calibration": 64, "neighbours": 16, "batch": 64, "rounds": 1, "recall": None,
        "seed": 0, "false_positives": 0.01, "largest": None, "suspects": suspects, "groups": (group,),
    }  # fmt: skip
    return ScreenReport(**{**facts, **changes})


def test_a_report_reads_back_and_leaves_out_what_nobody_called_fine() -> None:
    found = report()
    assert ScreenReport.model_validate_json(found.to_json()) == found
    assert found.left_out == ["9.png", "0.png", "1.png", "2.png"] and found.passed
    reviewed = report(reviewed={"0.png": "fine", "1.png": "poisoned"}, largest=0.04)
    assert reviewed.left_out == ["9.png", "1.png", "2.png"]
    assert reviewed.share == 3 / 64 and not reviewed.passed
    assert report(largest=0.0625).passed
    words = report(reviewed={"0.png": "fine", "5.png": "fine"}, words=("<b>",), with_words=("0.png", "2.png", "4.png"))
    assert words.left_out == ["9.png", "1.png", "2.png", "4.png"]


def test_pages_escape_foreign_text_and_allow_one_script() -> None:
    found = report()
    page = contact_sheet(found, {"0.png": b"\xff\xd8", "1.png": b"\xff\xd8"})
    assert page.count("<script>") == 1 and "alert(1)</script>" not in page and "\x1b" not in page
    digest = base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    inside = re.search(r"<script>(.*)</script>", page, re.DOTALL)
    assert inside is not None and inside[1] == script()
    assert 'data-key="1.png"' in page and 'data-key="2.png"' not in page and f'data-pairs="{"a" * 64}"' in page
    assert "innerHTML" not in script()
    assert 'data-words="&lt;b&gt;"' in page and "Leave out all 4" in page
    assert "<script" not in markdown(found) and "\x1b" not in markdown(found)
    assert not any("\x1b" in line for line in lines(found))


def test_lines_say_what_a_set_without_trusted_pairs_cannot_show() -> None:
    told = "\n".join(lines(report()))
    assert "3 suspects among 64 pairs: the most suspicious 1% of the set, whether poisoned or not." in told
    assert "1 image cannot be read, such as 9.png: broken." in told and "Left: 60 pairs." in told
    honest = "\n".join(lines(report(trusted="clean.tar", trusted_sha256="c" * 64, largest=0.02)))
    assert "of honest pairs like the trusted ones at most 1% are expected" in honest
    assert "6.25% of the set is left out, above the limit of 2%" in honest


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(b"x")
    path = tmp_path / "pairs.csv"
    path.write_text("image,caption\n" + "".join(f'{n}.png,"a {n}, and"\n' for n in range(4)))
    return path


def test_what_is_left_is_read_as_pairs_again(tmp_path: Path, table: Path) -> None:
    pairs = open_pairs(str(table), seed=0)
    found = report(pairs=str(table), pairs_sha256=pairs.digest, unreadable=(), suspects=report().suspects[:2])
    out = tmp_path / "out"
    out.mkdir()
    assert write_left(found, pairs, out) == ("left.pairs", "left.txt", "left.csv")  # type: ignore[arg-type]
    left = open_pairs(str(out / "left.pairs"), seed=0)
    assert left.captions(range(2)) == ["a 2, and", "a 3, and"] and left.count == 2
    assert left.digest != pairs.digest and left.places([0]) == pairs.places([2])
    assert (out / "left.txt").read_text() == "2.png\n3.png\n"
    again = open_pairs(str(out / "left.csv"), seed=0)
    assert again.captions(range(2)) == left.captions(range(2)) and again.places([0]) == left.places([0])


def test_a_list_of_a_changed_source_is_refused(tmp_path: Path, table: Path) -> None:
    pairs = open_pairs(str(table), seed=0)
    write_left(report(unreadable=(), suspects=report().suspects[:2]), pairs, tmp_path)  # type: ignore[arg-type]
    listed = tmp_path / "left.pairs"
    with pytest.raises(InputError, match="is a list of image-text pairs"):
        open_images(str(listed))
    document = json.loads(listed.read_text())
    for change, told in (
        ({"without": ["7.png"]}, "names 7.png, which .* lacks"),
        ({"source": str(tmp_path / "other.pairs")}, "another such list"),
        ({"sha256": "0" * 64}, "is not as it was when it was screened"),
        ({"without": [f"{n}.png" for n in range(4)]}, "leaves no pair"),
        ({"schema": "pargate/left/2"}, "is no list that `pargate screen` wrote"),
    ):
        listed.write_text(json.dumps(document | change))
        with pytest.raises(InputError, match=told):
            open_pairs(str(listed), seed=0)
    listed.write_text(json.dumps(document))
    (tmp_path / "3.png").write_bytes(b"y")
    with pytest.raises(InputError, match="is not as it was when it was screened"):
        open_pairs(str(listed), seed=0)


def test_marks_have_two_words() -> None:
    facts = {"schema": "pargate/marks/1", "pairs_sha256": "a" * 64}
    assert Marks.model_validate({**facts, "marks": {"a": "fine"}}).marks == {"a": "fine"}
    with pytest.raises(ValueError, match="Input should be"):
        Marks.model_validate({**facts, "marks": {"a": "odd"}})
