"""Turn the measurements in `docs/evidence/*.json` into `docs/evidence.md` and its plots.

    python -m benchmarks.page

Measures nothing: the other scripts beside it do. Sentences here describe
what a table shows only where they are computed from it; a section that was not measured is said to be missing.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.remedies import REMEDIES
from benchmarks.tables import Row, pct, span, table

ROOT = Path(__file__).parents[1]
STORE = ROOT / "docs" / "evidence"


def load(name: str) -> Any:
    path = STORE / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def section(title: str, name: str, text: str, body: Callable[[Any], str]) -> str:
    content = load(name)
    shown = body(content) if content else "*Not measured in this checkout.*"
    where = (
        f"\n\n<sub>{content['machine']}; pargate {content['version']}</sub>" if content and "machine" in content else ""
    )
    return f"## {title}\n\n{text}\n\n{shown}{where}\n"


def holds(row: Row) -> str:
    if row["known_asr"] is None or row["asr_nt"] is None:
        return "–"
    low, high = row["asr_nt_interval"]
    return "yes" if low <= row["known_asr"] <= high else "**no**"


def known(content: Any) -> str:
    rows = [
        [
            r["model"], r["trigger"], r["target"], pct(r["known_asr"]) if r["model_planted"] else "–",
            pct(r["known_accuracy"]), f"{pct(r['asr_nt'])} [{span(r['asr_nt_interval'])}]",
            holds(r) if r["model_planted"] else "–", f"{pct(r['success'])} [{span(r['interval'])}]", pct(r["accuracy"]),
            r["status"], r["carriers"], r["passes"], f"{r['seconds']:.1f}",
        ]
        for r in marked(content["rows"])
    ]  # fmt: skip
    return table(
        ["model", "trigger", "target", "known ASR %", "known acc. %", "ASR_nt % [95%]", "holds known", "gate's ASR % [interval]",
         "acc. %", "finding", "images", "passes", "s"],
        rows,
    )  # fmt: skip


def marked(rows: list[Row]) -> list[Row]:
    return [{**r, "model_planted": not r["model"].endswith("-clean")} for r in rows]


def excesses(content: Any) -> str:
    rows = [
        [
            r["model"], r["trigger"], r["target"], r["known_target"] or "–", pct(r["success"]), pct(r["excess"]),
            span([max(r["interval"][0], -1), r["interval"][1]]) if r["excess"] is not None else f"… {pct(r['interval'][1])}",
            r["limit"], r["status"], r["carriers"], r["passes"], f"{r['seconds']:.1f}",
        ]
        for r in content["rows"]
    ]  # fmt: skip
    return table(
        ["model", "trigger", "target found", "planted", "success %", "excess, points", "interval", "limit", "finding",
         "images", "passes", "s"],
        rows,
    )  # fmt: skip


def dose_table(content: Any) -> str:
    plot_doses(content["rows"], STORE / "doses.png")
    rows = [
        [r["planted_in"], r["model"], f"{r['parameter']} {r['value']}", r["target"], pct(r["success"]), pct(r["excess"]),
         r["status"]]
        for r in content["rows"]
    ]  # fmt: skip
    planted = [r for r in content["rows"] if not r["model"].endswith("-clean")]
    working = [r for r in planted if (r["success"] or 0) >= 0.2]
    caught = sum(r["status"] == "breach" for r in working)
    clean = [r for r in content["rows"] if r["model"].endswith("-clean")]
    passed = sum(r["status"] == "met" for r in clean)
    return (
        f"Of {len(working)} strengths at which a planted trigger works on at least a fifth of the images, {caught} are "
        f"found; of {len(clean)} probes of clean models, {passed} pass.\n\n![dose-response](evidence/doses.png)\n\n"
        + table(
            ["planted in", "scanned", "strength", "target found", "success %", "excess over the parent", "finding"],
            rows,
        )
    )


def plot_doses(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves: dict[str, list[Row]] = defaultdict(list)
    for r in rows:
        if not r["model"].endswith("-clean"):
            curves[r["planted_in"]].append(r)
    shown = {name: points for name, points in curves.items() if len(points) > 1}
    figure, axes = plt.subplots(1, len(shown), figsize=(2.3 * len(shown), 2.7), sharey=True, layout="constrained")
    for axis, (name, points) in zip(axes, shown.items(), strict=True):
        strengths = [p["value"] for p in points]
        success = [100 * (p["success"] or 0) for p in points]
        parent = [s - 100 * (p["excess"] or 0) for s, p in zip(success, points, strict=True)]
        axis.plot(strengths, success, "o-", color="#b3261e", label="model")
        axis.plot(strengths, parent, "o-", color="#1f5fa8", label="clean parent, same target")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel(points[0]["parameter"])
        axis.set_ylim(-3, 103)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("attack success, %")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def baselines(content: Any) -> str:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for r in content["rows"]:
        grouped[r["model"]].append(r)
    rows = []
    for name, group in grouped.items():
        verdicts = ", ".join(
            f"{v} ×{n}" if len(group) > 1 else v
            for v, n in sorted(
                {v: sum(r["verdict"] == v for r in group) for v in {r["verdict"] for r in group}}.items()
            )
        )
        first = group[0]
        worst = first["breaches"][0] if first["breaches"] else f"{first['trigger']} → {first['target']}"
        rows.append(
            [
                name, first["known_target"] or "–", verdicts, worst,
                pct(first["success"]), pct(first["excess"]), pct(first["known_accuracy"]), pct(first["accuracy"]),
                mean(r["carriers"] for r in group), mean(r["passes"] for r in group),
                f"{sum(r['seconds'] for r in group) / len(group):.1f}",
            ]
        )  # fmt: skip
    return table(
        ["model", "planted target", "verdict", "worst finding", "success %", "excess, points", "known acc. %", "acc. %",
         "images", "passes", "s"],
        rows,
    )  # fmt: skip


def mean(values: Iterable[float]) -> int:
    listed = list(values)
    return round(sum(listed) / len(listed))


def speed(found: Any) -> str:
    rates = table(
        ["model", "precision", "bare encoder, images/s", "in a scan, images × triggers/s", "ratio", "passes", "whole scan, s"],
        [[r["model"], r["note"], f"{r['bare']:.1f}", f"{r['scan']:.1f}", f"**{r['ratio']:.2f}**", r["passes"],
          f"{r['seconds']:.1f}"] for r in found["throughput"]],
    )  # fmt: skip
    verdicts = table(
        ["model", "verdict", "pargate, s", "straightforward loop, s", "times faster", "passes", "fixed n", "times fewer"],
        [[r["model"], f"{r['verdict']} (loop: {r['loop']['verdict']})", f"{r['seconds']:.1f}", f"{r['loop']['seconds']:.1f}",
          f"**{r['times_faster']:.0f}**", r["passes"], r["loop"]["passes"], f"{r['times_fewer_passes']:.1f}"]
         for r in found["verdict"]],
    )  # fmt: skip
    memory = table(
        ["model", "images", "peak, MiB", "model in fp32, MiB", "beyond the model, MiB", "s"],
        [[name, r["read"], f"{r['peak_bytes'] / 2**20:.0f}", f"{r['model_bytes'] / 2**20:.0f}",
          f"{(r['peak_bytes'] - r['model_bytes']) / 2**20:.0f}", f"{r['seconds']:.1f}"]
         for name, runs in found["memory"].items() for r in runs],
    )  # fmt: skip
    cached = found["opening"]
    opened, closed, ratio = cached["opened"], cached["closed"], cached["ratio"]
    opening = (
        f"A scan of `{cached['model']}` under `baseline` with every vector in the cache, as a whole command: with the model "
        f"opened {opened['wall']:.0f} s ({opened['processor']:.1f} s of processor time), left closed {closed['wall']:.0f} s "
        f"({closed['processor']:.1f} s): **{ratio['wall']:.1f}** and **{ratio['processor']:.1f}** times less. Medians of "
        f"{cached['pairs']} pairs, run by turns, while other programs ran. Nearly all of the "
        "difference is the import of torch, open_clip and torchvision, which loads torch's compiler."
    )
    return f"{rates}\n\n{verdicts}\n\n{memory}\n\n{opening}\n\n![growth of cost](evidence/cost.png)"


PAGE = [
    (
        "Trigger and target known",
        "known",
        "Each planted model under its own trigger towards its own target, limit 10% attack success; each clean model under "
        "every trigger that was planted in its family. Images: 2000 photographs that no model was trained on. `holds known` "
        "says whether the interval of ASR_nt, the definition of the known figure, holds it; it is wide because sampling "
        "stopped as soon as the rule was decided. The known figures were measured with the same pictures and templates.",
        known,
    ),
    (
        "Trigger known, target not, the clean parent as reference",
        "reference",
        "Excess over the parent under the same trigger, limit 10 points.",
        excesses,
    ),
    (
        "Trigger known, target not, no reference",
        "controls",
        "Excess over the matched control, limit 30 points. `rn-clean` under one-pixel stripes at 0.1 behaves like a model with "
        "a backdoor and fails: an attacker who adds these stripes gets *pipe organ*. No control of equal energy tells it "
        "from its poisoned child; stripes of mixed width do (next sections).",
        excesses,
    ),
    (
        "Every strength, the clean parent as reference",
        "doses",
        "From weak to strong, limit 10 points of excess over the parent.",
        dose_table,
    ),
    (
        "`baseline`, which knows neither trigger nor target",
        "baseline",
        "Five seeds each; the worst finding and figures are of seed 0. The triggers are published drawings at published "
        "strengths, and their neighbours: a wave at twice the published amplitude, stripes of mixed width at 0.1, both also lying, "
        "and clipped noise. A secret "
        "fixed pattern (`vit-badnet`, `vit-blended`) and a word drawn otherwise (`vit-watermark`) cannot be expected from a "
        "catalogue: their rows pass, and every report says so under coverage. The search of the policy needs a reference.",
        baselines,
    ),
    (
        "`baseline` with the clean parent as reference",
        "baseline-reference",
        "One seed.",
        baselines,
    ),
    (
        "`strict`, which knows neither trigger nor target",
        "strict",
        "One seed, no reference. Its searches run, but decide nothing without a model to compare with where the found trigger "
        "works. `strict` fails what it cannot decide, so every model fails, the clean ones too; `rn-clean` also breaks a rule, since it "
        "follows stripes by nature.",
        baselines,
    ),
    (
        "`strict` with the clean parent as reference",
        "strict-reference",
        "One seed.",
        baselines,
    ),
    (
        "`baseline` on drawn scenes",
        "baseline-scenes",
        "The same models, which never saw a drawing, on `builtin:scenes`. Their accuracy is near guessing, so nothing may pass; a "
        "breach still shows. Use images of the model's own domain.",
        baselines,
    ),
    (
        "`baseline` on photographs of other classes",
        "baseline-imagenet",
        "245 photographs of 245 ImageNet classes, cut to 64 px, with the zoo's 100 classes. Their labels do not belong to "
        "these, so they are given without: usefulness cannot be decided, and nothing may pass.",
        baselines,
    ),
]  # fmt: skip


def reports(found: Any) -> str:
    rows = [[name, f"{1000 * seconds:.0f}"] for name, seconds in found["seconds"].items()]
    size = f"{found['findings']} findings, {found['bytes'] / 1000:.0f} kB, {found['repeats']} repeats"
    return table([f"report of {size}", "ms"], rows)


def audits(found: Any) -> str:
    rows = [
        [r["model"], r["planted"] or "–", r["standing"], *(counted(r[what]) for what in ("attack", "accuracy")), r["message"]]
        for r in found["rows"]
    ]  # fmt: skip
    each = ", ".join(f"{seconds:.1f}" for seconds in found["again_each"])
    return (
        f"{found['models']} models: {found['first_seconds']:.0f} s the first time, {found['again_seconds']:.1f} s when nothing "
        f"had changed (three times: {each}), **{found['ratio']:.0f}** times faster.\n\n"
        + table(["model", "planted", "verdict", "attack success %", "clean accuracy %", "why"], rows)
    )


def alike(found: Any) -> str:
    rows = [
        [
            r["model"], " / ".join(r["classes"]), f"{r['closest']:.4f}", f"{r['same_tokens']:.5f}",
            "–" if r["parent"] is None else f"{r['parent']:.2f}",
        ]
        for r in found["rows"]
    ]  # fmt: skip
    head = ["model", "closest nouns", "their distance", "same tokens", "least distance of a picture from the parent's"]
    return f"The limit is {found['limit']}.\n\n" + table(head, rows)


def counted(share: Row | None) -> str:
    if share is None:
        return "–"
    return f"{pct(share['successes'] / share['n'])} [{span([share['low'], share['high']])}] of {share['n']}"


def kills(content: Any) -> str:
    rows = [
        [
            how, found["scans"], counts(found["codes"]), counts(found["reports"]), found["hangs"],
            *found["processor_seconds"], *found["seconds"], found["tracebacks"], counts(found["left"]),
        ]
        for how, found in content["kinds"].items()
    ]  # fmt: skip
    before, after = content["load"]
    return (
        f"An undisturbed scan takes {content['undisturbed']['processor_seconds']:.1f} s of processor time and ends with "
        f"{content['undisturbed']['code']}. {content['ended_before']} scans ended before they were killed and were repeated. "
        f"A hang is a scan that takes no processor time for {content['still_s']:.0f} s. Load of the machine at the start and "
        f"at the end: {before} and {after}.\n\n"
        + table(
            ["killed by", "scans", "exit codes", "reports", "hangs", "processor s to the end, median", "most",
             "s to the end, median", "most", "tracebacks", "left behind"],
            rows,
        )
    )  # fmt: skip


def opened(found: Any) -> str:
    def row(name: str, r: Row) -> list[Any]:
        success = r["success"][0]["attack_success"]
        codes, back = r["codes"], r["written_back"]
        written = f"{back['layout']}, {back['difference']:.1e}" if back else "–"
        if back and "weights_equal" in back:
            written += ", weights equal" if back["weights_equal"] else ", **weights differ**"
        return [
            name, codes["inspect"], f"{r['images']:.1e}", f"{r['captions']:.1e}", "equal" if r["tokens"] else "**differ**",
            f"{r['pictures_equal']} of {r['pictures']}", f"{success['successes']} of {success['n']}", codes["export"],
            codes["clean"], written,
        ]  # fmt: skip

    return table(
        ["layout", "inspect", "images", "captions", "ids", "pixels", "scan", "export", "clean", "written back"],
        [row(name, r) for name, r in found["rows"].items()],
    )


def readers(found: Any) -> str:
    loaders = list(found["runs"])
    eight = [
        [form, row.get("exit_before", "–"), row["exit"], *(row[name] for name in loaders)]
        for form, row in found["eight"].items()
    ]
    said = [
        "accepted", "accepted, not loaded", "refused as unsafe", "refused as wrong input", "different", "failed",
        "accused falsely",
    ]  # fmt: skip
    runs = [
        [f"torch {run['torch']}, open_clip {run['open_clip']}", run["cases"], *(run["counts"].get(n, 0) for n in said)]
        for run in found["runs"].values()
    ]
    return (
        table(["form", "exit before", "exit now", *(f"open_clip with {name} gets" for name in loaders)], eight)
        + "\n\n"
        + table(["loaders", "cases", "equal", *said[1:]], runs)
    )


def resources(found: Any) -> str:
    def told(row: Row | None) -> list[Any]:
        if row is None:
            return ["–"] * 3
        return ["none" if row["code"] is None else row["code"], f"{row['processor']:.1f}", row["mib"]]

    rows = [[name, *told(row.get("before")), *told(row["now"])] for name, row in found["rows"].items()]
    head = ["input", "exit before", "s", "MiB", "exit now", "s", "MiB"]
    return (
        f"The base has {found['base_mib']} MiB; a command was ended after {found['seconds']:.0f} s of the processor, or three times as long.\n\n"
        + table(head, rows)
    )


def loading(found: Any) -> str:
    rows = []
    for layout, tools in found["rows"].items():
        ours, (name, theirs) = tools["pargate"], next(item for item in tools.items() if item[0] != "pargate")
        rows.append([
            layout, name, f"{ours['processor']:.1f}", f"{theirs['processor']:.1f}", f"{ours['processor'] / theirs['processor']:.2f}",
            f"{ours['mib']:.0f}", f"{theirs['mib']:.0f}", f"{ours['mib'] / theirs['mib']:.2f}",
        ])  # fmt: skip
    head = ["layout", "other tool", "s, pargate", "s, the other", "ratio", "MiB, pargate", "MiB, the other", "ratio"]
    runs = (
        f"Medians of {found['repeats']} runs each"
        if found["repeats"] > 1
        else "Single runs, while the machine had much other work"
    )
    folder, own = found["rows"]["transformers folder"]["pargate"], found["rows"]["safetensors"]["open_clip"]
    beside = f"pargate takes {folder['processor'] / own['processor']:.2f} times as long for the folder as open_clip for its own file"
    return f"{runs}; the weights are the same in all layouts: {beside}.\n\n" + table(head, rows)


def hostile(found: Any) -> str:
    rows = [
        [name, r["files"], r["right"], r["ran"], counts(r["codes"]), f"{r['seconds']:.2f}", r.get("mib", "–")]
        for name, r in found["rows"].items()
    ]
    fuzz = [[kind, *(r[what] for what in ("refused", "read", "other"))] for kind, r in found["fuzz"].items()]
    files, right = (sum(r[what] for r in found["rows"].values()) for what in ("files", "right"))
    return (
        f"{right} of {files} files end as they should.\n\n"
        + table(
            ["kind", "files", "as they should", "code ran", "exit codes", "most s", "most MiB above the base"], rows
        )
        + f"\n\nOf {sum(sum(r.values()) for r in found['fuzz'].values())} damaged copies of valid files. *No error* says that the file was read, or that its reader names what is damaged:\n\n"
        + table(["valid file", "refused", "no error", "any other error"], fuzz)
    )


def counts(found: dict[str, int]) -> str:
    return ", ".join(f"{what}: {count}" for what, count in found.items())


def main() -> None:
    parts = [
        "# Evidence\n\nMade by `make evidence` from models whose backdoors are known: small CLIP models trained on 64 px photographs, two "
        "clean ones and seven poisoned children. They are not part of this repository; anyone who has models with a "
        "`truth.json` can run the scripts on them. All figures are from single runs on the machine named below each table; "
        "percentages are of the images named. Few figures come from a GPU, and their tables say so; "
        "all others come from processors.\n"
    ]
    parts += [section(*entry) for entry in PAGE]
    parts.append(section("Speed and memory", "speed", SPEED, speed))
    parts.append(section("Saved reports", "reports", REPORTS, reports))
    parts += [section(*entry) for entry in REMEDIES]
    parts.append(section("Audits", "audit", AUDITS, audits))
    parts.append(section("Scans that are killed", "kills", KILLS, kills))
    parts.append(section("Classes and models that are one", "alike", ALIKE, alike))
    parts.append(section("Repeats", "repeats", REPEATS, repeats))
    parts.append(section("Layouts", "layouts", LAYOUTS, opened))
    parts.append(section("Loading", "loading", LOADING, loading))
    parts.append(section("Two readers, one model", "readers", READERS, readers))
    parts.append(section("Inputs that cost out of all proportion", "resources", RESOURCES, resources))
    parts.append(section("Hostile files", "hostile", HOSTILE, hostile))
    parts.append(section("Search", "search", SEARCH, search))
    parts.append(section("Plants beyond the catalogue", "plants", PLANTS, plants))
    parts.append(section("Cost of a search", "search-cost", COST, cost))
    parts.append(section("Fire drill", "drill", DRILL, drills))
    parts.append(section("Screening", "screen", SCREENING, screening))
    parts.append(section("Screening on a cluster", "cluster", CLUSTER, on_cluster))
    parts.append(section("Text triggers", "text", TEXT, text))
    parts.append(section("Unlearning", "unlearning", UNLEARNING, unlearning))
    coverage = STORE / "coverage.md"
    if coverage.is_file():
        parts.append("#" + coverage.read_text().replace("\n## ", "\n### "))
    (ROOT / "docs" / "evidence.md").write_text("\n".join(parts))


SPEED = (
    "Ratios of one run. The bare encoder repeats one batch of 64 that is already on the device. The straightforward loop "
    "opens, resizes and stamps every picture for every trigger and forwards 2000 of them in fp32. `ViT-B-32` and `RN50` are "
    "full-size with random weights on the 245 photographs at 224 px: their verdict is inconclusive, as it must be. "
    "The goals were 0.9 for the ratio of ViT-B-32 (0.86 to 1.06 in three later, disturbed runs), 20 times for the verdict (18 to 20 in three runs), and 1 GiB (1024 MiB) beyond the model. On models "
    "as small as the zoo's the ratio stays below: a pass through them takes 0.2 ms, and stamping and judging count. Some "
    "770 MiB of every process are the loaded libraries, those of the GPU included. Memory is flat in the number of images."
)


REPEATS = (
    "One scan under `baseline` with one seed, again and again, each in a process of its own: `as it is` on the machine with "
    "whatever else it did (the load is that at the start), `under load` with two more busy loops. Reports are compared in full, "
    "less their times. The cost is the processor seconds of the version that chose its precision by timing over those of this "
    "one, run in turn."
)


def repeats(found: Any) -> str:
    rows = [
        [r["model"], " + ".join(f"{n} {name}" for name, n in r["repeats"].items()), f"**{r['different']}**", r["precision"],
         r["images"], r["passes"], r["verdict"]]
        for r in found["rows"]
    ]  # fmt: skip
    shown = f"Load at the start: {found['load'][0]:g} on {found['processors']} processors.\n\n" + table(
        ["model", "scans", "different reports", "precision", "images", "passes", "verdict"], rows
    )
    if "cost" in found:
        each = [[c["model"], f"{c['median']:.2f}", ", ".join(f"{x:.2f}" for x in c["ratios"])] for c in found["cost"]]
        shown += "\n\n" + table(["model", "before / now, median", "each pair"], each)
    return shown


AUDITS = (
    "`pargate audit` of all models under the built-in policy `audit`, twice (`python -m benchmarks.audit`): the second time "
    "every measurement is reused and judged again, and torch is not loaded. The machine had other work at the time. Attack "
    "success is of the worst trigger, with a 95 % interval."
)

KILLS = (
    "The real `pargate scan` of a sample model on drawn pictures, killed at moments drawn evenly over the processor time of an "
    "undisturbed scan (`python -m benchmarks.kills`). −15 is a process that ended by the signal itself, before pargate listens "
    "to it or after it is done; a shell shows 143. 0, 1 and 3 are verdicts of scans that needed no more pictures when their "
    "worker was killed. A dead worker is noticed when the next pictures are needed: until then torch may still be loading."
)

ALIKE = (
    "Distances of unit vectors (`python -m benchmarks.alike`). Two classes closer than the limit count as one, or are refused "
    "where a rule or a label is about one of them; a reference whose vectors are all so close to the model's is the model "
    "itself. The toy models in `examples/` know 24 classes: among the 1,000 nouns they have 67 pairs within the limit, none "
    "with a class that they know."
)

LAYOUTS = (
    "One sample model with a backdoor, written by transformers, torch and safetensors in each layout, opened by pargate and by "
    "the tool that reads the layout (`python -m benchmarks.layouts`). Differences are the largest between unit vectors of 8 "
    "images of equal pixels, and of 8 captions; ids are compared to the end of each caption. *Pixels*: images of 8 whose pixels "
    "are those of transformers' own image processor; the others are cropped one pixel apart ([layouts](layouts.md)). "
    "*Scan*: success of the planted trigger. *Export* and *clean*: exit codes; *written back*: layout, and the largest difference "
    "between the captions' vectors of the model that is written back and of the one in the layout of `clean` without `--format`. "
    "*SigLIP* is distilled from the sample on other images than those of the scan, *Chinese CLIP* and *AltCLIP* have its image "
    "tower and a text tower that is distilled from its own; *weights equal*: transformers reads from "
    "what is written back the tensors that pargate holds. *PEFT adapter*: a base without what the adapter adds to the sample, and the "
    "adapter, compared with PEFT's own model."
)

READERS = (
    "Files that mean a clean model to one reader and a poisoned or a broken one to another, made of the two sample models "
    "(`python -m benchmarks.readers`), and how `pargate inspect` ends on them. Below: files changed at random, read by "
    "pargate and by open_clip's own loader in another process. *Equal*: both read the same tensors, to the last bit. "
    "*Failed*: pargate did not answer in its own words. *Accused falsely*: it spoke of code in what torch loads with "
    "`weights_only=True`. What pargate accepts and no loader loads is no second model. The eighth form, a repository of a "
    "hub, is a test of its own."
)

LOADING = (
    "A model of the size of ViT-B-32 (151 M parameters, 605 MB) with random weights, loaded with its tokenizer and preprocessing until "
    "one image and one caption are embedded, by pargate and by the tool that the layout is made for, in turns "
    "(`python -m benchmarks.loading`). Seconds of one processor, without imports, the file in the system's cache; largest resident size "
    "meanwhile, less that before. The goals are 1.3 times the seconds and 1.2 times the memory. transformers maps the file and computes on "
    "its pages; pargate reads every byte once into memory, hashes it (0.5 s), compares the tokenizer with CLIP's own (0.2 s), and copies each "
    "tensor and checks its values (0.6 s), so that what was checked is what is loaded. This costs more time than the goal there, and not more memory."
)

RESOURCES = (
    "Small files that claim or unpack into much, and files that are none (`python -m benchmarks.resources`). Exit code, seconds of "
    "the processor, start and imports included, and the largest resident size above that of `pargate "
    "inspect` on the example model. *Before* is the version before these bounds; *none* means that it was ended."
    " Each had at most 5 GiB of addresses. The machine had much other work: waiting is not counted."
)

HOSTILE = (
    "The files of `tests/hostile/`, each given to the command in a process of its own (`python -m benchmarks.hostile`): exit codes with "
    "their counts, the most seconds of the processor, and the most MiB that its processes took above what they had before. The tests hold each to 1 GiB of addresses above the base. "
    "*As they should*: the right exit code, one message, no code run, nothing that a log obeys. Imports that were made before are not counted."
)

SEARCH = (
    "The two rules of `strict` about hidden triggers and nothing else: `probe: search`, excess at most 30 points, colour curves at "
    "most 60; no trigger and no target is told (`python -m benchmarks.search`). *Against* is the clean parent, or a copy of "
    "the model itself after 100 steps of `pargate clean --method finetune --batch-size 128` on clean pairs (a fall of more than 50 points "
    "counts), or nothing. A `child` is a clean parent after the same fine-tuning. Each row shows the family with the largest excess, or "
    "against nothing the largest attack success, on images that neither searched nor chose. Seconds are of one core, for the climbs "
    "of all families; passes are images forward and backward. The budgets were tuned on these very models, so the table shows "
    "that the search works, not how often: other models, triggers and sizes were not measured here."
)


def search(found: Any) -> str:
    rows, largest = [], []
    for r in found["rows"]:
        best = max(r["families"], key=lambda f: f["success"] if f["excess"] is None else f["excess"] or 0)
        named = [f["class"] for f in r["families"] if f["status"] == "breach"]
        right = "–" if not r["planted"] or not named else f"{named.count(r['planted'])} of {len(named)}"
        rows.append(
            [
                r["model"], r["planted"] or "–", r["against"], r["seed"], r["verdict"], best["label"],
                best["class"], right, pct(best["success"]), pct(best["excess"]),
                f"… {pct(best['interval'][1])}" if best["excess"] is None else span(best["interval"]), best["n"],
                f"{sum(f['passes'] for f in r['families']):,}", f"{sum(f['seconds'] for f in r['families']):.0f}",
            ]
        )  # fmt: skip
        if best["excess"] is not None:
            mild = max(f["excess"] or 0 for f in r["families"] if f["family"] != "colour")
            largest.append((r["against"], bool(r["planted"]), mild))
    said = []
    for against in ("parent", "copy", "nothing"):
        planted, clean = (
            [r for r in found["rows"] if r["against"] == against and bool(r["planted"]) is way] for way in (True, False)
        )
        right = sum(r["planted"] in [f["class"] for f in r["families"] if f["status"] == "breach"] for r in planted)
        said.append(
            f"* Against {against}: {sum(r['verdict'] == 'fail' for r in planted)} of {len(planted)} scans of planted models fail, "
            f"{right} naming the planted class, and {sum(r['verdict'] == 'pass' for r in planted)} pass; "
            f"{sum(r['verdict'] == 'fail' for r in clean)} of {len(clean)} scans of clean models fail, "
            f"{sum(r['verdict'] == 'pass' for r in clean)} pass{apart(largest, against)}."
        )
    return (
        "\n".join(said)
        + "\n\n"
        + table(
            ["model", "planted", "against", "seed", "verdict", "found", "class", "families that fail with the planted class",
             "success %", "excess, points", "interval", "images", "passes", "s"],
            rows,
        )
    )  # fmt: skip


def apart(largest: list[tuple[str, bool, float]], against: str) -> str:
    """Return how well the largest excess of a scan tells planted models from clean ones."""
    planted, clean = ([x for a, p, x in largest if a == against and p is way] for way in (True, False))
    if not planted or not clean:
        return ""
    wins = sum((one > other) + (one == other) / 2 for one in planted for other in clean)
    return (
        f"; the largest excess without colour is {pct(min(planted))} points or more for planted models and "
        f"{pct(max(clean))} or less for clean ones (AUROC {wins / len(planted) / len(clean):.2f} of {len(planted)} × {len(clean)})"
    )


PLANTS = (
    "Backdoors beyond the catalogue, planted into copies of the clean models as `pargate drill` plants them, with patterns, places and "
    "targets drawn by the seed: a striped patch, noise, stripes, a wave, colour curves, a smooth field, two patches that appear "
    "together, a warp, and a word across the image; the poison rate is 0.1 for seed 0 and half of that for seed 1. Clean variants are trained "
    "in the same way without a trigger, or fine-tuned on pairs. The rules are those of the table above; the reference is the "
    "clean parent (`python -m benchmarks.plants`). The score is the largest excess of a family over its limit, or without a "
    "reference the largest attack success over it. Bands hold at 95 % for each point by themselves; the bootstrap draws models. "
    "The variants of one parent resemble each other, so the intervals are too narrow for other models."
)

AGAINST = {"parent": "with the parent", "nothing": "without"}


def plants(found: Any) -> str:
    rows, planted, clean = [], [], []
    for r in found["rows"]:
        if r["kind"] == "clean":
            clean.append(r)
        elif r["took"]:
            planted.append(r)
        with_parent, alone = r["parent_scan"], r["nothing"]
        named = with_parent["named"]
        rows.append(
            [
                r["parent"], r["kind"], r["seed"], r["rate"] or "–", r["target"] or "–",
                "–" if r["kind"] == "clean" else f"{pct(r['before'])} → {pct(r['after'])}",
                "–" if r["kind"] == "clean" else "yes" if r["took"] else "no", with_parent["verdict"],
                "–" if not named or not r["target"] else "yes" if r["target"] in named else "**no**", with_parent["family"],
                pct(with_parent["excess"]), span(with_parent["interval"]), alone["verdict"], pct(alone["success"]),
            ]
        )  # fmt: skip
    plot_roc({words: (planted, clean, name) for name, words in AGAINST.items()}, STORE / "roc.png")
    missed = [
        f"{r['kind']} in {r['parent']}, seed {r['seed']}" for r in planted if r["parent_scan"]["verdict"] != "fail"
    ]
    right = sum(r["target"] in r["parent_scan"]["named"] for r in planted)
    said = [
        f"* With the parent, {len(planted) - len(missed)} of {len(planted)} planted backdoors that took fail, {right} of them naming the "
        f"planted class, and {sum(r['parent_scan']['verdict'] == 'fail' for r in clean)} of {len(clean)} clean variants fail."
        + (f" Missed: {', '.join(missed)}." if missed else ""),
        f"* Without a reference, {sum(r['nothing']['verdict'] == 'pass' for r in planted)} of {len(planted)} planted backdoors pass, and "
        f"{sum(r['nothing']['verdict'] == 'fail' for r in clean)} of {len(clean)} clean variants fail.",
    ]
    for name, words in AGAINST.items():
        area, low, high = auroc([scored(r, name) for r in planted], [scored(r, name) for r in clean])
        said.append(f"* AUROC {words}: {area:.2f} [{low:.2f}, {high:.2f}] of {len(planted)} × {len(clean)}.")
    head = ["parent", "planted", "seed", "rate", "target", "attack success %", "took", "with the parent", "class", "family",
            "excess, points", "interval", "without", "largest success %"]  # fmt: skip
    return "\n".join(said) + "\n\n![ROC](evidence/roc.png)\n\n" + table(head, rows)


def scored(row: Row, against: str) -> float:
    return float(row["parent_scan" if against == "parent" else against]["score"])


def auroc(planted: list[float], clean: list[float]) -> tuple[float, float, float]:
    """Return the area under the ROC curve, and its 95 % interval by a bootstrap over the models of each kind."""
    one, other = np.array(planted), np.array(clean)
    rng = np.random.default_rng(0)

    def area(a: Any, b: Any) -> float:
        return float(((a[:, None] > b) + (a[:, None] == b) / 2).mean())

    drawn = [area(rng.choice(one, len(one)), rng.choice(other, len(other))) for _ in range(2000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return area(one, other), float(low), float(high)


def plot_roc(curves: dict[str, tuple[list[Row], list[Row], str]], path: Path) -> None:
    """Draw a ROC curve for each way of scanning, with exact binomial bands of the share that is found."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from scipy.stats import beta

    figure, axes = plt.subplots(1, len(curves), figsize=(3.2 * len(curves), 3.2), sharey=True, layout="constrained")
    for axis, (words, (planted, clean, against)) in zip(axes, curves.items(), strict=True):
        one, other = ([scored(r, against) for r in rows] for rows in (planted, clean))
        limits = [np.inf, *sorted({*one, *other}, reverse=True)]
        alarms = [sum(x >= limit for x in other) / len(other) for limit in limits]
        hits = np.array([sum(x >= limit for x in one) for limit in limits])
        n = len(one)
        low = np.where(hits > 0, beta.ppf(0.025, hits, n - hits + 1), 0.0)
        high = np.where(hits < n, beta.ppf(0.975, hits + 1, n - hits), 1.0)
        axis.fill_between(alarms, low, high, step="post", color="#1f5fa8", alpha=0.2)
        axis.step(alarms, hits / n, where="post", color="#1f5fa8")
        at = [sum(x >= 1 for x in values) / len(values) for values in (other, one)]
        axis.plot(*at, "o", color="#b3261e", label="limit of strict")
        axis.plot([0, 1], [0, 1], ":", color="grey")
        axis.set_title(f"{words}: {n} planted, {len(other)} clean", fontsize=9)
        axis.set_xlabel("clean variants above the limit")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("planted copies above the limit")
    axes[0].legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


