"""Tests of libnvml_forward.a as `make setup` built it, against a driver library of our own making."""

import ctypes
import os
import subprocess
import tempfile
import unittest

from nvml_forward import argument_names, generate

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ARCHIVE = os.path.join(ROOT, ".deps", "lib", "libnvml_forward.a")
CC = os.environ.get("CC", "cc").split()

# Sixteen threads make the first calls together; all must see the driver's answer. The statuses are those of nvml.h.
PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
int nvmlInit_v2(void);
int nvmlDeviceGetCount_v2(unsigned int *count);
int nvmlSystemGetDriverVersion(char *version, unsigned int length);
const char *nvmlErrorString(int result);
static void *init(void *result) { *(int *)result = nvmlInit_v2(); return NULL; }
int main(void) {
  pthread_t threads[16];
  int results[16];
  for (int i = 0; i < 16; i++) pthread_create(&threads[i], NULL, init, &results[i]);
  for (int i = 0; i < 16; i++) pthread_join(threads[i], NULL);
  for (int i = 1; i < 16; i++) if (results[i] != results[0]) return 1;
  unsigned int count = 0;
  char version[8] = "";
  int counted = nvmlDeviceGetCount_v2(&count);
  int versioned = nvmlSystemGetDriverVersion(version, sizeof version);
  printf("%d %d %u %d %s|%s\n", results[0], counted, count, versioned, version, nvmlErrorString(999));
  return 0;
}
"""

DRIVER = r"""
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 7; return 3; }
const char *nvmlErrorString(int result) { return result == 999 ? "from the driver" : "wrong argument"; }
"""

DECLARATIONS = """
nvmlReturn_t nvmlInit_v2(void);
nvmlReturn_t nvmlUnitGetCount(unsigned int *unitCount);
const char* nvmlErrorString(nvmlReturn_t result);
"""


class ForwardersTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.program = self.compile("program", PROGRAM, ARCHIVE, "-pthread", "-ldl")

    def compile(self, name, source, *flags):
        path = os.path.join(self.folder, name)
        with open(path + ".c", "w", encoding="utf-8") as file:
            file.write(source)
        subprocess.run([*CC, "-o", path, path + ".c", *flags], check=True)
        return path

    def output(self, **environment):
        done = subprocess.run([self.program], check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
        return done.stdout.strip()

    def test_driver_functions_are_called_and_missing_ones_named(self):
        self.compile("libnvidia-ml.so.1", DRIVER, "-shared", "-fPIC")
        # 13 is NVML_ERROR_FUNCTION_NOT_FOUND: this driver has no nvmlSystemGetDriverVersion.
        self.assertEqual(self.output(LD_LIBRARY_PATH=self.folder), "0 3 7 13 |from the driver")

    def test_without_a_driver(self):
        try:
            ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            pass
        else:
            self.skipTest("this machine has an NVIDIA driver; its absence can only be tested without one")
        # 12 is NVML_ERROR_LIBRARY_NOT_FOUND.
        self.assertRegex(self.output(), r"^12 12 0 12 \|NVML is not available")


class GeneratorTest(unittest.TestCase):
    def test_one_definition_per_declaration(self):
        text = generate(DECLARATIONS)
        self.assertIn("nvmlReturn_t nvmlInit_v2(void) {", text)
        self.assertIn("function(unitCount)", text)
        self.assertIn("const char *nvmlErrorString(nvmlReturn_t result) {", text)

    def test_what_is_not_understood_stops_the_build(self):
        for source in ("void nvmlNew(int x);", DECLARATIONS + "nvmlReturn_t nvmlCallback(void (*f)(int), int x);", ""):
            with self.subTest(source=source), self.assertRaises(SystemExit):
                generate(source)

    def test_argument_names(self):
        for parameters, expected in (("void", ""), ("int a", "a"), ("const char *name, unsigned int length", "name, length")):
            self.assertEqual(argument_names(parameters, "f"), expected)
        with self.assertRaises(SystemExit):
            argument_names("int", "f")


if __name__ == "__main__":
    unittest.main()
