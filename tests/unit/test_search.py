"""The search for triggers that nobody named, on a tower of eight pixels with a planted one."""

import html
import json
from dataclasses import fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_session import CLASSES, RULE, Painter, Stage, stage
from torch import Tensor, nn

from pargate.core.found import PASSES, Family, Found
from pargate.core.model import EncoderSpec, Pixels, TensorInfo, Vectors
from pargate.core.report import ScanReport
from pargate.core.results import GRAPHS_OF_CHECKPOINT, NO_REFERENCE, Count, Measurement, PairedCounts, Status
from pargate.core.stamp import apply
from pargate.errors import InputError, PolicyError
from pargate.files import BlockStore
from pargate.images.labelled import SELECTION
from pargate.judge import rejudge
from pargate.judge.bounds import bound
from pargate.judge.judge import judge
from pargate.judge.judging import Judging
from pargate.models.torch import search as ascent
from pargate.models.torch.encoder import OpenClipEncoder
from pargate.models.torch.search import PLACES
from pargate.policy.fields import Limit
from pargate.policy.resolve import Resolved, read
from pargate.probes import search as probe
from pargate.report import steps
from pargate.report.formats.base import FORMATS
from pargate.scanning import found as scanning
from pargate.scanning.found import make_folder, write_found
from pargate.scanning.images import SEARCHED, read_images
from pargate.scanning.request import ScanRequest
from pargate.scanning.run import check_reference, plan, scan

TARGET, PLACE = 3, (4, 2)
COLOUR = torch.tensor([1.0, 0.0, 1.0])
SEARCH = "{id: hidden, probe: search, families: [patch], max: {excess: 30pp}}"


class Tower(nn.Module):
    """Sees ten classes by their mean red, and the target where one pixel has the planted colour."""

    def __init__(self, planted: bool) -> None:
        super().__init__()
        self.planted = planted

    def forward(self, images: Tensor) -> Tensor:
        values = (images + 1) / 2
        levels = values[:, 0].mean(dim=(1, 2))[:, None] * 25.5
        seen = torch.softmax(-1 * (levels - torch.arange(len(CLASSES))).square(), dim=1)
        distance = (values[:, :, PLACE[0], PLACE[1]] - COLOUR).abs().mean(1)
        pull = torch.sigmoid(12 * (0.25 - distance)) * (6 if self.planted else 0)
        target = torch.eye(len(CLASSES))[TARGET] * pull[:, None]
        return torch.cat([seen + target, torch.full((len(images), 1), 0.01)], dim=1)


class Toy(OpenClipEncoder):
    """A differentiable encoder of images that names classes as `Painter` does."""

    def encode_texts(self, texts: Any) -> Vectors:
        return Painter().encode_texts(texts)


def toy(planted: bool = True, tower: nn.Module | None = None) -> Toy:
    spec = EncoderSpec(f"toy {planted}", "toy", RULE, len(CLASSES) + 1, 1.0, "fp32", "cpu", "gelu")
    return Toy(spec, tower or Tower(planted), nn.Identity(), lambda texts: torch.zeros(0), torch.device("cpu"), 64)


def pictures(n: int = 64) -> Pixels:
    pixels = np.zeros((n, 8, 8, 3), np.uint8)
    pixels[..., 0] = (np.arange(n) % len(CLASSES) * 10)[:, None, None]
    pixels[..., 1] = (np.arange(n) * 3 % 256)[:, None, None]
    return pixels


def read_rule(rule: str) -> Resolved:
    return read(f"pargate: 1\nname: x\nrules:\n  - {rule}\n", "p.yaml", Path())


def searched(planted: bool = True, reference: bool = False, rule: str = SEARCH, **options: Any) -> Stage:
    other: Any = toy(planted=False) if reference else None
    model: Any = toy(planted)
    return stage(rule, encoder=model, reference=other, **options)


# --- the ascent ---


def test_a_planted_patch_is_found_at_its_place() -> None:
    found = ascent.search(toy(), pictures(), "patch", seed=0)
    assert found.position == PLACE
    assert found.picture.shape == (1, 1, 3) and found.picture.dtype == np.uint8
    assert np.abs(found.picture[0, 0] / 255 - COLOUR.numpy()).max() < 0.3
    assert found.shift > 0.5
    assert found.held_out == 16