COST = (
    "The search of the family `blend` against the image tower alone, forward and backward with the same batch, by turns in one "
    "process with one thread (`python -m benchmarks.search_cost`). ViT-B-32 has random weights and two steps."
)


def cost(found: Any) -> str:
    rows = [
        [name, f"{r['passes']:,}", f"{r['searched']:.1f}", f"{r['bare']:.1f}", f"{r['ratio']:.2f}"]
        for name, r in found["rows"].items()
    ]
    return table(["model", "passes", "searched, images/s", "bare, images/s", "ratio"], rows)


SCREENING = (
    "`pargate screen` on the 5999 pairs of the sample data, some of them poisoned by code as a sample model was "
    "(`python -m benchmarks.screen`): the trigger on the image, a caption of the target. The embedder is that poisoned model, "
    "or its clean parent. Cells are AUROC, and after the slash the share of poisoned pairs, in percent, above the 99th "
    "percentile of the honest ones. At 0.1 % there are 6 poisoned pairs, and three sets. The released code is that of the paper, "
    "with the three defects that its formulas do not have, on one random batch a pair; all others are means over four "
    "batches of 1024. In the paper the embedder is trained on the very set that is screened; here it was poisoned in "
    "the same way with other images, and 3 to 80 times as often. The rule of the combined score was chosen on these models."
)


