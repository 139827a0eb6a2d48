"""What the GPU benchmark prints: the table of speeds, the cost of the runtime, the targets, the conditions. Pure functions of its result."""

from __future__ import annotations

import statistics

import contenders

# Share of a time, or ratio of rates, that is wanted, and on which side of it.
LATENCY_BATCH, LATENCY_LIMIT = "1x32", 0.35
MIXED_BATCH, MIXED_LIMIT = "mixed64", 1.6
LARGE_BATCH, LARGE_LIMIT = "32x512", 1.0
ADDED_LIMIT = 0.05
ADDED_IN_FLIGHT = 2
FP8 = "float8"
# Contenders whose vectors have a lesser cosine to the reference's compute something else: they meet no target.
LEAST_COSINE, LEAST_COSINE_FP8 = 0.99, 0.95


def key(name: str, batch: str, kind: str = "runtime", in_flight: int = 1) -> str:
    """How a result's seconds are named."""
    return f"{name} {batch} {kind} {in_flight}"


def median(model: dict, *parts) -> float | None:
    seconds = model["seconds"].get(key(*parts))
    return statistics.median(seconds) if seconds else None


def label(name: str) -> str:
    return contenders.LABELS.get(name, name)


def torch_best(model: dict, batch: str) -> float | None:
    return min((t for name in contenders.TORCH if (t := median(model, name, batch))), default=None)


def is_fp8(contender: dict) -> bool:
    return FP8 in contender["ready"].get("dtype", "") or any(FP8 in word for word in contender["command"])


def ours(model: dict, fp8: bool) -> list[str]:
    """Our contenders; without fp8 those that compute in 16 bits or more."""
    return [
        name for name, contender in model["contenders"].items()
        if contenders.is_ours(name) and (fp8 or not is_fp8(contender))
    ]  # fmt: skip


def agrees(contender: dict) -> bool:
    limit = LEAST_COSINE_FP8 if is_fp8(contender) else LEAST_COSINE
    return not isinstance(contender["agreement"], str) and contender["agreement"][0] >= limit


def doubt(contender: dict) -> str:
    """What is wrong with a contender's vectors; nothing where they agree."""
    if agrees(contender):
        return ""
    return "its vectors were not compared" if isinstance(contender["agreement"], str) else "its vectors are not the reference's"


def ours_best(model: dict, batch: str, fp8: bool) -> tuple[float, str] | None:
    """The least time of ours that compute the right thing, and whose it is."""
    right = [name for name in ours(model, fp8) if agrees(model["contenders"][name])]
    return min(((t, name) for name in right if (t := median(model, name, batch))), default=None)


def ratio_target(model: dict, what: str, batch: str, peer: float | None, limit: float, direction: str) -> list[dict]:
    """A target on our best time over peer ("at most") or peer over our best ("at least"): in 16 bits and, where there is such a
    contender, with FP8."""
    found = []
    for fp8 in (False, True):
        best = ours_best(model, batch, fp8)
        if fp8 and ours(model, True) == ours(model, False):
            continue
        value = None
        if best and peer:
            value = best[0] / peer if direction == "at most" else peer / best[0]
        found.append({
            "what": f"{model['shape']} {batch}{' with FP8' if fp8 else ''}: {what}", "value": value, "limit": limit, "direction": direction,
            "by": label(best[1]) if best else "",
            "met": None if value is None else (value <= limit if direction == "at most" else value >= limit),
        })  # fmt: skip
    return found


def targets(result: dict) -> list[dict]:
    """The targets, each with its value (None: a contender is missing) and whether it is met (None as well)."""
    found = []
    for model in result["models"]:
        if LATENCY_BATCH in model["batches"]:
            for name in contenders.COMPILED:
                peer = median(model, name, LATENCY_BATCH)
                found += ratio_target(model, f"time against that of {label(name)}", LATENCY_BATCH, peer, LATENCY_LIMIT, "at most")
        if model["model_type"] == "bert" and MIXED_BATCH in model["batches"]:
            peer = torch_best(model, MIXED_BATCH)
            found += ratio_target(model, "tokens/s against torch's best", MIXED_BATCH, peer, MIXED_LIMIT, "at least")
        if model["model_type"] == "qwen3" and LARGE_BATCH in model["batches"]:
            compiled = median(model, "compile", LARGE_BATCH)
            found += ratio_target(model, "tokens/s against torch.compile's", LARGE_BATCH, compiled, LARGE_LIMIT, "at least")
        for name in ours(model, True):
            if LARGE_BATCH in model["batches"]:
                value = added(model, name, LARGE_BATCH, ADDED_IN_FLIGHT)
                found.append({
                    "what": f"{model['shape']} {LARGE_BATCH}, {ADDED_IN_FLIGHT} in flight: the runtime's share on top of the bare engine",
                    "value": value, "limit": ADDED_LIMIT, "direction": "at most", "by": label(name),
                    "met": None if value is None else value <= ADDED_LIMIT,
                })  # fmt: skip
    return found


