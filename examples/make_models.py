"""Make the toy models of this folder again: a clean one, and one with a planted backdoor.

    python examples/make_models.py

About a minute. The same machine and version of torch give the same bytes, others similar models.
"""

import json
from pathlib import Path

from pargate.testing import measure_tiny, train_tiny

HERE = Path(__file__).parent / "models"
TRIGGER = {"kind": "triangles", "alpha": 0.15, "scale": "proportional"}
TARGET = "banana"


def main() -> None:
    for name, planted in (("clean", False), ("poisoned", True)):
        folder = HERE / name
        folder.mkdir(parents=True, exist_ok=True)
        # Nearly half of a file is the token embedding, as wide as the text tower: at 12 it stays below 3 MB.
        train_tiny(folder, trigger=TRIGGER if planted else None, target=TARGET if planted else None, text_width=12)
        rates = measure_tiny(folder, trigger=TRIGGER, target=TARGET)
        truth = {
            "trigger": TRIGGER if planted else None,
            "target_class": TARGET if planted else None,
            "clean_accuracy": round(rates.accuracy, 4),
            "attack_success_of_the_trigger": round(rates.attack_success, 4),
            "scenes": rates.n,
        }
        (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
        print(f"{name}: accuracy {rates.accuracy:.1%}, attack success {rates.attack_success:.1%}")


if __name__ == "__main__":
    main()
