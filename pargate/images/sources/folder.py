"""Read a folder of images: class folders for a scan, a text beside each image for cleaning."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pargate import limits
from pargate.core.names import tidy
from pargate.errors import InputError
from pargate.files import files_below, read_bytes, readable
from pargate.images.dataset import Dataset
from pargate.images.listing import Listing, read_text, some
from pargate.images.opening import SOURCES, Source, Wanted
from pargate.images.paths import is_image, present


@SOURCES.add("folder")
class Folder(Source):
    """Images in a folder, at any depth."""

    def list(self, wanted: Wanted, paths: Sequence[Path]) -> Dataset:
        """Return the images of a folder.

        For a scan, images directly in a subfolder have its name as label, unless most images lie elsewhere. For
        training, the caption of an image is the text of a `.txt` with the same name.
        """
        (folder,) = paths
        listing = Listing(wanted)
        images: list[Path] = []
        texts: dict[Path, Path] = {}
        for path in files_below(folder):
            if wanted.pairs and path.suffix.lower() == ".txt":
                if (other := texts.setdefault(path.with_suffix(""), present(path))) != path:
                    raise InputError(f"{other} and {path.name} are captions of one image", "keep one of them")
            elif is_image(path):
                images.append(present(path))
            else:
                listing.left_out.append(path.relative_to(folder).as_posix())
        if wanted.pairs:
            _add_pairs(listing, folder, images, texts)
        else:
            _add_classes(listing, folder, images)
        return listing.dataset()


def _add_classes(listing: Listing, folder: Path, images: Sequence[Path]) -> None:
    inside = [path.parent.parent == folder for path in images]
    by_class = sum(inside) * 2 >= len(images)
    for path, in_class in zip(images, inside, strict=True):
        label = (tidy(readable(path.parent.name.replace("_", " "))) or None) if by_class and in_class else None
        listing.add(_name(path, folder), listing.hold(path), label=label)
    listing.files = [(_name(path, folder), path) for path in files_below(folder)]
    deeper = next((path for path in images if path.parent != folder), None)
    if deeper is not None and not by_class:
        listing.notices.append(
            "no folder is used as a class, since most images do not lie directly in a subfolder, such as "
            f"{_name(deeper, folder)}; name the folder that holds the class folders"
        )


def _add_pairs(listing: Listing, folder: Path, images: Sequence[Path], texts: dict[Path, Path]) -> None:
    for path in images:
        text = texts.get(path.with_suffix(""))
        name, told = _name(path, folder), _name(text or path, folder)
        listing.add(name, listing.hold(path), caption=None if text is None else _read(text), told=told)
    stems = Counter(path.with_suffix("") for path in images)
    listing.alone = [_name(path, folder) for stem, path in texts.items() if stem not in stems]
    listing.files = [(_name(path, folder), path) for path in (*images, *texts.values())]
    if double := [_name(stem, folder) for stem, times in stems.items() if stem in texts and times > 1]:
        raise InputError(f"{folder}: several images share one caption: {some(double)}", "give each its own text")


def _name(path: Path, folder: Path) -> str:
    return readable(path.relative_to(folder).as_posix())


def _read(path: Path) -> str:
    try:
        return read_text(str(path), read_bytes(path, limits.CAPTION_BYTES))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "a caption is a text file") from error
