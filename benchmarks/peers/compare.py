#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs diffeo_bench and the peers one after another and prints the results as Markdown tables.

    compare.py build/bench/benchmarks/diffeo_bench --jax jaxenv/bin/python --torch torchenv/bin/python

All that runs on one thread, ours and theirs, runs on the same single core. Figures of ours are medians of repetitions.
With --readme the tables also replace the part of that file between the lines `<!-- results -->` and
`<!-- end of results -->`.
"""
import argparse
import collections
import datetime
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

MILLISECONDS = {"ns": 1e-6, "us": 1e-3, "ms": 1, "s": 1e3}


def run(command, one_core):
    """Standard output of a command, on one core of those this process may use or on all of them."""
    cores = os.sched_getaffinity(0)
    pin = (lambda: os.sched_setaffinity(0, {min(cores)})) if one_core else None
    print("running:", shlex.join(map(str, command)), file=sys.stderr)
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=pin).stdout


def ours(program, pattern, repetitions, min_time, one_core):
    """Context, and medians by name."""
    output = json.loads(run([program, f"--benchmark_filter={pattern}", "--benchmark_format=json",
                             f"--benchmark_repetitions={repetitions}", f"--benchmark_min_time={min_time}",
                             "--benchmark_report_aggregates_only=true"], one_core))
    medians = {b["run_name"]: b for b in output["benchmarks"] if b.get("aggregate_name") == "median"}
    for b in medians.values():
        b["ms"] = b["real_time"] * MILLISECONDS[b["time_unit"]]
    return output["context"], medians


def peers(python, script):
    """Milliseconds by workload and peer; of several variants of a peer (jax_scan, jax_unrolled) the fastest."""
    here = pathlib.Path(__file__).resolve().parent
    result = collections.defaultdict(dict)
    for line in run([python, here / script], one_core=True).splitlines():
        if not line.startswith("{"):
            continue
        row = json.loads(line)
        workload, variant = row["name"].rsplit("/", 1)
        peer = "JAX by hand" if variant.startswith("jax_") else variant
        result[workload][peer] = min(row["ms"], result[workload].get(peer, float("inf")))
    return result


def compile_flags(program):
    """Flags of optimisation and machine, from the compilation database of the build."""
    for folder in pathlib.Path(program).resolve().parents:
        database = folder / "compile_commands.json"
        if database.exists():
            for entry in json.loads(database.read_text()):
                if entry["file"].endswith("benchmarks/main.cpp"):
                    flags = [w for w in shlex.split(entry["command"]) if re.match(r"-(O|m)", w)]
                    return " ".join(dict.fromkeys(flags))
    return "unknown flags"


def machine():
    try:
        models = re.findall(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
        return f"{models[0]}, {len(models)} cores"
    except (OSError, IndexError):
        return "unknown processor"


def show(ms):
    if ms is None:
        return "-"
    for unit, factor in (("s", 1e-3), ("ms", 1), ("us", 1e3), ("ns", 1e6)):
        if ms * factor >= 1 or unit == "ns":
            return f"{ms * factor:.3g} {unit}"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def workload_table(medians):
    rows = []
    for workload in dict.fromkeys(name.rsplit("/", 2)[0] for name in medians):
        at = lambda variant: medians.get(f"{workload}/{variant}", {})
        times = {v: at(v).get("ms") for v in ("f32/1", "f32/2", "f64/1", "f64/2")}

        def with_ratio(variant, of, to):
            known = times[of] is not None and times[to] is not None
            return show(times[variant]) + (f" (x{times[of] / times[to]:.2f})" if known else "")

        fractions = [" / ".join(f"{at(v)[c]:.0%}" for v in ("f32/1", "f64/1") if c in at(v))
                     for c in ("peak_fraction", "limit_fraction", "own_limit_fraction")]
        rows.append([workload, show(times["f32/1"]), with_ratio("f32/2", "f32/1", "f32/2"),
                     with_ratio("f64/1", "f64/1", "f32/1"), with_ratio("f64/2", "f64/1", "f64/2"), *fractions])
    return table(["workload", "f32, 1 thread", "f32, 2 (speed-up)", "f64, 1 (f32's time)", "f64, 2 (speed-up)",
                  "of the peak, f32 / f64", "of the limit", "of the limit, own products"], rows)


def peer_table(medians, theirs):
    names = list(dict.fromkeys(peer for row in theirs.values() for peer in row))
    rows = []
    for workload, row in theirs.items():
        mine = medians.get(f"{workload}/f32/1", {}).get("ms")
        cells = [f"{show(row[p])} (x{row[p] / mine:.2f})" if p in row and mine else show(row.get(p)) for p in names]
        rows.append([workload, show(mine), *cells])
    return table(["workload", "diffeo", *names], rows)


def op_table(medians):
    rows = []
    for op in dict.fromkeys(name.rsplit("/", 2)[0] for name in medians):
        row = [op.removeprefix("op_")]
        for variant in ("f32/1", "f64/1"):
            b = medians.get(f"{op}/{variant}", {})
            if "ns_per_element" in b:
                row.append(f"{b['ns_per_element']:.3g} ns an element")
            elif b:
                row.append(f"{show(b['ms'])}, {b['gflops']:.3g} GF/s ({b['peak_fraction']:.0%})")
            else:
                row.append("-")
        rows.append(row)
    return table(["op", "f32", "f64"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="diffeo_bench")
    parser.add_argument("--jax", metavar="PYTHON", help="interpreter with requirements-jax.txt installed")
    parser.add_argument("--torch", metavar="PYTHON", help="interpreter with requirements-torch.txt installed")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--min-time", type=float, default=0.5, help="seconds a repetition, of ops a fifth of that")
    parser.add_argument("--no-ops", action="store_true", help="leave out the ops")
    parser.add_argument("--readme", type=pathlib.Path, help="file whose results to replace")
    args = parser.parse_args()

    context, medians = ours(args.program, "^([^o]|o[^p]).*/1$", args.repetitions, args.min_time, one_core=True)
    share = min((b["cpu_time"] / b["real_time"] for b in medians.values()), default=1)
    theirs = collections.defaultdict(dict)
    for python, script in ((args.jax, "jax_peers.py"), (args.torch, "torch_peers.py")):
        if python:
            for workload, row in peers(python, script).items():
                theirs[workload].update(row)
    medians |= ours(args.program, "/2$", args.repetitions, args.min_time, one_core=False)[1]

    text = [f"Measured on {datetime.date.today()}: {machine()}; {context['compiler']}, "
            f"`{compile_flags(args.program)}`; vectors of {context['vector_bytes']} bytes "
            f"({context['instructions']}); Eigen {context['eigen']}. Peak of one core: "
            f"{context['fma_peak_f32_gflops']} GF/s in float, {context['fma_peak_f64_gflops']} in double. "
            f"Medians of {args.repetitions}."
            + (f" **The machine was busy: of its core diffeo got {share:.0%} at worst.**" if share < 0.95 else ""),
            workload_table(medians)]
    if theirs:
        text += ["Beside the peers, float, one core (in brackets: how many times our time):",
                 peer_table(medians, theirs)]
    if not args.no_ops:
        _, op_medians = ours(args.program, "^op_", args.repetitions, args.min_time / 5, one_core=True)
        text += ["Ops, on one core (in brackets: of the peak):", op_table(op_medians)]
    result = "\n\n".join(text)
    print(result)
    if args.readme:
        old = args.readme.read_text()
        new, found = re.subn(r"(<!-- results -->\n).*(<!-- end of results -->)",
                             lambda m: m[1] + "\n" + result + "\n\n" + m[2], old, flags=re.DOTALL)
        if not found:
            sys.exit(f"{args.readme} has no part between <!-- results --> and <!-- end of results -->")
        args.readme.write_text(new)


if __name__ == "__main__":
    main()