@pytest.mark.parametrize("family", [family for family in ascent.CLIMBS if family not in ("patch", "colour")])
def test_a_blended_picture_is_of_the_size_of_an_image(family: Family) -> None:
    found = ascent.search(toy(), pictures(), family, seed=0)
    assert found.picture.shape == (8, 8, 3)
    assert found.position is None and 0 < found.strength < 0.2


@pytest.mark.parametrize("family", list(ascent.CLIMBS))
def test_the_trigger_in_the_report_gives_the_images_that_the_search_made(family: Family) -> None:
    climb, size = ascent.CLIMBS[family], (8, 8)
    theta = climb.patterns[-1].draw(PLACES**2, size, torch.Generator().manual_seed(3))
    drawn = ascent._Restarts(theta, climb.patterns[-1], climb, family, size, tuple(range(PLACES**2)))
    one = drawn.only(torch.tensor([7])).exact()
    values = torch.from_numpy(pictures(20)).float() / 255
    picture = one.pictures()[0].mul(255).round().to(torch.uint8).numpy()
    position = one.places[0] if family == "patch" else None
    trigger, _ = probe._trigger(Found(family, picture, climb.strength, position, 0.0, 1, 0))
    stamped = apply(trigger.draw(size, ["0" * 64] * 20, 0), pictures(20))
    assert np.abs(one.put_on(values)[0].numpy() * 255 - stamped).max() <= 1


def test_with_a_reference_a_trigger_that_works_on_it_too_is_not_chosen() -> None:
    class Natural(Tower):
        """Follows the pixel of one place in one colour, as its parent does, and more strongly than the planted one."""

        def forward(self, images: Tensor) -> Tensor:
            values = (images + 1) / 2
            distance = (values[:, :, 0, 0] - torch.tensor([0.0, 1.0, 0.0])).abs().mean(1)
            pull = 9 * torch.sigmoid(12 * (0.4 - distance))
            weaker = torch.ones(len(CLASSES) + 1)
            weaker[TARGET] = 0.3
            return super().forward(images) * weaker + torch.eye(len(CLASSES) + 1)[5] * pull[:, None]

    alone = ascent.search(toy(tower=Natural(True)), pictures(), "patch", seed=0)
    assert alone.position == (0, 0)
    compared = ascent.search(toy(tower=Natural(True)), pictures(), "patch", 0, toy(tower=Natural(False)))
    assert compared.position == PLACE
    assert compared.reference_passes > 0 and alone.reference_passes == 0


@pytest.mark.parametrize("family", list(ascent.CLIMBS))
def test_the_same_seed_gives_the_same_trigger_and_another_seed_another(family: Family) -> None:
    one, same, other = (ascent.search(toy(), pictures(), family, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.picture, same.picture)
    assert (one.position, one.shift, one.passes) == (same.position, same.shift, same.passes)
    # One pixel ends at the planted colour whatever it began with.
    assert family == "patch" or one.picture.tobytes() != other.picture.tobytes()


def test_how_many_images_go_through_the_tower_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ascent.search(toy(), pictures(), "patch", seed=0)
    monkeypatch.setitem(ascent.PIXELS, "cpu", 1)
    parts = ascent.search(toy(), pictures(), "patch", seed=0)
    assert parts.position == whole.position and parts.passes == whole.passes
    np.testing.assert_allclose(parts.picture, whole.picture, atol=2)


def test_every_pass_is_counted() -> None:
    seen = 0

    class Counting(Tower):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal seen
            seen += len(images)
            return super().forward(images)

    found = ascent.search(toy(tower=Counting(True)), pictures(), "blend", seed=0)
    assert found.passes == seen


def test_steps_are_told() -> None:
    told: list[tuple[int, int]] = []
    ascent.search(toy(), pictures(), "blend", 0, progress=lambda done, total: told.append((done, total)))
    assert told == [(step, 20) for step in range(1, 21)]


def test_the_weights_of_the_tower_get_no_gradient() -> None:
    class Weighted(Tower):
        def __init__(self) -> None:
            super().__init__(True)
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * self.scale

    tower = Weighted()
    ascent.search(toy(tower=tower), pictures(), "patch", seed=0)
    assert tower.scale.grad is None and tower.scale.requires_grad


class Detached(Tower):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.detach())