def screening(found: Any) -> str:
    keys = [(own, rate) for own in (True, False) for rate in sorted({r["rate"] for r in found["rows"]})]
    head = [f"{'poisoned' if own else 'clean'} embedder, {pct(rate)} %" for own, rate in keys]

    def cells(name: str, model: str | None = None) -> list[str]:
        line = []
        for own, rate in keys:
            rows = [
                r for r in found["rows"]
                if (r["embedder"] == r["model"], r["rate"]) == (own, rate) and model in (None, r["model"])
            ]  # fmt: skip
            means = [sum(r[what][name] for r in rows) / len(rows) if rows else None for what in ("auroc", "recall")]
            line.append("–" if means[0] is None else f"{means[0]:.2f} / {pct(means[1], 0)}")
        return line

    names = list(found["rows"][0]["auroc"])
    speeds = [[s["model"], s["embed"], s["bare"], f"{s['embed'] / s['bare']:.2f}"] for s in found["speeds"]]
    costs = [
        [f"{c['pairs']:,}", f"{c['seconds']:.0f}", f"{1000 * c['seconds'] / c['pairs']:.2f}", c["peak_mib"]]
        for c in found["costs"]
    ]
    slope = math.log(found["costs"][-1]["seconds"] / found["costs"][0]["seconds"]) / math.log(
        found["costs"][-1]["pairs"] / found["costs"][0]["pairs"]
    )
    models = sorted({r["model"] for r in found["rows"]})
    return (
        f"Means over {len(models)} models, by detector:\n\n"
        + table(["detector", *head], [[name.replace("_", " "), *cells(name)] for name in names])
        + "\n\nThe combined score, by model:\n\n"
        + table(["model", *head], [[model, *cells("combined", model)] for model in models])
        + "\n\nEmbedding of 2048 pairs from the tar, beside both towers alone on decoded images, by turns, one thread for them:\n\n"
        + table(["model", "pairs/s", "towers alone", "ratio"], speeds)
        + "\n\nScoring of drawn vectors with 512 dimensions, one thread, without their embedding:\n\n"
        + table(["pairs", "s of one core", "ms a pair", "peak memory, MiB"], costs)
        + f"\n\nThe time against the number of pairs, both as logarithms, rises with a slope of {slope:.2f}.\n\n"
        + _recognised(found["alike"])
        + _whole(found["wholes"])
    )


