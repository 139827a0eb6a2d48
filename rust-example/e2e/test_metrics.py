"""The family's metrics under their names, and that they count what has happened."""

from prometheus_client.parser import text_string_to_metric_families

import conftest

COUNTERS = {"te_request_count": "method", "te_request_success": "method", "te_request_failure": "err", "te_embed_count": None,
            "te_embed_success": None, "te_predict_count": None, "te_predict_success": None}
STAGES = ("", "_tokenization", "_queue", "_inference")
DURATIONS = [f"te_{what}{stage}_duration" for what in ("request", "embed", "predict") for stage in STAGES]
# Name, least bucket, how the next one follows from it, how many at the most.
DURATION_BUCKETS = (0.000_015, 1.5, 35)
SIZES = {"te_request_input_length": 20, "te_batch_next_size": 13, "te_batch_next_tokens": 21}
GAUGES = ["te_queue_size"]
# What an autoscaler needs.
OURS = ["bei_router_queued_tokens", "bei_router_predicted_wait_seconds", "bei_router_batch_fill_ratio", "bei_router_padding_waste_ratio",
        "bei_router_engine_busy_seconds_total", "bei_router_lane_healthy", "bei_router_slots_in_use", "bei_router_dedupe_hits_total"]


def families(server):
    reply = server.http.get("/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {family.name: family for family in text_string_to_metric_families(reply.text)}


def samples(server, name):
    """Values by labels. The parser gives counters the ending that OpenMetrics wants."""
    every = (sample for family in families(server).values() for sample in family.samples)
    return {tuple(sample.labels.values()): sample.value for sample in every if sample.name in (name, f"{name}_total")}


def test_all_names_are_there(minilm, classifier):
    minilm.ask("/embed", {"inputs": ["a", "b"]})
    minilm.http.post("/embed", json={"inputs": ""})
    classifier.ask("/predict", {"inputs": "a"})
    found = families(minilm)
    for name, label in COUNTERS.items():
        if name not in found:
            assert name.startswith("te_predict")
            continue
        assert found[name].type == "counter"
        assert {key for sample in found[name].samples for key in sample.labels} == ({label} if label else set())
    for name in DURATIONS + list(SIZES):
        assert found[name].type == "histogram", name
        bounds = [float(sample.labels["le"]) for sample in found[name].samples if sample.name.endswith("_bucket")]
        assert bounds[-1] == float("inf")
        least, factor, most = DURATION_BUCKETS if name in DURATIONS else (1.0, 2.0, SIZES[name])
        expected = [least * factor ** i for i in range(len(bounds) - 1)]
        assert all(abs(a - b) <= 1e-6 * b for a, b in zip(bounds, expected))
        assert len(expected) == most or name == "te_request_input_length"
    for name in GAUGES:
        assert found[name].type == "gauge"
    text = minilm.http.get("/metrics").text
    for name in [*COUNTERS, *OURS]:
        assert f"\n# TYPE {name} " in text, name


def test_they_count(start):
    embedder, classifier = start("minilm"), start("classifier")
    for server, path, body, kind in ((embedder, "/embed", {"inputs": ["x", "y", "z"]}, "embed"),
                                     (classifier, "/predict", {"inputs": [["x"], ["y"], ["z"]]}, "predict")):
        names = ("te_request_count", "te_request_success", f"te_{kind}_count", f"te_{kind}_success", f"te_{kind}_duration_count",
                 "te_request_duration_count", "te_request_input_length_count")
        before = {name: sum(samples(server, name).values()) for name in names}
        server.ask(path, body)
        after = {name: sum(samples(server, name).values()) - before[name] for name in names}
        assert list(after.values()) == [1, 1, 3, 3, 3, 1, 3], after


def test_failures_are_told_apart(start, slow):
    wanted = {"validation": ("minilm", "/embed", {"inputs": ""}), "model_type": ("minilm", "/predict", {"inputs": "a"}),
              "batch_size": ("limited", "/embed", {"inputs": ["a"] * 5}), "tokenization": ("minilm", "/embed", {"inputs": "\0"}),
              "inference": ("faulty", "/embed", {"inputs": "world"}), "overloaded": ("slow", "/embed", {"inputs": "late"})}
    for cause, (name, path, body) in wanted.items():
        server = start(name)
        before = samples(server, "te_request_failure").get((cause,), 0)
        headers = {"request-timeout-ms": "1"} if cause == "overloaded" else {}
        assert server.http.post(path, json=body, headers=headers).status_code >= 400
        assert samples(server, "te_request_failure")[(cause,)] == before + 1, cause
    assert ("dropped",) in samples(start("minilm"), "te_request_failure")


def test_nothing_is_left_under_way(start):
    for name in conftest.SERVERS.keys() - {"guarded", "guarded_reranker", "slow"}:
        server = start(name)
        assert sum(samples(server, "te_queue_size").values()) == 0
        assert sum(samples(server, "bei_router_inputs_under_way").values()) == 0
