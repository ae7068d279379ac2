"""Web servers in front of PostgreSQL, with the shapes of TechEmpower's tests.

  scripts/bench db                                   everything there is here
  scripts/bench db --congestion reno                 as for publishing (root needed)
  scripts/bench db --command 'mine=./server {port} {database_url}'

As scripts/bench, which has the reasons: the figure is CPU time of the web server (all its processes) per request,
and for others, its ratio to ours in the same round. There is no floor. The web server is on CPU 0; wrk and the
database share CPU 1, which decides how many requests there are in a second.

db: one row at random, as JSON. queries: twenty, each asked for by itself. updates: the same, and then all of them
are given another number. fortunes: a page of twelve rows and one more, sorted and escaped. 64 connections. That an
answer is what the tables have is looked at first.

"loopwright" is examples/fortunes. Other servers have to answer GET /db, /queries?n=20, /updates?n=20 and
/fortunes. PostgreSQL (Debian's, run as its user) has a folder and a port of its own, and ends with the benchmark. It
does not sync its files, which is not what is measured.

Needed besides cargo: apt-get install wrk postgresql
"""
import html
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench

N = 20
JSON, HTML = "application/json", "text/html"
SCENARIOS = {
    "db": dict(path="/db", type=JSON),
    "queries": dict(path=f"/queries?n={N}", type=JSON),
    "updates": dict(path=f"/updates?n={N}", type=JSON),
    "fortunes": dict(path="/fortunes", type=HTML),
}
for scenario in SCENARIOS.values():
    scenario |= dict(connections=64, target={})

SETTINGS = dict(listen_addresses="127.0.0.1", unix_socket_directories="", max_connections=200, fsync="off",
                synchronous_commit="off", full_page_writes="off", autovacuum="off", max_wal_size="1GB", jit="off")
FORTUNES = """fortune: No such file or directory
A computer scientist is someone who fixes things that aren't broken.
After enough decimal places, nobody gives a damn.
A bad random number generator: 1, 1, 1, 1, 1, 4.33e+67, 4.33e+67, 4.33e+67
A computer program does what you tell it to do, not what you want it to do.
Emacs is a nice operating system, but I prefer UNIX. — Tom Christaensen
Any program that runs right is obsolete.
A list is only as strong as its weakest link. — Donald Knuth
Feature: A bug with seniority.
Computers make very fast, very accurate mistakes.
<script>alert("This should not be displayed in a browser alert box.");</script>
フレームワークのベンチマーク""".split("\n")
ADDED = "Additional fortune added at request time."
PAGE = ("<!DOCTYPE html><html><head><title>Fortunes</title></head><body><table><tr><th>id</th><th>message</th></tr>",
        "</table></body></html>")