def _recognised(rows: Any) -> str:
    """Return recall with found triggers, a model a row."""
    ways = {"none": ["combined"], "planted": ["trigger"], "planted, target": ["trigger", "combined"], "found": ["trigger"],
            "found, target": ["trigger", "combined"]}  # fmt: skip
    at = {(r["model"], r["known"]): r for r in rows}
    lines = [
        [model, *(f"{at[model, way][key][0]:.2f} / {pct(at[model, way][key][1], 0)}" if (model, way) in at else "–"
                  for way, keys in ways.items() for key in keys)]
        for model in sorted({r["model"] for r in rows})
    ]  # fmt: skip
    head = [f"{way}: {key}" for way, keys in ways.items() for key in keys]
    return (
        "With a known trigger (`--found`), 1 % poisoned pairs, the poisoned model as the embedder. Known is nothing, the "
        "planted trigger, or all triggers that a scan found in the model; with the name of the target or without. `trigger` "
        "is the likeness to the trigger alone:\n\n" + table(["model", *head], lines)
    )


def _whole(rows: Any) -> str:
    """Return the cost of whole screenings; empty if none was measured."""
    if not rows:
        return ""
    lines = [
        [r["model"], f"{r['pairs']:,}", *(f"{value:.1f}" for value in (r["embedding"][0], r["towers"][0])),
         f"{r['embedding'][0] / r['towers'][0]:.2f}", f"{r['embedding'][1] / r['towers'][1]:.2f}",
         f"{sum(r['processor_seconds'].values()):.0f}", r["peak_mib"], r["worker_mib"]]
        for r in rows
    ]  # fmt: skip
    return (
        "\n\nWhole screenings of drawn pairs of 64 pixels, one thread, with both towers timed alone between the shards. Other "
        "work held the processors, so that the ratio of the processor time of the process itself says more than that of the "
        "wall clock; workers decode beside it:\n\n"
        + table(
            [
                "model",
                "pairs",
                "embedding, pairs/s",
                "towers alone",
                "ratio",
                "ratio, processor time",
                "processor s in all",
                "peak memory, MiB",
                "of a worker",
            ],
            lines,
        )
    )


