"""What several tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The folder of trained sample models, which lies beside the repository of pargate's developers."""
    folder = Path(__file__).parents[2] / "shared" / "zoo" / "dev"
    if not folder.is_dir():
        pytest.skip(f"the sample models are not here: {folder} does not exist")
    return folder
