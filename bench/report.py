"""What bench.py prints: a Markdown table of the numbers, the targets, and the conditions."""

import statistics

# name: (limit, whether the value must be at least or at most that)
TARGETS = {"texts": (1.35, "at least"), "batch": (1.35, "at least"), "latency": (0.4, "at most"), "memory": (1.8, "at most")}
NAMES = {
    "bei texts": "libbei, `bei_embed_texts`, arrival order",
    "bei batch": "libbei, `bei_embed`, one token batch",
    "peer texts": "sentence-transformers `encode`, batch size 32",
    "bei latency": "libbei, `bei_embed_texts`, one text",
    "peer latency": "sentence-transformers `encode`, one text",
}


def targets(result: dict) -> dict:
    """Each target with its value (None where the peer did not run) and whether it is met."""
    medians, memory = result["medians"], result["memory"]
    growth = memory["after"] - memory["before"]
    values = {"memory": growth / result["weights_bytes"]}
    if "peer texts" in medians:
        values["texts"] = medians["peer texts"] / medians["bei texts"]
        values["batch"] = medians["peer texts"] / medians["bei batch"]
        values["latency"] = medians["bei latency"] / medians["peer latency"]
    checked = {}
    for name, (limit, direction) in TARGETS.items():
        value = values.get(name)
        met = None if value is None else (value >= limit if direction == "at least" else value <= limit)
        checked[name] = {"value": value, "limit": limit, "direction": direction, "met": met}
    return checked


def verdict(target: dict) -> str:
    if target["value"] is None:
        return "not measured without the peer"
    return f"{target['value']:.2f}x, target {target['direction']} {target['limit']}x: {'met' if target['met'] else 'missed'}"


def throughput_rows(result: dict) -> list[str]:
    rows = []
    for key in ("bei texts", "bei batch", "peer texts"):
        if key in result["seconds"]:
            rates = [result["tokens"] / seconds for seconds in result["seconds"][key]]
            spread = f"{min(rates):,.0f} | {statistics.median(rates):,.0f} | {max(rates):,.0f}"
            note = verdict(result["targets"][key.split()[1]]) if key.startswith("bei") else "the peer"
            rows.append(f"| {NAMES[key]} | tokens/s | {spread} | {note} |")
    return rows


def latency_rows(result: dict) -> list[str]:
    rows = []
    for key in ("bei latency", "peer latency"):
        if key in result["seconds"]:
            ms = [seconds * 1000 for seconds in result["seconds"][key]]
            spread = f"{min(ms):.2f} | {statistics.median(ms):.2f} | {max(ms):.2f}"
            note = verdict(result["targets"]["latency"]) if key.startswith("bei") else "the peer"
            rows.append(f"| {NAMES[key]}, {result['latency_tokens']} tokens | ms | {spread} | {note} |")
    return rows


def memory_row(result: dict) -> str:
    memory, mb = result["memory"], 1e6
    opened, after = ((memory[key] - memory["before"]) / mb for key in ("opened", "after"))
    weights = result["weights_bytes"] / mb
    note = f"of {weights:.1f} MB of weights; {opened:.1f} MB when open; {verdict(result['targets']['memory'])}"
    return f"| libbei, growth of resident memory | MB | | {after:.1f} | {(memory['highest'] - memory['before']) / mb:.1f} | {note} |"


def markdown(result: dict) -> str:
    conditions = result["conditions"]
    lines = ["| What | Unit | Min | Median | Max | Ratio of medians |", "| --- | --- | ---: | ---: | ---: | --- |"]
    lines += throughput_rows(result) + latency_rows(result) + [memory_row(result), ""]
    used = ",".join(map(str, conditions["cpus_used"]))
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    cosines = ", ".join(f"{pair} {value:.8f}" for pair, value in result["min_cosine"].items())
    lines += [
        f"- {conditions['texts']} texts, {result['tokens']:,} tokens; {conditions['rounds']} rounds, contenders interleaved; "
        f"memory after {conditions['memory_calls']} calls with all texts, its max is the peak.",
        f"- {conditions['cpu']} ({', '.join(conditions['cpu_features'])}), {conditions['threads']} threads each on processors "
        f"{used} of {conditions['cpus']}; load average at the start {conditions['load_average']:.2f}.",
        f"- The waiting contender used {result['idle_cpu_share']:.2%} of a processor while the other was measured.",
        f"- Least cosine of the vectors: {cosines}.",
        f"- {versions}, Python {conditions['python']}, Linux {conditions['kernel']}; {conditions['date']}.",
    ]
    return "\n".join(lines)