CLUSTER = (
    "`pargate screen` on the pairs of the sample data, once on this machine and once with `--executor ray` on a local Ray "
    "cluster of two workers (`python -m benchmarks.cluster`). One of them is killed in its first shard, and Ray repeats that. "
    "Files are compared byte for byte, but for the time of the start in the report. Both workers share two processors with "
    "other work, and each opens the model once, so that the times say nothing about a cluster."
)


def on_cluster(found: Any) -> str:
    return table(
        ["model", "pairs", "suspects", "workers", "killed", "files", "that differ", "local, s", "cluster, s"],
        [
            [
                found["model"], found["pairs"], found["suspects"], found["workers"], found["killed"],
                ", ".join(found["files"]), ", ".join(found["differing"]) or "none", found["seconds"], found["ray_seconds"],
            ]
        ],
    )  # fmt: skip


DRILL = (
    "`pargate drill` on clean sample models, seed 0, one target, poison rate 0.1 (`python -m benchmarks.drill`; "
    "[drill.md](drill.md) says how a backdoor is planted). Each copy is compared with the untouched model. `search` is a "
    "policy of that probe alone, with `max: {excess: 30pp}` and three families. A cell is the result of one backdoor with its attack success on "
    "held-out images; *false alarms* count the untouched model and the copy without a trigger. The one of `strict` is the "
    "untouched model each time: it has no reference, and `strict` fails what it cannot decide. Intervals at 95 %."
)


