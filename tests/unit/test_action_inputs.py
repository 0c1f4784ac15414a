"""The inputs of the Action, and what it makes of several models."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from pargate.errors import InputError
from pargate.github import inputs as action_inputs
from pargate.github import run as action_run
from pargate.github import runner as workflow
from pargate.github.action import overall, worst
from pargate.github.changes import changed_models
from pargate.github.run import ModelRun
from pargate.report.formats.github import MOST_TEXT, command


def read(tmp_path: Path, **given: str) -> action_inputs.Inputs:
    return action_inputs.read({action_inputs.PREFIX + name.upper(): value for name, value in given.items()}, tmp_path)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"model": "nothing/*"}, "no model matches 'nothing/*'"),
        ({"model": " \n"}, "'model' is empty"),
        ({"model": "--help"}, "starts with a dash"),
        ({"model": "a\x1bb"}, "control character"),
        ({"model": "a\rb"}, "control character"),
        ({"model": "a\x0bb"}, "control character"),
        ({"model": "a", "policy": "-p"}, "starts with a dash"),
        ({"model": "a", "policy": "a\nb"}, "control character"),
        ({"model": "a", "command": "rm"}, "'command' is 'rm'"),
        ({"model": "a", "formats": "pdf"}, "unknown report format 'pdf'"),
        ({"model": "a", "fail_on": "x"}, "'fail-on' is 'x'"),
        ({"model": "a", "cache": "yes"}, "'cache' is 'yes'"),
        ({"model": "a", "changed_only": "1"}, "'changed-only' is '1'"),
        ({"model": "a", "pairs": "x"}, "for the commands gate and screen"),
        ({"model": "a", "command": "screen", "policy": "p"}, "screen needs the input 'pairs'"),
        ({"model": "a", "command": "screen", "pairs": "x"}, "screen needs the input 'policy'"),
        ({"model": "a", "command": "screen", "pairs": "x", "policy": "p", "images": "i"}, "'images' is not for"),
        ({"model": "a", "command": "screen", "pairs": "x", "policy": "p", "changed_only": "true"}, "'changed-only' is"),
        ({"model": "a", "arguments": "--review=x"}, "holds --review=x"),
        ({"model": "a", "arguments": "--exit-zero"}, "holds --exit-zero"),
        ({"model": "a", "arguments": "-qojson=x"}, "holds -qojson=x"),
        ({"model": "a", "arguments": "--"}, "holds --"),
        ({"model": "a", "output": "../out"}, "leads out of the workspace"),
        ({"model": "a", "output": "link/out"}, "leads through a link"),
        ({"model": "l*"}, "leads out of the workspace"),
        ({"model": "n*"}, "control characters"),
    ],
    ids=range(26),
)
def test_a_wrong_input_is_refused_with_what_to_do(tmp_path: Path, inputs: dict[str, str], message: str) -> None:
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "name\nwith a line").mkdir()
    with pytest.raises(InputError) as refused:
        read(tmp_path, **inputs)
    assert message in refused.value.message and refused.value.hint


def test_models_are_lines_and_patterns_each_once(tmp_path: Path) -> None:
    for name in ("a/x", "a/y", "-z", "[b]"):
        (tmp_path / name).mkdir(parents=True)
    found = read(tmp_path, model="a/*/\r\n a/x\n\n?z\n[b]\nhf-hub:o/n*\n")
    assert found.models == ("a/x", "a/y", "./-z", "[b]", "hf-hub:o/n*")


def test_folders_are_plain_and_of_one_model_each() -> None:
    names = action_inputs.folders(("a/b", "a-b", "A/B", "..", "sarif", "x" * 200, "./c", "$(touch x)"))
    assert len({name.lower() for name in names.values()}) == len(names)
    assert names["a/b"] == "a-b" and names["./c"] == "c" and names["$(touch x)"] == "touch-x"
    for name in names.values():
        assert name and not name.startswith((".", "-")) and len(name) < 100 and name != "sarif"


def test_the_worst_code_and_verdict_decide() -> None:
    assert worst([0, 3]) == 3 and worst([3, 1, 2]) == 2 and worst([70, 5]) == 70 and worst([70, 137]) == 137
    assert worst([1, 3]) == 1 and worst([0, 0]) == 0

    def one(verdict: str) -> ModelRun:
        return ModelRun("m", Path(), 0, verdict)

    assert overall([]) == "" and overall([one("")]) == ""
    assert overall([one("pass"), one("remediated")]) == "remediated"
    assert overall([one("pass"), one("")]) == "inconclusive", "what could not be judged never passes"
    assert overall([one("fail"), one("inconclusive"), one("")]) == "fail"


def test_annotations_are_ten_of_a_kind_over_all_models() -> None:
    many = "".join(f"::error title=pargate: r::m{n}\n" for n in range(9))
    many += "::error title=pargate::and 5 more of this kind; the JSON report has them all\n"
    few = "::notice title=pargate: pass::fine\n::error title=pargate: r::other\n::add-mask::x\nfree text\n"
    lines = list(workflow.annotations([many, few]))
    errors = [line for line in lines if line.startswith("::error")]
    assert len(errors) == 10 and errors[1].endswith("other"), "no model hides another"
    assert "and 6 more of this kind" in errors[-1]
    assert [line for line in lines if not line.startswith("::error")] == ["::notice title=pargate: pass::fine"]


def test_nothing_gets_out_of_a_command() -> None:
    said = command("error", "x\n::add-mask::y%0A\r\u2028" + "z" * 5000, title="a::b,c=d\n")
    assert "\n" not in said and "\r" not in said and said.count("::") == 2
    assert said.startswith("::error title=a%3A %3Ab%2Cc=d::x : :add-mask: :y%250A zzz")
    assert len(said.rpartition("::")[2]) == MOST_TEXT, "GitHub would cut what is longer"


def test_outputs_cannot_be_ended_from_within(tmp_path: Path) -> None:
    path = tmp_path / "output"
    workflow.put(str(path), {"a": "x\nEOF\nb=1", "c": "\udcff"})
    lines = path.read_text().splitlines()
    delimiter = lines[0].removeprefix("a<<")
    assert len(delimiter) == 32 and lines[1:5] == ["x", "EOF", "b=1", delimiter] and lines[6] == "\\udcff"


def test_a_summary_stays_below_900_kb_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    workflow.summarise(str(path), [("head\n", ""), ("a" * 600_000, "no a"), ("b" * 600_000, "no b"), ("c", "no c")])
    text = path.read_text()
    assert len(text) <= workflow.SUMMARY_ROOM and "no b" in text and "aaa" in text and text.endswith("c\n")


# --- what a change touches ---------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a", "b"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "weights").write_text(name)
    (tmp_path / ".github").mkdir()
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "pargate.yaml").write_text(
        "pargate: 1\nname: p\nimages: {source: 'builtin:scenes'}\nclasses: {names: classes.txt}\n"
        "rules: [{id: u, probe: utility, min: {accuracy: 1%}}]\n"
    )
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Someone", "-c", "user.email=someone@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "--allow-empty", "-m", "change")
    return git(folder, "rev-parse", "HEAD").strip()


def models_after(repository: Path, changed: str, model: str = "models/*") -> tuple[str, ...]:
    before = git(repository, "rev-parse", "HEAD").strip()
    (repository / changed).parent.mkdir(parents=True, exist_ok=True)
    (repository / changed).write_text("new")
    commit(repository)
    return changed_models(read(repository, model=model, base=before), {}, repository)[0]


@pytest.mark.parametrize(
    ("changed", "judged"),
    [
        ("models/a/weights", ("models/a",)),
        ("models/b/more/config.json", ("models/b",)),
        ("README.md", ()),
        ("models/README.md", ("models/README.md",)),
        (".github/workflows/x.yml", ("models/a", "models/b")),
        ("classes.txt", ("models/a", "models/b")),
        ("pargate.yaml", ("models/a", "models/b")),
    ],
)
def test_what_changed_decides_which_models_are_judged(repository: Path, changed: str, judged: tuple[str, ...]) -> None:
    assert models_after(repository, changed) == judged


def test_what_git_does_not_hold_is_always_judged(repository: Path) -> None:
    (repository / ".gitignore").write_text("ignored\n")
    (repository / "ignored").mkdir()
    (repository / "ignored" / "weights").write_text("x")
    (repository / "models" / "a" / "ignored").write_text("x")
    commit(repository)
    wanted = "ignored\nmodels/a\nmodels/b\nhf-hub:o/n"
    assert models_after(repository, "README.md", wanted) == ("ignored", "models/a", "hf-hub:o/n")


def test_an_adapter_is_always_judged_since_its_base_may_have_changed(repository: Path) -> None:
    (repository / "lora").mkdir()
    (repository / "lora" / "adapter_config.json").write_text('{"base_model_name_or_path": "models/a"}')
    commit(repository)
    wanted = "models/b\nlora\nmodels/b+lora"
    assert models_after(repository, "models/a/weights", wanted) == ("lora", "models/b+lora")


def test_without_a_commit_to_compare_with_all_are_judged(repository: Path) -> None:
    found = read(repository, model="models/*")
    assert changed_models(found, {}, repository) == (
        ("models/a", "models/b"),
        "all models are judged: the event names no commit to compare with",
    )
    event = repository / "event.json"
    for payload in ({"before": "0" * 40}, {"before": "1" * 40}, {"before": "--output=x"}, []):
        event.write_text(json.dumps(payload))
        environ = {"GITHUB_EVENT_NAME": "push", "GITHUB_EVENT_PATH": str(event)}
        assert changed_models(found, environ, repository)[0] == ("models/a", "models/b")
    assert not (repository / "x").exists()


@pytest.mark.parametrize("event", ["push", "pull_request", "merge_group"])
def test_the_event_names_the_commit_to_compare_with(repository: Path, tmp_path: Path, event: str) -> None:
    before = git(repository, "rev-parse", "HEAD").strip()
    (repository / "models" / "b" / "weights").write_text("new")
    commit(repository)
    payload = {"before": before, "pull_request": {"base": {"sha": before}}, "merge_group": {"base_sha": before}}
    (tmp_path / ".git" / "event").write_text(json.dumps(payload))
    environ = {"GITHUB_EVENT_NAME": event, "GITHUB_EVENT_PATH": str(tmp_path / ".git" / "event")}
    assert changed_models(read(repository, model="models/*"), environ, repository)[0] == ("models/b",)


# --- screenings without a report ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "tail", "found"),
    [
        (3, "pargate: m does not recognise the pairs\n", (3, "inconclusive", "m does not recognise the pairs")),
        (1, "pargate: m could run code\n", (1, "fail", "m could run code")),
        (1, "Traceback\n", (70, "", "pargate ended with 1, and its report says ''")),
        (0, "pargate: fine\n", (70, "", "pargate ended with 0, and its report says ''")),
        (2, "pargate: no captions\n", (2, "", "no captions")),
    ],
)
def test_a_screening_without_a_report_never_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, tail: str, found: tuple[int, str, str]
) -> None:
    monkeypatch.setattr(action_run, "_run", lambda command, environ: (code, tail))
    given = read(tmp_path, model="m", command="screen", pairs="p", policy="q")
    one = action_run.judge("m", given, tmp_path / "out", {})
    assert (one.code, one.verdict, one.message) == found


# --- action.yml --------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]


def test_every_input_reaches_the_step_and_every_one_is_documented() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "action.md").read_text(encoding="utf-8")
    for name in (*action["inputs"], *action["outputs"]):
        assert f"`{name}`" in page, name
    judge = next(step for step in action["runs"]["steps"] if step.get("id") == "judge")
    given = {name for name in judge["env"] if name.startswith(action_inputs.PREFIX)}
    inputs = {action_inputs.PREFIX + name.upper().replace("-", "_") for name in action["inputs"] if name != "python"}
    assert given == inputs
    for step in action["runs"]["steps"]:
        assert "${{" not in step.get("run", ""), "what is filled in there is executed"


def test_what_the_action_installs_is_what_was_tested() -> None:
    def pinned(name: str) -> set[str]:
        return {line.split(" ")[0] for line in (ROOT / name).read_text().splitlines() if "==" in line}

    whole = pinned("requirements.lock")
    assert pinned("requirements-action.lock") <= whole and pinned("requirements-build.lock") <= whole
    assert any(one.startswith("torch==") for one in pinned("requirements-action.lock"))
    assert not any(one.startswith("pytest==") for one in pinned("requirements-action.lock"))
