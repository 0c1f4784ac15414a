"""The part of `docs/evidence.md` about what is done after a scan has failed: cleaning, export, the gate."""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from benchmarks.tables import Row, pct, span, table

METHODS = ("par", "par-plus", "cleanclip", "finetune")
PLANTED = {"rn-badnet", "rn-stripes", "vit-badnet", "vit-blended", "vit-stripes", "vit-triangles", "vit-watermark"}
GOALS = {"real": (0.05, 0.03), "synthetic": (0.10, 0.05)}
"""Attack success and loss of accuracy that PAR was to reach, by pairs."""


def device_of(row: Row) -> str:
    return str(row.get("device", "cpu"))


def points(row: Row) -> float:
    """Clean accuracy that was lost."""
    return float(row["before"]["accuracy"] - row["after"]["accuracy"])


def cleaned(pairs: str, device: str = "cpu") -> Callable[[Any], str]:
    """Every method on every model with one kind of pairs, on one kind of device."""
    success, loss = GOALS[pairs]

    def shown(content: Any) -> str:
        runs = [
            r for r in content["runs"].values()
            if r["pairs"] == pairs and r["seed"] == 0 and not r.get("change") and device_of(r) == device
        ]  # fmt: skip
        # Defaults only grew over time; the earlier ones stand among the seeds.
        latest = {(r["method"], r["model"]): r for r in sorted(runs, key=lambda r: (r["batch_size"], r["lr"]))}
        rows = []
        for method in METHODS:
            for r in sorted((r for r in latest.values() if r["method"] == method), key=lambda r: r["model"]):
                planted = "success" in r["after"]
                limit = 0.02 if not planted else loss
                reached = points(r) <= limit and (not planted or r["after"]["success"] <= success)
                image, text = r["moved"]["image"], r["moved"]["text"]
                rows.append([
                    method, r["model"], f"{pct(r['before']['accuracy'])} → {pct(r['after']['accuracy'])}",
                    f"{pct(r['before'].get('success'))} → {pct(r['after'].get('success'))}" if planted else "–",
                    span(r["after"]["interval"]) if planted else "–", "yes" if reached else "no",
                    f"{r['steps']} × {r['batch_size']}", f"{r['lr']:g}", f"{image['embedding_shift']:.2f} / {text['embedding_shift']:.2f}",
                    f"{r['seconds'] / 60:.1f}",
                ])  # fmt: skip
        head = [
            "method",
            "model",
            "clean accuracy %",
            "attack success %",
            "95 %",
            "goal",
            "steps × pairs",
            "lr",
            "moved: pictures / captions",
            "min",
        ]
        reached = [
            f"{method}: {sum(r[5] == 'yes' for r in rows if r[0] == method)} of {sum(r[0] == method for r in rows)}"
            for method in METHODS
            if any(r[0] == method for r in rows)
        ]
        have = {method: {r["model"] for r in runs if r["method"] == method} & PLANTED for method in METHODS}
        missing = [
            f"{method} on {len(PLANTED) - len(done)} of {len(PLANTED)} planted models"
            for method, done in have.items()
            if len(done) < len(PLANTED)
        ]
        still = f" Not measured yet: {', '.join(missing)}." if missing else ""
        return f"Goal reached: {'; '.join(reached) or 'nothing was measured'}.{still}\n\n{table(head, rows)}"

    return shown


def seeds(content: Any) -> str:
    found: dict[tuple[str, str, str, int, float], list[Row]] = defaultdict(list)
    for r in content["runs"].values():
        if r["pairs"] == "real" and not r.get("change"):
            found[r["method"], r["model"], device_of(r), r["batch_size"], r["lr"]].append(r)
    counts = Counter(key[:3] for key in found)
    rows = [
        [method, model, device, batch, f"{lr:g}", " / ".join(pct(r["after"]["accuracy"]) for r in runs), " / ".join(pct(r["after"].get("success")) for r in runs)]
        for (method, model, device, batch, lr), listed in sorted(found.items())
        if len(runs := sorted(listed, key=lambda r: r["seed"])) > 1 or counts[method, model, device] > 1
    ]  # fmt: skip
    return table(
        ["method", "model", "on", "pairs a step", "lr", "clean accuracy %, by seed", "attack success %, by seed"], rows
    )