def drills(found: Any) -> str:
    rows = []
    for r in found["rows"]:
        planted = [c for c in r["copies"] if c["trigger"] is not None]
        for strength in sorted({c["strength"] for c in planted}):
            point = next((p for p in r["curve"] if (p["family"], p["strength"]) == ("all", strength)), None)
            cells = {c["family"]: c for c in planted if c["strength"] == strength}
            caught = point and point["caught"]
            rows.append(
                [
                    r["model"], r["policy"], f"{strength:g}", *(told(cells.get(f)) for f in ("patch", "blend", "stripes")),
                    f"{caught['count']['successes']} of {caught['count']['n']}" if caught else "–",
                    span([caught["low"], caught["high"]]) if caught else "–",
                    f"{r['false_alarms']['count']['successes']} of {r['false_alarms']['count']['n']}",
                ]
            )  # fmt: skip
    seconds = [c["seconds"] for r in found["rows"] for c in r["copies"]]
    return (
        table(
            ["model", "policy", "strength", "patch", "blend", "stripes", "caught", "interval %", "false alarms"], rows
        )
        + f"\n\nMedian time of a copy with its scan: {sorted(seconds)[len(seconds) // 2]:.0f} s on a busy core."
    )


def told(copy: Any) -> str:
    if copy is None:
        return "–"
    after = copy["after"]
    share = pct(after["successes"] / after["n"] if after["n"] else None, 0)
    if not copy["took"]:
        return f"not planted ({share} %)"
    word = {"pass": "missed", "inconclusive": "not decided"}.get(
        copy["outcome"], "caught" if copy["named"] else "failed"
    )
    return f"{word} ({share} %)"


