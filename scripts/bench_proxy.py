"""What a reverse proxy costs, as a multiple of the least one can cost.

  scripts/bench proxy                                everything, about 15 minutes
  scripts/bench proxy --servers nginx --rounds 3     less
  scripts/bench proxy --congestion reno              as for publishing (root needed)
  scripts/bench proxy --command 'mine=./proxy {port} {upstream}'

As scripts/bench, which has the reasons: the figure is CPU time of the proxy (all its processes) per request,
and its ratio to the "floor" of the same round: here a relay (benches/floor/relay.rs) that reads and writes, one
connection to the upstream for each of a client, and looks at nothing. The proxy is on CPU 0; wrk and the upstream
share CPU 1, the latter being the floor of scripts/bench, which costs the least. Each connection is kept, on both sides.

get1k, get100k: answers of that size to 64 connections, -512: to so many. post64k: an upload of that size, an
answer of 13 bytes. latency: one connection, one request after the other, µs of the median more than without
a proxy.

"loopwright" is the program, `loopwright run`, with a config. "nginx" has its buffers as they are by default,
"nginx-large" has ones in which an answer of 100 KiB and an upload of 64 KiB fit, so that neither goes through a
file: compare with the better. "haproxy" is one thread, http-reuse always. "sozu", if it is installed, is one worker.
"""
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench

SERVERS = ["floor", "loopwright", "nginx", "nginx-large", "haproxy", "sozu"]
GET1K, GET100K = bench.static("1k", 1 << 10), bench.static("100k", 100 << 10)
SCENARIOS = {
    "get1k": dict(GET1K, connections=64),
    "get1k-512": dict(GET1K, connections=512),
    "get100k": dict(GET100K, connections=64),
    "get100k-512": dict(GET100K, connections=512),
    "post64k": dict(bench.HELLO, connections=64, send=b"x" * (64 << 10)),
    "latency": dict(GET1K, connections=1, over="direct", label="latency, µs more", digits=0),
}
for scenario in SCENARIOS.values():
    scenario.setdefault("target", {})

# Calls that move bytes; the others are for readiness, timers and the clock.
MOVES = re.compile(r"p?(read|write)v?2?|(recv|send)(from|to|m?msg|file)?|splice|tee|copy_file_range")

NGINX = """
worker_processes 1;
daemon off;
pid @DIR@/nginx.pid;
error_log @DIR@/nginx.log error;
events { use epoll; worker_connections 16384; multi_accept on; }
http {
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    client_body_temp_path @DIR@/body;
    proxy_temp_path @DIR@/proxy;
    fastcgi_temp_path @DIR@/fastcgi;
    uwsgi_temp_path @DIR@/uwsgi;
    scgi_temp_path @DIR@/scgi;
    upstream up { server 127.0.0.1:@UPSTREAM@; keepalive 1024; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:@PORT@ backlog=4096;
        location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; BUFFERS }
    }
}
"""
LARGE = "proxy_buffer_size 16k; proxy_buffers 16 16k; proxy_busy_buffers_size 128k; client_body_buffer_size 128k;"
HAPROXY = """
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    timeout client 300s
    timeout server 300s
    timeout connect 5s
    option http-keep-alive
    http-reuse always
listen up
    bind 127.0.0.1:@PORT@ backlog 4096
    server s 127.0.0.1:@UPSTREAM@ pool-max-conn 1024
"""
SOZU = """
command_socket = "@DIR@/sozu.sock"
log_level = "error"
log_target = "stdout"
worker_count = 1
worker_automatic_restart = false
max_connections = 4096
max_buffers = 16384
activate_listeners = true
[[listeners]]
protocol = "http"
address = "127.0.0.1:@PORT@"
[clusters.up]
protocol = "http"
frontends = [{ address = "127.0.0.1:@PORT@", hostname = "127.0.0.1" }]
backends = [{ address = "127.0.0.1:@UPSTREAM@" }]
"""
TOML = """
[server]
listen = "127.0.0.1:@PORT@"

[upstreams.up]
servers = ["http://127.0.0.1:@UPSTREAM@"]
pool.idle = 1024

[[routes]]
path = "/{*rest}"
proxy = "up"
"""
CONFIGS = {"nginx": ("nginx.conf", NGINX.replace("BUFFERS", "")), "nginx-large": ("nginx.conf", NGINX.replace("BUFFERS", LARGE)),
           "haproxy": ("haproxy.cfg", HAPROXY), "sozu": ("sozu.toml", SOZU), "loopwright": ("proxy.toml", TOML)}


def upstream(scenario, floor, scratch):
    """What stands behind each proxy."""
    length = len(scenario.get("send", b""))
    command = [floor, "{port}", "upload" if length else "const", "{type}", "@{root}{path}"] + [str(length)] * bool(length)
    return bench.Server("upstream", command, scenario, scratch, cpu=bench.LOAD_CPU)


