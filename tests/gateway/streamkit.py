"""TCP streams between two clients that end after a while and begin anew, for as long as something is changed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from gwkit import Pair, ended

STREAMS, STREAM_S, PORT = 16, 20, 5300

# Each stream sends for a while, hears how much has come, and begins anew. Whatever goes wrong is printed.
CLIENT = """
import socket, sys, threading, time
to, port, streams, seconds = sys.argv[1], *map(int, sys.argv[2:])
def stream(first_s):
    while True:
        try:
            with socket.create_connection((to, port), 10) as s:
                sent, end = 0, time.monotonic() + first_s
                while time.monotonic() < end:
                    s.sendall(bytes(16384))
                    sent += 16384
                    time.sleep(0.03)
                s.shutdown(socket.SHUT_WR)
                got = s.makefile().readline()
                print("done" if int(got) == sent else f"{got} of {sent}", flush=True)
        except Exception as error:
            print(repr(error), flush=True)
            time.sleep(1)
        first_s = seconds
for n in range(streams):
    threading.Thread(target=stream, args=(1 + n * seconds / streams,), daemon=True).start()
threading.Event().wait()
"""
SERVER = """
import socket, sys, threading
def serve(s):
    with s:
        got = 0
        while data := s.recv(65536):
            got += len(data)
        s.sendall(f"{got}\\n".encode())
with socket.create_server(("", int(sys.argv[1])), backlog=64) as listening:
    print("ready", flush=True)
    while True:
        threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()
"""


@contextlib.contextmanager
def streams(pair: Pair, said: list[str]) -> Iterator[None]:
    """TCP streams that end and begin anew while the block runs; `said` has what came of them."""
    topology, python = pair.topology, [sys.executable, "-c"]
    numbers = [str(PORT), str(STREAMS), str(STREAM_S)]
    with ended(topology.popen("client2", [*python, SERVER, numbers[0]], stdout=subprocess.PIPE)) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        argv = [*python, CLIENT, topology.address("client2"), *numbers]
        with ended(topology.popen("client1", argv, stdout=subprocess.PIPE)) as client:
            yield
            assert client.stdout is not None
            os.set_blocking(client.stdout.fileno(), False)
            said += (client.stdout.read() or b"").decode().splitlines()
