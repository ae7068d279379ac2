"""Python's websockets against the server; one case a run."""

import os
import sys

try:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect
except ImportError:
    sys.exit("the package websockets, 12 or later, is missing: scripts/test installs it")

case, port = sys.argv[1:]


def dial(path, **options):
    options.setdefault("max_size", None)
    return connect(f"ws://127.0.0.1:{port}{path}", **options)


def echo():
    for compression in (None, "deflate"):
        with dial("/echo", compression=compression) as ws:
            for message in ("", "hello", "ä€😀" * 1000, b"", bytes(range(256)) * 300):
                ws.send(message)
                assert ws.recv(timeout=10) == message
            ws.send(["a ", "message ", "in parts"])
            assert ws.recv(timeout=10) == "a message in parts"
            assert ws.ping("still there?").wait(10)
        assert ws.close_code == 1000


def compression():
    with dial("/echo") as ws:
        names = [extension.name for extension in ws.protocol.extensions]
        assert names == ["permessage-deflate"], names
        for _ in range(3):
            ws.send("x" * 100_000)
            assert ws.recv(timeout=10) == "x" * 100_000
            noise = os.urandom(50_000)
            ws.send(noise)
            assert ws.recv(timeout=10) == noise
    with dial("/echo", compression=None) as ws:
        assert not ws.protocol.extensions
        ws.send("x" * 1000)
        assert ws.recv(timeout=10) == "x" * 1000


def large():
    for options in ({}, {"compression": None}):
        with dial("/echo", **options) as ws:
            message = os.urandom(1 << 20) * 8
            ws.send(message)
            assert ws.recv(timeout=10) == message


def ends(path, message):
    with dial(path) as ws:
        try:
            ws.send(message)
            ws.recv(timeout=10)
        except ConnectionClosed as closed:
            return closed.rcvd.code, closed.rcvd.reason
    return None


def close_codes():
    assert ends("/close", "as asked") == (4321, "as asked")
    assert ends("/limited", "x" * 1001)[0] == 1009
    assert ends("/limited", ["x" * 600, "x" * 600])[0] == 1009
    with dial("/limited") as ws:
        ws.send("x" * 1000)
        assert len(ws.recv(timeout=10)) == 1000
        ws.close(4000, "enough")
    assert (ws.close_code, ws.close_reason) == (4000, ""), ws.close_code


def subprotocol():
    with dial("/spoken", subprotocols=["first", "second"]) as ws:
        assert ws.subprotocol == "second"
    with dial("/spoken") as ws:
        assert ws.subprotocol is None


globals()[case]()
print(f"ok {case}")
