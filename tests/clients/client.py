"""Python's http.client and urllib against the site. One case per call: client.py CASE HOST PORT."""

import http.client
import http.cookiejar
import json
import socket
import sys
import threading
import time
import urllib.parse
import urllib.request

HOST, PORT = sys.argv[2], int(sys.argv[3])
MEGABYTE = 1 << 20


def pattern(size):
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def same(got, want, what=""):
    if got != want:
        raise SystemExit(f"{what}: got {str(got)[:300]}, want {str(want)[:300]}")


def connect():
    return http.client.HTTPConnection(HOST, PORT, timeout=15)


def ask(connection, method, path, body=None, headers={}, **how):
    connection.request(method, path, body, headers, **how)
    answer = connection.getresponse()
    return answer, answer.read()


def opener(*handlers):
    # Without a proxy, whatever the environment says.
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), *handlers)


def url(path):
    return f"http://{HOST}:{PORT}{path}"


def keep_alive():
    connection = connect()
    ports = set()
    for n in range(20):
        if n % 2:
            _, body = ask(connection, "POST", "/mirror", f"body {n}")
            same(body, f"body {n}".encode())
        else:
            _, body = ask(connection, "GET", "/remote")
            ports.add(body)
        if n == 0:
            sock = connection.sock
        same(connection.sock, sock, "the connection")
    same(ports, {"{}:{}".format(*sock.getsockname()).encode()})


def methods():
    connection = connect()
    answer, body = ask(connection, "HEAD", "/")
    same((answer.status, answer.getheader("content-length"), body), (200, "4", b""))
    # Whatever came with the HEAD would be in the way of this.
    answer, body = ask(connection, "GET", "/")
    same((answer.status, body), (200, b"home"))
    answer, body = ask(connection, "OPTIONS", "/")
    same((answer.status, answer.getheader("allow"), body), (204, "GET, HEAD, OPTIONS", b""))
    answer, body = ask(connection, "PUT", "/", b"something")
    same((answer.status, answer.getheader("allow")), (405, "GET, HEAD, OPTIONS"))
    answer, body = ask(connection, "GET", "/nowhere")
    same((answer.status, body), (404, b"Not Found"))
    answer, body = ask(connection, "HEAD", "/megabytes/1")
    same((answer.status, body), (200, b""))
    answer, body = ask(connection, "GET", "/nothing")
    same((answer.status, body), (204, b""))
    answer, _ = ask(connection, "GET", "/")
    same(answer.getheader("server"), "loopwright")
    time.strptime(answer.getheader("date"), "%a, %d %b %Y %H:%M:%S GMT")


def json_both_ways():
    headers = {"content-type": "application/json"}
    answer, body = ask(connect(), "POST", "/json", json.dumps({"x": 3, "y": 4}), headers)
    same((answer.status, json.loads(body)), (200, {"x": 4, "y": 3}))
    answer, body = ask(connect(), "POST", "/json", "[1]", headers)
    same(answer.status, 400)


def forms_and_queries():
    pairs = [("name", "Ada Lovelace"), ("sign", "+&="), ("name", "été")]
    encoded = urllib.parse.urlencode(pairs)
    lines = "".join(f"{k}={v}\n" for k, v in pairs).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    same(ask(connect(), "POST", "/form", encoded, headers)[1], lines)
    same(ask(connect(), "GET", "/query?" + encoded)[1], lines)


def cookies():
    jar = http.cookiejar.CookieJar()
    browser = opener(urllib.request.HTTPCookieProcessor(jar))
    same(browser.open(url("/cookies"), timeout=15).read(), b"")
    same(sorted(cookie.name for cookie in jar), ["theme", "visits"])
    again = browser.open(url("/cookies"), timeout=15).read().decode()
    same(sorted(again.splitlines()), ["theme=dark & blue; =", "visits=1"])


def percent_encoding():
    for text in ["a b", "a/b", "ä€", "%41", "?#", "a+b"]:
        answer, body = ask(connect(), "GET", "/users/" + urllib.parse.quote(text, safe=""))
        same((answer.status, body.decode()), (200, text))


# Apart, since a proxy refuses it.
def dots_in_a_path():
    same(ask(connect(), "GET", "/users/..")[1], b"..")


def redirects():
    answer = opener().open(url("/old"), timeout=15)
    same((answer.url, answer.read()), (url("/new?from=old"), b"from=old"))
    answer = opener().open(url("/submit"), data=b"x=1", timeout=15)
    same(answer.read(), b"GET")


def deferred():
    start = time.monotonic()
    same(ask(connect(), "GET", "/slow")[1], b"worth the wait")
    same(time.monotonic() - start >= 0.1, True, "it waits")


def chunked_uploads():
    def pieces():
        data = pattern(8 * MEGABYTE)
        at, step = 0, 1
        while at < len(data):
            yield data[at:at + step]
            at, step = at + step, step % 70_000 * 2 + 1
    connection = connect()
    for _ in range(2):
        _, body = ask(connection, "POST", "/check", pieces(), encode_chunked=True,
                      headers={"transfer-encoding": "chunked"})
        same(body, b"8388608 bytes, right")
    # And none at all.
    _, body = ask(connection, "POST", "/check", iter([]), encode_chunked=True,
                  headers={"transfer-encoding": "chunked"})
    same(body, b"0 bytes, right")


def large_bodies():
    size = 24 * MEGABYTE
    connection = connect()
    _, body = ask(connection, "POST", "/check", pattern(size))
    same(body, f"{size} bytes, right".encode())
    for path in ["/megabytes/24", "/sized/24"]:
        _, body = ask(connection, "GET", path)
        same(body == pattern(size), True, path)


def pausing_reader():
    connection = connect()
    connection.request("GET", "/megabytes/24")
    answer = connection.getresponse()
    body = answer.read(1000)
    for _ in range(4):
        time.sleep(0.15)
        body += answer.read(4 * MEGABYTE)
    body += answer.read()
    same(body == pattern(24 * MEGABYTE), True, "what was read in pieces")
    # Nothing is left over, nothing is missing: the connection goes on.
    same(ask(connection, "GET", "/")[1], b"home")


def http_1_0():
    connection = connect()
    connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"
    answer, body = ask(connection, "GET", "/megabytes/1")
    same((answer.getheader("transfer-encoding"), answer.getheader("connection")), (None, "close"))
    same(body == pattern(MEGABYTE), True, "a body that the end of the connection ends")


def many_threads():
    failures = []

    def work(name):
        try:
            connection = connect()
            for n in range(50):
                text = f"{name}-{n}"
                same(ask(connection, "GET", "/users/" + text)[1].decode(), text)
                same(ask(connection, "POST", "/mirror", text * 100)[1].decode(), text * 100)
        except BaseException as failure:
            failures.append(failure)
    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    same(failures, [])


def unix_socket():
    class UnixConnection(http.client.HTTPConnection):
        def connect(self):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(15)
            self.sock.connect(HOST)
    connection = UnixConnection("localhost")
    same(ask(connection, "GET", "/remote")[1], b"unix")
    _, body = ask(connection, "POST", "/check", pattern(8 * MEGABYTE))
    same(body, b"8388608 bytes, right")
    _, body = ask(connection, "GET", "/megabytes/8")
    same(body == pattern(8 * MEGABYTE), True, "what came through the socket")


case = sys.argv[1]
globals()[case]()
print("ok", case)
