"""Tests of the parts of deps.py that decide what is trusted and what is done again."""

import hashlib
import io
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