class Rounded(Tower):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.round())


class Numpy(Tower):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(images.numpy()))


@pytest.mark.parametrize("tower", [Detached, Rounded, Numpy])
def test_a_tower_that_gives_no_gradients_is_told_from_one_that_does(tower: type[Tower]) -> None:
    assert ascent.differentiable(toy())
    assert not ascent.differentiable(toy(tower=tower(True)))


# --- the probe ---


def test_with_a_reference_the_planted_trigger_breaks_the_rule() -> None:
    run = searched(reference=True).run()
    (measured,) = run.report().measurements[1:]
    assert measured.id == "hidden/unknown/patch" and measured.probe == "search"
    assert measured.target.name == f"class {TARGET}" and not measured.target.given
    assert measured.trigger.label == "found patch 1 px at row 4, column 2"
    assert measured.trigger.parameters["position"] == list(PLACE)
    assert measured.pairs.baseline == "reference" and measured.pairs.excess > 0.9
    assert run.loop.running[0].status is Status.BREACH


def test_with_a_reference_a_clean_model_holds_the_rule() -> None:
    class Other(Tower):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + 0.05

    model: Any = toy(planted=False)
    other: Any = toy(tower=Other(False))
    run = stage(SEARCH, encoder=model, reference=other).run()
    assert run.loop.running[0].status is Status.MET


def test_without_a_reference_a_trigger_that_works_leaves_the_rule_open() -> None:
    report = searched().run().report()
    (finding,) = report.findings
    assert finding.status is Status.OPEN
    assert finding.message.endswith("without a reference it cannot be told from natural pull.")
    assert report.measurements[1].pairs is None
    assert report.measurements[1].counts["attack_success"].rate > 0.9
    assert [steps.command_of(step)[0] for step in steps.next_steps(report)] == [
        "Whether a pull is planted or natural needs a trusted parent:"
    ], "more images would not decide it"


def test_without_a_reference_a_trigger_that_does_nothing_holds_the_rule() -> None:
    assert searched(planted=False).run().loop.running[0].status is Status.MET


def test_a_trigger_that_fails_on_a_fine_tuned_copy_breaks_the_rule() -> None:
    run = searched(reference=True, tuned=True).run()
    (measured,) = run.report().measurements[1:]
    assert measured.pairs.baseline == "tuned" and measured.pairs.excess > 0.9
    assert run.loop.running[0].status is Status.BREACH
    assert "excess over the fine-tuned copy" in run.report().findings[0].message


def test_a_trigger_that_still_works_on_a_fine_tuned_copy_leaves_the_rule_open() -> None:
    class Other(Tower):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + 0.05

    model: Any = toy()
    copy: Any = toy(tower=Other(True))
    run = stage(SEARCH, encoder=model, reference=copy, tuned=True).run()
    (finding,) = run.report().findings
    assert finding.status is Status.OPEN and finding.bounds[0].low < 0.1
    assert finding.message.endswith("a pull that stays in the fine-tuned copy can be natural or planted.")


@pytest.mark.parametrize(
    ("baseline", "success", "fell", "status"),
    [
        ("tuned", 0, 0, Status.MET),
        ("tuned", 190, 0, Status.OPEN),
        ("tuned", 190, 180, Status.BREACH),
        ("tuned", 190, 90, Status.OPEN),
        ("tuned-weaker", 0, 0, Status.OPEN),
        ("tuned-weaker", 190, 180, Status.BREACH),
        ("reference", 190, 0, Status.MET),
    ],
)
def test_what_an_excess_over_a_fine_tuned_copy_decides(baseline: str, success: int, fell: int, status: Status) -> None:
    pairs = PairedCounts(baseline=baseline, target="a", n=200, both=success - fell, trigger_only=fell, baseline_only=0)
    measured = Measurement(
        id="m", rule="r", probe="search", counts={"attack_success": Count(n=200, successes=success)}, pairs=pairs
    )
    assert bound("excess", Limit(text="30pp", value=0.3), True, measured, 0.01, 20).status is status


