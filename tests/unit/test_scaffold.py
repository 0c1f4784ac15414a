import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pargate.audit.inventory import load
from pargate.errors import InputError, PargateError
from pargate.github.actions import PINS, pinned, use
from pargate.github.repository import default_branch
from pargate.github.scaffold import (
    AUDIT,
    GATE,
    GITLAB,
    GITLAB_MAIN,
    INVENTORY,
    Options,
    contents,
    contents_of_gitlab,
    earlier,
    plan,
    spelled,
    steps,
    steps_of_gitlab,
    unedited,
)
from pargate.policy.resolve import WORKING_FILE, resolve

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ACTION = f"someone/pargate@{COMMIT}"
OPTIONS = Options(action=ACTION, branch="main")
COMMENTED = Options(action=ACTION, branch="main", comment=True)
LABELLED = Options(action=ACTION, branch="main", labels=("self-hosted", "gpu"))

USES = re.compile(r"^\s*(?:- )?uses: (\S+)(?: # (\S+))?", re.MULTILINE)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one model."""
    folder = tmp_path / "repository"
    (folder / ".git").mkdir(parents=True)
    (folder / "model").mkdir()
    (folder / "model" / "open_clip_config.json").write_text("{}")
    for name in ("val/cat/1.png", "val/dog/2.png", "unlabelled/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + name.encode())
    return folder


def kept(text: str) -> dict[str, Any]:
    """The options that the next run keeps, without the commit."""
    line = next(line for line in text.splitlines() if line.startswith("# Options that the next run keeps: "))
    found = json.loads(line.partition(": ")[2])
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in found.items()
        if key not in ("action", "version")
    }


def loaded(text: str) -> dict[Any, Any]:
    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def written(folder: Path, options: Options, *, force: bool = False, replace_policy: bool = False) -> None:
    plan(folder, options, force=force, replace_policy=replace_policy).write()


# --- what the files say ---


def test_the_policy_that_is_written_loads(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(repository, OPTIONS)
    monkeypatch.chdir(repository)
    assert resolve(None).policy.name == "repository"


def test_the_inventory_that_is_written_loads(repository: Path) -> None:
    written(repository, Options(action=ACTION, branch="main", models=("model", "hf-hub:org/model@v1")))
    first, second = load(repository / INVENTORY).models
    assert (first.name, Path(first.source), Path(first.policy)) == (
        "model",
        repository / "model",
        repository / WORKING_FILE,
    )
    assert (second.name, second.source, second.cadence_days) == ("model-2", "hf-hub:org/model@v1", 8)


@pytest.mark.parametrize("options", [OPTIONS, LABELLED, COMMENTED], ids=["without a GPU", "with a GPU", "comments"])
@pytest.mark.parametrize("name", [GATE, AUDIT])
def test_workflows_grant_little_and_say_why(repository: Path, options: Options, name: str) -> None:
    text = contents(repository, options).texts[name]
    workflow = loaded(text)
    assert workflow["permissions"] == {}
    assert "concurrency" in workflow
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 720
        assert isinstance(job["permissions"], dict)
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), "values reach scripts through the environment alone"
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
    for line in text.splitlines():
        if re.fullmatch(r" {6}[a-z-]+: (read|write).*", line):
            assert " # " in line, f"{line} does not say why"


def test_only_one_job_may_write_to_the_repository_and_it_opens_no_model(repository: Path) -> None:
    texts = contents(repository, LABELLED).texts
    writing = [
        (name, key)
        for name in (GATE, AUDIT)
        for key, job in loaded(texts[name])["jobs"].items()
        if job["permissions"].get("contents") == "write"
    ]
    assert writing == [(AUDIT, "keep")]
    assert "pargate" not in {
        word for step in loaded(texts[AUDIT])["jobs"]["keep"]["steps"] for word in str(step.get("uses", "")).split("/")
    }


def test_strangers_reach_no_runner_of_ones_own(repository: Path) -> None:
    text = contents(repository, LABELLED).texts[GATE]
    workflow = loaded(text)
    assert set(workflow[True]) == {"pull_request", "push", "workflow_dispatch"}
    for key, job in workflow["jobs"].items():
        if job["runs-on"] != "ubuntu-24.04":
            assert key == "clean"
            assert "pull_request" not in job["if"]
            assert job["environment"] == "pargate-clean"


def test_only_the_job_that_was_asked_for_may_comment(repository: Path) -> None:
    assert "comment" not in contents(repository, OPTIONS).texts[GATE]
    jobs = loaded(contents(repository, COMMENTED).texts[GATE])["jobs"]
    assert {key for key, job in jobs.items() if "pull-requests" in job["permissions"]} == {"comment"}
    assert jobs["comment"]["permissions"] == {"pull-requests": "write"}
    assert jobs["comment"]["steps"][0]["uses"].startswith("actions/download-artifact@")


def test_without_labels_nothing_is_cleaned(repository: Path) -> None:
    assert "clean" not in loaded(contents(repository, OPTIONS).texts[GATE])["jobs"]


@pytest.mark.parametrize("options", [OPTIONS, LABELLED, COMMENTED], ids=["without a GPU", "with a GPU", "comments"])
def test_what_a_job_takes_from_another_is_checked_by_digest(repository: Path, options: Options) -> None:
    texts = contents(repository, options).texts
    for name in (GATE, AUDIT):
        for job in loaded(texts[name])["jobs"].values():
            uses = [step.get("uses", "").split("@")[0] for step in job["steps"]]
            if "actions/download-artifact" in uses:
                after = job["steps"][uses.index("actions/download-artifact") + 1]
                assert "sha256sum --check --strict" in after["run"].splitlines()[0]
                assert "needs." in after["env"]["EXPECTED"]


@pytest.mark.parametrize("options", [OPTIONS, LABELLED], ids=["without a GPU", "with a GPU"])
def test_every_action_is_one_of_the_table(repository: Path, options: Options) -> None:
    texts = contents(repository, options).texts
    found = [match for name in (GATE, AUDIT) for match in USES.findall(texts[name])]
    assert found
    for used, version in found:
        if not used.startswith("someone/"):
            assert f"{used} # {version}" == use(used.split("@")[0])


def test_our_own_workflows_keep_to_the_table() -> None:
    files = [ROOT / "action.yml", *sorted((ROOT / ".github" / "workflows").glob("*.yml"))]
    for file in files:
        for used, version in USES.findall(file.read_text(encoding="utf-8")):
            name = used.split("@")[0]
            if "/".join(name.split("/")[:2]) in PINS:
                assert f"{used} # {version}" == use(name), file.name
            elif not used.startswith("./"):
                assert re.fullmatch(r"[^@]+@[0-9a-f]{40}", used), f"{file.name}: {used}"


def test_models_are_found(repository: Path) -> None:
    for name in ("b/deep", ".hidden/model"):
        (repository / name).mkdir(parents=True)
        (repository / name / "open_clip_config.json").write_text("{}")
    step = loaded(contents(repository, OPTIONS).texts[GATE])["jobs"]["gate"]["steps"][1]
    assert step["with"]["model"].split("\n")[:-1] == ["b/deep", "model"]


def test_the_inventory_lists_models_one_by_one(repository: Path) -> None:
    (repository / "models" / "a b").mkdir(parents=True)
    (repository / "models" / "model").mkdir()
    options = Options(action=ACTION, branch="main", models=("models/*", "model", "hf-hub:org/model@v1"))
    models = loaded(contents(repository, options).texts[INVENTORY])["models"]
    assert [(m["name"], m["model"]) for m in models] == [
        ("a-b", "./models/a b"),
        ("model", "./models/model"),
        ("model-2", "./model"),
        ("model-3", "hf-hub:org/model@v1"),
    ]


def test_a_policy_that_is_there_is_used(repository: Path) -> None:
    (repository / "own.yaml").write_text("pargate: 1\nname: own\nextends: builtin:baseline\n")
    (repository / "classes.txt").write_text("cat\ndog\n")
    options = Options(action=ACTION, branch="main", policy="own.yaml", images="val", classes="classes.txt")
    texts = contents(repository, options).texts
    assert WORKING_FILE not in texts
    given_to = loaded(texts[GATE])["jobs"]["gate"]["steps"][1]["with"]
    assert (given_to["policy"], given_to["images"], given_to["classes"]) == ("own.yaml", "val", "classes.txt")
    entry = loaded(texts[INVENTORY])["defaults"]
    assert (entry["policy"], entry["images"], entry["classes"]) == ("./own.yaml", "val", "classes.txt")


# --- values that were made to do harm ---

VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
NASTY = [
    '"; exit 0; "',
    "$(touch x)",
    "`id`",
    "a: b",
    "# x",
    "'",
    '"',
    "\\",
    "a\\nb",
    "}}",
    "@{ 1 }@",
    "[% x %]",
    "*",
    "&a",
    "x",
]


@settings(deadline=None, max_examples=60)
@given(value=VALUES | st.sampled_from(NASTY))
def test_a_value_arrives_as_it_was_given_or_is_refused(value: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.getbasetemp() / "adopting"
    root.mkdir(exist_ok=True)
    options = Options(
        action=ACTION, branch="main", models=("hf-hub:" + value, "hf-hub:x"), policy="release", images=f"hf:{value}"
    )
    alone = replace(options, models=("hf-hub:" + value,))
    try:
        texts, single = contents(root, options).texts, contents(root, alone).texts
    except InputError:
        assert value != value.strip() or not value.isprintable() or "${{" in value or value.startswith("-")
        return
    jobs = loaded(texts[GATE])["jobs"]
    given_to = jobs["gate"]["steps"][1]["with"]
    assert given_to["images"] == f"hf:{value}"
    assert kept(texts[GATE]) == {"models": options.models, "policy": "release", "images": f"hf:{value}"}
    both = dict.fromkeys((f"hf-hub:{value}", "hf-hub:x"))  # the same model twice is one
    assert given_to["model"] == ("".join(f"{model}\n" for model in both) if len(both) > 1 else "hf-hub:x")
    assert loaded(single[GATE])["jobs"]["gate"]["steps"][1]["with"]["model"] == f"hf-hub:{value}"
    assert loaded(texts[INVENTORY])["models"][0]["model"] == f"hf-hub:{value}"
    assert loaded(texts[INVENTORY])["defaults"]["images"] == f"hf:{value}"
    plain = replace(options, models=("hf-hub:x", "hf-hub:y"), images="hf:o/n")
    usual = loaded(contents(root, plain).texts[GATE])["jobs"]
    for key, job in jobs.items():
        assert [step.get("run") for step in job["steps"]] == [step.get("run") for step in usual[key]["steps"]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"action": "someone/pargate@v1"}, "does not name a commit"),
        ({"action": f"someone/pargate@{COMMIT}\n"}, "does not name a commit"),
        ({"action": f"a/b/c@{COMMIT}"}, "does not name a commit"),
        ({"models": ("a\nb",)}, "control character"),
        ({"models": ("${{ secrets.X }}",)}, "GitHub would evaluate"),
        ({"models": ("../other",)}, "leads out of the repository"),
        ({"models": ("/etc",)}, "leads out of the repository"),
        ({"models": ("-x",)}, "begins with a dash"),
        ({"models": ("nothing/*",)}, "matches nothing"),
        ({"images": "\x1b[2J"}, "control character"),
        ({"images": ""}, "is empty"),
        ({"images": "nosuch/"}, "--images nosuch/: no such file"),
        ({"images": "{val,nosuch}"}, "no such file"),
        ({"models": ("nosuch",)}, "--model nosuch: there is no such file"),
        ({"models": ("nosuch#a.pt",)}, "there is no such file"),
        ({"models": ("nosuch+lora",)}, "there is no such file"),
        ({"models": ("hf-hub:a/b+../lora",)}, "leads out of the repository"),
        ({"images": "a\u2028b"}, "control character"),
        ({"policy": "../p.yaml"}, "leads out of the repository"),
        ({"policy": "none.yaml"}, "no such file"),
        ({"classes": "none.txt"}, "no such file"),
        ({"classes": "../classes.txt"}, "leads out of the repository"),
        ({"labels": ("gpu]",)}, "--gpu-labels"),
        ({"labels": ("",)}, "--gpu-labels"),
        ({"schedule": "17 4 * * 1\n"}, "--schedule"),
        ({"schedule": "every monday"}, "--schedule"),
        ({"schedule": "60 4 * * 1"}, "at '60'"),
        ({"schedule": "17 4 * * 7"}, "at '7'"),
        ({"schedule": "17 4 0 * *"}, "at '0'"),
        ({"schedule": "*/0 4 * * *"}, "at '*/0'"),
        ({"schedule": "17 4, * * *"}, "at '4,'"),
        ({"branch": "a'b"}, "--branch"),
    ],
)
def test_what_has_no_place_in_a_workflow_is_refused(repository: Path, change: dict[str, Any], said: str) -> None:
    for lora in (repository / "lora", repository.parent / "lora"):
        lora.mkdir()
        (lora / "adapter_config.json").write_text("{}")
    before = snapshot(repository)
    with pytest.raises(InputError, match=re.escape(said)):
        plan(repository, Options(**{"action": ACTION, "branch": "main", **change}), force=True)
    assert snapshot(repository) == before


@pytest.mark.parametrize("schedule", ["17 4 * * 1", "*/90 0-6/2 1,15 JAN-MAR MON", "0 0 31 12 6"])
def test_a_schedule_of_cron_is_taken(repository: Path, schedule: str) -> None:
    texts = contents(repository, Options(action=ACTION, branch="main", schedule=schedule)).texts
    assert loaded(texts[AUDIT])[True]["schedule"] == [{"cron": schedule}]


# --- what is there already ---


def test_a_second_run_changes_nothing(repository: Path) -> None:
    written(repository, LABELLED)
    before = snapshot(repository)
    again = plan(repository, LABELLED)
    again.write()
    assert (again.new, again.changed) == ({}, {})
    assert len(again.same) == 4
    assert snapshot(repository) == before


def test_options_that_are_not_given_again_are_kept(repository: Path) -> None:
    (repository / "own.yaml").write_text("pargate: 1\nname: own\nextends: builtin:baseline\n")
    (repository / "classes.txt").write_text("cat\ndog\n")
    options = Options(
        action=ACTION, branch="trunk", models=("model", "hf-hub:org/model"), policy="own.yaml", images="val",
        classes="classes.txt", labels=("self-hosted", "gpu"), schedule="1 1 * * 1", comment=True, shards=3,
    )  # fmt: skip
    written(repository, options)
    before = snapshot(repository)
    kept = earlier(repository, GATE)
    assert Options(**kept) == options
    written(repository, Options(**kept))
    assert snapshot(repository) == before
    assert spelled({**kept, "images": "a b"}) == (
        f"--action {ACTION} --branch trunk --model model --model hf-hub:org/model --policy own.yaml --images 'a b' "
        "--classes classes.txt --gpu-labels self-hosted,gpu --schedule '1 1 * * 1' --comment --audit-shards 3"
    )


def test_what_the_policy_says_and_what_is_usual_is_not_kept(repository: Path) -> None:
    assert earlier(repository, GATE) == {}
    written(repository, replace(OPTIONS, images="val"))
    assert set(earlier(repository, GATE)) == {"action"}, "the new policy names the images"
    written(repository, replace(OPTIONS, images="unlabelled"))
    assert earlier(repository, GATE)["images"] == "unlabelled"


def test_a_commit_of_another_version_is_not_kept(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(repository, COMMENTED)
    monkeypatch.setattr("pargate.github.scaffold.__version__", "99.0")
    assert earlier(repository, GATE) == {"comment": True}


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"shards": "x"}', '{"unknown": 1}', '{"models": [[]]}', "[" * 99999])
def test_kept_options_that_cannot_be_read_are_named(repository: Path, line: str) -> None:
    (repository / GATE).parent.mkdir(parents=True)
    (repository / GATE).write_text(f"# Options that the next run keeps: {line}\n")
    with pytest.raises(InputError, match="the line of kept options cannot be read"):
        earlier(repository, GATE)


def test_an_edited_workflow_stops_everything_and_force_keeps_it_beside(repository: Path) -> None:
    written(repository, OPTIONS)
    with (repository / GATE).open("a") as stream:
        stream.write("# mine\n")
    before = snapshot(repository)
    with pytest.raises(InputError, match=r"nothing was written: \.github/workflows/pargate\.yml was edited"):
        written(repository, LABELLED)
    assert snapshot(repository) == before
    written(repository, LABELLED, force=True)
    assert snapshot(repository)[f"{GATE}.bak"] == before[GATE]
    assert unedited((repository / GATE).read_bytes())
    with (repository / GATE).open("a") as stream:
        stream.write("# again\n")
    written(repository, LABELLED, force=True)
    assert snapshot(repository)[f"{GATE}.bak"] == before[GATE]
    assert snapshot(repository)[f"{GATE}.bak2"].endswith(b"# again\n")


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_what_nobody_edited_is_brought_up_to_date_without_a_flag(repository: Path, ends: bytes) -> None:
    written(repository, OPTIONS)
    for name in (GATE, AUDIT, INVENTORY):
        place = repository / name
        place.write_bytes(place.read_bytes().replace(b"\n", ends))
    later = replace(OPTIONS, models=("hf-hub:org/model",), schedule="1 1 * * 1")
    made = plan(repository, later)
    assert set(made.changed) == {GATE, AUDIT, INVENTORY}
    assert (made.backups, made.kept) == ({}, ())


def test_a_policy_and_an_edited_inventory_are_kept(repository: Path) -> None:
    written(repository, OPTIONS)
    mine = "pargate: 1\nname: mine\nextends: builtin:strict\n"
    (repository / WORKING_FILE).write_text(mine)
    with (repository / INVENTORY).open("a") as stream:
        stream.write("# mine\n")
    made = plan(repository, LABELLED)
    assert (made.kept, set(made.changed), made.policy.policy.name) == ((WORKING_FILE, INVENTORY), {GATE}, "mine")
    made = plan(repository, LABELLED, force=True)
    assert (made.kept, set(made.changed)) == ((WORKING_FILE,), {GATE, INVENTORY})
    written(repository, LABELLED, replace_policy=True)
    assert snapshot(repository)[f"{WORKING_FILE}.bak"] == mine.encode()
    assert (repository / WORKING_FILE).read_text() != mine


def test_a_policy_that_is_kept_gets_its_images_from_the_workflows(repository: Path) -> None:
    (repository / "pargate.yml").write_text("pargate: 1\nname: mine\nextends: builtin:strict\n")
    made = contents(repository, replace(OPTIONS, images="val"))
    given_to = loaded(made.texts[GATE])["jobs"]["gate"]["steps"][1]["with"]
    assert (given_to["policy"], given_to["images"]) == ("pargate.yml", "val")
    assert WORKING_FILE not in made.texts


# --- GitLab ---


def gitlab(folder: Path, options: Options) -> dict[str, str]:
    plan(folder, options, made=contents_of_gitlab).write()
    return {name: (folder / name).read_text() for name in (GITLAB, GITLAB_MAIN, WORKING_FILE)}


def test_gitlab_gets_one_job_for_each_model_with_its_reports(repository: Path) -> None:
    (repository / "classes.txt").write_text("cat\ndog\n")
    (repository / "own.yaml").write_text("pargate: 1\nname: own\nextends: builtin:baseline\n")
    options = replace(OPTIONS, models=("model", "hf-hub:o/n"), policy="own.yaml", images="val", classes="classes.txt")
    plan(repository, options, made=contents_of_gitlab).write()
    job = loaded((repository / GITLAB).read_text())["pargate"]
    assert job["parallel"]["matrix"] == [{"MODEL": ["./model", "hf-hub:o/n"]}]
    given_to = {name: job["variables"].get(f"PARGATE_{name}") for name in ("POLICY", "IMAGES", "CLASSES")}
    assert given_to == {"POLICY": "own.yaml", "IMAGES": "val", "CLASSES": "classes.txt"}
    assert f"git+https://github.com/{ACTION}" in job["script"][0]
    reports = job["artifacts"]["reports"]
    for format, kind in (("junit", "junit"), ("code-quality", "codequality")):
        assert f"-o {format}={reports[kind]}" in job["script"][-1]
    assert loaded((repository / GITLAB_MAIN).read_text()) == {"include": [{"local": GITLAB}]}
    assert not (repository / ".github").exists()


def test_what_gitlab_gets_is_brought_up_to_date_and_a_pipeline_of_others_is_left_alone(repository: Path) -> None:
    gitlab(repository, OPTIONS)
    made = plan(repository, replace(OPTIONS, models=("hf-hub:o/n",)), made=contents_of_gitlab)
    assert (set(made.changed), made.same) == ({GITLAB}, (WORKING_FILE, GITLAB_MAIN))
    assert not any("include" in step for step in steps_of_gitlab(repository, OPTIONS, made.policy))
    (repository / GITLAB_MAIN).write_text("build: {script: [make]}\n")
    made = plan(repository, OPTIONS, made=contents_of_gitlab)
    assert GITLAB_MAIN not in (*made.changed, *made.kept, *made.new)
    assert any(
        f"include the job: {{local: {GITLAB}}}" in step for step in steps_of_gitlab(repository, OPTIONS, made.policy)
    )


@pytest.mark.parametrize(
    "change", [{"models": ("hf-hub:o/$X",)}, {"images": "$CI_TOKEN"}, {"images": "a\nb"}, {"action": "o/p@v1"}]
)
def test_gitlab_gets_no_value_that_it_would_change(repository: Path, change: dict[str, Any]) -> None:
    (repository / "pargate.yml").write_text("pargate: 1\nname: mine\nextends: builtin:strict\n")
    before = snapshot(repository)
    with pytest.raises(InputError):
        plan(repository, replace(OPTIONS, **change), made=contents_of_gitlab).write()
    assert snapshot(repository) == before


def test_gitlabs_schema_finds_no_fault(repository: Path) -> None:
    import check_jsonschema
    from jsonschema import Draft7Validator

    vendored = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor" / "gitlab-ci.json"
    validator = Draft7Validator(json.loads(vendored.read_text(encoding="utf-8")))
    made = gitlab(repository, OPTIONS)
    for name in (GITLAB, GITLAB_MAIN):
        validator.validate(loaded(made[name]))
    assert not validator.is_valid({"pargate": {"script": ["x"], "artifacts": {"reports": {"junitt": "x"}}}})


def test_images_come_first_in_what_is_left_to_do(repository: Path) -> None:
    def asked(images: str | None) -> bool:
        options = replace(OPTIONS, images=images)
        said = ["--images SOURCE --classes FILE" in step for step in
                steps(repository, options, contents(repository, options).policy)]  # fmt: skip
        return said.index(True) == 0 if any(said) else False

    assert asked(None) and asked("unlabelled") and asked("builtin:scenes")
    assert not asked("val") and not asked("hf:org/set")
    for source, lacking in (("val", False), ("unlabelled", True), ("nosuch", True), ("hf:org/set", False)):
        text = f"pargate: 1\nname: x\nextends: builtin:baseline\nimages: {{source: '{source}'}}\n"
        (repository / WORKING_FILE).write_text(text)
        assert asked(None) == lacking, source


@pytest.mark.parametrize("linked", [".github", ".github/workflows", GATE, WORKING_FILE])
def test_links_are_not_followed(repository: Path, tmp_path: Path, linked: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (repository / linked).parent.mkdir(parents=True, exist_ok=True)
    (repository / linked).symlink_to(outside)
    with pytest.raises(InputError, match="is a link"):
        written(repository, OPTIONS, force=True)
    assert not list(outside.iterdir())


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path, repository: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(InputError, match="is not a git repository"):
        written(bare, OPTIONS)
    with pytest.raises(InputError, match="lies inside the repository"):
        written(repository / "model", OPTIONS)
    with pytest.raises(InputError, match="is not a folder"):
        written(tmp_path / "absent", OPTIONS)


def test_a_repository_without_a_model_says_how_to_name_one(repository: Path) -> None:
    (repository / "model" / "open_clip_config.json").unlink()
    with pytest.raises(PargateError) as caught:
        written(repository, OPTIONS)
    assert "--model" in caught.value.hint


# --- where things come from ---


def test_the_default_branch_is_that_of_the_remote_or_the_usual_one(repository: Path) -> None:
    git = repository / ".git"
    assert default_branch(repository) == "main"
    (git / "HEAD").write_text("ref: refs/heads/topic/a\n")
    assert default_branch(repository) == "topic/a"
    (git / "packed-refs").write_text(f"# pack-refs\n{COMMIT} refs/heads/master\n")
    assert default_branch(repository) == "master"
    (git / "refs" / "remotes" / "origin").mkdir(parents=True)
    (git / "refs" / "remotes" / "origin" / "HEAD").write_text("ref: refs/remotes/origin/trunk\n")
    assert default_branch(repository) == "trunk"


def test_a_second_working_tree_has_the_branches_of_the_first(repository: Path, tmp_path: Path) -> None:
    (repository / ".git" / "packed-refs").write_text(f"{COMMIT} refs/heads/master\n")
    (repository / ".git" / "worktrees" / "w").mkdir(parents=True)
    (repository / ".git" / "worktrees" / "w" / "commondir").write_text("../..\n")
    other = tmp_path / "w"
    other.mkdir()
    (other / ".git").write_text(f"gitdir: {repository / '.git' / 'worktrees' / 'w'}\n")
    assert default_branch(other) == "master"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://github.com/someone/pargate.git", ACTION),
        ("https://github.com/someone/pargate", ACTION),
        ("ssh://git@github.com/someone/pargate.git", ACTION),
        ("https://gitlab.com/someone/pargate.git", None),
        ("https://github.com.example.org/someone/pargate", None),
        ("https://github.com/someone/pargate/x", None),
        ("file:///src/pargate", None),
    ],
)
def test_an_installation_from_github_knows_its_commit(url: str, found: str | None) -> None:
    assert pinned(f'{{"url": "{url}", "vcs_info": {{"vcs": "git", "commit_id": "{COMMIT}"}}}}') == found


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"url": "https://github.com/a/b", "dir_info": {}}', '{"url": 3}'])
def test_an_installation_from_elsewhere_does_not(text: str) -> None:
    assert pinned(text) is None
