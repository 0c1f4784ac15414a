"""The help of commands: options in groups, and examples at the end."""

from typing import Any

from typer.core import TyperCommand, TyperGroup

GROUPS: dict[str, tuple[str, ...]] = {
    "Model and data": (
        "images", "classes", "pairs", "arch", "reference", "tuned", "unlearn", "model", "families", "trigger",
        "strengths", "rates", "targets", "trusted", "rounds", "batch", "known",
    ),
    "Policy and verdict": (
        "policy", "policy_ref", "previous", "no_waivers", "strict", "now", "drilled", "check_freshness", "fail_on",
        "max_suspects", "false_positives", "review",
    ),
    "Cleaning": ("method", "preset", "tau", "lr", "steps", "batch_size", "towers", "views", "sweep", "require"),
    "Machine": (
        "device", "precision", "seed", "max_minutes", "minutes", "cache", "jobs", "executor", "ray_address", "shard",
        "micro_batch", "checkpointing", "compile_towers", "save_every", "resume", "keep_state",
    ),
    "Output": (
        "output", "out", "layout", "merge", "found", "pictures", "sign_key", "opset", "rescan", "ledger", "show",
        "quiet", "verbose", "no_color", "dry_run", "exit_zero",
    ),
}  # fmt: skip
"""Options by the group in which a help with many options shows them; others stand under `Options`."""

MANY = 10
"""Number of options from which a help shows groups."""

NAMES = {"help_option_names": ["-h", "--help"]}


class _Examples:
    """A help that ends with examples as they are written, one a line."""

    epilog: str | None

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"  {line}\n")


class Group(_Examples, TyperGroup):
    """A group of commands whose help ends with examples."""


class Command(_Examples, TyperCommand):
    """A command whose help also groups its options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options by group."""
        arguments: list[tuple[str, str]] = []
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in ("Options", *GROUPS)}
        parameters = self.get_params(ctx)
        grouped = len(parameters) > MANY
        for parameter in parameters:
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                arguments.append(record)
                continue
            known = (name for name, members in GROUPS.items() if grouped and parameter.name in members)
            groups[next(known, "Options")].append(record)
        for title, records in {"Arguments": arguments, **groups}.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def examples(*lines: str) -> dict[str, Any]:
    """Return the arguments of `Typer.command` for a command with these examples."""
    return {"cls": Command, "epilog": "\n".join(lines)}


def group_examples(*lines: str) -> dict[str, Any]:
    """Return the arguments of `Typer` for a group of commands with these examples."""
    return {"cls": Group, "epilog": "\n".join(lines)}
