#!/usr/bin/env python3
"""The router under too much load, with the mock engine at a fixed cost for each token, every answer checked.

    scripts/soak.py [--seconds 600] [--router dist/bei-router] [--json FILE]

Phases: capacity (what a closed loop gets through); overload (twice that, for --seconds); long requests that saturate the engine beside
few short ones; an order to stop in the middle of an overload. Whatever breaks a promise is listed, and the exit status is 1. A phase that
breaks none but promises of time and memory is made again if the machine stood still meanwhile, twice at most.
"""

import argparse
import json
import os
import statistics
import sys
import threading
import time

from served import LOAD, ROUTER, Router

MICROSECONDS_PER_TOKEN = 22
SHORT = {"name": "short", "tokens": "4-12", "timeout_ms": 500, "distinct": 20000}
LONG = {"name": "long", "tokens": "128-256", "timeout_ms": 2000, "distinct": 2000}
# Deep queues, so that it is deadlines that limit the waiting, not the number of requests.
FLAGS = ["--max-concurrent-requests", "8192", "--max-batch-tokens", "1024"]
CONNECTIONS = 8192
REQUESTS_OF_THE_LONG_FORM = 1_000_000
LONG_FORM_SECONDS = 600
# Memory counts as flat while its median in the last quarter is within this of the one in the second quarter. A short run still sees
# the allocator settle.
FLAT_SHARE, SETTLING_SHARE = 0.03, 0.1
# A request that is on its way while the server closes its connection was not admitted.
IN_FLIGHT_SECONDS = 0.05
# Times are the generator's, which shares the cores with the server: what its own turn takes is in them.
GENERATOR_MS = 50
# README: between SIGTERM and SIGKILL there is half a minute.
STOP_SECONDS = 30
# A thread that sleeps for so long, and is late by more than that, says that the machine stood still.
LOOK_SECONDS, GAP_SECONDS = 0.02, 0.2
ATTEMPTS = 3


class Judge:
    """`broken` promises, and those `disturbed`, of time and memory, which a machine that stands still breaks as well."""

    def __init__(self):
        self.broken, self.disturbed, self.stood_still = [], [], 0.0
        threading.Thread(target=self.look, daemon=True).start()

    def look(self):
        before = time.monotonic()
        while True:
            time.sleep(LOOK_SECONDS)
            now = time.monotonic()
            if now - before > GAP_SECONDS:
                self.stood_still += now - before
            before = now

    def attempts(self, phase, *arguments):
        """What the phase gives. It is made again where it was disturbed."""
        for left in reversed(range(ATTEMPTS)):
            self.disturbed, self.stood_still, before = [], 0.0, len(self.broken)
            given = phase(self, *arguments)
            if not self.disturbed or not self.stood_still or len(self.broken) > before or not left:
                self.broken += self.disturbed
                return given
            print(f"the machine stood still for {self.stood_still:.1f} s: once more, {left} attempts are left", flush=True)

    def expect(self, phase, holds, text, disturbable=False):
        print(f"  {'ok ' if holds else 'BAD'} {text}", flush=True)
        if not holds:
            (self.disturbed if disturbable else self.broken).append(f"{phase}: {text}")

    def right(self, phase, report):
        """What holds under any load."""
        statuses = {int(status) for status in report["statuses"]}
        self.expect(phase, statuses <= {200, 429}, f"nothing but 200 and 429: {report['statuses']}")
        counts = {name: report[name] for name in ("wrong", "swapped", "doubled")}
        self.expect(phase, not any(counts.values()), f"of {report['checked']} answers checked: {counts}")
        self.expect(phase, report["no_retry_after"] == 0, "every 429 has a Retry-After of 1 or more; the longest: "
                    f"{report['longest_retry_after']} s")

    def nothing_lost(self, phase, report):
        self.expect(phase, report["lost"] == 0 and not report["refused"],
                    f"lost {report['lost']}, could not connect {report['refused']}")

    def in_time(self, phase, report):
        for each in report["classes"]:
            p99, count = each["from_sending"]["p99"], each["from_sending"]["count"]
            self.expect(phase, count > 0 and p99 <= each["timeout_ms"] + GENERATOR_MS,
                        f"p99 of the {count} admitted {each['name']} requests {p99:.0f} ms, deadline {each['timeout_ms']} ms, "
                        f"late {each['late']}", disturbable=True)

    def flat(self, phase, samples):
        rss = [sample["rss"] / (1 << 20) for sample in samples]
        quarter = len(rss) // 4
        if quarter < 3:
            raise SystemExit(f"{len(rss)} seconds are too few to judge the memory; make it 12 or more")
        most = FLAT_SHARE if len(rss) >= LONG_FORM_SECONDS else SETTLING_SHARE
        before, after = statistics.median(rss[quarter:2 * quarter]), statistics.median(rss[-quarter:])
        self.expect(phase, after - before <= most * before,
                    f"resident memory {before:.1f} MiB in the second quarter, {after:.1f} MiB in the last, at most {max(rss):.1f}",
                    disturbable=True)


def admitted(each):
    total = sum(each["statuses"].values())
    return each["statuses"].get("200", 0) / total if total else 0.0


