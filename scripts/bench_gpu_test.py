"""Tests of bench/gpu: batches, FLOPs, table and targets, and a run of the driver on programs of our own making, without torch."""

import argparse
import contextlib
import io
import json
import os
import pathlib
import signal
import sys
import tempfile
import time
import unittest
import unittest.mock

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench" / "gpu"), str(ROOT / "bench")]

import batches  # noqa: E402
import bench as driver  # noqa: E402
import contenders  # noqa: E402
import models  # noqa: E402
import tables  # noqa: E402

# `bei bench --worker` as far as the driver knows it. Its flags tell how it fails.
WORKER = """#!{python}
import array, base64, json, sys
flags = " ".join(sys.argv)
if "no-start" in flags:
    print(json.dumps({{"error": "no such | engine"}}), flush=True)
    sys.exit(1)
if "no-answer" in flags:
    sys.exit(3)
print(json.dumps({{"ready": {{"engine": "fake", "engine_version": "7", "device": "gpu", "slots": 2, "best_tokens": 64,
                              "dtype": "float8" if "--fp8" in flags else "float16"}}}}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if "vectors" in job:
        rows = [1, 2, 3, 1, 2, 4, 2, 2, 3] if "--wrong" not in flags else [-1, 2, 3, 1, 2, 4, 2, 2, 3]
        print(json.dumps({{"float32": base64.b64encode(array.array("f", rows).tobytes()).decode(), "rows": 3}}), flush=True)
    elif job["batch"] == "2x8" and "no-2x8" in flags:
        print(json.dumps({{"error": "too long"}}), flush=True)
    elif job["batch"] == "2x8" and "crash" in flags and job["iterations"] > 1:
        sys.exit(5)
    else:
        seconds = 0.001 * (1.04 if job.get("kind") == "runtime" else 1)
        print(json.dumps({{"seconds": [seconds] * (job["iterations"] if job.get("in_flight", 1) == 1 else 1), "tokens": 1}}), flush=True)
"""


class BatchesTest(unittest.TestCase):
    def test_lengths_are_those_of_bei_bench(self):
        for name, want in {
            "1x32": [32], "3x2": [2, 2, 2], "5": [5], "16+40+3": [16, 40, 3],
            "mixed4": [193, 450, 255, 366], "mixed3:7-7": [7, 7, 7], "mixed5:2-4": [4, 3, 2, 4, 2],
        }.items():  # fmt: skip
            self.assertEqual(batches.lengths(name), want)
        for name in ("", "x", "1x", "0x3", "3x0", "-1x3", "1x2x3", "1+", "1.5", "mixed", "mixed0", "mixed4:", "mixed4:4-3", "mixed4:0-3"):
            with self.assertRaisesRegex(ValueError, "COUNTxLENGTH"):
                batches.lengths(name)

    def test_ids_are_those_of_bei_bench(self):
        self.assertEqual((batches.mix(1, 0), batches.mix(2, 6)), (0x910A2DEC89025CC1, 0xB9F24F7BAE4A6586))
        self.assertEqual(batches.sequences("1+2", 100), [[10], [26, 51]])


class ModelsTest(unittest.TestCase):
    def test_flops(self):
        # 12 layers of 4 x 768 x 768 and 2 x 768 x 3072 weights; attention looks at 3 x 3 pairs, 768 wide, twice.
        self.assertEqual(models.flops(models.SHAPES["bert-base"], [3]), 2 * 84_934_656 * 3 + 4 * 12 * 768 * 9)
        # 28 layers of (16 + 8 + 8 + 16) x 128 x 1024 and 3 x 1024 x 3072; causal: 6 pairs, 2048 wide.
        self.assertEqual(models.flops(models.SHAPES["qwen3-0.6b"], [3]), 2 * 440_401_920 * 3 + 4 * 28 * 2048 * 6)

    def test_fingerprint_is_that_of_the_library(self):
        # What `bei info` prints as weights_fingerprint.
        self.assertEqual(models.fingerprint(ROOT / "testdata/models/bert-mean"), "ae41ef52e29e6b6397fcf9349c9532eab902bcc83b20d319824fa61e56a78a50")

    def test_linear_layers_exist(self):
        for name, config in models.SHAPES.items():
            weights = models.weight_shapes(config)
            inputs = models.linear_inputs(config)
            self.assertEqual(len(inputs), 4 * config["num_hidden_layers"])
            for module in inputs.values():
                self.assertIn(f"{module}.weight", weights, name)


