import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from pargate.cli import options
from pargate.cli.app import app, run
from pargate.cli.help import GROUPS, MANY
from pargate.cli.options import read_outputs
from pargate.errors import InputError
from pargate.report import FORMATS

COMMANDS = typer.main.get_command(app)


def every(command: Any, path: str) -> list[tuple[str, Any]]:
    """All commands below a command, by their words."""
    below = getattr(command, "commands", None)
    if below is None:
        return [(path, command)]
    return [found for name, one in below.items() for found in every(one, f"{path} {name}".strip())]


EVERY = every(COMMANDS, "")
GROUPED = ["", *(name for name, one in COMMANDS.commands.items() if hasattr(one, "commands"))]


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[path for path, _ in EVERY])
def test_every_help_ends_with_examples_of_its_command(
    path: str, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*path.split(), "-h"]) == 0
    shown = capsys.readouterr().out
    words = "audit" if path == "audit run" else path
    assert f"\nExamples:\n  pargate {words}" in shown
    assert run([*path.split(), "--help"]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[path for path, _ in EVERY])
def test_the_examples_of_a_help_have_options_that_exist(path: str, command: Any) -> None:
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for line in command.epilog.splitlines():
        given = [word for word in line.split() if word.startswith("-")]
        assert set(given) <= known, line


@pytest.mark.parametrize(("path", "command"), EVERY, ids=[path for path, _ in EVERY])
def test_a_long_help_has_every_option_in_a_group(path: str, command: Any) -> None:
    if path in ("init github", "init gitlab", "synth") or len(command.params) <= MANY:
        return
    grouped = {name for members in GROUPS.values() for name in members}
    options = {parameter.name for parameter in command.params if parameter.param_type_name == "option"}
    assert options <= grouped


@pytest.mark.parametrize("group", GROUPED)
def test_a_group_without_a_command_prints_its_help(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(group.split()) == 2
    bare = capsys.readouterr()
    assert run([*group.split(), "--help"]) == 0
    assert (bare.out, bare.err) == ("", capsys.readouterr().out)
    assert bare.err.startswith(f"Usage: pargate {group}".strip())
    assert f"\nExamples:\n  pargate {group}".rstrip() in bare.err


@pytest.mark.parametrize("group", GROUPED)
def test_no_line_of_a_group_is_cut_at_80_columns(
    group: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*group.split(), "--help"]) == 0
    commands = capsys.readouterr().out.partition("Commands:")[2]
    assert commands and "..." not in commands


def test_the_help_lists_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scan", "--help"]) == 0
    unwrapped = re.sub(r"-\n +", "-", capsys.readouterr().out)
    words = re.split(r"[\s,:]+", unwrapped)
    assert set(FORMATS) <= set(words)


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version_has_a_short_option(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([option]) == 0
    assert capsys.readouterr().out.startswith("pargate ")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["scan", "x", "--precision", "fp61"], "Did you mean 'fp16'?", "`pargate scan --help`"),
        (["clean", "x", "--pairs", "p", "--out", "o", "--towers", "imgae"], "'image'?", "`pargate clean --help`"),
        (["gate", "x", "--out", "o", "--require", "cudda"], "Did you mean 'cuda'?", "`pargate gate --help`"),
        (["audit", "x", "--out", "y", "--fail-on", "nwe"], "Did you mean 'new'?", "`pargate audit run --help`"),
        (["export", "x", "--out", "y", "--precision", "int88"], "'int8'?", "`pargate export --help`"),
        (["policy", "chek"], "Did you mean 'check'", "`pargate policy --help`"),
        (["scn"], "Did you mean 'scan'", "`pargate --help`"),
        (["gate", "x"], "Missing option '--out'", "`pargate gate --help`"),
        (["scan", "x", "--now", "tomorrow"], "--now tomorrow is not a day", "as 2026-01-31"),
        (["verify", "x", "--now", "2026-02-30"], "--now 2026-02-30 is not a day", "as 2026-01-31"),
        (["report", "r.json", "-o", "htlm=r"], "Did you mean 'html'?", "one of badge, "),
    ],
)
def test_a_wrong_value_is_corrected_and_points_to_the_help_of_its_command(
    arguments: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and message in said.err and hint in said.err


@pytest.mark.parametrize("command", [["scan", "x"], ["gate", "x", "--out", "o"], ["audit", "x", "--out", "o"]])
def test_a_gpu_without_a_driver_is_refused_before_anything_heavy(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "has_driver", lambda: False)
    assert run([*command, "--device", "cuda:1"]) == 5
    assert capsys.readouterr().err == (
        "pargate: device 'cuda:1' was asked for, but this machine has no driver for a GPU\n"
        "  → use --device cpu or auto\n"
    )
    monkeypatch.setattr(options, "has_driver", lambda: True)
    assert run([*command, "--device", "cuda:1"]) == 2
    assert "driver" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("sca", ["scan"]),
        ("scan x -p re", ["release"]),
        ("scan x -p own", ["own/", "own.yaml"]),
        ("gate x --policy own/", ["own/deep.yml"]),
        ("policy show str", ["strict"]),
        ("scan x -o s", ["sarif"]),
        ("drill x -o ht", ["html"]),
        ("inspect x -o ", ["json"]),
        ("clean x --method par", ["par", "par-plus"]),
        ("clean x --towers im", ["image"]),
    ],
)
def test_a_shell_gets_completions(
    typed: str, offered: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    for name in ("own.yaml", "own.txt", "own/deep.yml"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("_PARGATE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"pargate {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(f"pargate {typed}".split(" ")) - 1))
    assert run([]) == 0
    assert capsys.readouterr().out.split() == offered


def test_completions_do_not_import_torch() -> None:
    code = (
        "import sys; from pargate.cli import complete as c\n"
        "assert c.policies('') and c.formats('') and c.methods('')\n"
        "assert not {'torch', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_dash_is_stdout() -> None:
    (output,) = read_outputs(["json=-"], ["json"])
    assert output.path is None
    with pytest.raises(InputError, match="two reports for stdout"):
        read_outputs(["json=-", "html"], ["json", "html"])
