#!/usr/bin/env python3
"""Faults of the engine, called up from outside while others are being served: only the culprit's caller gets an error.

    scripts/faults.py [--router dist/bei-router] [--only NAME]

Each case starts the router on the mock engine with one scripted fault that happens in the runs that hold a certain token, loads it with
requests whose answers are checked, sends the culprit, and looks at its status, the others' answers, /health, /metrics and the exit code.
"""

import argparse
import concurrent.futures
import os
import sys
import tempfile
import time

from served import LOAD, ROUTER, Router

# The load's token ids are below the culprit's.
VOCABULARY, CULPRIT = 30000, 30001
LOAD_SECONDS, BEFORE_SECONDS = 4, 1.5
# A machine that stands still for some seconds makes no run late.
GIVEN_UP_SECONDS = 6
# Companions of the culprit in a run that never comes back share its fate: nobody can say which of them it is. Eight connections.
CONNECTIONS = 8
HEALTHY_SECONDS = 20
EXIT_LOST, EXIT_HUNG = 69, 75


class Case:
    """One fault, and what is to come of it."""

    def __init__(self, name, fault, status, *, others=(200,), metric=None, health=200, flags=(), exit_code=None, slow=False, culprits=3,
                 slots=1, seconds=LOAD_SECONDS, held=False):
        self.name, self.fault, self.status, self.others, self.metric = name, {**fault, "token_id": CULPRIT}, status, set(others), metric
        self.health, self.flags, self.exit_code, self.slow, self.culprits, self.slots, self.seconds, self.held = (
            health, list(flags), exit_code, slow, culprits, slots, seconds, held)


WATCHDOG = {"flags": ["--engine-timeout-ms", str(1000 * GIVEN_UP_SECONDS), "--unhealthy-exit-ms", "2000"],
            "seconds": LOAD_SECONDS + GIVEN_UP_SECONDS}
CASES = [
    Case("bad item", {"kind": "bad_item"}, 424, metric='te_request_failure{err="inference"}'),
    Case("NaN", {"kind": "nan"}, 424, metric='te_request_failure{err="inference"}'),
    Case("panic", {"kind": "panic"}, 424, metric='te_request_failure{err="inference"}'),
    Case("slow", {"kind": "slow", "delay_ms": 300}, 200, slow=True),
    # The call is told to stop, and does: the slot comes back. The others have the other slot meanwhile.
    Case("hung", {"kind": "hung", "count": 1}, 503, others=(200, 503), metric="bei_router_hung_calls_total", culprits=1, slots=2,
         **WATCHDOG),
    # It comes back by itself, after having been given up.
    Case("stuck", {"kind": "stuck", "count": 1}, 503, others=(200, 503), metric="bei_router_hung_calls_total", culprits=1, slots=2,
         held=True, **WATCHDOG),
    # It never does, and there is no other slot.
    Case("stuck for ever", {"kind": "stuck", "delay_ms": 3_600_000}, 503, others=(200, 503), health=503, exit_code=EXIT_HUNG,
         culprits=1, **WATCHDOG),
    Case("lost", {"kind": "lost"}, 503, others=(200, 503), health=503, exit_code=EXIT_LOST, culprits=1, **WATCHDOG),
]


def ask(router, ids, timeout=30):
    begun = time.monotonic()
    status, body = router.post("/embed", {"inputs": ids}, timeout=timeout)
    return status, body, time.monotonic() - begun


def check(case, binary):
    """What is wrong, in words."""
    with tempfile.TemporaryDirectory() as folder:
        return check_with(case, binary, os.path.join(folder, "release"))


def check_with(case, binary, release):
    wrong = []

    def expect(holds, text):
        if not holds:
            wrong.append(f"{case.name}: {text}")

    fault = {**case.fault, "until_file": release} if case.held else case.fault
    mock, options = {"us_per_token": 20, "faults": [fault]}, {"slots": case.slots}
    with Router(mock, *case.flags, binary=binary, options=options) as router:
        before = router.metrics()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            mix = [{"name": "others", "tokens": "4-12", "distinct": 200}]
            load = pool.submit(router.load, "--connections", CONNECTIONS, "--vocabulary", VOCABULARY, "--warm-up", 0, "--patience", 10,
                               classes=mix, seconds=case.seconds)
            while router.metrics().get("te_batch_next_size_count", 0) - before.get("te_batch_next_size_count", 0) < 100:
                time.sleep(0.05)
            time.sleep(BEFORE_SECONDS)
            for i in range(case.culprits):
                status, body, took = ask(router, [5, CULPRIT, 6 + i])
                expect(status == case.status, f"the culprit got {status}, not {case.status}: {body[:200]}")
                expect(not case.slow or took >= case.fault["delay_ms"] / 1e3, f"took {took:.3f} s")
            if case.held:
                open(release, "w").close()
            if case.health != 200:
                health = router.get("/health")
                expect(health[0] in (503, 0), f"/health is {health} after the fault")
                sick = router.metrics().get('bei_router_lane_healthy{lane="main"}')
                expect(sick == 0 or router.process.poll() is not None, f"bei_router_lane_healthy is {sick} after the fault")
            report = load.result()
        statuses = {int(status) for status in report["statuses"]}
        expect(statuses <= case.others, f"the others got {report['statuses']}: {report['bodies']}")
        counts = {key: report[key] for key in ("wrong", "swapped", "doubled")}
        expect(not any(counts.values()), f"{counts}")
        if case.exit_code is None:
            expect(report["lost"] == 0 and not report["refused"], f"lost {report['lost']}, refused {report['refused']}")
        hit = sum(count for status, count in report["statuses"].items() if status == "503")
        if case.exit_code is not None:
            status = router.ended(20)
            expect(status == case.exit_code, f"exit code {status}, not {case.exit_code}")
        else:
            after = router.metrics()
            # Each of the others' connections has at most one request in a run that is given up.
            hung = after["bei_router_hung_calls_total"] - before["bei_router_hung_calls_total"]
            expect(hit <= CONNECTIONS * hung, f"{hit} of the others got 503, {hung:.0f} runs were given up")
            if case.metric:
                rise = after.get(case.metric, 0) - before.get(case.metric, 0)
                expect(rise >= case.culprits, f"{case.metric} rose by {rise:.0f}, culprits {case.culprits}")
            deadline = time.monotonic() + HEALTHY_SECONDS
            while (health := router.get("/health"))[0] != 200 and time.monotonic() < deadline:
                time.sleep(0.1)
            expect(health[0] == 200, f"/health is {health} after the fault")
            status, body, _ = ask(router, [1, 2, 3])
            expect(status == 200, f"afterwards {status}: {body[:200]}")
            status = router.stop()
            expect(status == 0, f"exit code {status} after SIGTERM")
        print(f"{'BAD' if wrong else 'ok '} {case.name}: culprit {case.status}; {report['checked']} answers of others right, statuses "
              f"{report['statuses']}, could not be sent {sum(report['refused'].values())}, exit code {status}", flush=True)
        if wrong:
            print(router.log_text()[-3000:])
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--router", default=ROUTER, help="the program [dist/bei-router]")
    parser.add_argument("--only", help="the case of this name")
    args = parser.parse_args()
    for program in (args.router, LOAD):
        if not os.path.isfile(program):
            raise SystemExit(f"{program} is missing; run `make build`")
    cases = [case for case in CASES if args.only in (None, case.name)]
    if not cases:
        raise SystemExit(f"no case {args.only}; there are {', '.join(case.name for case in CASES)}")
    wrong = [each for case in cases for each in check(case, args.router)]
    if wrong:
        sys.exit("faults:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
