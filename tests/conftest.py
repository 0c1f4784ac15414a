"""What several tests share."""

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the longest tests to the nightly workflow."""
    if os.environ.get("PARGATE_TEST_NIGHTLY"):
        return
    skip = pytest.mark.skip(reason="takes minutes and runs every night; set PARGATE_TEST_NIGHTLY=1")
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The folder of trained sample models, which lies beside the repository of pargate's developers."""
    folder = Path(__file__).parents[2] / "shared" / "zoo" / "dev"
    if not folder.is_dir():
        pytest.skip(f"the sample models are not here: {folder} does not exist")
    return folder