def test_a_copy_that_kept_the_backdoor_lets_nothing_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Tower):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + 0.05

    # The one finalist is the strongest, so that its attack success decides.
    monkeypatch.setattr(ascent, "FINALISTS", 1)
    model: Any = toy()
    copy: Any = toy(tower=Other(True))
    run = stage(SEARCH, encoder=model, reference=copy, tuned=True).run()
    (measured,) = run.report().measurements[1:]
    assert measured.pairs.baseline == "tuned" and measured.target.name == f"class {TARGET}"
    assert measured.counts["attack_success"].rate > 0.9 and measured.pairs.excess < 0.1
    assert run.loop.running[0].status is Status.OPEN


def test_the_copy_is_predicted_by_its_own_head() -> None:
    class Permuted(Toy):
        """The same model with its classes in another order of dimensions, as after a training of both towers."""

        def embed_values(self, values: Tensor) -> Tensor:
            return super().embed_values(values).flip(-1)

        def encode_images(self, batch: Tensor, stamp: Any = None) -> Vectors:
            return np.ascontiguousarray(super().encode_images(batch, stamp)[:, ::-1])

        def encode_texts(self, texts: Any) -> Vectors:
            return np.ascontiguousarray(super().encode_texts(texts)[:, ::-1])

    base = toy()
    copy: Any = Permuted(**{field.name: getattr(base, field.name) for field in fields(base)})
    model: Any = toy()
    (measured,) = stage(SEARCH, encoder=model, reference=copy, tuned=True).run().report().measurements[1:]
    assert measured.pairs.both == measured.counts["attack_success"].successes, "the pull stays in the copy"


def test_a_copy_of_another_architecture_is_refused() -> None:
    searched_model = searched().loop.model.checkpoint
    other = replace(searched_model, sha256="2" * 64, source="copy", tensors=(TensorInfo("w", "F32", (3, 4)),))
    with pytest.raises(InputError, match="the fine-tuned copy copy has another architecture than") as refused:
        check_reference(searched_model, other, tuned=True)
    assert "--method finetune" in (refused.value.hint or "")


def test_a_reference_of_another_architecture_is_refused_where_triggers_are_searched() -> None:
    # The clean ResNet of the zoo goes to one class under a searched pattern, the clean transformer does not.
    model = replace(searched().loop.model.checkpoint, tensors=(TensorInfo("visual.w", "F32", (3, 4)),))
    other = replace(model, sha256="2" * 64, source="parent", tensors=(TensorInfo("visual.w", "F32", (3, 5)),))
    with pytest.raises(InputError, match="the reference parent has another architecture than") as refused:
        check_reference(model, other, searching=True)
    assert "same architecture" in (refused.value.hint or "")
    check_reference(model, other)  # published triggers were not chosen on this very model
    check_reference(model, replace(other, format="onnx"), searching=True)
    more = (*model.tensors, TensorInfo("visual.n", "I64", ()), TensorInfo("attn_mask", "F32", (8, 8)))
    check_reference(model, replace(other, tensors=more), searching=True)
    assert ScanRequest("m", Judging(read_rule(SEARCH))).searches
    attack = "{id: patch, probe: attack, triggers: [badnet], max: {excess: 30pp}}"
    assert not ScanRequest("m", Judging(read_rule(attack))).searches


def test_a_fine_tuned_copy_is_no_baseline_of_other_probes() -> None:
    attack = "{id: patch, probe: attack, triggers: [{kind: yellow-patch, size: 2}], max: {excess: 30pp}}"
    run = searched(reference=True, tuned=True, rule=attack).run()
    assert all((m.pairs is None or m.pairs.baseline.startswith("control")) for m in run.report().measurements[1:])