def counted(metrics, name):
    return sum(value for key, value in metrics.items() if key.partition("{")[0] == name)


def overload(judge, binary, seconds):
    """Capacity, then twice that. Returns the rates and the reports."""
    with Router({"us_per_token": MICROSECONDS_PER_TOKEN}, *FLAGS, binary=binary) as router:
        mix = [{**SHORT, "share": 19}, {**LONG, "share": 1}]
        patient = [{key: value for key, value in each.items() if key != "timeout_ms"} for each in mix]
        print("capacity: 128 connections, no deadlines, 5 s")
        capacity = router.load("--connections", 128, classes=patient, seconds=5)
        judge.right("capacity", capacity)
        judge.nothing_lost("capacity", capacity)
        rate = capacity["admitted_per_second"]
        print(f"  {rate:.0f} requests/s")

        print(f"overload: {2 * rate:.0f} requests/s for {seconds} s")
        before = counted(router.metrics(), "te_request_success")
        report = router.load("--rate", 2 * rate, "--connections", CONNECTIONS, "--warm-up", 10, classes=mix, seconds=seconds)
        print(report["table"].rstrip())
        judge.right("overload", report)
        judge.nothing_lost("overload", report)
        judge.in_time("overload", report)
        judge.flat("overload", report["server"]["samples"])
        # Each distinct request is asked for once before the load; so many more answers were made than checked.
        learned = sum(each["distinct"] for each in mix)
        made = counted(router.metrics(), "te_request_success") - before - learned
        judge.expect("overload", made == report["checked"], f"the router counts {made:.0f} answers, the clients {report['checked']}")
        total = capacity["checked"] + report["checked"]
        if seconds >= LONG_FORM_SECONDS:
            judge.expect("overload", total >= REQUESTS_OF_THE_LONG_FORM, f"{total} answers in all")
        return rate, {"capacity": capacity, "overload": report}


def starvation(judge, binary, rate, seconds):
    """Long requests alone would need twice the engine; short ones a tenth of it."""
    with Router({"us_per_token": MICROSECONDS_PER_TOKEN}, *FLAGS, binary=binary) as router:
        tokens = 1e6 / MICROSECONDS_PER_TOKEN
        long, short = 2 * tokens / 192, tokens / 10 / 8
        print(f"starvation: {long:.0f} long and {short:.0f} short requests/s for {seconds} s")
        mix = [{**SHORT, "share": short}, {**LONG, "share": long}]
        report = router.load("--rate", long + short, "--connections", CONNECTIONS, "--warm-up", 3, classes=mix, seconds=seconds)
        print(report["table"].rstrip())
        judge.right("starvation", report)
        judge.nothing_lost("starvation", report)
        judge.in_time("starvation", report)
        of_short, of_long = map(admitted, report["classes"])
        judge.expect("starvation", of_short >= of_long, f"admitted: {of_short:.1%} of the short, {of_long:.1%} of the long requests",
                     disturbable=True)
        return {"starvation": report}


def stop(judge, binary, rate):
    """SIGTERM while the queue is full."""
    with Router({"us_per_token": MICROSECONDS_PER_TOKEN}, *FLAGS, binary=binary) as router:
        print(f"stop: SIGTERM in the middle of {2 * rate:.0f} requests/s")
        mix = [{**SHORT, "share": 19, "distinct": 5000}, {**LONG, "share": 1, "distinct": 500}]
        report = router.load("--rate", 2 * rate, "--connections", CONNECTIONS, "--stop-after", 4, classes=mix, seconds=8)
        print(report["table"].rstrip())
        judge.right("stop", report)
        still = judge.stood_still
        for more in {0.0, still}:
            lost = [request for request in report["lost_requests"] if request["sent"] < report["stopped"] - IN_FLIGHT_SECONDS - more]
            judge.expect("stop", not lost, f"of the requests sent {IN_FLIGHT_SECONDS + more:.2f} s before the order, lost: {lost[:5]}",
                         disturbable=more < still)
        after = report["after_stop"]
        judge.expect("stop", {int(status) for status in after} <= {200, 429, 503}, f"answers to requests sent after the order: {after}")
        judge.expect("stop", bool(report["refused"]), f"new connections are refused: {sum(report['refused'].values())}")
        status = router.ended(STOP_SECONDS)
        judge.expect("stop", status == 0, f"exit status {status} within {STOP_SECONDS} s")
        return {"stop": report}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=LONG_FORM_SECONDS, help="of the overload [600]; the rest takes half a minute and more")
    parser.add_argument("--router", default=ROUTER, help="the program [dist/bei-router]")
    parser.add_argument("--json", help="file for all reports")
    args = parser.parse_args()
    for program in (args.router, LOAD):
        if not os.path.isfile(program):
            raise SystemExit(f"{program} is missing; run `make build`")
    judge = Judge()
    rate, reports = judge.attempts(overload, args.router, args.seconds)
    reports |= judge.attempts(starvation, args.router, rate, max(10, args.seconds // 10))
    reports |= judge.attempts(stop, args.router, rate)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(reports, file)
    if judge.broken:
        sys.exit("soak: broken promises:\n" + "\n".join(judge.broken))
    print("soak: every promise was kept")


if __name__ == "__main__":
    main()