def model(**changes) -> dict:
    """A result of the driver for one model: ours take 1 ms and 0.8 ms in FP8, torch 2 ms, compiled 4 ms and, with graphs, one text 2.5 ms."""
    ready = {"dtype": "float16", "engine": "e", "engine_version": "1", "device": "gpu"}
    seconds = {}
    for batch in ("1x32", "mixed64", "32x512"):
        for name, t in (("trt-fp16", 0.001), ("trt-fp8", 0.0008), ("eager", 0.002), ("compile", 0.004)):
            seconds[tables.key(name, batch)] = [t, t, t * 9]
    seconds[tables.key("compile-graphs", "1x32")] = [0.0025]
    for name, runtime in (("trt-fp16", 0.00104), ("trt-fp8", 0.00108)):
        seconds[tables.key(name, "32x512", "engine", 2)] = [0.001]
        seconds[tables.key(name, "32x512", "runtime", 2)] = [runtime]
    contender = {"failures": {}, "agreement": [0.9999, 0.99], "command": []}
    result = {
        "shape": "bert-base", "model_type": "bert", "dtype": "float16", "seconds": seconds, "rounds": 3, "reference": "torch", "alike": 0.5,
        "peak_flops": 1e12, "peak_error": "", "batches": {name: {"tokens": 1000, "flops": 5e8} for name in ("1x32", "mixed64", "32x512")},
        "contenders": {name: contender | {"ready": ready | {"dtype": dtype}, "failures": {}} for name, dtype in
                       (("trt-fp16", "float16"), ("trt-fp8", "float8"), ("eager", "float16"), ("compile", "float16"), ("compile-graphs", "float16"))},
    }  # fmt: skip
    return result | changes


CONDITIONS = {"gpu": "H", "cpu": "C", "cpus": 2, "load_average": 0.0, "python": "3", "date": "today", "peak": 8192}


def result(*all_models) -> dict:
    found = {"conditions": CONDITIONS, "models": list(all_models), "failed": {}}
    return found | {"targets": tables.targets(found)}


class TablesTest(unittest.TestCase):
    def check(self, found: dict, want: list[tuple]):
        self.assertEqual([(round(t["value"], 4) if t["value"] is not None else None, t["limit"], t["by"], t["met"]) for t in found["targets"]], want)

    def test_targets(self):
        self.check(result(model()), [
            (0.25, 0.35, "TensorRT fp16", True), (0.2, 0.35, "TensorRT fp8", True),  # 1x32 against compile
            (0.4, 0.35, "TensorRT fp16", False), (0.32, 0.35, "TensorRT fp8", True),  # and against its graphs
            (2.0, 1.6, "TensorRT fp16", True), (2.5, 1.6, "TensorRT fp8", True),  # mixed against the best, eager
            (0.04, 0.05, "TensorRT fp16", True), (0.08, 0.05, "TensorRT fp8", False),
        ])  # fmt: skip
        self.check(result(model(model_type="qwen3")), [
            (0.25, 0.35, "TensorRT fp16", True), (0.2, 0.35, "TensorRT fp8", True),
            (0.4, 0.35, "TensorRT fp16", False), (0.32, 0.35, "TensorRT fp8", True),
            (4.0, 1.0, "TensorRT fp16", True), (5.0, 1.0, "TensorRT fp8", True),  # 32x512 against compile
            (0.04, 0.05, "TensorRT fp16", True), (0.08, 0.05, "TensorRT fp8", False),
        ])  # fmt: skip

    def test_wrong_vectors_meet_no_target(self):
        wrong = model()
        wrong["contenders"]["trt-fp16"]["agreement"] = [0.98, 0.9]
        wrong["contenders"]["trt-fp8"]["agreement"] = "none"
        found = result(wrong)
        self.assertEqual([t["value"] for t in found["targets"][:6]], [None] * 6)
        self.assertIn("| its vectors are not the reference's |", tables.markdown(found))
        self.assertIn("| its vectors were not compared |", tables.markdown(found))

    def test_missing_contenders_are_said(self):
        lacking = model(peak_flops=None, peak_error="not measured: no torch")
        for name in ("compile", "trt-fp8"):
            lacking["contenders"][name] |= {"ready": {}, "failures": {batch: "no\n|luck" for batch in lacking["batches"]}, "agreement": "no luck"}
            for key in [key for key in lacking["seconds"] if key.startswith(name + " ")]:
                del lacking["seconds"][key]
        text = tables.markdown(result(lacking))
        self.assertIn("| bert-base | 1x32 | 1,000 | torch.compile | | | | | no \\|luck |", text)
        self.assertIn("1x32: time against that of torch.compile: not measured, target at most 0.35", text)
        self.assertIn("peak not measured: no torch", text)

    def test_rows(self):
        text = tables.markdown(result(model()))
        self.assertIn("| bert-base | 1x32 | 1,000 | TensorRT fp16 | 1.000 (1.000 to 9.000) | 1,000,000 | 50.0% | 2.00x |  |", text)
        self.assertIn("| bert-base | 32x512 | 2 | TensorRT fp16 | 1.000 | 1.040 | +4.0% |", text)
        self.assertIn("0.250 (TensorRT fp16), target at most 0.35: pass", text)
        self.assertIn("0.080 (TensorRT fp8), target at most 0.05: miss", text)


class DriverTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.bei = self.folder / "bei"
        self.bei.write_text(WORKER.format(python=sys.executable), encoding="utf-8")
        os.chmod(self.bei, 0o755)
        (self.folder / "tiny-bert").mkdir()  # a folder that has weights is left as it is
        for name in ("model.safetensors", "bei-fp8.json"):
            (self.folder / "tiny-bert" / name).touch()

    def drive(self, *arguments: str) -> tuple[int, str, dict]:
        out, file = io.StringIO(), self.folder / "out.json"
        argv = ["bench.py", "--models", "tiny-bert", "--bei", str(self.bei), "--work", str(self.folder), "--json", str(file), "--peak", "8", "--device", "cpu",
                "--rounds", "2", "--turn", "0.001", "--batches", "1x8,2x8", "--in-flight", "2x8", *arguments]  # fmt: skip
        with unittest.mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            code = driver.main()
        return code, out.getvalue(), json.loads(file.read_text(encoding="utf-8"))

    def test_a_contender_that_fails_is_a_row(self):
        code, text, found = self.drive("--contenders", "ort-cuda", "--add", "fine=--fp8", "--add", "absent=--no-start", "--add", "dead=--no-answer",
                                       "--add", "part=--no-2x8", "--add", "crashes=--crash", "--add", "wrong=--wrong")  # fmt: skip
        self.assertEqual(code, 0)
        [only] = found["models"]
        self.assertEqual(only["rounds"], 2)
        failures = {name: contender["failures"] for name, contender in only["contenders"].items()}
        self.assertEqual(failures["ort-cuda"], {})
        self.assertEqual(failures["absent"], {"1x8": "no such | engine", "2x8": "no such | engine"})
        self.assertIn("status 3", failures["dead"]["1x8"])
        self.assertEqual(failures["part"], {"2x8": "too long"})
        self.assertIn("status 5", failures["crashes"]["2x8"])
        self.assertIn("| tiny-bert | 1x8 | 8 | absent | | | | | no such \\| engine |", text)
        self.assertIn("| tiny-bert | 2x8 | 2 | fine | 1.000 | 1.040 | +4.0% |", text)
        self.assertEqual(only["contenders"]["fine"]["agreement"], [1, 1])
        self.assertLess(only["contenders"]["wrong"]["agreement"][1], 0.9)
        self.assertIn("since there is no other", only["reference"])  # or torch's own message, where torch is

    def test_rounds_end_with_the_time(self):
        with unittest.mock.patch.object(driver, "PREPARE_SHARE", 60):  # of a second
            code, text, found = self.drive("--contenders", "ort-cuda", "--seconds", "0")
        self.assertEqual((code, found["models"][0]["rounds"]), (1, 0))
        self.assertIn("not reached within the time", text)

    def test_a_signal_ends_the_rounds(self):
        self.addCleanup(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        take_turn, turns = driver.take_turn, []

        def turn(*arguments):
            turns.append(arguments)
            if len(turns) == 8:  # six are a round
                os.kill(os.getpid(), signal.SIGTERM)
            take_turn(*arguments)

        close, closed = driver.contenders.Group.close, []

        def disturbed(group, seconds):
            closed.append((group.name, seconds))
            os.kill(os.getpid(), signal.SIGTERM)
            close(group, seconds)

        with unittest.mock.patch.object(driver, "take_turn", turn), unittest.mock.patch.object(driver.contenders.Group, "close", disturbed):
            code, text, found = self.drive("--contenders", "ort-cuda", "--models", "tiny-bert,tiny-qwen3")
        [only] = found["models"]
        self.assertEqual((code, only["shape"], only["rounds"], len(turns), closed), (0, "tiny-bert", 1, 8, [("ort-cuda", 0)]))
        self.assertIn("| tiny-bert | 1x8 | 8 | ONNX Runtime CUDA fp16 | 1.0", text)

    def test_ours_leave_time_for_torch(self):
        given, clock = {}, [0.0]

        class Slow:
            def __init__(self, name, *_):
                self.name, self.failures = name, {}

            def prepare(self, seconds):
                given[self.name] = seconds
                if driver.contenders.is_ours(self.name):
                    clock[0] += max(min(seconds, 0.3), 0)

        arguments = argparse.Namespace(contenders=["eager", "trt-fp16", "compile", "ort-cuda"], batches=["1x8"], compile_seconds=200)
        made = []
        with (
            unittest.mock.patch.object(driver.contenders, "make", lambda *of: (made.append(of), Slow(*of))[1]),
            unittest.mock.patch.object(driver, "time", unittest.mock.Mock(wraps=time, monotonic=lambda: clock[0])),
        ):
            driver.prepare({}, self.folder, arguments, {}, 1)
        self.assertEqual((list(given)[:2], set(given)), (["trt-fp16", "ort-cuda"], {"trt-fp16", "ort-cuda", "eager", "compile"}))
        for name, seconds in {"trt-fp16": 0.5, "ort-cuda": 0.2, "eager": 0.5, "compile": 0.5}.items():
            self.assertAlmostEqual(given[name], seconds)
        self.assertAlmostEqual(made[-1][3]["compile_seconds"], 0.3)

    def test_wrong_arguments(self):
        for want, arguments in {
            "contender 'x' is unknown": ["--contenders", "x"], "model 'x' is unknown": ["--models", "x"], "COUNTxLENGTH": ["--batches", "x"],
            "is missing: run `make build`": ["--bei", str(self.folder / "none")], "NAME=FLAGS": ["--add", "x"], "at least one": ["--rounds", "0"],
        }.items():  # fmt: skip
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors), self.assertRaises(SystemExit):
                driver.parse(arguments)
            self.assertIn(want, errors.getvalue())