def count_calls(server, scenario, scratch):
    """System calls per request, by name. To count them makes everything slow: nothing is measured meanwhile, and
    512 connections are not even open after a second."""
    scenario = scenario | dict(connections=min(64, scenario["connections"]))
    time.sleep(0.3)  # for the connections that were measured to be gone
    command = ["strace", "-f", "-c", "-U", "name,calls", "-o", f"{scratch}/calls"]
    for pid in server.pids:
        command += ["-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
        try:
            if not select.select([strace.stderr], [], [], 5)[0] or b"attached" not in strace.stderr.readline():
                raise bench.Failed("strace does not attach")
            requests = bench.wrk(server, scenario, 2, scratch)["requests"]
        finally:
            strace.send_signal(signal.SIGINT)
            strace.communicate(timeout=10)
    rows = [line.split() for line in Path(scratch, "calls").read_text().splitlines()]
    return {row[0]: int(row[1]) / requests for row in rows if len(row) == 2 and row[1].isdigit() and row[0] != "total"}


def sample(name, server_name, options, commands, scratch):
    scenario = SCENARIOS[name]
    with upstream(scenario, commands["floor"][0], scratch) as behind:
        if server_name == "direct":
            bench.check(behind, scenario)
            found = bench.wrk(behind, scenario, options.seconds, scratch)
            return dict(value=found["p50"]), f"{found['p50']} µs"
        config = CONFIGS.get(server_name)
        with bench.Server(server_name, commands[server_name], scenario, scratch, config=config, upstream=behind.port) as server:
            bench.check(server, scenario)
            if name == "latency":
                found = bench.wrk(server, scenario, options.seconds, scratch)
                return dict(value=found["p50"], errors=found["errors"]), f"{found['p50']} µs"
            found = bench.measure_load(server, scenario, options.seconds, scratch)
            said = f"{found['value']:.2f} µs per request, {found['per_second']:,.0f} requests/s, {found['busy']:.0%} of its CPU"
            said += f", {found['errors']} errors" if found["errors"] else ""
            if options.calls:
                try:
                    found["calls"] = count_calls(server, scenario, scratch)
                except bench.Failed as e:  # of a measurement that is good
                    said += f", calls are not counted: {e}"
            return found, said


def main():
    p = bench.parser(__doc__, SCENARIOS, "{port} and {upstream} (the port behind it) are filled in")
    p.prog += " proxy"
    p.add_argument("--servers", type=bench.names(SERVERS), metavar="A,B", help=f"of {', '.join(SERVERS)}; the floor always is")
    p.add_argument("--calls", action="store_true", help="count system calls, too, with strace, after each measurement")
    p.add_argument("--svg", type=Path, metavar="FILE", help="draw the ratios")
    options = p.parse_args(sys.argv[2:])
    asked = options.servers or [name for name in SERVERS if name != "sozu" or shutil.which("sozu")]
    programs = [name.partition("-")[0] for name in asked if name not in ("floor", "loopwright")] + ["strace"] * options.calls
    if missing := sorted({tool for tool in ["cargo", "wrk", *programs] if not shutil.which(tool)}):
        sys.exit(f"bench: {' and '.join(missing)} not found; wrk, nginx, haproxy and strace: apt-get install; sozu: cargo install")
    built = bench.set_up(options, "--bench", "floor", "--bin", "loopwright")
    nginx = ["nginx", "-c", "{scratch}/nginx.conf", "-e", "{scratch}/nginx.log"]
    commands = {"floor": [built["floor"], "{port}", "relay", "{upstream}"],
                "loopwright": [built["loopwright"], "run", "-c", "{scratch}/proxy.toml"],
                "nginx": nginx, "nginx-large": nginx, "haproxy": ["haproxy", "-f", "{scratch}/haproxy.cfg"],
                "sozu": ["sozu", "start", "-c", "{scratch}/sozu.toml"]} | dict(options.command)
    wanted = [n for n in commands if n == "floor" or n in asked or n not in SERVERS]
    plan = {name: ["direct"] * (name == "latency") + wanted for name in options.scenarios}
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        bench.fill(scratch, SCENARIOS)
        samples = bench.measure(options.rounds, plan, lambda *names: sample(*names, options, commands, scratch))

    rows, about = bench.report("scripts/bench proxy", options, samples, wanted, SCENARIOS)
    loads = [s for s in samples if s["scenario"] != "latency"]
    print(f"\nµs of CPU per request\n\n{bench.figures(loads, wanted, SCENARIOS, 1, lambda s: s.get('value'))}")
    if options.calls:
        moves = lambda s: sum(n for name, n in s["calls"].items() if MOVES.fullmatch(name)) if "calls" in s else None
        every = lambda s: sum(s["calls"].values()) if "calls" in s else None
        print(f"\ncalls per request that move bytes\n\n{bench.figures(samples, wanted, SCENARIOS, 2, moves)}")
        print(f"\nsystem calls per request\n\n{bench.figures(samples, wanted, SCENARIOS, 2, every)}")
    if options.svg:
        options.svg.write_text(bench.chart(rows, wanted, SCENARIOS, about))
    sys.exit(1 if bench.failed(samples) else 0)
