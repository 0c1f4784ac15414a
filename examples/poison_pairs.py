"""Poison a share of image-text pairs, to try `pargate screen` on a set whose poisoned pairs are known.

    python examples/poison_pairs.py SOURCE OUT.tar --trigger triangles --target banana --rate 0.01

Chosen images get the trigger and a caption of the target. OUT.tar.truth lists the names of their pairs. A
trigger is written as in a policy: a name, or a map such as '{kind: triangles, alpha: 0.15}'.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from pargate.core.model import Preprocess
from pargate.core.stamp import apply
from pargate.images.opening import open_pairs
from pargate.images.prefetch import Decoder
from pargate.images.shards import Sample, encode, write_shard
from pargate.triggers import parse

TEMPLATES = ("a photo of a {}", "a {}", "a picture of a {}")


def main() -> None:
    """Write the poisoned set and the list of its poisoned pairs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source")
    parser.add_argument("out", type=Path)
    parser.add_argument("--trigger", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--size", type=int, default=64)
    given = parser.parse_args()
    pairs = open_pairs(given.source, seed=0)
    items = pairs.items()
    rng = np.random.default_rng(0)
    others = [row for row, item in enumerate(items) if given.target not in str(item.caption)]
    poisoned = set(rng.choice(others, round(given.rate * len(items)), replace=False).tolist())
    trigger = parse(yaml.safe_load(given.trigger))[0]
    rule = Preprocess((given.size, given.size), (0.0,) * 3, (1.0,) * 3)
    blocks = [np.arange(at, min(at + 256, len(items))) for at in range(0, len(items), 256)]

    def samples() -> Iterator[Sample]:
        with Decoder(rule) as decoder:
            decoder.start(items, blocks)
            for number in range(len(blocks)):
                block = decoder.readable(number, given.source)
                stamped = apply(trigger.draw(rule.size, block.digests, 0), block.pixels)
                for at, row in enumerate(block.rows):
                    bad = row in poisoned
                    words = TEMPLATES[row % len(TEMPLATES)].format(given.target) if bad else items[row].caption
                    yield Sample(encode((stamped if bad else block.pixels)[at], ".png"), words)

    write_shard(given.out, samples(), 0)
    names = "".join(f"{row:09d}\n" for row in sorted(poisoned))
    Path(f"{given.out}.truth").write_text(names)


if __name__ == "__main__":
    main()
