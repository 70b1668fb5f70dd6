# SPDX-License-Identifier: MIT
"""How a peer is timed and what it prints: one JSON object per line."""
import json
import statistics
import time


def report(name, call, repeats, points=None):
    """Times call(), which returns when its result is ready: the first call apart, since it may compile, then the
    median of `repeats`. Prints a line, with points per second where a call serves that many points."""
    start = time.perf_counter()
    call()
    first = time.perf_counter() - start
    for _ in range(2):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    line = {"name": name, "ms": 1e3 * median, "min_ms": 1e3 * min(times), "first_call_s": first}
    if points:
        line["points_per_s"] = points / median
    print(json.dumps(line), flush=True)
