"""An image source: a text file with the name of an image and its class, or its caption, on each line."""

from collections.abc import Sequence
from pathlib import Path

from pargate.images.dataset import Dataset
from pargate.images.listing import Listing
from pargate.images.opening import Source, Wanted


class Lines(Source):
    """A file with the suffix `.list`; a colon and a space follow the image's name, which is relative to the file."""

    suffixes = (".list",)

    def list(self, wanted: Wanted, paths: Sequence[Path]) -> Dataset:
        """Return the images that the file names."""
        (file,) = paths
        listing = Listing(wanted)
        listing.files = [(file.name, file)]
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition(": ")
            image = file.parent / name
            listing.files.append((name, image))
            listing.add(name, listing.hold(image), label=None if wanted.pairs else text, caption=text)
        return listing.dataset()
