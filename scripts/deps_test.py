"""Tests of the parts of deps.py that decide what is trusted and what is done again."""

import hashlib
import io
import json
import os
import tempfile
import unittest
import zipfile
from unittest import mock

import deps


class DepsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.scratch = os.path.join(folder.name, "scratch")
        os.mkdir(self.scratch)
        self.deps = os.path.join(folder.name, "deps")
        for name, value in {"DEPS": self.deps, "say": lambda text: None}.items():
            patch = mock.patch.object(deps, name, value)
            patch.start()
            self.addCleanup(patch.stop)

    def wheel(self, members):
        """A pip that answers with a wheel of these members; (its artefact, the patch)."""
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)
        artefact = {
            "name": "a", "version": "1", "package": "a", "kind": "wheel",
            "wheels": {"any": {"size": 1, "sha256": hashlib.sha256(data.getvalue()).hexdigest()}},
            "extract": [{"from": "a/data/", "to": "out/"}, {"from": "a/tool", "to": "bin/tool", "executable": True}],
        }

        def pip(command, **_):
            with open(os.path.join(command[command.index("--dest") + 1], "a.whl"), "wb") as file:
                file.write(data.getvalue())

        return artefact, mock.patch.object(deps, "run", pip)

    def read(self, path):
        with open(os.path.join(self.deps, path), encoding="utf-8") as file:
            return file.read()

    def test_wheel_members_are_extracted(self):
        artefact, pip = self.wheel({"a/data/x": "1", "a/data/sub/y": "2", "a/other": "3", "a/tool": "4"})
        with pip, mock.patch.object(deps, "require"):
            deps.fetch_wheel(artefact, self.scratch, {})
        self.assertEqual((self.read("out/x"), self.read("out/sub/y"), self.read("bin/tool")), ("1", "2", "4"))
        self.assertFalse(os.path.exists(os.path.join(self.deps, "out", "other")))
        self.assertTrue(os.access(os.path.join(self.deps, "bin/tool"), os.X_OK))

    def test_wheel_faults(self):
        for members, expected in (
            ({"a/data/../../../x": "1", "a/tool": ""}, "leaves its folder"),
            ({"a/data/x": "1"}, "has no a/tool"),
        ):
            artefact, pip = self.wheel(members)
            with self.subTest(expected), pip, mock.patch.object(deps, "require"):
                with self.assertRaisesRegex(deps.SetupError, expected):
                    deps.fetch_wheel(artefact, self.scratch, {})

    def test_wrong_checksum_is_refused(self):
        artefact, pip = self.wheel({"a/data/x": "1", "a/tool": ""})
        artefact["wheels"]["any"]["sha256"] = "0" * 64
        with pip, mock.patch.object(deps, "require"), self.assertRaisesRegex(deps.SetupError, "pinned is 0000"):
            deps.fetch_wheel(artefact, self.scratch, {})
        self.assertFalse(os.path.exists(os.path.join(self.deps, "out")))

    def test_downloads_have_three_attempts(self):
        for failures, pauses in ((0, []), (2, [5, 20]), (3, [5, 20])):
            answers = [deps.SetupError("no network")] * failures + ["file"]
            with mock.patch.object(deps.time, "sleep") as sleep:
                try:
                    self.assertEqual(deps.persist(mock.Mock(side_effect=answers)), "file")
                    self.assertLess(failures, 3)
                except deps.SetupError:
                    self.assertEqual(failures, 3)
            self.assertEqual([call.args[0] for call in sleep.call_args_list], pauses)

    def crate(self, checksum, files):
        """A cargo that answers with a crate of these files and checksum; (its artefact, the patch)."""
        artefact = {
            "name": "c", "package": "c-sys", "version": "0.9.1", "sha256": "ab" * 32,
            "extract": [{"from": "headers/", "to": "include/"}, {"from": "one.h", "to": "include/two.h"}],
        }
        folder = os.path.join(os.path.dirname(self.scratch), "registry")
        for path, text in files.items():
            os.makedirs(os.path.dirname(os.path.join(folder, path)), exist_ok=True)
            with open(os.path.join(folder, path), "w", encoding="utf-8") as file:
                file.write(text)

        def cargo(command, cwd, **_):
            with open(os.path.join(cwd, "Cargo.toml"), encoding="utf-8") as file:
                self.assertIn('c-sys = "=0.9.1"\n', file.read())
            with open(os.path.join(cwd, "Cargo.lock"), "w", encoding="utf-8") as file:
                file.write(f'[[package]]\nname = "a"\nchecksum = "00"\n\n[[package]]\nname = "c-sys"\nversion = "0.9.1+x"\n{checksum}')
            packages = [{"name": "fetch", "manifest_path": "/x"}, {"name": "c-sys", "manifest_path": os.path.join(folder, "Cargo.toml")}]
            return mock.Mock(stdout=json.dumps({"packages": packages}))

        return artefact, mock.patch.object(deps, "run", cargo)

    def test_crate_files_are_extracted(self):
        artefact, cargo = self.crate(f'checksum = "{"ab" * 32}"\n', {"headers/a.h": "1", "headers/sub/b.h": "2", "one.h": "3", "x": "4"})
        with cargo, mock.patch.object(deps, "require"):
            deps.fetch_crate(artefact, self.scratch, {})
        self.assertEqual([self.read(f"include/{name}") for name in ("a.h", "sub/b.h", "two.h")], ["1", "2", "3"])
        self.assertEqual(sorted(os.listdir(os.path.join(self.deps, "include"))), ["a.h", "sub", "two.h"])

    def test_crate_faults(self):
        for checksum, files, expected in (
            (f'checksum = "{"cd" * 32}"\n', {"headers/a.h": "", "one.h": ""}, "is cdcd.*pinned is abab"),
            ("", {"headers/a.h": "", "one.h": ""}, "is missing, pinned is abab"),
            (f'checksum = "{"ab" * 32}"\n', {"one.h": ""}, "has no missing/"),
        ):
            artefact, cargo = self.crate(checksum, files)
            with self.subTest(expected), tempfile.TemporaryDirectory() as scratch, cargo, mock.patch.object(deps, "require"):
                artefact["extract"][0]["from"] = "missing/"
                with self.assertRaisesRegex(deps.SetupError, expected):
                    deps.fetch_crate(artefact, scratch, {})

    def test_group_for_one_machine_says_so_on_another(self):
        config = {"x86_64_only": {"gpu": "the builds"}}
        with mock.patch("platform.machine", return_value="aarch64"):
            deps.check_machine("runtime", config)
            with self.assertRaisesRegex(deps.SetupError, "group gpu: the builds are for x86-64 only, and this machine is aarch64; fix: "):
                deps.check_machine("gpu", config)

    def test_unpinned_machine_is_named(self):
        with mock.patch("platform.machine", return_value="riscv64"):
            with self.assertRaisesRegex(deps.SetupError, "riscv64; pinned: x86_64"):
                deps.pinned_wheel({"name": "a", "wheels": {"x86_64": {}}})

    def test_done_work_is_not_repeated_until_pin_or_output_changes(self):
        calls = []

        def make(artefact, scratch, config):
            calls.append(artefact["version"])
            part = os.path.join(scratch, "part")
            with open(part, "w", encoding="utf-8"):
                pass
            deps.install(part, artefact["to"])

        os.mkdir(self.deps)
        artefact = {"name": "a", "version": "1", "kind": "made", "to": "lib/a"}
        with mock.patch.dict(deps.KINDS, made=make):
            deps.fetch(artefact, "1/1", {})
            deps.fetch(artefact, "1/1", {})
            self.assertEqual(calls, ["1"])
            os.remove(os.path.join(self.deps, "lib/a"))
            deps.fetch(artefact, "1/1", {})
            deps.fetch({**artefact, "version": "2"}, "1/1", {})
        self.assertEqual(calls, ["1", "1", "2"])
        self.assertEqual(sorted(os.listdir(self.deps)), ["lib", "stamps"])

    def test_failed_work_is_not_recorded(self):
        def fail(artefact, scratch, config):
            raise deps.SetupError("no")

        os.mkdir(self.deps)
        with mock.patch.dict(deps.KINDS, made=fail), self.assertRaises(deps.SetupError):
            deps.fetch({"name": "a", "version": "1", "kind": "made", "to": "lib/a"}, "1/1", {})
        self.assertEqual(os.listdir(self.deps), [])

    def test_missing_and_old_programs_name_the_fix(self):
        for program, expected in (
            ((["no-such-program"], None, "apt-get install it"), "not on PATH; fix: apt-get install it"),
            ((["sh", "-c", "exit 3"], None, "repair it"), "does not run .*fix: repair it"),
            ((["echo", "tool 1.62.0"], (1, 88), "newer"), r"too old \(tool 1.62.0\); fix: newer"),
        ):
            with self.subTest(expected), mock.patch.dict(deps.PROGRAMS, x=program):
                with self.assertRaisesRegex(deps.SetupError, expected):
                    deps.require("x")

    def test_pins_agree_with_go_mod(self):
        artefact = {"module": "github.com/daulet/tokenizers", "version": "v0.0.1"}
        with mock.patch.object(deps, "require"), self.assertRaisesRegex(deps.SetupError, "make them equal"):
            deps.go_module(artefact, self.scratch)


if __name__ == "__main__":
    unittest.main()