def ablation(content: Any) -> str:
    changed = [r for r in content["runs"].values() if r.get("change") and device_of(r) == "cpu"]
    if not changed:
        return "*Not measured in this checkout.*"
    names = sorted({r["model"] for r in changed})
    whole = [
        r
        for r in content["runs"].values()
        if (r["method"], r["pairs"], r["seed"]) == ("par-plus", "real", 0)
        and not r.get("change")
        and device_of(r) == "cpu"
    ]
    by_change: dict[str, dict[str, Row]] = defaultdict(dict)
    for r in [*whole, *changed]:
        by_change[r.get("change") or "par-plus"][r["model"]] = r
    rows = []
    for change, found in by_change.items():
        cells = [found.get(name) for name in names]
        rows.append(
            [change, *(f"{pct(r['after']['success'])} at {-100 * points(r):+.1f}" if r else "–" for r in cells)]
        )
    return table(["", *(f"{name}: attack success %, points of accuracy" for name in names)], rows)


def powers(content: Any) -> str:
    shares = content["discordances"]
    said = (
        f"Measured in the {len(shares)} comparisons of the gates above: {pct(shares[0])} … {pct(shares[-1])} %, median "
        f"{pct(content['share'], 0)} %, which the table takes; the last column takes the largest. {content['runs']} simulated gates "
        "a row."
    )
    rows = [
        [
            f"{100 * r['fall']:g}", f"**{r['certify']:,}**", f"**{r['all']:,}**", pct(r["exact"], 0), pct(r["sequence"], 0),
            pct(r["error"]), f"{r['more']:,}",
        ]
        for r in content["rows"]
    ]  # fmt: skip
    head = ["budget, points", "images that certify", "images in all", "shown, exact test %", "shown, sequence %", "error %",
            "certify, largest discordance"]  # fmt: skip
    return f"{said}\n\n{table(head, rows)}"


def gates(content: Any) -> str:
    """Each gate on one row; before is the first scan, after the last one."""
    rows = []
    for r in sorted(content["runs"].values(), key=lambda r: (r["pairs"], r["model"])):
        scans = [s for s in r["stages"] if s.get("success")]
        first, last = scans[0], scans[-1]
        drop = next((s["drop"] for s in reversed(r["stages"]) if "drop" in s), None)
        proof = next((s["proof"] for s in r["stages"] if "proof" in s), None)
        tried = max(s["attempt"] for s in r["stages"])
        rows.append([
            r["pairs"], r["model"], f"**{r['verdict']}**", tried, f"{share(first)} → {share(last)}", last["name"],
            f"{100 * drop['drop']:.1f} [{span([drop['low'], drop['high']])}]" if drop else "–",
            f"1 − {1 - proof['min_cosine']:.0e}, {proof['top1_same']} of {proof['top1_of']}" if proof else "–",
            {True: f"yes, {r['verify_seconds']:.2f} s", False: "**no**", None: "no bundle"}[r["verified"]],
            f"{r['minutes']:.1f}",
        ])  # fmt: skip
    counts = {pairs: [r for r in content["runs"].values() if r["pairs"] == pairs] for pairs in ("real", "synthetic")}
    said = "; ".join(
        f"{pairs} pairs: {sum(r['verdict'] == 'remediated' for r in found)} of {len(found)} remediated"
        for pairs, found in counts.items()
        if found
    )
    missing = [
        f"{pairs}: {', '.join(sorted(gone))}"
        for pairs, found in counts.items()
        if (gone := PLANTED - {r["model"] for r in found})
    ]
    still = f" Not run yet: {'; '.join(missing)}." if missing else ""
    head = [
        "pairs", "model", "verdict", "cleanings", "attack success %, first → last scan", "last scan",
        "accuracy lost, points [interval]", "ONNX: least cosine, same class", "verified", "min",
    ]  # fmt: skip
    return f"{said}.{still}\n\n{table(head, rows)}"