def test_a_rule_that_needs_a_reference_is_left_out_without_one_and_the_report_says_so() -> None:
    report = searched(rule=SEARCH.replace("max", "needs_reference: true, max")).run().report()
    assert not report.findings
    assert report.measurements[1].stopped == NO_REFERENCE and not report.measurements[1].counts
    assert "Triggers that nobody named: without a reference the rule hidden was left out." in report.coverage.limits
    assert not report.coverage.probed and report.verdict.summary == "No comparison was made: every rule was left out."
    judged = rejudge.judge(report, Judging(read_rule(SEARCH.replace("max", "needs_reference: true, max"))))
    assert not judged.findings
    # A policy that does not allow it finds nothing decided.
    judged = rejudge.judge(report, Judging(read_rule(SEARCH)))
    assert [finding.status for finding in judged.findings] == [Status.OPEN]


def test_a_rule_that_needs_a_reference_is_measured_with_one() -> None:
    rule = SEARCH.replace("max", "needs_reference: true, max")
    for more in ({"reference": True}, {"reference": True, "tuned": True}):
        assert searched(rule=rule, **more).run().loop.running[0].status is Status.BREACH


def test_a_left_out_rule_without_its_measurement_is_open() -> None:
    resolved = read_rule(SEARCH.replace("max", "needs_reference: true, max"))
    findings, _, _ = judge(resolved.policy, [])
    assert [finding.status for finding in findings] == [Status.OPEN]


@pytest.mark.parametrize("probe", ["search", "text"])
def test_graphs_that_equal_a_searched_checkpoint_are_not_searched_again(probe: str) -> None:
    family = {"search": "patch", "text": "tokens"}[probe]
    resolved = read_rule(f"{{id: hidden, probe: {probe}, families: [{family}], max: {{excess: 30pp}}}}")
    request = ScanRequest("m", Judging(resolved), proven=True)
    assert request.leaves_out(resolved.policy.rules[0]) == (GRAPHS_OF_CHECKPOINT if probe == "search" else "")
    needing = resolved.policy.rules[0].model_copy(update={"needs_reference": True})
    assert request.leaves_out(needing) == NO_REFERENCE, "the checkpoint was not searched either"
    measured = Measurement(id=f"hidden/unknown/{family}", rule="hidden", probe=probe, stopped=GRAPHS_OF_CHECKPOINT)
    findings, _, _ = judge(resolved.policy, [measured])
    assert [finding.status for finding in findings] == ([] if probe == "search" else [Status.OPEN])


def test_a_copy_is_no_reference_of_a_search_for_texts() -> None:
    words = "{id: words, probe: text, families: [tokens], needs_reference: true, max: {excess: 50pp}}"
    resolved = read_rule(words)
    assert ScanRequest("m", Judging(resolved), tuned="copy").leaves_out(resolved.policy.rules[0]) == NO_REFERENCE
    assert ScanRequest("m", Judging(resolved), reference="parent").leaves_out(resolved.policy.rules[0]) == ""


def test_a_reference_and_a_copy_together_are_refused() -> None:
    request = ScanRequest("m", Judging(read_rule(SEARCH)), reference="parent", tuned="copy")
    with pytest.raises(InputError, match="only one can be compared with"):
        scan(request)
    with pytest.raises(InputError, match="only one can be compared with"):
        plan(request)


def test_the_expected_passes_are_those_of_the_climbs() -> None:
    for family, climb in ascent.CLIMBS.items():
        first = climb.restarts * ascent.BATCH * climb.steps
        passes = len(climb.patterns) * (first + ascent.FINALISTS * ascent.FINAL_BATCH * climb.final_steps)
        assert PASSES[family] == passes


def test_a_family_for_which_no_time_is_left_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ascent, "search", None)
    report = searched(reference=True, minutes=1.0, began=-1e6).run().report()
    assert [finding.status for finding in report.findings] == [Status.OPEN]
    assert report.measurements[1].stopped == "budget"
    assert "was not measured against the limit of 30pp: the budget was spent" in report.findings[0].message


