#!/usr/bin/env python3
"""Run the router in the foreground and print a curl line once it answers.

    scripts/run_embed.py ROUTER MODEL HOST [PORT]

Without PORT the first free one from 8080 is taken. Ctrl-C and SIGTERM stop the router, which drains and exits; its exit
status is returned.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

READY_SECONDS = 120


def free_port(host):
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise SystemExit(f"run_embed: HOST={host}: {error}") from None
    for port in range(8080, 8180):
        with socket.socket(family) as probe:
            # As the router binds: a port whose old connections are only timing out is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise SystemExit(f"run_embed: ports 8080 to 8179 of {host} are all in use; choose one: make run_embed PORT=...")


def wait_until_ready(router, url):
    """True once /health answers 200; False when the router ended first."""
    deadline = time.monotonic() + READY_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while router.poll() is None:
        try:
            with opener.open(url + "/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            pass
        if time.monotonic() > deadline:
            router.terminate()
            raise SystemExit(f"run_embed: {url}/health did not answer within {READY_SECONDS} s; the router's log is above")
        time.sleep(0.1)
    return False


def main():
    if len(sys.argv) not in (4, 5):
        raise SystemExit("usage: run_embed.py ROUTER MODEL HOST [PORT]")
    router_path, model, host = sys.argv[1:4]
    port = sys.argv[4] if len(sys.argv) == 5 else str(free_port(host))
    router = subprocess.Popen([router_path, "--model-id", model, "--hostname", host, "--port", port])
    # The terminal sends Ctrl-C to the router too; this process only has to outlive it. SIGTERM reaches this process alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: router.terminate())
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{shown}:{port}"
    if wait_until_ready(router, url):
        print(f"\nReady. {os.path.basename(os.path.normpath(model))} answers on {url}; Ctrl-C stops it. In another terminal:\n\n"
              f"    curl {url}/embed -H 'Content-Type: application/json' -d '{{\"inputs\": \"Hello, world\"}}'\n", flush=True)
    sys.exit(router.wait())


if __name__ == "__main__":
    main()
