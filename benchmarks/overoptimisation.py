"""The over-optimisation picture (Gao, Schulman, Hilton 2022) in the micro-world: proxy and judge against the root of KL.

Reward models on few and many pairs, with clean labels and with a quarter of them turned round; a policy trained against
each without and with a KL weight; best-of-n against each; and where a second reward model of other pairs would have
stopped. Needs `pipeline run recipes/demo` and `pipeline run recipes/alignment` first.

    python benchmarks/overoptimisation.py            # goes on where it stopped
    python benchmarks/overoptimisation.py --pairs 100 --noise 0.25 --betas 0.0

Writes runs/overoptimisation/: a reward model and policies each in a stage directory, overoptimisation.json, .md and .png.
"""

import argparse
import itertools
import json
import math
from pathlib import Path
from typing import Any

from pipeline import stages
from pipeline.alignment.frontier import read_frontier
from pipeline.training.session import quiet_libraries

ROOT = Path("runs/overoptimisation")
SERIES = {"proxy": "proxy (trained on)", "second": "second reward model", "judge": "hidden judge"}


def stage(name: str, output: Path, **overrides: Any) -> Path:
    """Run a stage of recipes/alignment with other values, in this process, unless it is up to date."""
    print(f"\n{output}", flush=True)
    words = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
    recipe = stages.load_recipe(f"recipes/alignment/{name}.yaml", name, ["--output_dir", str(output), *words])
    stages.find(name).run(recipe)
    return output


def summary(folder: Path) -> dict[str, float]:
    """Where the judge was best, where the second reward model would have stopped, and where the run ended."""
    lines, points = read_frontier(folder)
    best, stop = (max(lines, key=lambda line: line[key]) for key in ("judge", "second"))
    end = lines[-1]
    found = {"best_step": best["step"], "stop_step": stop["step"], "end_step": end["step"]}
    found |= {"judge_start": lines[0]["judge"], "judge_best": best["judge"], "judge_stop": stop["judge"]}
    found |= {"judge_end": end["judge"], "judge_error": end["judge_error"]}
    found |= {"lost_by_stopping": best["judge"] - stop["judge"], "proxy_gain": end["proxy"] - lines[0]["proxy"]}
    found |= {"root_kl_end": math.sqrt(end["kl"])}
    if points:
        found |= {"best_of": points[-1]["n"], "judge_best_of_n": points[-1]["judge"]}
        found |= {"root_kl_best_of_n": math.sqrt(points[-1]["kl"])}
    return found


def table(found: dict[str, dict[str, float]]) -> list[str]:
    """One line a run, in Markdown."""
    lines = [
        "| reward model | agrees with the judge | KL weight | √KL at the end | proxy gained | judge: start, best (step), "
        "where the second stops (step), end (± s.e.) | best of n: √KL, judge |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        label, beta = name.rsplit(" beta=", 1)
        judge = f"{one['judge_start']:.2f}, {one['judge_best']:.2f} ({one['best_step']:.0f}), {one['judge_stop']:.2f} "
        judge += f"({one['stop_step']:.0f}), {one['judge_end']:.2f} (± {one['judge_error']:.2f})"
        best = f"{one['root_kl_best_of_n']:.2f}, {one['judge_best_of_n']:.2f}" if "best_of" in one else "–"
        agreement = f"{100 * one['agreement']:.1f} % [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
        cells = [label, agreement, beta, f"{one['root_kl_end']:.2f}", f"{one['proxy_gain']:.2f}", judge, best]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(runs: dict[str, Path], path: Path) -> None:
    """One panel a reward model: gains over the start against the root of KL, in standard units of none but themselves."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = sorted({name.rsplit(" beta", 1)[0] for name in runs})
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure, panels = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False)
    for panel, name in zip(panels.flat, names, strict=False):
        for number, (run, folder) in enumerate(item for item in runs.items() if item[0].startswith(name)):
            lines, points = read_frontier(folder)
            for colour, (key, label) in zip(("C0", "C2", "C3"), SERIES.items(), strict=True):
                start = lines[0][key]
                x = [math.sqrt(line["kl"]) for line in lines]
                style = {"color": colour, "alpha": 1.0 if number == 0 else 0.45}
                panel.plot(x, [line[key] - start for line in lines], "-", label=label if number == 0 else None, **style)
                if number == 0 and points:
                    x = [math.sqrt(point["kl"]) for point in points]
                    gains = [point[key] - points[0][key] for point in points]
                    panel.plot(x, gains, ":", color=colour, label=f"{label}, best of n")
            panel.annotate(run.rsplit(" ", 1)[-1], (math.sqrt(lines[-1]["kl"]), lines[-1]["judge"] - lines[0]["judge"]))
        panel.set(title=name, xlabel="√KL, nats", ylabel="gain over the start")
        panel.axhline(0, color="0.8", linewidth=0.8)
    panels.flat[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[100, 3000, 400])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.25, 0.0])
    parser.add_argument("--betas", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--learning_rate", type=float, default=4e-4)
    parser.add_argument("--frontier_steps", type=int, default=6)
    parser.add_argument("--judge_limit", type=int, default=64)
    parser.add_argument("--best_of", type=int, default=16)
    arguments = parser.parse_args()
    quiet_libraries()
    runs: dict[str, Path] = {}
    for beta, noise, pairs in itertools.product(arguments.betas, arguments.noise, arguments.pairs):
        place = ROOT / f"{pairs}_{round(100 * noise)}"
        # as many steps for all as 3,000 pairs take to be read once: few pairs are read more often
        common = {"training_pairs": pairs, "label_noise": noise, "max_steps": 94, "save_steps": 94}
        first = stage("reward", place / "reward", **common)
        other = {"seed": 2, "dataset_name": "runs/demo/world/preferences_second"}
        second = stage("reward", place / "second", **common, **other)
        runs[f"{pairs} pairs, {noise:.0%} turned beta={beta:g}"] = stage(
            "rlhf", place / f"rlhf_{beta:g}", reward_model_name_or_path=first, second_reward_model=second,
            beta=beta, max_steps=arguments.steps, save_steps=arguments.steps, learning_rate=arguments.learning_rate,
            frontier_steps=arguments.frontier_steps, judge_limit=arguments.judge_limit, rails="warn",
            best_of=arguments.best_of if beta == arguments.betas[0] else 0, evaluations="null", sample_problems=0,
        )  # fmt: skip
        report(runs)


def report(runs: dict[str, Path]) -> None:
    """Table, picture and figures of the runs that there are so far."""
    found = {}
    for name, folder in runs.items():
        agreement = json.loads((folder.parent / "reward" / "evaluation.json").read_text())["judge_agreement"]
        found[name] = summary(folder) | {"agreement": agreement["rate"]}
        found[name] |= {key: agreement[key] for key in ("low", "high")}
    (ROOT / "overoptimisation.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (ROOT / "overoptimisation.md").write_text("\n".join(table(found)) + "\n", encoding="utf-8")
    draw(runs, ROOT / "overoptimisation.png")
    print("\n".join(table(found)), flush=True)


if __name__ == "__main__":
    main()
