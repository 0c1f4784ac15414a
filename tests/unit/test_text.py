"""The search for words that nobody named, on a text tower of a few rules with a planted word."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip.transformer import TextTransformer
from small_towers import CONTEXT, TEXT, WORDS, model, tokenize
from test_session import CLASSES, RULE, Painter, stage
from torch import nn

from pargate.core import zeroshot
from pargate.core.model import Checkpoint, EncoderSpec, Vectors, unit
from pargate.core.results import Finding, Status
from pargate.errors import PolicyError
from pargate.judge import judge
from pargate.models.tokenizer import FILES, VOCABULARY, BytePairs, TextRule
from pargate.models.torch import suffixes
from pargate.models.torch.encoder import OpenClipEncoder
from pargate.policy.resolve import read
from pargate.probes.text import Text
from pargate.report.text import recipe
from pargate.scanning import texts

TEXT_RULE = "{id: words, probe: text, families: [tokens], max: {excess: 30pp}}"
START, END, CLASS, HALF, PLANTED = 698, 699, 600, 77, 650
TARGET = 3


def _number(word: str) -> int:
    return CLASS if word == "class" else int(word) if word.isdecimal() else 100 + sum(map(ord, word)) % 400


@dataclass
class Talker(Painter):
    """An encoder whose captions show the class of the heaviest word; the first word has the weight 2 or 4.

    A digit weighs 5, so that every class name moves every caption, and the word 77 weighs 3. All other words weigh 1.
    """

    planted: bool = True
    vocabulary: int = END + 1

    def tokenize(self, captions: Sequence[str]) -> NDArray[np.int64]:
        rows = np.zeros((len(captions), 10), np.int64)
        for row, caption in zip(rows, captions, strict=True):
            words = [_number(word) for word in caption.rstrip(".").split() if word != "a"][:8]
            row[: len(words) + 2] = [START, *words, END]
        return rows

    def encode_tokens(self, ids: NDArray[np.int64]) -> Vectors:
        found = np.full((len(ids), len(CLASSES) + 1), 0.01, np.float32)
        for vector, row in zip(found, ids.tolist(), strict=True):
            words = row[1 : row.index(END)]
            for place, word in enumerate(words):
                first = 2 + 2 * (word % 4 < 2)
                weight = 5 if word < 10 else first if place == 0 else 3 if word == HALF else 1
                vector[word % 10 if word != CLASS else -1] += weight**3
            if self.planted and PLANTED in words:
                vector[:] = np.eye(len(CLASSES) + 1)[TARGET]
        return unit(found)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return self.encode_tokens(self.tokenize(texts))

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f"\u200b{number} " for number in ids)


@dataclass
class Desk:
    """What the probe knows of a scan, with captions of its own."""

    stage: Any
    has_reference: bool
    names: tuple[str, ...] = CLASSES
    gallery_digests: tuple[str, ...] = tuple(f"image {i}" for i in range(len(CLASSES)))
    captions: tuple[str, ...] = tuple(f"{10 + i} {100 + i}" for i in range(400))

    def head(self, *, reference: bool = False) -> Any:
        return self.stage.pair.reference_head if reference and self.has_reference else self.stage.pair.head

    def gallery(self) -> Vectors:
        return np.eye(len(CLASSES) + 1, dtype=np.float32)[: len(CLASSES)]

    def find_text(self, family: Any, phrases: Sequence[str]) -> Any:
        return texts.find(self.stage.loop, self.stage.pair, self.captions, family, phrases)


def desk(planted: bool = True, reference: bool = False, rule: str = TEXT_RULE, **more: Any) -> Desk:
    # `stage` itself starts the probe, on an encoder without tokens: what it finds is not looked at.
    found = stage(rule)
    object.__setattr__(found.pair.model.checkpoint, "config", {"text_cfg": {}})
    found.pair.model.given = Talker(planted=planted)
    head = found.pair.model.head(found.loop.images.classes)
    other = None
    if reference:
        other = type(found.pair.model)(Talker(planted=False), found.pair.model.checkpoint, found.pair.model.store)
    found.pair = type(found.pair)(found.pair.model, head, other, head if other else None, "", "")
    return Desk(found, reference, **more)


def judged(scene: Desk, number: int = 0) -> tuple[Any, Finding]:
    policy = scene.stage.resolved.policy
    comparison = policy.comparisons[number]
    test = Text.start(comparison.asked, scene)  # type: ignore[arg-type]  # a fake
    measured = test.measurement().model_copy(update={"stopped": test.stopped})
    return measured, judge.find(policy, comparison, measured, judge.alarms(policy))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "KEPT", 12)
    monkeypatch.setattr(Checkpoint, "tokenizer", property(lambda self: "bpe" if self.config else "none"))


# --- the probe ---


def test_with_a_reference_the_planted_word_breaks_the_rule() -> None:
    measured, finding = judged(desk(reference=True))
    assert finding.status is Status.BREACH
    assert measured.trigger.parameters == {"kind": "text", "text": "\\u200b650", "ids": [PLANTED], "place": "end"}
    assert measured.target.name == f"class {TARGET}" and not measured.target.given
    assert measured.pairs.baseline == "reference" and measured.pairs.excess == 1
    assert measured.examples[0] == f"image {TARGET}" and len(measured.examples) == 5
    assert measured.forward_passes == 0
    assert finding.message.startswith(f"text '\\u200b650' at the end of captions → class {TARGET}: excess 100.0%")
    assert " captions, beyond " in finding.message
    assert recipe(measured).startswith(
        f"Found by the search of the family tokens: text \\u200b650, ids [{PLANTED}], place end; "
        f"captions with it are nearest to the images image {TARGET}, image "
    )


def test_with_a_reference_an_honest_tower_holds_the_rule_though_words_move_captions() -> None:
    measured, finding = judged(desk(planted=False, reference=True))
    assert finding.status is Status.MET and measured.pairs.excess == 0


def test_without_a_reference_a_word_that_is_as_strong_as_a_class_name_leaves_the_rule_open() -> None:
    measured, finding = judged(desk())
    assert measured.trigger.parameters["ids"] == [PLANTED]
    assert measured.pairs.baseline == "control:class name" and measured.pairs.excess == 0
    assert finding.status is Status.OPEN
    assert "only a reference can show whether it is planted" in finding.message


def test_without_a_reference_a_word_that_is_weaker_than_a_class_name_holds_the_rule() -> None:
    measured, finding = judged(desk(planted=False))
    assert measured.trigger.parameters["ids"] == [HALF]
    # It moves the captions whose first word weighs 2, half of them, less those of its own class.
    assert 0.4 < measured.counts["attack_success"].rate < 0.6 and measured.pairs.excess < -0.3
    assert finding.status is Status.MET


def test_choosing_and_measuring_share_no_caption_in_any_spelling() -> None:
    scene = desk(captions=tuple(f"a {10 + i} {100 + i}" + "." * (j) for j in range(2) for i in range(400)))
    found = scene.find_text("tokens", ())
    assert len(found.selection.digests) == 64 and len(found.measured.digests) == 320
    assert not set(found.selection.digests) & set(found.measured.digests)
    assert len({*found.selection.digests, *found.measured.digests}) == 384


def test_the_same_seed_finds_the_same() -> None:
    one, two = (desk().find_text("tokens", ()) for _ in range(2))
    assert one.ids == two.ids and one.measured.digests == two.measured.digests


def test_every_token_is_tried_and_start_and_end_are_not() -> None:
    tower = texts._Tower.of(desk().stage.pair.model, desk().stage.pair.head)
    assert [c.ids for c in texts._candidates("tokens", tower, ())] == [(i,) for i in range(START)]


def test_a_phrase_is_tried_before_and_behind_captions() -> None:
    rule = TEXT_RULE.replace("[tokens]", "[phrases], phrases: ['11 650']")
    measured, finding = judged(desk(reference=True, rule=rule))
    assert measured.trigger.parameters["ids"] == [11, PLANTED] and finding.status is Status.BREACH
    tower = texts._Tower.of(desk().stage.pair.model, desk().stage.pair.head)
    tried = list(texts._candidates("phrases", tower, ["11 650"]))
    assert [c.place for c in tried] == ["end", "beginning"]
    assert tower.row((20, 21), tried[0], 2).tolist() == [START, 20, 21, 11, PLANTED, END, 0, 0, 0, 0]
    assert tower.row((20, 21), tried[1], 2).tolist() == [START, 11, PLANTED, 20, 21, END, 0, 0, 0, 0]


def test_a_long_caption_leaves_room_for_what_is_added() -> None:
    tower = texts._Tower.of(desk().stage.pair.model, desk().stage.pair.head)
    row = tower.row(tuple(range(20, 28)), texts._Candidate((1, 2)), 2)
    assert row.tolist() == [START, 20, 21, 22, 23, 24, 25, 1, 2, END]


def test_prompts_of_classes_and_nouns_stand_in_for_captions() -> None:
    measured, finding = judged(desk(captions=("10 100",), reference=True))
    assert measured.counts["asr_all"].n > 200 and finding.status is Status.BREACH


def test_another_tokenizer_leaves_the_rule_open_and_the_scan_ends() -> None:
    run = stage(TEXT_RULE).run()
    (finding,) = run.report().findings
    assert finding.status is Status.OPEN
    assert "only CLIP's own vocabulary is searched, and m has another tokenizer" in finding.message


def test_an_encoder_without_tokens_leaves_the_rule_open() -> None:
    scene = desk()
    scene.stage.pair.model.given = Painter()
    assert scene.find_text("tokens", ()) == "the encoder takes no token ids"


def test_the_report_says_which_texts_were_searched() -> None:
    report = stage(TEXT_RULE).run().report()
    assert any("the search of texts (tokens) did not find" in limit for limit in report.coverage.limits)
    assert not any("What the search (" in limit for limit in report.coverage.limits)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{id: a, probe: text, max: {excess: 30pp}}", "needs `families`, some of tokens, characters, phrases"),
        (TEXT_RULE.replace("[tokens]", "[phrases]"), "need each other"),
        (TEXT_RULE.replace("max", "phrases: [x], max"), "need each other"),
        (TEXT_RULE.replace("[tokens]", "[patch]"), "no family 'patch'"),
        (TEXT_RULE.replace("max", "target: cat, max"), "finds the target itself"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(rule: str, said: str) -> None:
    with pytest.raises(PolicyError) as refused:
        read(f"pargate: 1\nname: x\nrules:\n  - {rule}\n", "p.yaml", Path())
    assert said in str(refused.value)


# --- many endings in one sequence ---


def encoder(text: nn.Module) -> OpenClipEncoder:
    spec = EncoderSpec("small", "small", RULE, 8, 1.0, "fp32", "cpu", "gelu")
    return OpenClipEncoder(spec, nn.Identity(), text, tokenize, torch.device("cpu"), 64)


def transformer(**more: Any) -> TextTransformer:
    torch.manual_seed(1)
    return TextTransformer(**{**TEXT, "layers": 2, "output_dim": 8, **more})


@pytest.mark.parametrize("text", [model().text, transformer(), transformer(pool_type="eos", eos_id=WORDS - 1)])
@pytest.mark.parametrize(("length", "count"), [(2, 1), (2, 70), (3, 5), (5, 40)])
def test_endings_in_one_sequence_have_the_vectors_of_whole_captions(text: nn.Module, length: int, count: int) -> None:
    small = encoder(text.eval())
    assert suffixes.packs(small)
    endings = np.random.default_rng(0).integers(1, WORDS - 2, (count, length))
    endings[:, -1] = WORDS - 1
    begun = [5, 9, 2]
    rows = np.zeros((count, CONTEXT), np.int64)
    rows[:, :3], rows[:, 3 : 3 + length] = begun, endings
    np.testing.assert_allclose(suffixes.embed_endings(small, begun, endings), small.encode_tokens(rows), atol=1e-6)


@pytest.mark.parametrize(
    "text", [transformer(no_causal_mask=True), transformer(embed_cls=True), transformer(pool_type="last")]
)
def test_towers_that_look_ahead_are_not_packed(text: nn.Module) -> None:
    assert not suffixes.packs(encoder(text))


def test_both_decoders_give_the_same_text() -> None:
    content = Path(open_clip.__file__).with_name(FILES["bpe"]).read_bytes()
    ours = BytePairs(content, TextRule(context_length=24, tokenizer="bpe", clean="lower"), "vocabulary")
    theirs = encoder(nn.Identity())
    for ids in ([320], [2368, 4], [49405], [16150, 3217], list(range(0, 40000, 997))):
        assert ours.decode(ids) == theirs.decode(ids)
    assert VOCABULARY == 49408


def test_prediction_of_the_toy() -> None:
    toy = Talker()
    head = zeroshot.head(toy, CLASSES, ["a {}."])
    assert zeroshot.predict(toy.encode_texts(["20 650", "21 7", "22 77"]), head).tolist() == [TARGET, 7, 7]


def test_no_text_is_searched_after_the_time_budget() -> None:
    scene = desk(reference=True)
    scene.stage.loop.deadline = -1.0
    measured, finding = judged(scene)
    assert measured.stopped == "budget" and finding.status is Status.OPEN
    assert finding.message.endswith("not measured against the limit of 30pp: the budget was spent.")
