#!/usr/bin/env python3
"""What the router itself costs: the mock engine at no cost of its own, full JSON replies of 384 numbers, client and server on the same
processors.

    bench/router.py [--seconds 10] [--rounds 3] [--router dist/bei-router] [--against OTHER] [--json FILE]

In each round, for each router: 64 connections with token ids (requests/s, processor time a request), half of those requests a second (median
latency beside the engine's own time), and 64 connections with texts (the share of each stage). With --against the routers take turns.
"""

import argparse
import json
import os
import statistics
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts"))

from served import LOAD, ROUTER, Router  # noqa: E402

CONNECTIONS = 64
IDS = {"name": "ids", "tokens": 16, "distinct": 2000}
TEXTS = {"name": "texts", "form": "texts", "words": 14, "distinct": 2000}
# The issue's.
CPU_TARGET_US, LATENCY_TARGET_US = 60, 300
# Metrics of the stages, and their labels.
STAGES = {
    "parse": ("bei_router_stage_duration", '{stage="parse"}'),
    "tokenize": ("te_request_tokenization_duration", ""),
    "queue": ("te_request_queue_duration", ""),
    "engine": ("te_request_inference_duration", ""),
    "finish": ("bei_router_stage_duration", '{stage="finish"}'),
    "write": ("bei_router_stage_duration", '{stage="write"}'),
}


def difference(before, after):
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def mean_us(metrics, name, labels=""):
    return 1e6 * metrics.get(f"{name}_sum{labels}", 0.0) / max(metrics.get(f"{name}_count{labels}", 0.0), 1)


def costs(binary, seconds):
    with Router({}, binary=binary) as router:
        full = router.load("--connections", CONNECTIONS, classes=[IDS], seconds=seconds)
        router.load("--connections", 1, "--warm-up", 0, classes=[IDS], seconds=0.1)
        before = router.metrics()
        half = router.load("--rate", full["answers_per_second"] / 2, "--connections", CONNECTIONS, classes=[IDS], seconds=seconds)
        engine = mean_us(difference(before, router.metrics()), "te_request_inference_duration")
        before = router.metrics()
        texts = router.load("--connections", CONNECTIONS, classes=[TEXTS], seconds=seconds)
        stages = difference(before, router.metrics())
    for name, report in (("ids", full), ("half load", half), ("texts", texts)):
        counts = {key: report[key] for key in ("wrong", "swapped", "doubled", "lost")}
        if any(counts.values()) or set(report["statuses"]) != {"200"}:
            raise SystemExit(f"{binary}, {name}: statuses {report['statuses']}, {counts}, {report['bodies']}")
    p50 = 1e3 * half["classes"][0]["from_sending"]["p50"]
    found = {
        "requests_per_second": full["answers_per_second"],
        "router_us": full["server"]["cpu_us_per_answer"],
        "generator_us": full["generator"]["cpu_us_per_answer"],
        "p50_full_us": 1e3 * full["classes"][0]["from_sending"]["p50"],
        "p99_full_us": 1e3 * full["classes"][0]["from_sending"]["p99"],
        "half_load_router_us": half["server"]["cpu_us_per_answer"],
        "half_load_p50_us": p50,
        "half_load_p99_us": 1e3 * half["classes"][0]["from_sending"]["p99"],
        "half_load_engine_us": engine,
        "half_load_p50_above_engine_us": p50 - engine,
        "rss_mib": full["server"]["rss_mib"],
        "texts_per_second": texts["answers_per_second"],
        "texts_router_us": texts["server"]["cpu_us_per_answer"],
    }
    for stage in STAGES:
        found[f"texts_{stage}_us"] = mean_us(stages, *STAGES[stage])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement [10]")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts [3]")
    parser.add_argument("--router", default=ROUTER, help="the program [dist/bei-router]")
    parser.add_argument("--against", help="another router to compare with")
    parser.add_argument("--json", help="file for all figures")
    args = parser.parse_args()
    routers = [args.router] + ([args.against] if args.against else [])
    for program in [*routers, LOAD]:
        if not os.path.isfile(program):
            raise SystemExit(f"{program} is missing; run `make build`")
    rounds = {program: [] for program in routers}
    for number in range(args.rounds):
        for program in routers:
            rounds[program].append(costs(program, args.seconds))
            print(f"round {number + 1}, {program}: {rounds[program][-1]['requests_per_second']:.0f} requests/s, "
                  f"{rounds[program][-1]['router_us']:.1f} us", flush=True)
    medians = {program: {key: statistics.median(found[key] for found in all_found) for key in all_found[0]}
               for program, all_found in rounds.items()}
    for key in medians[args.router]:
        print(f"{key:<32}" + "".join(f"{medians[program][key]:>14.1f}" for program in routers))
    own = medians[args.router]
    stages = {stage: own[f"texts_{stage}_us"] for stage in STAGES}
    total = sum(stages.values())
    if total:
        print("with texts: " + ", ".join(f"{stage} {value / total:.0%}" for stage, value in stages.items()))
    print(f"targets: router_us {own['router_us']:.1f} of {CPU_TARGET_US}; half_load_p50_above_engine_us "
          f"{own['half_load_p50_above_engine_us']:.1f} of {LATENCY_TARGET_US}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(rounds, file, indent=1)


if __name__ == "__main__":
    main()
