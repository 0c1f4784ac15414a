import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_the_workflow_that_is_written_today() -> None:
    path = ROOT / "examples" / "quickstart.py"
    spec = importlib.util.spec_from_file_location("quickstart", path)
    assert spec is not None and spec.loader is not None
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split(quickstart.BEGIN)[1].split(quickstart.END)[0]
    assert shown == quickstart.block(), "run: python examples/quickstart.py"