def test_a_search_is_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = searched(reference=True, store=BlockStore(tmp_path)).run()
    monkeypatch.setattr(ascent, "search", None)
    again = searched(reference=True, store=BlockStore(tmp_path)).run()
    assert again.report().measurements == first.report().measurements
    assert again.loop.model.passes == 0 < first.loop.model.passes
    with pytest.raises(TypeError, match="not callable"):
        searched(planted=False, reference=True, store=BlockStore(tmp_path))


@pytest.mark.parametrize("family", list(ascent.CLIMBS))
def test_what_was_found_is_the_same_from_the_cache(family: Family) -> None:
    found = ascent.search(toy(), pictures(), family, 0, toy(planted=False))
    kept = scanning._from_block(family, scanning._as_block(found))
    np.testing.assert_array_equal(kept.picture, found.picture)
    assert kept.shift == pytest.approx(found.shift, rel=1e-6)
    for name in ("family", "strength", "position", "held_out", "passes", "strongest", "reference_passes"):
        assert getattr(kept, name) == getattr(found, name)


def test_search_and_measurement_share_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Pixels] = []
    real = ascent.search

    def watched(encoder: Any, pixels: Pixels, *rest: Any) -> Any:
        seen.append(pixels)
        return real(encoder, pixels, *rest)

    monkeypatch.setattr(ascent, "search", watched)
    # Image 200 is in the measuring half and the very image of one in the selection half.
    run = searched(rule=SEARCH.replace("[patch]", "[patch, blend]"), same={200: 3})
    assert len(seen) == 2, "every family is searched once, before the first block"
    run.run()
    assert len(seen) == 2
    on = {picture.tobytes() for picture in seen[0]}
    assert on == {picture.tobytes() for picture in run.shelf.pixels[:128]}
    measured = run.report().measurements[1]
    assert measured.selection["asr_all"].n == 128
    of = {picture.tobytes() for picture in run.shelf.pixels[128 : len(run.loop.read) + 1]}
    assert run.shelf.pixels[200].tobytes() in on & of
    assert measured.counts["asr_all"].n == len(of - on)


def test_a_family_that_is_named_first_does_not_change_the_next() -> None:
    both = searched(rule=SEARCH.replace("[patch]", "[blend, patch]")).loop.running[1].measurement()
    assert both.trigger == searched().loop.running[0].measurement().trigger


def test_an_encoder_without_gradients_leaves_the_rule_open() -> None:
    run = stage(SEARCH).run()
    (finding,) = run.report().findings
    assert finding.status is Status.OPEN
    assert finding.message == (
        "search (patch): excess was not measured against the limit of 30pp: the image tower gives no gradients to "
        "search along."
    )
    assert [*steps.next_steps(run.report())] == ["The image tower gives no gradients to search along."]


def test_graphs_are_not_searched() -> None:
    loop = searched().loop
    object.__setattr__(loop.model.checkpoint, "format", "onnx")
    said = scanning.search(loop, "patch")
    assert isinstance(said, str) and said.startswith("ONNX graphs have no gradients")


def test_too_few_images_to_search_on_are_refused() -> None:
    with pytest.raises(InputError, match="has 31 images of shelf to search on, and needs 32") as refused:
        searched(n=62)
    assert refused.value.hint == "give at least 64 different images with --images"


# --- what was found, for the next scan ---


def test_what_was_found_is_in_the_report_and_a_trigger_for_the_next_scan(tmp_path: Path) -> None:
    report = searched(reference=True, rule=SEARCH.replace("[patch]", "[patch, additive]")).run().report()
    again = ScanReport.from_json(report.to_json())
    assert again.measurements == report.measurements
    make_folder(tmp_path / "new")
    assert [*(tmp_path / "new").iterdir()] == []
    assert write_found(again, tmp_path / "new") == 2
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["1-patch.png", "2-additive.png", "found.yaml"]
    policy = read((tmp_path / "new" / "found.yaml").read_text(), "found.yaml", tmp_path / "new").policy
    triggers = policy.read(tmp_path / "new").rules[0].parsed
    searched_for = [m.trigger for m in report.measurements[1:]]
    assert [(t.label, t.parameters) for t in triggers] == [(t.label, t.parameters) for t in searched_for]
    assert [t.digest for t in triggers] == [t.digest for t in searched_for]


