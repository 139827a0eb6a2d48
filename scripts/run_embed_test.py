"""Tests of run_embed.py with a router of our own making."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import unittest
import urllib.request

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_embed.py")

ROUTER = """#!{python}
import http.server, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    calls = 0
    def do_GET(self):
        Handler.calls += 1
        self.send_response(200 if Handler.calls > 2 else 503)
        self.end_headers()
    def log_message(self, *arguments): pass
def stop(*_):
    print("drained", flush=True)
    sys.exit(0)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if options["--model-id"] == "broken":
    sys.exit(3)
http.server.HTTPServer((options["--hostname"], int(options["--port"])), Handler).serve_forever()
"""


class RunEmbedTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.router = os.path.join(folder.name, "router")
        with open(self.router, "w", encoding="utf-8") as file:
            file.write(ROUTER.format(python=sys.executable))
        os.chmod(self.router, 0o755)

    def start(self, *arguments):
        process = subprocess.Popen([sys.executable, SCRIPT, self.router, *arguments], stdout=subprocess.PIPE, text=True,
                                   start_new_session=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(lambda: process.poll() is None and os.killpg(process.pid, signal.SIGKILL))
        return process

    def curl_line(self, process):
        for line in process.stdout:
            if "curl" in line:
                return line
        self.fail("ended without a curl line")

    def test_prints_a_line_once_ready_and_stops_on_either_signal(self):
        for send in (lambda process: os.killpg(process.pid, signal.SIGINT), lambda process: process.terminate()):
            process = self.start("folder/model/", "127.0.0.1")
            url = re.search(r"http://[\d.:]+", self.curl_line(process)).group()
            with urllib.request.urlopen(url + "/health", timeout=5) as answer:
                self.assertEqual(answer.status, 200)
            send(process)
            self.assertIn("drained", process.stdout.read())
            self.assertEqual(process.wait(10), 0)

    def test_busy_default_port_is_passed_over(self):
        with socket.socket() as busy:
            busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections of an ended server do not count
            try:
                busy.bind(("127.0.0.1", 8080))
            except OSError:
                pass  # some other program holds it, which serves as well
            busy.listen()
            process = self.start("model", "127.0.0.1")
            self.assertNotIn(":8080/", self.curl_line(process))
            process.terminate()
            self.assertEqual(process.wait(10), 0)

    def test_a_router_that_fails_gives_its_status(self):
        self.assertEqual(self.start("broken", "127.0.0.1").wait(10), 3)


if __name__ == "__main__":
    unittest.main()