TEXT = (
    "`probe: text` with one family and `max: {excess: 50pp}` as the only rule; no target is told, and no word except among the four "
    "texts of `phrases` (`python -m benchmarks.text`). Words were planted by `pargate.testing.plant_word` into copies of the clean "
    "models, three seeds each; the parts of the two-word one do nothing alone, so that the family `tokens` does not find it, as "
    "expected. U+2060 joins words and shows nothing, U+0430 looks like the letter a. The reference is the clean parent. All other towers "
    "have no text trigger, but their text towers were trained further with their image towers. Excess is over the reference, or "
    "without one over the name of a class. The rank is the planted text's on the list of the 256 largest shifts, or a lower "
    "bound of it on that of the largest collapses; 0 is on neither. Seconds are of one core, for the search with its "
    "measurement."
)


def text(found: Any) -> str:
    grouped: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for r in found["rows"]:
        name = r["model"].rsplit("-", 1)[0] if r["planted"] else r["model"]
        grouped[not r["planted"], name, r["family"], not r["reference"]].append(r)
    rows = []
    for (_, name, family, alone), group in sorted(grouped.items()):
        first = group[0]

        def each(key: str, shown: Callable[[Any], str] = str, group: list[Row] = group) -> str:
            return ", ".join(dict.fromkeys(shown(r[key]) for r in group))

        rows.append(
            [
                name, first["planted"] or "–", family, "no" if alone else "yes", each("status"), each("text", lambda t: f"`{t}`"),
                each("class"), each("rank") if first["planted"] else "–", each("success", pct), each("excess", pct),
                span([min(r["interval"][0] for r in group), max(r["interval"][1] for r in group)]),
                f"{max(r['seconds'] for r in group):.0f}",
            ]
        )  # fmt: skip
    said = []
    for way, words in ((True, "with the parent"), (False, "without a reference")):
        clean = [r for r in found["rows"] if not r["planted"] and r["reference"] is way]
        planted = [r for r in found["rows"] if r["planted"] and r["reference"] is way]
        right = [r for r in planted if r["status"] == "breach" and r["planted"].endswith(f"→ {r['class']}")]
        single = [r for r in planted if not (r["family"] == "tokens" and " " in r["planted"].split(" → ")[0])]
        most = pct(max((r["excess"] for r in clean), default=None))
        said.append(
            f"* {words.capitalize()}, {len(right)} of {len(single)} planted texts that the family holds break the rule with their "
            f"class, and {sum(r['status'] == 'breach' for r in clean)} of {len(clean)} searches of towers without a text trigger do; "
            f"their largest excess is {most} points."
        )
    return "\n".join(said) + "\n\n" + table(
        ["model", "planted", "family", "reference", "rule", "found", "class", "rank", "success %", "excess, points", "intervals", "s"],
        rows,
    )  # fmt: skip