def share(scanned: Row) -> str:
    hits, n = scanned["success"]
    return f"{pct(hits / n)} of {n}" if n else "–"


def exports(content: Any) -> str:
    speeds = table(
        ["model", "weights", "pictures: times torch", "of single rounds", "captions: times torch", "least cosine"],
        [
            [
                model, name, f"**{images['ratio']:.2f}**",
                f"{min(images['ratios_by_round']):.2f} … {max(images['ratios_by_round']):.2f}",
                f"{found['captions'][name]['ratio']:.2f}" if name in found["captions"] else "–",
                f"1 − {1 - images['min_cosine']:.0e}",
            ]
            for model, found in content["speed"].items()
            for name, images in found["images"].items()
            if name != "torch"
        ],
    )  # fmt: skip
    costs = table(
        ["model", "MB", "processor seconds to export", "peak memory, MB", "of which open before, MB"],
        [
            [model, f"{r['model_mb']:.0f}", f"{r['export_processor_s']:.0f}", f"{r['peak_mb']:.0f}", f"{r['peak_open_mb']:.0f}"]
            for model, r in content["export"].items()
        ],
    )  # fmt: skip
    return f"{speeds}\n\n{costs}"


def paired(found: Any) -> str:
    rows = [
        [r["name"], f"{r['median']:.0f}", f"{r['low']:.0f} … {r['high']:.0f}", f"{r['turns']} × {r['images']}"]
        for r in found["rows"]
    ]
    return f"Load of the machine at the start: {found['load']:.1f}.\n\n" + table(
        ["", "median", "of single turns", "turns × images"], rows
    )


def cleaning_speed(found: Any) -> str:
    return "\n\n".join(_speed(section) for section in found["sections"].values())


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _speed(section: Any) -> str:
    steps = table(
        ["model", "", "arithmetic", "pairs of a step", "pargate, pairs/s", "plain step, pairs/s", "ratio", "of single turns"],
        [[r["model"], r["when"], r["precision"], r["batch"], _rate(r["ours"]), _rate(r["plain"]), f"**{r['ratio']:.2f}**",
          f"{r['span'][0]:.2f} … {r['span'][1]:.2f}"]
         for r in section["steps"]],
    )  # fmt: skip
    memory = table(
        ["model", "pairs at a time, of 2048", "peak, MiB", "s"],
        [
            [r["model"], r["micro_batch"], *(
                (r["problem"], "–") if "problem" in r else (f"{r['peak_bytes'] / 2**20:.0f}", f"{r['seconds']:.1f}")
            )]
            for r in section["memory"]
        ],
    )  # fmt: skip
    return "\n\n".join([section["machine"], steps, *([memory] if section["memory"] else [])])


CLEANING = (
    "Each planted model is cleaned with {pairs}, and then measured on all 2000 images: clean accuracy, and the gate's attack "
    "success under the planted trigger with its Clopper–Pearson interval. The cleaner is given the pairs alone. Goal: attack "
    "success of at most {success} at a loss of at most {loss} points of accuracy; of the clean models, a loss of at most 2. `moved` is "
    "the mean squared distance between old and new embeddings of the same clean pairs: it proves nothing. Made by "
    "`python -m benchmarks.cleaning`, which keeps each run by what it depends on; two at a time, on a machine that was used "
    "otherwise too, so the minutes are upper bounds."
)  # fmt: skip

CLEANING_SPEED = (
    "Ratios of one run: the two take turns, and the ratio is of medians. The plain step is the one a paper's code would have: two "
    "forwards in fp32 with the towers as open_clip makes them, captions at full length, pictures decoded anew in each epoch by a "
    "worker. In the first epoch pargate decodes as well; it keeps what it has decoded, and nine tenths of a default run are later "
    "epochs. With `--views` it keeps the frozen model's embeddings of pictures, too. Goal 1.5 times on a processor: reached on "
    "ViT-B-32 and on the small ResNet in later epochs, just missed on the small ViT, reached by both with `--views 1`. Matrix "
    "products in fp32, which either step needs, are 57 % of ours in a profile of the ViT's later epochs; `--compile` changes "
    "nothing. On the GPU, whose first turn was slow, pictures are decoded to 224 px while the step runs. On the machine with 16 "
    "processors fp32 was taken, since bf16 was then tried with eight pairs, too few to show what it saves. "
    "Below: peak memory of a process that takes one step with 2048 pairs, each told apart from all others, forwarded at once or "
    "in parts; a run of the rates alone leaves it as it was. On the GPU it is what was allocated there, in parts alone: at once it ran out of memory beside what the measurement "
    "of the rates had kept of the GPU, which it has given back since."
)  # fmt: skip

