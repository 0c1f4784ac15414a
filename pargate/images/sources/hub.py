"""Data sets on a hub: Parquet files or tars, downloaded once."""

from collections.abc import Sequence
from pathlib import Path

from pargate.images.dataset import Dataset
from pargate.images.opening import SOURCES, Source, Wanted, list_paths


@SOURCES.add("hub")
class Hub(Source):
    """Data sets named `hf:ORG/NAME[@REV]`."""

    schemes = ("hf:",)
    fetched = True

    def list(self, wanted: Wanted, paths: Sequence[Path]) -> Dataset:
        """Return the images of a data set: its held-out split for a scan, its training split for training."""
        from pargate.images.hub import fetch_dataset  # imported late: takes 0.5 s

        return list_paths(wanted, fetch_dataset(wanted.source, ("train",) if wanted.pairs else ("test", "val")))
