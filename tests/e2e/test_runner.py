"""The runner that our steps are tried on does what GitHub's does."""

from pathlib import Path

import pytest
from expressions import Expressions
from runner import Command, Machine, StepFailed, commands_in, values_in

WORKFLOW = """
on: push
env: {WHERE: workflow}
jobs:
  one:
    outputs: {said: "${{ steps.first.outputs.said }}"}
    steps:
      - uses: actions/checkout@0 # v0
      - id: first
        env: {TEXT: "${{ inputs.text }}"}
        run: |
          printf 'said<<X\\n%s\\nX\\n' "$TEXT" >> "$GITHUB_OUTPUT"
          echo "NEXT=$WHERE" >> "$GITHUB_ENV"
          echo "# done" >> "$GITHUB_STEP_SUMMARY"
          echo "::error title=a%2Cb,line=3::one%0Atwo"
      - id: fails
        continue-on-error: true
        shell: bash
        run: test "$NEXT" = workflow; false | true; echo not here
      - id: after
        if: steps.fails.outcome == 'failure' && github.event_name != 'pull_request'
        run: exit 3
      - run: echo no
      - if: ${{ always() && failure() }}
        run: echo yes
  two:
    needs: one
    if: needs.one.outputs.said != ''
    steps: []
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "w.yml").write_text(WORKFLOW)
    return Machine(tmp_path / "workspace", tmp_path / "temp", uses={"actions/checkout": lambda job, given: None})


def test_steps_run_in_order_until_one_fails(machine: Machine) -> None:
    job = machine.job(machine.workspace / "w.yml", "one", inputs={"text": "a\nb"})
    assert [(s.outcome, s.conclusion) for s in job.steps] == [
        ("success", "success"), ("success", "success"), ("failure", "success"), ("failure", "failure"),
        ("skipped", "skipped"), ("success", "success"),
    ]  # fmt: skip
    assert job.result == "failure" and job.code == 3 and job.outputs == {"said": "a\nb"}
    assert job.summary == "# done\n" and "not here" not in job.log and "yes" in job.log
    assert job.annotations == [Command("error", {"title": "a,b", "line": "3"}, "one\ntwo")]


def test_a_job_waits_for_what_it_needs(machine: Machine) -> None:
    def result(outputs: dict[str, str], ended: str = "success") -> str:
        needs = {"one": {"result": ended, "outputs": outputs}}
        return machine.job(machine.workspace / "w.yml", "two", needs=needs).result

    assert result({"said": "x"}) == "success"
    assert result({"said": ""}) == "skipped"
    assert result({"said": "x"}, "failure") == "skipped"


def test_an_action_that_is_played_can_fail(machine: Machine) -> None:
    def fail(job: object, given: dict[str, str]) -> None:
        raise StepFailed

    machine.uses["actions/checkout"] = fail
    job = machine.job(machine.workspace / "w.yml", "one", inputs={"text": "a"})
    assert [s.outcome for s in job.steps] == ["failure", *["skipped"] * 4, "success"]


def test_commands_are_obeyed_as_a_runner_obeys_them() -> None:
    log = (
        "a ::error::no\n  ::notice::yes\rx##[warning]old\n::stop-commands::T\n::error::no\n::T::\n::debug::end\n:: ::\n"
    )
    assert [(c.name, c.message) for c in commands_in(log)] == [("notice", "yes"), ("warning", "old"), ("debug", "end")]


def test_values_may_have_lines() -> None:
    assert values_in("a=b<<c\nd<<E\n1\n2=3\nE\n") == {"a": "b<<c", "d": "1\n2=3"}
    with pytest.raises(AssertionError):
        values_in("d<<E\n1\n")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'it''s'", "it's"),
        ("a.b || 'x'", "x"),
        ("a.c && a.c != 'no'", True),
        ("!a.c == false", True),
        ("contains(fromJSON('[\"p\", \"q\"]'), 'q')", True),
        ("join(needs.*.result, ' ')", "success failure"),
        ("format('{0}-{1}', a['c'], 2)", "yes-2"),
        ("'A' == 'a'", True),
        ("startsWith('refs/tags/v1', 'refs/tags/')", True),
    ],
)
def test_expressions_mean_what_they_mean_to_github(text: str, value: object) -> None:
    needs = {"x": {"result": "success"}, "y": {"result": "failure"}}
    assert Expressions({"a": {"c": "yes"}, "needs": needs}, {}).evaluate(text) == value