class GroupTest(unittest.TestCase):
    def test_batches_are_dealt_in_order(self):
        self.assertEqual(contenders.Group("compile", [], ["a", "b", "c", "d", "e"], 2).dealt, [["a", "c", "e"], ["b", "d"]])
        self.assertEqual(contenders.Group("compile", [], ["a"], 4).dealt, [["a"]])

    def test_graphs_are_for_few_tokens(self):
        settings = {"flags": {}, "dtype": "float16", "device": "cuda", "compile_processes": 7, "compile_seconds": 1}
        group = contenders.make("compile-graphs", ROOT, ["8x512", "4096+8", "1x32"], settings)
        self.assertEqual((group.dealt, list(group.failures)), ([["8x512"], ["1x32"]], ["4096+8"]))
        self.assertEqual(contenders.make("compile", ROOT, ["4096+8"], settings).dealt, [["4096+8"]])

    def test_iterations_fill_a_turn(self):
        self.assertEqual(driver.iterations([], 1), driver.FIRST_ITERATIONS)
        self.assertEqual(driver.iterations([0.1, 9, 0.1], 1), 10)
        self.assertEqual(driver.iterations([5], 1), driver.LEAST_ITERATIONS)
        self.assertEqual(driver.iterations([1e-6], 1), driver.MOST_ITERATIONS)


if __name__ == "__main__":
    unittest.main()
