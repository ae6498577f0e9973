"""Merging adapters: seconds, peak memory and error of cogen, PEFT and mergekit, in turns on the same files.

Nothing heavy is imported here: each measurement is a process of its own (`merge_process.py`,
`merge_jobs.py`), and on Linux ru_maxrss of a process begins at the size of the one that started it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from merge_cases import METHODS, Case, cases
from merge_process import JobFailed, run_job, run_mergekit
from merge_table import rows, table, targets

EXAMPLE = "example: python benchmarks/merge.py --cases 135m,many --repeats 3 --json merge.json"
TOOLS = ("cogen", "PEFT", "mergekit")
PACKAGES = ("cogen-ai", "torch", "peft", "transformers", "mergekit")


def main() -> int:
    """Measure and print the table; 1 if something failed, 2 for bad arguments or too little space."""
    args = _arguments()
    bench = Bench(args)
    chosen = [cases(args.smoke)[name] for name in args.cases]
    with tempfile.TemporaryDirectory(prefix="cogen-merge-", dir=args.workdir) as work:
        needed, free = max(bench.bytes_needed(case) for case in chosen), shutil.disk_usage(work).free
        if needed > free:
            fix = "Name another place with --workdir, or fewer cases."
            say(f"error: no room for the adapters: expected {needed / 1e9:.1f} GB, got {free / 1e9:.1f} GB. {fix}")
            return 2
        for case in chosen:
            folder = Path(work, case.name)
            try:
                bench.measure(case, folder)
            except JobFailed as error:
                bench.failed(f"{case.name}: {error}")
            shutil.rmtree(folder, ignore_errors=True)
    bench.report()
    return 1 if bench.failures else 0


@dataclass
class Bench:
    """The arguments, and what was found so far."""

    args: argparse.Namespace
    runs: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)

    def measure(self, case: Case, folder: Path) -> None:
        """All runs of a case: for each number of adapters and each repeat, every method by every tool in turn."""
        folders = [str(folder / f"adapter-{i:03}") for i in range(max(case.counts))]
        common = {"shape": asdict(case.shape), "rank": case.rank}
        say(f"{case.name}: writing {len(folders)} adapters of rank {case.rank}")
        made = run_job(self.args.threads, "make", folders=folders, **common)
        self.machine |= {"threads": made["threads"], "isa": made["isa"]}
        for count in case.counts:
            job = {**common, "folders": folders[:count]}
            whole_models = self.fold(job, folder) if self.has_mergekit(case) else []
            for repeat in range(self.args.repeats):
                for tool, method in self.turns(case, repeat, bool(whole_models)):
                    out = folder / f"{tool}-{method}-{count}"
                    about = {"case": case.name, "count": count, "tool": tool, "method": method, "repeat": repeat}
                    try:
                        found = self.run(tool, method, out, job, whole_models)
                    except JobFailed as error:
                        self.failed(f"{case.name}, {count} adapters, {tool} {method}: {error}")
                        continue
                    self.runs.append({**about, **found})
                    say(f"  {count} adapters, {tool} {method}: {found.get('whole_s', found['process_s']):.2f} s")
            if case.is_sampled and "mean" in self.args.methods:
                self.compare(case, job, folder)

    def turns(self, case: Case, repeat: int, with_mergekit: bool) -> Iterator[tuple[str, str]]:
        """Who runs in this repeat, in order: method by method, ours first, then theirs."""
        for method in (m for m in case.methods if m in self.args.methods):
            if "cogen" in self.args.tools:
                yield "cogen", method
            if "PEFT" in self.args.tools and method in case.others and not (case.others_once and repeat):
                yield "PEFT", method
            if with_mergekit and method == "ties":
                yield "mergekit", method

    def run(self, tool: str, method: str, out: Path, job: dict[str, Any], whole_models: list[Path]) -> dict[str, Any]:
        """One measurement."""
        if tool == "mergekit":
            return run_mergekit(self.args.threads, self.args.mergekit, whole_models[0], whole_models[1:], out)
        kind = {"cogen": "ours", "PEFT": "peft"}[tool]
        return run_job(self.args.threads, kind, method=method, out=str(out), **job)

    def compare(self, case: Case, job: dict[str, Any], folder: Path) -> None:
        """Add the error of the last mean that each tool wrote to the runs of that tool."""
        count = len(job["folders"])
        places = {"cogen": folder / f"cogen-mean-{count}", "PEFT": folder / f"PEFT-mean-{count}" / "merged"}
        results = {tool: str(place) for tool, place in places.items() if place.is_dir()}
        say("  comparing with a dense float64 SVD")
        found = run_job(self.args.threads, "errors", results=results, **job)
        for run in self.runs:
            if (run["case"], run["count"], run["method"]) == (case.name, count, "mean") and run["tool"] in results:
                run["error"] = found[run["tool"]]

    def has_mergekit(self, case: Case) -> bool:
        return bool(self.args.mergekit) and "ties" in self.args.methods and "ties" in case.others

    def fold(self, job: dict[str, Any], folder: Path) -> list[Path]:
        """The base, and one whole model an adapter; nothing if that failed."""
        say("  folding the adapters into whole models for mergekit")
        base, *models = places = [folder / "base", *(folder / f"model-{i}" for i in range(len(job["folders"])))]
        try:
            run_job(self.args.threads, "fold", base=str(base), folded=[str(model) for model in models], **job)
        except JobFailed as error:
            self.failed(f"folding for mergekit: {error}")
            return []
        return places

    def bytes_needed(self, case: Case) -> int:
        """Disk space for the adapters, two results of each tool, and mergekit's whole models."""
        num_results = 2 * len(case.counts) * (len(case.methods) + len(case.others))
        adapters = (max(case.counts) + num_results) * case.shape.adapter_bytes(case.rank)
        return adapters + (max(case.counts) + 2) * case.shape.model_bytes() * self.has_mergekit(case)

    def failed(self, what: str) -> None:
        self.failures.append(what)
        say(f"  failed: {what}")

    def report(self) -> None:
        """Markdown on stdout, every single run in `--json`."""
        versions = {**{name: _version(name) for name in PACKAGES}, "Python": platform.python_version()}
        if self.args.mergekit and versions["mergekit"] == "not installed":
            versions["mergekit"] = "of another environment"
        machine = {"arch": platform.machine(), "cores": os.cpu_count(), "threads": 0, "isa": "unknown", **self.machine}
        found = rows(self.runs)
        print(table(found))
        if reached := [] if self.args.smoke else targets(found):
            print("\nTargets (ratios are of the calls alone):\n\n" + "\n".join(reached))
        print("\n- Versions: " + ", ".join(f"{name} {v}" for name, v in versions.items()) + ".")
        print("- Machine: {arch}, {cores} cores, {threads} thread(s) used, {isa}.".format(**machine))
        print("".join(f"- Failed: {failure}\n" for failure in self.failures), end="")
        if self.args.json:
            about = {"versions": versions, "machine": machine, "smoke": self.args.smoke, "failures": self.failures}
            self.args.json.write_text(json.dumps({**about, "runs": self.runs}, indent=2) + "\n")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=EXAMPLE)
    add = parser.add_argument
    add("--cases", type=_names(cases(smoke=False)), default="135m,7b,many", help="default: %(default)s")
    add("--methods", type=_names(METHODS), default=",".join(METHODS), help="default: %(default)s")
    add("--tools", type=_names(TOOLS), default=",".join(TOOLS), help="default: %(default)s")
    add("--repeats", type=_positive, default=3, metavar="N", help="of every measurement, in turns; default: 3")
    add("--threads", type=_positive, default=_threads(), metavar="N", help="default: %(default)s")
    add("--workdir", type=Path, metavar="FOLDER", help="on a disk, not in memory; takes up to 5 GB for a while")
    add("--mergekit", metavar="PROGRAM", help="mergekit-yaml; default: the installed one, if any")
    add("--json", type=Path, metavar="PATH", help="write every single run to a file")
    add("--smoke", action="store_true", help="tiny sizes, to see that everything works")
    args = parser.parse_args()
    artifacts = shutil.which("mergekit-yaml", path=str(Path(sys.executable).parent))
    args.mergekit = args.mergekit or artifacts or shutil.which("mergekit-yaml")
    if "mergekit" not in args.tools:
        args.mergekit = None
    elif args.mergekit is None:
        say("mergekit is not installed: dropped")
    return args


def _names(known: Any) -> Any:
    """A parser of comma-separated names, each of them known."""

    def names(text: str) -> list[str]:
        found = [name.strip() for name in text.split(",") if name.strip()]
        if not found or not set(found) <= set(known):
            raise argparse.ArgumentTypeError(f"expected some of {','.join(known)}, got {text!r}")
        return found

    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of 1 or more, got {text!r}")
    return int(text)


def _threads() -> int:
    """As the environment says, else as many as there are cores for this process."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told):
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def say(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