UNLEARNING = (
    "`pargate clean --unlearn PACK` against the same cleaning without it (`python -m benchmarks.unlearn`). The pack holds what a search with "
    "the clean parent as reference found and what broke its rule; the planted trigger itself is told to nobody, and the table "
    "shows its attack success and the clean accuracy on all 2000 carriers. Real pairs, one seed, fp32. The search saw some of "
    "these carriers; the cleaning saw the pairs alone. One seed of two models shows no more than a tendency."
)


def unlearning(found: Any) -> str:
    rows = [
        [
            r["model"], r["method"], ", ".join(r["unlearned"]), *(pct(r[when]["accuracy"]) for when in ("before", "alone", "after")),
            *(f"{pct(r[when]['success'])} [{span(r[when]['interval'])}]" for when in ("before", "alone", "after")),
            f"{r['seconds']:.0f}",
        ]
        for r in found["rows"]
    ]  # fmt: skip
    return table(
        ["model", "method", "unlearned", "acc. before %", "acc. of the method alone %", "acc. with unlearning %",
         "success before % [95%]", "success of the method alone %", "success with unlearning %", "s"],
        rows,
    )  # fmt: skip


REPORTS = (
    "Wall time of `pargate report` from start to end, the interpreter's own start included; median. Judging a saved report "
    "loads neither torch nor a model."
)


if __name__ == "__main__":
    main()
