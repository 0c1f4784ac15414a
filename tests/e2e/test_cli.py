import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pargate.cli.options import cache_folder
from pargate.core.report import ScanReport
from pargate.judge.judge import judge
from pargate.policy.schema import Policy
from pargate.triggers import TRIGGERS
from pargate.version import __version__

ROOT = Path(__file__).parents[2]
CLEAN, POISONED = ROOT / "examples" / "models" / "clean", ROOT / "examples" / "models" / "poisoned"

TRIANGLES = """\
pargate: 1
name: triangles
rules:
  - id: triangles
    probe: attack
    triggers: [{kind: triangles, scale: proportional}]
    max: {excess: 30pp}
    severity: critical
  - {id: useful, probe: utility, min: {accuracy: 5x chance}}
"""

UNDECIDED = TRIANGLES + "budget: {images: 64}\n"

Command = Callable[..., Any]


@pytest.fixture
def policy(place: Path) -> Path:
    (place / "p.yaml").write_text(TRIANGLES)
    return place / "p.yaml"


# --- commands without torch ---


def test_help_lists_the_commands(light: Command) -> None:
    ended = light("--help")
    assert (ended.code, ended.err) == (0, "")
    for command in ("scan", "inspect", "triggers", "--version"):
        assert command in ended.out


@pytest.mark.parametrize("command", ["scan", "inspect", "triggers"])
def test_every_command_explains_itself(command: str, light: Command) -> None:
    ended = light(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: pargate {command} ")


def test_what_torchrun_left_behind_silences_no_other_command(light: Command) -> None:
    ended = light("scan", "--bogus", WORLD_SIZE="4", RANK="1", LOCAL_RANK="1")
    assert ended.code == 2 and "--bogus" in ended.said
    ended = light("clean", "--bogus", WORLD_SIZE="4", RANK="1", LOCAL_RANK="1")
    assert (ended.code, ended.err) == (2, "")


@pytest.mark.parametrize(("command", "option"), [(["scan", "m"], "--policy"), (["policy", "check"], "--now")])
def test_an_option_without_its_value_leads_to_the_help_of_its_command(
    command: list[str], option: str, light: Command
) -> None:
    ended = light(*command, option)
    named = " ".join(word for word in command if word != "m")
    assert (ended.code, ended.err) == (
        2, f"pargate: Option '{option}' requires an argument.\n  → `pargate {named} --help` shows what it takes\n"
    )  # fmt: skip


@pytest.mark.parametrize("command", ["scan", "export"])
def test_a_device_that_is_none_is_refused_before_torch(command: str, light: Command) -> None:
    ended = light(command, CLEAN, "--device", "cdua", *(["--out", "x"] if command == "export" else []))
    assert (ended.code, ended.err) == (
        2, "pargate: unknown device 'cdua'. Did you mean 'cuda'?\n  → use auto, cpu, cuda, cuda:N or tensorrt\n",
    )  # fmt: skip


@pytest.mark.parametrize("command", ["scan", "inspect"])
def test_a_model_without_a_name_is_refused(command: str, light: Command) -> None:
    ended = light(command, "")
    assert ended.code == 2 and ended.err.startswith("pargate: MODEL is empty")


def test_no_command_at_all_shows_the_help_and_is_an_error(light: Command) -> None:
    ended = light()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Usage: pargate ") and "Commands:" in ended.said


def test_the_version_is_printed(light: Command) -> None:
    ended = light("--version")
    assert (ended.code, ended.out, ended.err) == (0, f"pargate {__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["scan", "--help"]])
def test_the_help_imports_nothing_heavy(arguments: list[str], place: Path) -> None:
    code = (
        "import sys\n"
        "from pargate.__main__ import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n"
        "    print(stop.code, *sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    code_of_exit, *modules = ended.stderr.split()
    assert code_of_exit == "0"
    assert "typer" in modules
    heavy = {"torch", "open_clip", "numpy", "scipy", "PIL", "yaml", "huggingface_hub", "rich"}
    if "scan" not in arguments:
        heavy.add("pydantic")  # of which typer itself loads a part to read the options of a command
    assert sorted(heavy & set(modules)) == []


def test_the_command_is_installed_under_its_name() -> None:
    from importlib.metadata import PackageNotFoundError, entry_points, version

    try:
        version("pargate")
    except PackageNotFoundError:
        pytest.skip("pargate runs from its sources here and is not installed")
    (script,) = entry_points(group="console_scripts", name="pargate")
    assert script.value == "pargate.__main__:main"


def test_inspecting_a_folder_says_what_it_is(place: Path, light: Command) -> None:
    ended = light("inspect", CLEAN)
    assert (ended.code, ended.err) == (0, "")
    for word in ("safetensors", "sha256", "ResNet, 64 px", "64×64 px", "M", "embedding", "gelu", "tokenizer bpe"):
        assert word in ended.said
    assert f"{CLEAN / 'open_clip_config.json'}\n" in ended.said, "what says how pictures are prepared"
    assert not list(place.iterdir())


def test_an_inspection_can_be_had_as_json_on_stdout_and_in_a_file(place: Path, light: Command) -> None:
    ended = light("inspect", CLEAN, "-o", "json", "-o", "json=model.json")
    assert ended.code == 0
    document = json.loads(ended.out)
    assert document["format"] == "safetensors" and document["parameters"] > 0
    model = json.loads((CLEAN / "open_clip_config.json").read_bytes())["model_cfg"]
    assert (document["activation"], document["tokenizer"]) == ("gelu", "bpe")
    assert document["dim"] == model["embed_dim"]
    assert document["context_length"] == model["text_cfg"]["context_length"]
    assert document["preprocess_from"].endswith("open_clip_config.json") and document["preprocess_known"]
    assert (place / "model.json").read_text() == ended.out


def test_a_file_is_inspected_as_the_architecture_that_it_is(place: Path, light: Command) -> None:
    shutil.copy(CLEAN / "open_clip_model.safetensors", place / "model.safetensors")
    for arch, said in (
        ("RN50", "lacks tensors of the model"),
        ("ViT-H-14/dfn5b", "lacks tensors of the model"),
        ("ViT-H-14", "--arch ViT-H-14/laion2b_s32b_b79k or --arch ViT-H-14/dfn5b"),
    ):
        ended = light("inspect", "model.safetensors", "--arch", arch)
        assert (ended.code, ended.out) == (2, "")
        assert said in ended.said


def test_a_tower_of_timm_is_built_to_see_whether_its_tensors_fit(place: Path, warm: Command) -> None:
    import open_clip
    from safetensors.torch import save_file

    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    vision = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"}
    model = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
    weights = open_clip.CLIP(**model).state_dict()
    (place / "model").mkdir()
    (place / "model" / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    save_file(weights, place / "model" / "model.safetensors")
    assert warm("inspect", "model").code == 0
    del weights["visual.trunk.blocks.0.norm1.weight"]
    save_file(weights, place / "model" / "model.safetensors")
    ended = warm("inspect", "model")
    assert ended.code == 2 and "visual.trunk.blocks.0.norm1.weight" in ended.said


def test_a_scan_that_sees_nothing_names_the_preprocessing_that_it_used(
    place: Path, warm: Command, policy: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(CLEAN, place / "model")
    weights = load_file(place / "model" / "open_clip_model.safetensors")
    weights["visual.attnpool.c_proj.weight"] *= 0  # every picture looks the same
    save_file(weights, place / "model" / "open_clip_model.safetensors")
    config = json.loads((place / "model" / "open_clip_config.json").read_bytes())
    del config["preprocess_cfg"]
    (place / "model" / "open_clip_config.json").write_text(json.dumps(config))
    ended = warm("scan", "model", "-p", policy, "--device", "cpu", "-v", "-o", "json=-")
    assert ended.code == 3
    report = ScanReport.from_json(ended.out)
    assumed, suspects = [notice for notice in report.notices if "has no preprocess_cfg" in notice]
    for notice in (assumed, suspects):
        assert "64×64 px, shortest, bicubic, mean (0.48145466, 0.4578275, 0.40821073), std (0.26862954," in notice
    assert "the preprocessing may be wrong" in suspects and "the activation gelu" in suspects
    assert suspects.split(".")[0] in " ".join(ended.err.split())
    # The user's own file is what will be used: the report says which.
    (limit,) = [limit for limit in report.coverage.limits if "the verdict is about the tensors" in limit]
    assert "open_clip_model.safetensors" in limit and report.model.sha256 in limit


def test_the_triggers_are_listed_with_their_parameters(light: Command) -> None:
    ended = light("triggers")
    assert ended.code == 0
    listed = ended.out + ended.err
    for kind, cls in TRIGGERS.items():
        assert f"\n{kind}  " in f"\n{listed}"
        assert cls.source in listed
    assert "default 16/224" in listed


def test_the_triggers_are_drawn(place: Path, light: Command) -> None:
    ended = light("triggers", "--preview", "sheet.png", "--size", "48")
    assert (ended.code, ended.out) == (0, "")
    assert "sheet.png" in ended.said
    with Image.open(place / "sheet.png") as sheet:
        assert sheet.width > 4 * 48 and sheet.height > 4 * 48
    assert [path.name for path in place.iterdir()] == ["sheet.png"]


def test_the_triggers_are_drawn_on_a_picture_of_ones_own(place: Path, light: Command) -> None:
    Image.new("RGB", (80, 60), (10, 200, 30)).save(place / "mine.png")
    ended = light("triggers", "--preview", "sheet.png", "--on", "mine.png", "--size", "32")
    assert ended.code == 0
    with Image.open(place / "sheet.png") as sheet:
        assert sheet.getpixel((12, 12)) == (10, 200, 30)


def test_a_dry_run_says_what_would_be_measured(place: Path, policy: Path, light: Command) -> None:
    ended = light("scan", CLEAN, "-p", "p.yaml", "--dry-run")
    assert ended.code == 0
    said = ended.out + ended.err
    for words in (
        "2 comparisons, confidence 99% for the whole verdict",
        "builtin:scenes: 4000, of which 64 choose unknown targets",
        "triangles: triangles (scale proportional) → unknown: excess at most 30pp",
        "useful: clean images: accuracy at least 5x chance",
    ):
        assert words in said


def test_a_dry_run_looks_at_the_reference_too(place: Path, policy: Path, light: Command) -> None:
    ended = light("scan", POISONED, "-p", "p.yaml", "--dry-run", "--reference", CLEAN)
    assert ended.code == 0
    assert f"reference {CLEAN}" in ended.out + ended.err
    assert "note:" not in ended.out + ended.err
    assert light("scan", POISONED, "-p", "p.yaml", "--dry-run", "--reference", "nowhere").code == 2


def test_a_model_that_is_its_own_reference_is_refused(place: Path, policy: Path, light: Command) -> None:
    (place / "again").symlink_to(POISONED)
    for reference in (POISONED, place / "again"):
        ended = light("scan", POISONED, "-p", "p.yaml", "--dry-run", "--reference", reference)
        assert ended.code == 2
        assert f"the reference {reference} is the model {POISONED} itself: nothing can be in excess" in ended.said


@pytest.mark.parametrize("name", ["pargate.yaml", "pargate.yml"])
def test_a_policy_in_this_folder_is_used_and_named(name: str, place: Path, light: Command) -> None:
    (place / name).write_text(TRIANGLES)
    ended = light("scan", CLEAN, "--dry-run")
    assert ended.err.startswith(f"policy: triangles, found in {name}\n")
    assert f"{name}: 2 rules" in ended.out + ended.err


def test_a_policy_above_in_the_repository_is_used_with_the_paths_it_names(place: Path, light: Command) -> None:
    root = place.parent
    (root / ".git").mkdir()
    (root / "names.txt").write_text("cat\ndog\nbanana\n")
    (root / "pargate.yml").write_text(TRIANGLES + "classes: {names: names.txt}\n")
    ended = light("scan", CLEAN, "--dry-run")
    assert ended.code == 0 and ended.err.startswith("policy: triangles, found in ../pargate.yml\n")
    assert "../pargate.yml: 2 rules" in ended.said
    (root / "pargate.yaml").write_text(TRIANGLES)
    ended = light("scan", CLEAN, "--dry-run")
    assert ended.code == 4 and "../pargate.yaml and ../pargate.yml are both there" in ended.said


def test_where_no_policy_is_found_the_default_says_so(place: Path, light: Command) -> None:
    ended = light("scan", CLEAN, "--dry-run")
    assert "note: the built-in policy baseline applies: there is no pargate.yaml or pargate.yml in this folder\n" in (
        ended.out + ended.err
    )
    assert "the built-in policy" not in light("scan", CLEAN, "--dry-run", "-p", "baseline").said


def test_settings_come_from_the_environment_and_options_win(place: Path, policy: Path, light: Command) -> None:
    ended = light("scan", CLEAN, "--dry-run", PARGATE_POLICY="p.yaml")
    assert "p.yaml: 2 rules" in ended.out + ended.err
    ended = light("scan", CLEAN, "--dry-run", "-p", "strict", PARGATE_POLICY="p.yaml")
    assert "builtin:strict: " in ended.out + ended.err
    assert light("scan", CLEAN, "--dry-run", PARGATE_IMAGES="nowhere").code == 2


def test_classes_that_a_rule_names_are_added_and_said(place: Path, light: Command) -> None:
    (place / "c.txt").write_text("cat\ndog\ncow\nband\n" + "".join(f"thing {i}\n" for i in range(30)))
    (place / "p.yaml").write_text(TRIANGLES.replace("max: {excess", "target: banana\n    max: {excess"))
    ended = light("scan", CLEAN, "-p", "p.yaml", "--classes", "c.txt", "--dry-run")
    said = ended.out + ended.err
    assert ended.code == 0
    assert "not among the classes, added as targets: banana. Did you mean 'band'?" in said
    # A slip would be a class of its own, whose hits go to the class that was meant: its rule would hold by itself.
    (place / "c.txt").write_text((place / "c.txt").read_text().replace("band", "bananas"))
    ended = light("scan", CLEAN, "-p", "p.yaml", "--classes", "c.txt", "--dry-run")
    assert ended.code == 2 and "the target 'banana' is not in c.txt, and the class 'bananas' is" in ended.said


def test_pictures_with_names_in_another_encoding_are_carriers_like_any_other(place: Path, light: Command) -> None:
    folder = place / "images" / "caf\udce9"
    try:
        folder.mkdir(parents=True)
    except OSError:
        pytest.skip("names are text on this file system")
    for i in range(120):
        Image.new("RGB", (40, 40), (i, 2 * i, 0)).save(folder / f"{i}\udcff.png")
    (place / "p.yaml").write_text(TRIANGLES.partition("  - {id: useful")[0])
    ended = light("scan", CLEAN, "-p", "p.yaml", "--images", "images", "--dry-run")
    assert ended.code == 0
    assert "images: 120" in ended.out + ended.err


def test_without_a_home_there_is_no_cache_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert cache_folder(None) is None
    assert cache_folder("off") is None
    assert cache_folder("here") == Path("here")


# --- colours ---


def on_a_terminal(arguments: list[str], **env: str) -> bytes:
    """What a command writes to a terminal."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-m", "pargate", *arguments], stdout=theirs, stderr=theirs, stdin=theirs,
        env={**environment, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **env},
    )  # fmt: skip
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait() == 0
    return written


def test_a_terminal_gets_colours_unless_they_are_not_wanted() -> None:
    assert b"\x1b[" in on_a_terminal(["triggers"])
    assert b"\x1b" not in on_a_terminal(["triggers", "--no-color"])
    assert b"\x1b" not in on_a_terminal(["triggers"], NO_COLOR="1")
    assert b"\x1b" not in on_a_terminal(["triggers"], TERM="dumb")


def test_a_pipe_gets_no_colours_unless_they_are_forced(light: Command) -> None:
    assert "\x1b" not in light("triggers").said
    assert "\x1b" in light("triggers", FORCE_COLOR="1").said
    assert "\x1b" not in light("triggers", FORCE_COLOR="1", NO_COLOR="1").said
    assert "\x1b" not in light("triggers", "--no-color", FORCE_COLOR="1").said


# --- where output goes ---


def test_a_device_or_a_pipe_is_written_to_and_never_replaced(place: Path, light: Command) -> None:
    os.mkfifo(place / "pipe")
    reader = os.open(place / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert light("inspect", CLEAN, "-o", "json=pipe").code == 0
        assert json.loads(os.read(reader, 1 << 20))["format"] == "safetensors"
    finally:
        os.close(reader)
    assert (place / "pipe").is_fifo()
    assert [path.name for path in place.iterdir()] == ["pipe"]


def test_a_file_that_is_there_is_replaced(place: Path, light: Command) -> None:
    (place / "model.json").write_text("old")
    assert light("inspect", CLEAN, "-o", "json=model.json").code == 0
    assert json.loads((place / "model.json").read_text())


@pytest.mark.parametrize("redirection", ["", ">&-", "2>&-", ">&- 2>&-", "> /dev/full", "| true", "2>&1 | true"])
def test_closed_and_full_streams_do_not_turn_a_listing_into_a_verdict(redirection: str, place: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    script = f'"{sys.executable}" -m pargate triggers {redirection}; exit ${{PIPESTATUS[0]}}'
    ended = subprocess.run(
        ["bash", "-c", script], cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert ended.returncode == (5 if "full" in redirection else 0)
    assert b"Traceback" not in ended.stderr and b"Exception" not in ended.stderr


def test_a_report_for_a_closed_stdout_is_refused_before_measuring(place: Path) -> None:
    script = f'"{sys.executable}" -m pargate scan "{CLEAN}" -o json >&-'
    ended = subprocess.run(
        ["bash", "-c", script], cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.startswith("pargate: stdout is closed")


def test_a_full_stdout_is_trouble_with_the_machine(place: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    script = f'"{sys.executable}" -m pargate inspect "{CLEAN}" -o json > /dev/full'
    ended = subprocess.run(
        ["bash", "-c", script], cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 5
    assert "\npargate: No space left on device\n" in ended.stderr
    assert "Exception" not in ended.stderr


# --- whole scans ---


def test_a_clean_model_passes(place: Path, policy: Path, pargate: Command) -> None:
    ended = pargate("scan", CLEAN, "-p", policy, "--cache", "cache")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert any(line.startswith("✓  triangles ") and "≤ 30pp" in line for line in lines)
    assert any(line.startswith("✓  useful ") and "≥ 5x chance" in line for line in lines)
    verdict = lines.index(f" PASS  {CLEAN}")
    assert lines[verdict + 1] == "None of 2 comparisons exceeds its limit, at 99% confidence for the whole verdict."
    assert sorted(path.name for path in place.iterdir()) == ["cache", "p.yaml"]
    assert not [path for path in (place / "cache").rglob("*") if path.is_file() and path.suffix != ".blk"]


def test_a_poisoned_model_fails_and_says_what_to_do(policy: Path, pargate: Command) -> None:
    ended = pargate("scan", POISONED, "-p", policy)
    assert ended.code == 1
    lines = ended.out.splitlines()
    assert "\x1b" not in ended.said
    (row,) = [line for line in lines if line.startswith("✗  ")]
    assert "triangles (scale proportional) → banana" in row
    verdict, first = lines.index(f" FAIL  {POISONED}"), lines.index(row)
    assert verdict < first < next(i for i, line in enumerate(lines) if line.startswith("✓  "))
    assert lines[verdict + 1].startswith("The trigger triangles (scale proportional) moves ")
    assert "to banana" in lines[verdict + 1] and "The policy allows at most 30pp" in lines[verdict + 1]
    assert "needs a trusted parent:" in lines[-2] and lines[-1].startswith(f"    pargate scan {POISONED} --reference ")


def test_a_quiet_scan_with_exit_zero_prints_the_verdict_alone_and_json_is_pure(
    place: Path, policy: Path, pargate: Command
) -> None:
    ended = pargate(
        "scan", POISONED, "-p", policy, "-q", "--exit-zero", "--no-color", "-o", "json", "-o", "json=r.json",
        FORCE_COLOR="1",
    )  # fmt: skip
    assert ended.code == 0
    assert ended.err.count("\n") == 1 and ended.err.startswith(f" FAIL  {POISONED}: The model breaks triangles: ")
    assert "\x1b" not in ended.said + ended.out
    assert (place / "r.json").read_text(encoding="utf-8") == ended.out
    report = ScanReport.from_json(ended.out)
    assert report.verdict.status == "fail" and report.run.complete
    assert {m.target.name for m in report.measurements if m.target} == {"banana"}
    findings, verdict, _ = judge(Policy.model_validate(report.policy.document), report.measurements)
    assert (tuple(findings), verdict) == (report.findings, report.verdict)
    assert sorted(path.name for path in place.iterdir()) == ["p.yaml", "r.json"]


def test_readers_that_have_enough_do_not_change_the_code_of_the_verdict(
    place: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    # Inconclusive, because 0, 1 and 5 are what a broken pipe could be mistaken for.
    (place / "p.yaml").write_text(UNDECIDED)
    process = start("scan", CLEAN, "-p", "p.yaml", "-o", "json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=120) == 3


@pytest.mark.parametrize(("arguments", "code"), [(["nowhere"], 2), ([str(CLEAN), "-p", "nowhere"], 4)])
def test_exit_zero_forgives_verdicts_and_nothing_else(arguments: list[str], code: int, light: Command) -> None:
    assert light("scan", *arguments, "--exit-zero").code == code
