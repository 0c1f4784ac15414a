"""The command `synth`."""

from pathlib import Path
from typing import Annotated

import typer

from pargate.cli.options import CacheOption, NoColorOption, QuietOption, cache_folder, refuse_empty
from pargate.errors import InputError, nearest


def synth(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="The new folder for the shards.", show_default=False),
    ],
    count: Annotated[
        int | None, typer.Option("--count", min=2, help="Pairs to write; default: 10000, or all of a finite source.")
    ] = None,
    size: Annotated[
        int | None, typer.Option("--size", metavar="PX", help="Side of drawn images; default: 224.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of the images.")] = 0,
    shard_size: Annotated[
        int, typer.Option("--shard-size", min=1, max=10**9, metavar="K", help="Pairs in a shard.")
    ] = 10_000,
    image_format: Annotated[
        str | None, typer.Option("--format", metavar="jpg|png", help="Format of drawn images; default: jpg.")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option("--classes", metavar="FILE", help="Class names to draw, one per line."),
    ] = None,
    pairs: Annotated[
        str, typer.Option("--pairs", metavar="SOURCE", help="Source of the pairs; any source is repacked as shards.")
    ] = "synthetic:",
    cache: CacheOption = None,
    device: Annotated[
        str, typer.Option("--device", metavar="auto|cpu|cuda[:N]", help="Device of diffusers:.")
    ] = "auto",
    quiet: QuietOption = False,
    no_color: NoColorOption = False,
) -> None:
    """Write image-text pairs, drawn by default, as WebDataset shards."""
    from pargate.cli.console import Console
    from pargate.images.classes import read_classes
    from pargate.images.opening import is_generated, open_pairs
    from pargate.images.pack import write_pairs
    from pargate.scenes.render import SIZES

    refuse_empty({"--pairs": pairs})
    generated = is_generated(pairs)
    if not generated and device != "auto":
        raise InputError(f"--device {device} is for diffusers: only", "leave it out: other sources use the CPU")
    if image_format not in (None, "jpg", "png"):
        raise InputError(
            f"unknown image format '{image_format}'.{nearest(image_format, ['jpg', 'png'])}",
            "write --format jpg or --format png",
        )
    if size is not None and size not in SIZES:
        raise InputError(f"images of {size} pixels cannot be drawn", f"give --size from {SIZES[0]} to {SIZES[-1]}")
    names = read_classes(classes) if classes is not None else None
    console = Console(quiet=quiet, verbose=False, color=not no_color)
    with console.progress() as emit:
        source = open_pairs(
            pairs, seed=seed, cache=cache_folder(cache), classes=names, count=count, device=device, emit=emit
        )
        count = None if generated else count  # write all generated pairs that were kept
        written = write_pairs(
            source,
            out,
            count=count,
            size=size,
            suffix=f".{image_format}" if image_format else None,
            per_shard=shard_size,
            seed=seed,
            emit=emit,
        )
    console.note(f"wrote {written} pairs: {out}")