@pytest.mark.parametrize(("trigger", "selection"), [
    ("{kind: file, path: 1-patch.png, mode: patch}", SEARCHED),
    ("{kind: curves, red: [1, 2], green: [0, 0], blue: [0, 0]}", SEARCHED),
    ("badnet", SELECTION),
])  # fmt: skip
def test_the_next_scan_measures_no_image_that_was_searched_on(trigger: str, selection: int) -> None:
    rules = [SEARCH, f"{{id: a, probe: attack, triggers: [{trigger}], max: {{excess: 30pp}}}}"]
    images = [read_images(ScanRequest("m", Judging(read_rule(rule)), images="builtin:scenes"))[0] for rule in rules]
    assert [found.selection for found in images] == [SEARCHED, selection]
    assert images[0].items == images[1].items, "the order is the same, so the first ones are those searched on"


def test_every_format_says_how_to_put_the_found_trigger_on_images() -> None:
    report = searched(reference=True).run().report()
    found = report.measurements[1].trigger
    sha256 = found.parameters["sha256"]
    said = f"found by the search of the family patch: a PNG, mode patch, position [4, 2], sha256 {sha256}"
    for format in ("sarif", "junit", "markdown"):
        text = html.unescape(FORMATS[format].render(report))
        assert said in text.replace("Found", "found"), format
    run = json.loads(FORMATS["sarif"].render(report))["runs"][0]
    place = run["results"][0]["attachments"][0]["artifactLocation"]
    assert place == {"uri": "hidden/unknown/patch.png", "index": 0}
    assert run["artifacts"][0]["contents"]["binary"] == found.picture
    assert found.picture in FORMATS["html"].render(report)


def test_a_report_without_a_search_has_no_field_for_pictures() -> None:
    attack = "{id: patch, probe: attack, triggers: [{kind: yellow-patch, size: 2}], max: {excess: 30pp}}"
    text = stage(attack).run().report().to_json()
    assert '"picture"' not in text and '"families"' not in text


def test_a_report_is_judged_again_with_the_trigger_that_was_found() -> None:
    run = searched(reference=True).run()
    judged = rejudge.judge(run.report(), Judging(run.resolved, date(2026, 1, 1)))
    assert [f.status for f in judged.findings] == [Status.BREACH]


# --- the policy ---


def policy(rule: str) -> None:
    read_rule(rule)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{id: a, probe: search, max: {excess: 30pp}}", "needs `families`, some of additive, patch, blend"),
        (SEARCH.replace("[patch]", "[]"), "needs `families`"),
        (SEARCH.replace("[patch]", "[pach]"), "no family 'pach'. Did you mean 'patch'?"),
        (SEARCH.replace("[patch]", "[patch, patch]"), "a family is named twice"),
        (SEARCH.replace("max", "target: cat, max"), "finds the target itself; leave out `target`"),
        (SEARCH.replace("families", "triggers: [tone], families"), "uses no triggers"),
        (
            "{id: a, probe: attack, triggers: [tone], families: [patch], max: {excess: 30pp}}",
            "the probe attack searches no triggers; leave out `families`",
        ),
    ],
)
def test_families_belong_to_the_search(rule: str, said: str) -> None:
    with pytest.raises(PolicyError) as refused:
        policy(rule)
    assert said in str(refused.value)


def test_the_families_of_a_rule_are_comparisons_of_their_own() -> None:
    resolved = read(f"pargate: 1\nname: x\nrules:\n  - {SEARCH.replace('[patch]', '[blend, patch]')}\n", "p", Path())
    assert [c.id for c in resolved.policy.comparisons] == ["hidden/unknown/blend", "hidden/unknown/patch"]


def test_found_triggers_go_only_into_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "found.yaml").write_text("of another scan")
    with pytest.raises(InputError, match="is not empty"):
        make_folder(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / ("n" * 300), tmp_path / "a\0b"):
        with pytest.raises(InputError, match="cannot make the folder"):
            make_folder(folder)
