"""The weights that open_clip has published, by architecture and tag."""

from typing import Any

from open_clip import pretrained

from pargate.errors import InputError, nearest


def published(arch: str, tag: str) -> dict[str, Any]:
    """Return open_clip's entry for a tag: the place of its weights, and their preprocessing.

    Raises:
        InputError: open_clip has no such tag.
    """
    entry: dict[str, Any] = pretrained.get_pretrained_cfg(arch, tag)
    if not entry:
        known = [f"{a}/{t}" for a, t in pretrained.list_pretrained()]
        raise InputError(
            f"open_clip has no weights '{arch}/{tag}'.{nearest(f'{arch}/{tag}', known)}",
            "write open_clip:ARCH/TAG, such as open_clip:ViT-B-32/laion2b_s34b_b79k",
        )
    return entry