def programs():
    """Where PostgreSQL's are; Debian keeps them out of the PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: int(place.parent.name))
    places += [Path(place) for place in os.get_exec_path()]
    for place in places:
        if all((place / name).exists() for name in ("initdb", "postgres", "psql")):
            return place
    sys.exit("bench: PostgreSQL not found: apt-get install postgresql")


class Database:
    """A PostgreSQL with the tables of the tests: `with Database() as database`. It is gone afterwards."""

    def __init__(self):
        self.programs, self.port = programs(), bench.free_port()
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres"

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="bench-db-")
        self.data, self.user = Path(self.folder.name, "data"), {}
        if os.geteuid() == 0:  # it does not run as root
            user = pwd.getpwnam("postgres")
            os.chown(self.folder.name, user.pw_uid, user.pw_gid)
            self.user = dict(user=user.pw_uid, group=user.pw_gid, extra_groups=[])
        self.process = None
        try:
            init = [self.programs / "initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]
            subprocess.run(init, check=True, stdout=subprocess.DEVNULL, cwd=self.folder.name, **self.user)
            command = [self.programs / "postgres", "-D", self.data, "-p", str(self.port)]
            for name, value in SETTINGS.items():
                command += ["-c", f"{name}={value}"]
            with open(Path(self.folder.name, "log"), "wb") as log:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder.name,
                                                start_new_session=True, **self.user)
            self.wait()
            rows = ",".join("(%d,'%s')" % (i, m.replace("'", "''")) for i, m in enumerate(FORTUNES, 1))
            self.sql(f"""create table world (id int primary key, randomnumber int not null);
                insert into world select i, floor(random() * 10000 + 1) from generate_series(1, 10000) i;
                create table fortune (id int primary key, message varchar(2048) not null);
                insert into fortune values {rows};""")
            self.sql("vacuum analyze")
            return self
        except BaseException:
            self.__exit__()
            raise

    def wait(self):
        end = time.monotonic() + 10
        while True:
            try:
                return self.sql("select 1")
            except subprocess.CalledProcessError as e:
                if self.process.poll() is not None or time.monotonic() > end:
                    sys.exit(f"bench: PostgreSQL does not start: {Path(self.folder.name, 'log').read_text()[-300:] or e}")
                time.sleep(0.1)

    def sql(self, text):
        command = [self.programs / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", self.url]
        done = subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True)
        return done.stdout

    def __exit__(self, *_):
        if self.process:
            self.process.send_signal(signal.SIGINT)  # at once, but with its children
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGQUIT)
                self.process.wait(10)
        self.folder.cleanup()


def check(server, scenario, database):
    """No figure for a wrong answer."""
    seen = []
    with bench.connect(server.port) as c, c.makefile("rb") as stream:
        for _ in range(3):
            c.sendall(bench.request(server, scenario))
            headers, body = bench.read_answer(stream, scenario["path"])
            if not headers.get("content-type", "").startswith(scenario["type"]):
                raise bench.Failed(f"answers {headers.get('content-type')} to {scenario['path']}")
            if scenario["type"] == HTML:
                check_page(body.decode())
            else:
                seen.append(body)
                check_rows(json.loads(body), scenario, database)
    if seen and len(set(seen)) == 1:
        raise bench.Failed("always the same rows")


def check_rows(answer, scenario, database):
    """They are what the table has (after an update, too)."""
    rows = [answer] if scenario["path"] == "/db" else answer
    if not isinstance(rows, list) or len(rows) != (1 if scenario["path"] == "/db" else N):
        raise bench.Failed(f"not so many rows: {str(answer)[:80]}")
    ids = ",".join(str(int(row["id"])) for row in rows)
    stored = database.sql(f"select id, randomnumber from world where id in ({ids})").split()
    if {f"{row['id']}|{row['randomNumber']}" for row in rows} != set(stored):
        raise bench.Failed(f"answers {str(answer)[:80]} where the table has {stored[:4]}")


def check_page(page):
    """Each fortune in its place, and no < but those of the page itself."""
    rows = re.findall(r"<tr><td>(\d+)</td><td>([^<]*)</td></tr>", page)
    whole = PAGE[0] + "".join(f"<tr><td>{i}</td><td>{message}</td></tr>" for i, message in rows) + PAGE[1]
    fortunes = [(message, i) for i, message in enumerate(FORTUNES, 1)] + [(ADDED, 0)]
    if page != whole or [(html.unescape(message), int(i)) for i, message in rows] != sorted(fortunes):
        raise bench.Failed(f"answers another page: {page[:200]}")


def sample(name, server_name, options, commands, database, scratch):
    scenario = SCENARIOS[name]
    if name == "updates":  # what the last one has left behind is not for this one to pay
        database.sql("vacuum full world")
        database.sql("vacuum analyze world")
    with bench.Server(server_name, commands[server_name], scenario, scratch) as server:
        check(server, scenario, database)
        found = bench.measure_load(server, scenario, options.seconds, scratch)
        said = f"{found['value']:.1f} µs per request, {found['per_second']:,.0f} requests/s, {found['busy']:.0%} of its CPU"
        said += f", {found['errors']} errors" if found["errors"] else ""
    return found, said


def main():
    p = bench.parser(__doc__, SCENARIOS, "{port} and {database_url} are filled in")
    p.prog += " db"
    options = p.parse_args(sys.argv[2:])
    if missing := [tool for tool in ["cargo", "wrk"] if not shutil.which(tool)]:
        sys.exit(f"bench: {' and '.join(missing)} not found; wrk: apt-get install wrk")
    programs()
    built = bench.set_up(options, "--example", "fortunes")
    with Database() as database, tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        commands = {"loopwright": [built["fortunes"], "{database_url}", "{port}"]} | dict(options.command)
        commands = {name: [word.replace("{database_url}", database.url) for word in command] for name, command in commands.items()}
        wanted = list(commands)
        bench.fill(scratch, {})
        samples = bench.measure(options.rounds, {name: wanted for name in options.scenarios},
                                lambda *names: sample(*names, options, commands, database, scratch))

    bench.report("scripts/bench db", options, samples, wanted, SCENARIOS, base="loopwright")
    for what, key, digits in [("µs of CPU per request", "value", 1), ("requests per second", "per_second", 0)]:
        print(f"\n{what}\n\n{bench.figures(samples, wanted, SCENARIOS, digits, lambda s: s.get(key))}")
    sys.exit(1 if bench.failed(samples) else 0)
