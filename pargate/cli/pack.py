"""The commands `pack create` and `pack show`, which need no torch."""

from pathlib import Path
from typing import Annotated

import typer

from pargate.cli.help import examples, group_examples
from pargate.cli.options import NoColorOption, refuse_empty
from pargate.errors import InputError

app = typer.Typer(
    help="Make and check packs of triggers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    **group_examples("pargate pack create found/ --license CC0-1.0 --out pack", "pargate pack show pack"),
)


@app.command(**examples("pargate pack create found/ --license CC0-1.0 --out pack"))
def create(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the pack.", show_default=False)],
    license: Annotated[
        str, typer.Option("--license", metavar="SPDX", help="Licence of the pack, such as CC0-1.0.", show_default=False)
    ],
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[SOURCE]...",
            help="Reports that -o json wrote, folders of `scan --found`, policies.",
            show_default=False,
        ),
    ] = None,
    prefix: Annotated[
        list[str] | None, typer.Option("--prefix", metavar="TEXT", help="A text trigger before a caption; repeatable.")
    ] = None,
    suffix: Annotated[
        list[str] | None, typer.Option("--suffix", metavar="TEXT", help="A text trigger after a caption; repeatable.")
    ] = None,
    how: Annotated[
        str, typer.Option("--how", metavar="TEXT", help="How these were found; a report says it itself.")
    ] = "",
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="The model they were found in; a report says it itself."),
    ] = None,
    sign_key: Annotated[
        Path | None,
        typer.Option("--sign-key", metavar="PEM", help="Sign the pack with this private key; needs pargate[sign]."),
    ] = None,
    no_color: NoColorOption = False,
) -> None:
    """Make a pack of triggers, to share and to use in policies."""
    from pargate.cli.console import Console
    from pargate.release import packs

    refuse_empty({"--license": license, "--model": model})
    texts = [*(("prefix", text) for text in prefix or ()), *(("suffix", text) for text in suffix or ())]
    if not sources and not texts:
        raise InputError("nothing to pack", "give a report, a folder of found triggers, a policy, --prefix or --suffix")
    request = packs.PackRequest(
        sources=sources or (), out=out, license=license, how=how, model=model, texts=texts, key=sign_key
    )
    pack = packs.create(request)
    console = Console(quiet=False, verbose=False, color=not no_color)
    console.answer(packs.listed(pack, out), 4)
    console.note(f"wrote {out}; in a policy: packs: [{{path: {out}, digest: {pack.digest}}}]")


@app.command(**examples("pargate pack show pack"))
def show(
    pack: Annotated[Path, typer.Argument(metavar="PACK", help="A folder of `pack create`.", show_default=False)],
    digest: Annotated[
        str | None, typer.Option("--digest", metavar="sha256:HEX", help="The digest that the pack must have.")
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", metavar="PEM", help="Also check the signature; needs pargate[sign]."),
    ] = None,
    no_color: NoColorOption = False,
) -> None:
    """Check every file of a pack, and list what it holds.

    The exit code is 2 if anything was changed, added or removed, or if the signature does not hold.
    """
    from pargate.cli.console import Console
    from pargate.models.signing import problem
    from pargate.release.packs import listed
    from pargate.triggers.pack import read_pack

    found = read_pack(pack, digest)
    if public_key is not None and (wrong := problem(pack, public_key)):
        raise InputError(f"the pack {pack}: {wrong}", "get the pack from its author again")
    console = Console(quiet=False, verbose=False, color=not no_color)
    console.answer(listed(found, pack), 4)
    if public_key is not None:
        console.note(f"the signature holds under {public_key.name}")
