"""Tests of pack_gpu.py's archives and pieces, and of how run_tests.py shards test binaries and reads what they print."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
from unittest import mock

import pack_gpu
import run_tests

OUTPUT = """\x16=== RUN   TestA
\x16=== RUN   TestA/one
    a_test.go:5: of one
half a line\x16=== RUN   TestA/two
\x16=== NAME  TestA/one
    a_test.go:6: more of one
\x16=== NAME  TestA/two
    a_test.go:9: no GPU
\x16    --- SKIP: TestA/two (0.25s)
\x16    --- FAIL: TestA/one (0.50s)
\x16--- FAIL: TestA (0.75s)
\x16=== NAME  \n\
of the framework
\x16=== RUN   TestB
printed\x16--- PASS: TestB (0.00s)
FAIL
"""


class PackTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def write(self, name, data, mode=0o644):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb") as file:
            file.write(data)
        os.chmod(self.path(name), mode)
        return self.path(name)

    def archive(self, name="archive"):
        files = {"bin/tool": self.write("in/tool", os.urandom(3000), 0o755), "data": self.write("in/data", b"text")}
        pack_gpu.write_archive(self.path(name), files, {"link": "bin/tool"}, 6)
        return self.path(name)

    def put(self, folder, *arguments):
        return subprocess.run(["sh", os.path.join(folder, "put"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def test_archives_of_equal_content_are_equal(self):
        files = {"a": self.write("in/a", b"1")}
        for name in ("x", "y"):
            os.utime(files["a"], (1, 1) if name == "x" else (10 ** 9, 10 ** 9))
            pack_gpu.write_archive(self.path(name), files, {}, 6)
        with open(self.path("x"), "rb") as x, open(self.path("y"), "rb") as y:
            self.assertEqual(x.read(), y.read())

    def test_pieces_unpack_in_any_order(self):
        folders = pack_gpu.write_pieces(self.archive(), "work", self.path("out"), 3, 5096)
        self.assertEqual([os.path.basename(folder) for folder in folders], ["03", "04", "05", "06"])
        for folder in folders:
            self.assertLess(sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)), 5096)
        for folder in reversed(folders):
            self.assertFalse(os.path.exists(self.path("to", "data")))
            done = self.put(folder, self.path("to"))
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("work is complete", done.stdout)
        with open(self.path("in", "tool"), "rb") as wanted, open(self.path("to", "link"), "rb") as found:
            self.assertEqual(wanted.read(), found.read())
        self.assertTrue(os.access(self.path("to", "bin", "tool"), os.X_OK))
        self.assertEqual(os.listdir(self.path("to", ".parts")), [])

    def test_one_piece_without_a_size(self):
        folders = pack_gpu.write_pieces(self.archive(), "work", self.path("out"), 0, None)
        self.assertEqual(len(folders), 1)
        self.assertEqual(self.put(folders[0], self.path("to")).returncode, 0)
        self.assertTrue(os.path.exists(self.path("to", "data")))

    def test_damaged_piece_is_refused(self):
        folders = pack_gpu.write_pieces(self.archive(), "work", self.path("out"), 0, 5096)
        part = [name for name in os.listdir(folders[1]) if name != "put"][0]
        with open(os.path.join(folders[1], part), "r+b") as file:
            file.write(b"damage")
        done = self.put(folders[1], self.path("to"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("is damaged: bring it again", done.stderr)
        self.assertIn(" to come", self.put(folders[0], self.path("to")).stdout)

    def test_only_packs_are_cleared(self):
        os.mkdir(self.path("out"))
        self.archive("out/archive")
        with self.assertRaisesRegex(pack_gpu.PackError, "holds archive, which is no piece"):
            pack_gpu.clear(self.path("out"))
        os.mkdir(self.path("packs"))
        pack_gpu.write_pieces(self.path("out", "archive"), "work", self.path("packs"), 0, 5096)
        os.mkdir(self.path("packs", ".part-killed"))
        pack_gpu.clear(self.path("packs"))
        self.assertFalse(os.path.exists(self.path("packs")))

    def test_libraries_are_without_what_work_brings(self):
        self.write(pack_gpu.KERNELS, b"ours")
        theirs = os.path.join(os.path.dirname(pack_gpu.KERNELS), "libonnxruntime.so.1")
        self.write(theirs, b"theirs")
        with mock.patch.object(pack_gpu, "ROOT", self.folder), mock.patch.object(pack_gpu, "LIBRARIES", [os.path.dirname(theirs)]):
            self.assertEqual(list(pack_gpu.library_files()), [theirs])

    def test_plans_are_built_in_parts(self):
        test = self.write("in/test", b'#!/bin/sh\necho "$BEI_TEST_PART" > "$BEI_TEST_PLANS/${BEI_TEST_PART%/*}.plan"; touch "$BEI_TEST_PLANS/x.lock"\n', 0o755)
        with mock.patch.object(pack_gpu, "build_test", return_value=test), mock.patch("os.cpu_count", return_value=2):
            files = pack_gpu.plan_files(self.path("in"))
        self.assertEqual(sorted(files), ["plans/0.plan", "plans/1.plan"])
        with open(files["plans/1.plan"], encoding="utf-8") as file:
            self.assertEqual(file.read(), "1/2\n")

    def test_plans_that_fail_say_why(self):
        test = self.write("in/test", b"#!/bin/sh\necho no library\nexit 1\n", 0o755)
        with mock.patch.object(pack_gpu, "build_test", return_value=test), self.assertRaisesRegex(pack_gpu.PackError, "no library"):
            pack_gpu.plan_files(self.path("in"))

    def test_missing_files_name_the_fix(self):
        for path in ("no-such", "empty"):
            os.makedirs(self.path("empty"), exist_ok=True)
            with self.assertRaisesRegex(pack_gpu.PackError, f"{path} is .*make pack_gpu"):
                pack_gpu.files_below(self.folder, path)


class RunTest(unittest.TestCase):
    def test_every_subtest_has_one_shard(self):
        shards = list(run_tests.shards_of("b", ["TestA", "TestB"], {"TestA": ["x", "y.z"], "TestC": ["x"]}, {"TestB": 2}))
        self.assertEqual([shard[1:] for shard in shards], [
            ("^TestA$/^x$", "", ""), (r"^TestA$/^y\.z$", "", ""), ("^TestA$", r"^TestA$/^(x|y\.z)$", ""), ("^TestB$", "", "0/2"), ("^TestB$", "", "1/2")])

    def test_output_belongs_to_its_test(self):
        results, rest = run_tests.parse(OUTPUT)
        self.assertEqual({name: result[:2] for name, result in results.items()}, {
            "TestA": ("fail", 0.75), "TestA/one": ("fail", 0.5), "TestA/two": ("skip", 0.25), "TestB": ("pass", 0.0)})
        self.assertEqual([line.strip() for line in results["TestA/one"][2]], ["a_test.go:5: of one", "half a line", "a_test.go:6: more of one"])
        self.assertEqual(rest, ["of the framework"])

    def test_records_keep_output_of_all_but_passes(self):
        found = {record["name"]: record for record in run_tests.records(run_tests.Shard("b", "^TestA$", ""), OUTPUT, 1, 2.0)}
        self.assertEqual(found["TestA/two"]["output"].strip(), "a_test.go:9: no GPU")
        self.assertNotIn("output", found["TestB"])
        kept = run_tests.records(run_tests.Shard("b", "^TestB$", ""), OUTPUT, 1, 2.0, "B")
        self.assertEqual([record["output"] for record in kept if record["name"] == "TestB"], ["printed"])

    def test_dead_processes_are_reported(self):
        shard = run_tests.Shard("b", "^TestA$", "")
        lost, = run_tests.records(shard, "\x16=== RUN   TestA\nSIGSEGV: segmentation violation\n", 2, 1.0)
        self.assertEqual((lost["name"], lost["status"]), ("TestA", "lost"))
        self.assertIn("SIGSEGV", lost["output"])
        for code, text in ((1, "ended with status 1"), (None, "ran out of time")):
            lost, = run_tests.records(shard, "cannot load a library\n", code, 1.0)
            self.assertEqual((lost["name"], lost["status"]), ("^TestA$", "lost"))
            self.assertRegex(lost["output"], f"(?s){text}.*cannot load")

    def test_time_ends_processes_and_what_they_started(self):
        with tempfile.TemporaryDirectory() as folder:
            os.makedirs(os.path.join(folder, "tests"))
            binary, started = os.path.join(folder, "tests", "b.test"), os.path.join(folder, "started")
            with open(binary, "w", encoding="utf-8") as file:
                file.write(f"#!/bin/sh\nprintf '\\026=== RUN   TestA\\n'\ntouch {started}\nsleep 60\n")
            os.chmod(binary, 0o755)

            class Started(subprocess.Popen):
                """Its time begins once it has printed."""

                def communicate(self, *arguments, **named):
                    while not os.path.exists(started) and self.poll() is None:
                        time.sleep(0.01)
                    return super().communicate(*arguments, **named)

            with mock.patch.object(run_tests, "HERE", folder), mock.patch.object(subprocess, "Popen", Started):
                begin = time.monotonic()
                lost, = run_tests.run_shard(run_tests.Shard("b", "^TestA$", ""), folder, {}, 60, begin + 1, "x")
                self.assertEqual((lost["name"], lost["status"]), ("TestA", "lost"))
                self.assertLess(time.monotonic() - begin, 30)
                lost, = run_tests.run_shard(run_tests.Shard("b", "^TestA$", ""), folder, {}, 60, begin, "x")
                self.assertEqual((lost["status"], lost["output"]), ("lost", "the time was over before it began"))

    def test_a_signal_ends_the_tests_that_run(self):
        with tempfile.TemporaryDirectory() as folder:
            os.makedirs(os.path.join(folder, "tests"))
            shutil.copy(run_tests.__file__, folder)
            with open(os.path.join(folder, "tests", "tests.json"), "w", encoding="utf-8") as file:
                file.write('{"b": "."}')
            binary, started = os.path.join(folder, "tests", "b.test"), os.path.join(folder, "started")
            with open(binary, "w", encoding="utf-8") as file:
                file.write(f'#!/bin/sh\nif [ "$1" = -test.list ]; then echo TestA; exit; fi\necho $$ > {started}.new\nmv {started}.new {started}\nsleep 60\n')
            os.chmod(binary, 0o755)
            for number in (signal.SIGINT, signal.SIGTERM):
                with subprocess.Popen([sys.executable, os.path.join(folder, "run_tests.py"), "--no-gpu"]) as runner:
                    while not os.path.exists(started) and runner.poll() is None:
                        time.sleep(0.01)
                    runner.send_signal(number)
                    self.assertEqual(runner.wait(30), 128 + number)
                with open(started, encoding="utf-8") as file:
                    test = int(file.read())
                deadline = time.monotonic() + 30
                while self.runs(test) and time.monotonic() < deadline:
                    time.sleep(0.01)
                self.assertFalse(self.runs(test))
                os.remove(started)

    @staticmethod
    def runs(process):
        """Whether a process runs: a dead one that nobody has waited for does not."""
        try:
            with open(f"/proc/{process}/stat", encoding="utf-8") as file:
                return file.read().rsplit(")", 1)[1].split()[0] != "Z"
        except FileNotFoundError:
            return False

    def test_parents_in_several_processes_are_one_test(self):
        def record(status, seconds, **more):
            return {"binary": "b", "name": "TestA", "status": status, "seconds": seconds, **more}
        merged = run_tests.merge([record("pass", 1.0), record("fail", 2.0, output="why"), record("skip", 0.5, output="-")])
        self.assertEqual(merged, [record("fail", 3.5, output="why")])

    def test_split_arguments(self):
        split = run_tests.parse_split(["trt/TestX=a,b c", "new/TestY=z"])
        self.assertEqual((split["trt"]["TestX"], split["new"]), (["a", "b c"], {"TestY": ["z"]}))
        self.assertNotIn("TestX", run_tests.SPLIT["trt"])
        with self.assertRaisesRegex(SystemExit, "write it as"):
            run_tests.parse_split(["TestX"])

    def test_environment(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch("os.cpu_count", return_value=1):
            for name in ("cudnn/lib", "cu13/lib", "other"):
                os.makedirs(os.path.join(folder, "nvidia", name))
            found = run_tests.library_folders(folder)
            self.assertEqual([os.path.relpath(path, folder) for path in found], ["nvidia/cu13/lib", "nvidia/cudnn/lib"])
            self.assertEqual(run_tests.library_folders(os.path.join(folder, "other")), [])
            spec = mock.Mock(origin=os.path.join(folder, "torch", "__init__.py"))
            with mock.patch("importlib.util.find_spec", return_value=spec):
                variables = run_tests.environment({"LD_LIBRARY_PATH": "/mine", "BEI_TENSORRT_LIB": "/other"}, gpu=True)
            self.assertEqual(variables["LD_LIBRARY_PATH"].split(":")[:3], ["/mine", *found])
            self.assertEqual((variables["BEI_TENSORRT_LIB"], variables["BEI_GPU_TESTS"]), ("/other", "1"))
            self.assertNotIn("BEI_GPU_TESTS", run_tests.environment({}, gpu=False))

    def test_processes_are_dealt_among_gpus(self):
        given = {"BEI_GPU_TESTS": "2"}
        found = [run_tests.dealt(given, k, 2) for k in range(3)]
        self.assertEqual([variables["CUDA_VISIBLE_DEVICES"] for variables in found], ["0", "1", "0"])
        self.assertEqual({variables["BEI_GPU_TESTS"] for variables in found}, {"1"})
        for alone, gpus in ((given, 1), ({}, 2), ({**given, "CUDA_VISIBLE_DEVICES": "1"}, 2)):
            self.assertEqual(run_tests.dealt(alone, 1, gpus), alone)

    def test_split_names_every_form_of_attention(self):
        with open(os.path.join(pack_gpu.ROOT, "backend", "engine", "onnx", "cuda_attention.go"), encoding="utf-8") as file:
            forms = set(re.findall(r'attentionForm += "(\w+)"', file.read()))
        self.assertIn("products", forms)
        self.assertEqual(set(run_tests.SPLIT["onnx"]["TestCUDAForms"]), forms)
        self.assertLess(set(run_tests.SPLIT["onnx"]["TestEmulatedCUDA"]), forms)

    def test_summary(self):
        tests = run_tests.records(run_tests.Shard("b", "^TestA$", ""), OUTPUT, 1, 2.0)
        text = "\n".join(run_tests.summary({"gpus": ["H"], "seconds": 2.0, "tests": tests}))
        for expected in ("--- fail: b TestA/one (0.5 s)", "skipped, 1: a_test.go:9: no GPU", "b: 2 fail, 1 pass, 1 skip", "4 tests in 2 s on H"):
            self.assertIn(expected, text)


if __name__ == "__main__":
    unittest.main()