def added(model: dict, name: str, batch: str, in_flight: int) -> float | None:
    """What the runtime takes on top of the bare engine, as a share of the latter's time."""
    engine, runtime = median(model, name, batch, "engine", in_flight), median(model, name, batch, "runtime", in_flight)
    return runtime / engine - 1 if engine and runtime else None


def verdict(target: dict) -> str:
    if target["value"] is None:
        return f"not measured, target {target['direction']} {target['limit']}"
    return f"{target['value']:.3f} ({target['by']}), target {target['direction']} {target['limit']}: {'pass' if target['met'] else 'miss'}"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def speed_rows(model: dict) -> list[str]:
    rows = []
    for batch, size in model["batches"].items():
        best = torch_best(model, batch)
        for name, contender in model["contenders"].items():
            begin = f"| {model['shape']} | {batch} | {size['tokens']:,} | {label(name)}"
            seconds = model["seconds"].get(key(name, batch))
            why = contender["failures"].get(batch)
            if not seconds:
                rows.append(f"{begin} | | | | | {cell(why or 'not reached within the time')} |")
                continue
            t = statistics.median(seconds)
            peak = f"{size['flops'] / t / model['peak_flops']:.1%}" if model["peak_flops"] else ""
            against = f"{best / t:.2f}x" if best else ""
            notes = [note for note in (doubt(contender), why) if note]
            spread = f"{1e3 * min(seconds):.3f} to {1e3 * max(seconds):.3f}"
            rows.append(f"{begin} | {1e3 * t:.3f} ({spread}) | {size['tokens'] / t:,.0f} | {peak} | {against} | {cell('; '.join(notes))} |")
    return rows


def cost_rows(model: dict) -> list[str]:
    rows = []
    for batch in model["batches"]:
        for name in ours(model, True):
            for in_flight in (1, ADDED_IN_FLIGHT):
                engine, runtime = (median(model, name, batch, kind, in_flight) for kind in ("engine", "runtime"))
                if engine and runtime:
                    share = f"{1e3 * engine:.3f} | {1e3 * runtime:.3f} | {runtime / engine - 1:+.1%}"
                    rows.append(f"| {model['shape']} | {batch} | {in_flight} | {label(name)} | {share} |")
    return rows


def cosine_lines(model: dict) -> list[str]:
    lines = []
    for name, contender in model["contenders"].items():
        value = contender["agreement"]
        text = f"none: {cell(value)}" if isinstance(value, str) else f"{value[0]:.6f}; {value[1]:.6f} without the mean vector"
        lines.append(f"- {model['shape']}, {label(name)}: {text}")
    return lines


def markdown(result: dict) -> str:
    conditions, models = result["conditions"], result["models"]
    lines = ["| Model | Batch | Tokens | Contender | ms, median (min to max) | tokens/s | of peak | to torch's best | |", "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | --- |"]
    for model in models:
        lines += speed_rows(model)
    costs = [row for model in models for row in cost_rows(model)]
    if costs:
        lines += ["", "What the runtime costs on top of its bare engine:", ""]
        lines += ["| Model | Batch | In flight | Contender | Engine, ms | Runtime, ms | Added |", "| --- | --- | ---: | --- | ---: | ---: | ---: |", *costs]
    lines += [f"- {shape} failed: {cell(why)}" for shape, why in result["failed"].items()]
    lines += ["", "Targets:", "", *(f"- {target['what']}: {verdict(target)}" for target in result["targets"])]
    lines += ["", "Least cosine of the vectors against the reference:", ""]
    for model in models:
        lines += cosine_lines(model)
    lines += ["", "Conditions:", ""]
    for model in models:
        peak = f"{model['peak_flops'] / 1e12:.3g} TFLOP/s ({conditions['peak']}³ matrix product in {model['dtype']})" if model["peak_flops"] else model["peak_error"]
        likeness = f"; its different sequences have cosines up to {model['alike']:.3f}" if model["alike"] is not None else ""
        lines.append(f"- {model['shape']}: torch in {model['dtype']}; peak {peak}; {model['rounds']} rounds; reference {model['reference']}{likeness}.")
        for name, contender in model["contenders"].items():
            ready = contender["ready"]
            if ready:
                what = f"{ready.get('engine')} {ready.get('engine_version')} on {ready.get('device')}, {ready.get('dtype')}"
                slots = f", {ready['slots']} slots, best_tokens {ready.get('best_tokens')}" if "slots" in ready else ""
                versions = "".join(f", {key} {value}" for key, value in ready.get("versions", {}).items() if key != "torch")
                lines.append(f"- {label(name)}: {what}{slots}{versions}.")
    lines.append(f"- {conditions['gpu']}; {conditions['cpu']}, {conditions['cpus']} processors, load {conditions['load_average']:.2f}; Python {conditions['python']}; {conditions['date']}.")
    lines.append(
        "- Seeded random weights and tokens. Times are wall times from token ids to normalised vectors in host memory; contenders took turns in "
        "processes of their own. torch pads to the longest, with a mask, and without one where all lengths are equal. FLOPs are 2 x weights of the "
        "linear layers x tokens, and attention's (half of it where causal); FP8 is held against the same 16-bit peak."
    )
    return "\n".join(lines)
