"""Tests of what fuzz.py takes for a failure."""

import contextlib
import io
import sys
import unittest

import fuzz


class PassesTest(unittest.TestCase):
    def passes(self, output, code):
        with contextlib.redirect_stdout(io.StringIO()):
            return fuzz.passes([sys.executable, "-c", f"import sys; print({output!r}); sys.exit({code})"])

    def test_results(self):
        deadline = "--- FAIL: FuzzA (4.02s)\n    context deadline exceeded\nFAIL"
        self.assertTrue(self.passes("PASS", 0))
        self.assertTrue(self.passes(deadline, 1))
        self.assertFalse(self.passes("--- FAIL: FuzzA (4.02s)", 1))
        self.assertFalse(self.passes("    Failing input written to testdata/fuzz/FuzzA/1\n" + deadline, 1))
        self.assertFalse(self.passes("    panic: index out of range\n" + deadline, 1))


if __name__ == "__main__":
    unittest.main()