ABLATION = "Real pairs, seed 0, single runs of `python -m benchmarks.cleaning --ablation`."

GATES = (
    "`pargate gate` on each planted model, by `python -m benchmarks.gate`: `baseline` and one rule that knows the planted trigger "
    "and its target, attack success at most 10 %; par-plus with 5999 real pairs or 6000 drawn ones, at most two cleanings (the "
    "second is PAR), at most 10 points of accuracy. Measured before the exact test of the next section, with a third of the 2000 "
    "images for each stage. The images are divided before anything runs; sampling stops as soon as a rule is decided, hence the small numbers. `fail` "
    "ships nothing, which is what a gate is for. One process with one thread, on a machine that was also used otherwise."
)  # fmt: skip

POWER = (
    "How many labelled images must certify so that an unchanged accuracy is shown to keep its budget with a chance of 80 %, at 99 % "
    "confidence (`python -m benchmarks.power`). *Discordance* is the share of images whose correctness a cleaning changes. "
    "*Shown* is the share of simulated gates with an unchanged accuracy that show it, by the exact test of fixed size that a "
    "gate uses and by the confidence sequence that scans use and gates used before; *error* is the share that show it although "
    "accuracy fell by exactly the budget, at most 1 % but for chance."
)  # fmt: skip

EXPORTS = (
    "Rates per processor second, by turns, median of the ratios (`benchmarks/export.py`). Goal 1.2 times for fp32: met. int8 "
    "gains nothing on a processor without instructions for it, such as this one. The graph of captions always computes the full "
    "context, torch here only what a caption needs: hence 0.19."
)  # fmt: skip

PAIRS = (
    "Images a second, by `python -m benchmarks.pairs`: the built-in renderer on one core, then what the loader hands to the "
    "training step with one worker process. Goal of the renderer: 2000 on a core at 64 px."
)

REMEDIES = [
    (
        "Cleaning with real pairs",
        "cleaning",
        CLEANING.format(pairs="5999 real pairs", success="5 %", loss="3"),
        cleaned("real"),
    ),
    (
        "Cleaning with drawn pairs",
        "cleaning",
        CLEANING.format(pairs="6000 drawn pairs alone (`synthetic:6000`)", success="10 %", loss="5"),
        cleaned("synthetic"),
    ),
    (
        "Cleaning with real pairs, on a GPU",
        "cleaning",
        "As above with what follows from the sizes on a GPU: batches of 256 for every method, in bf16. Fourteen runs shared the "
        "GPU, so the minutes say little. The ResNets had a lower rate than now: these are not run again since.",
        cleaned("real", "cuda"),
    ),
    (
        "Cleaning with drawn pairs, on a GPU",
        "cleaning",
        "As above with drawn pairs; par-plus keeps its batches of 64.",
        cleaned("synthetic", "cuda"),
    ),
    (
        "Cleaning, other seeds, batches and rates",
        "cleaning",
        "Real pairs; seeds from 0 on. Where a batch or a rate is not that of the tables above, it was the default before.",
        seeds,
    ),
    ("par-plus with a part left out", "cleaning", ABLATION, ablation),
    ("The gate", "gate", GATES, gates),
    ("How many images a gate needs", "power", POWER, powers),
    ("ONNX Runtime against torch", "export", EXPORTS, exports),
    ("How fast pairs come", "pairs", PAIRS, paired),
    ("What cleaning costs", "cleaning-speed", CLEANING_SPEED, cleaning_speed),
]
