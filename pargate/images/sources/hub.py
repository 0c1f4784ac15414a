"""Data sets on a hub: Parquet files or tars, downloaded once."""

from collections.abc import Sequence
from pathlib import Path

from pargate.images.dataset import Dataset
from pargate.images.opening import SOURCES, Source, Wanted, list_paths


@SOURCES.add("hub")
class Hub(Source):
    """`hf:ORG/NAME[@REV]`."""

    schemes = ("hf:",)
    fetched = True

    def list(self, wanted: Wanted, paths: Sequence[Path]) -> Dataset:
        """Return the images of a data set: its held-out part to judge a model by, its training part to train with."""
        from pargate.images.hub import fetch_dataset  # half a second, for those who need it

        return list_paths(wanted, fetch_dataset(wanted.source, ("train",) if wanted.pairs else ("test", "val")))
