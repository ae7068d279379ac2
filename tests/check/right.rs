//! Right configs: everything that may be written, in all its spellings, passes.

use super::mistakes::furnish;
use super::schema;
use super::support::{loopwright, run};
use std::fs;

/// One route, so that something is served.
const ROUTE: &str = "routes = [{ path = \"/\", respond = {} }]\n";

fn passes(name: &str, config: &[u8]) {
    let folder = tempfile::tempdir().expect("a folder");
    furnish(folder.path());
    fs::write(folder.path().join("site.toml"), config).expect("the config");
    let said = run(loopwright(folder.path(), &["check", "-c", "site.toml"])
        .env("PORT", "8080")
        .env("EMPTY", ""));
    assert_eq!(said.code, Some(0), "{name}: {}", said.err);
    assert!(
        said.out.starts_with("site.toml: no mistakes, routes: "),
        "{name}: {}",
        said.out
    );
    assert_eq!(said.err, "", "{name}");
    if let Ok(text) = std::str::from_utf8(config) {
        schema::accepts(name, text);
    }
}

/// `key = value` in a section, for each value.
fn each(section: &str, key: &str, values: &[&str]) {
    for value in values {
        let config = format!("{ROUTE}[{section}]\n{key} = {value}\n");
        passes(&config, config.as_bytes());
    }
}

#[test]
fn numbers_and_their_units() {
    let sizes = [
        "\"1048576B\"",
        "\"1048576 b\"",
        "\"1024KiB\"",
        "\"1024 KiB\"",
        "\"1024kib\"",
        "\"1024Ki\"",
        "\"1000KB\"",
        "\"1000kB\"",
        "\"1000k\"",
        "\"1MiB\"",
        "\"1.5MiB\"",
        "\" 1MB \"",
        "\"1M\"",
        "\"2GiB\"",
        "\"1TiB\"",
        "'1MiB'",
    ];
    each("limits", "body", &sizes);
    let waits = [
        "\"75s\"",
        "\"75 s\"",
        "\"75sec\"",
        "\"75seconds\"",
        "\"1m15s\"",
        "\"1m 15s\"",
        "\"1min 15sec\"",
        "\"2 minutes\"",
        "\"1.5s\"",
        "\"250ms\"",
        "\"1h\"",
        "\"2days\"",
        "\"1year\"",
        "\"500us\"",
        "\"500µs\"",
    ];
    each("timeouts", "idle", &waits);
    each("timeouts", "drain", &["\"0s\"", "\"0\""]);
    let counts = ["1", "100", "0x40", "0o100", "0b1000000", "1_00", "+128"];
    each("limits", "fields", &counts);
    each("limits", "posts", &["0"]);
    let servers = [
        "[]",
        "[\"10.0.0.53\"]",
        "[\"::1\", \"[::1]:5353\", \"127.0.0.1:53\"]",
    ];
    each("names", "servers", &servers);
    each("limits", "body", &["\"0B\""]);
}

#[test]
fn server_and_log() {
    let addresses = [
        "\"127.0.0.1:8080\"",
        "\"0.0.0.0:80\"",
        "\"[::1]:8080\"",
        "\"[::]:8080\"",
        "\"localhost:8080\"",
        "\"127.0.0.1:0\"",
        "\"unix:/run/site.sock\"",
        "[\"127.0.0.1:8080\", \"[::1]:8080\", \"unix:/run/other.sock\"]",
        "[\"127.0.0.1:0\", \"127.0.0.1:0\"]",
        "[\n  # for the balancer\n  \"127.0.0.1:8080\",\n]",
    ];
    each("server", "listen", &addresses);
    let workers = ["1", "256", "\"auto\"", "\"4\"", "\"${WORKERS:-2}\""];
    each("server", "workers", &workers);
    let proxies = [
        "[]",
        "[\"10.0.0.0/8\", \"::1\", \"unix\"]",
        "[\"${NET:-192.0.2.0/24}\"]",
    ];
    each("server", "proxy_protocol", &proxies);
    let headers = ["\"mine\"", "\"a b/1.0 (c)\"", "false"];
    each("server", "server_header", &headers);
    let levels = [
        "\"off\"",
        "\"INFO\"",
        "\"warn,loopwright=debug\"",
        "\"loopwright::reactor=trace, error\"",
    ];
    each("log", "level", &levels);
    each("log", "access", &["\"off\"", "\"combined\"", "\"json\""]);
    each("log", "buffer", &["\"4KiB\"", "\"1GiB\""]);
    each("log", "flush", &["\"0s\"", "\"5s\""]);
    each("log", "access = \"off\"\naccess_file", &["\"access.log\""]);
    each(
        "log",
        "access = \"json\"\naccess_file",
        &["\"public/access.log\""],
    );
    each("limits", "target = \"1KiB\"\nhead", &["\"1KiB\""]);
}

#[test]
fn routes() {
    for config in [
        "[[routes]]\npath = \"/\"\nrespond = {}",
        "[[routes]]\npath = \"/a%20b\"\nrespond = {}",
        "[[routes]]\npath = \"/users/{id}/posts/{*rest}\"\nrespond = { body = \"Grüße, 世界\" }",
        "[[routes]]\npath = \"/{größe}\"\nredirect = { to = \"/size/{größe}\" }",
        "[[routes]]\npath = \"/\"\nmethods = [\"GET\", \"PURGE\"]\nrespond = {}",
        "[[routes]]\npath = \"/\"\nhost = \"Example.org\"\nrespond = {}",
        "[[routes]]\npath = \"/\"\nhost = [\"example.org\", \"*.example.org\", \"[::1]\", \"127.0.0.1\"]\nrespond = {}",
        "[[routes]]\npath = \"/\"\nrespond = { status = 204 }",
        "[[routes]]\npath = \"/\"\nrespond = { status = 599, body = \"\" }",
        "[[routes]]\npath = \"/\"\nheaders = { x-empty = \"\", Set-Cookie = \"a=b\" }\nrespond = { headers = { set-cookie = \"c=d\", content-type = \"text/css\" } }",
        "[[routes]]\npath = \"/\"\nlimits = { body = \"10MiB\" }\nrespond = {}",
        "[[routes]]\npath = \"/\"\nlimits.body = \"10MiB\"\nrespond.status = 404",
        "[[routes]]\npath = \"/\"\nmethods = [\"POST\"]\nredirect = { to = \"/\", status = 303 }",
        "[[routes]]\npath = \"/go\"\nredirect = { to = \"//other.example.org/?from=here#there\" }",
        "[[routes]]\npath = \"/a\"\nrespond = {}\n[[routes]]\npath = \"/a\"\nhost = \"example.org\"\nrespond = {}",
        "[[routes]]\npath = \"/a\"\nmethods = [\"GET\"]\nrespond = {}\n[[routes]]\npath = \"/a\"\nrespond = {}",
        "[[routes]]\npath = \"/{*rest}\"\nrespond = { status = 404 }\n[[routes]]\npath = \"/a/{b}\"\nrespond = {}",
        "[[routes]]\npath = \"/{*rest}\"\nfiles = { root = \"public\" }\n[[routes]]\npath = \"/\"\nrespond = {}",
        "[[routes]]\npath = \"/s/{*rest}\"\nfiles = { root = \"public\", index = [], try = [\"{path}.html\", \"/index.html\"], errors = { 404 = \"index.html\" }, listing = true, precompressed = false }",
        "[[routes]]\npath = \"/{*rest}\"\nfiles = { root = \".\", cache = [{ match = \"*.css\", value = \"max-age=60\" }, { match = \"*\", value = \"no-cache\" }] }",
        "[[routes]]\npath = \"/{*rest}\"\nfiles = { root = \"public\" }\n[[routes]]\npath = \"/{page}\"\nhost = \"example.org\"\nrespond = {}",
        "[[routes]]\npath = \"/u/{id}\"\nmethods = [\"GET\"]\nrespond = {}\n[[routes]]\npath = \"/u/{name}\"\nrespond = {}\n[[routes]]\npath = \"/u/{name}/posts\"\nrespond = {}",
        "[headers.a]\n[[routes]]\npath = \"/\"\nuse = [\"headers:a\"]\nrespond = {}",
        "[headers.\"a b\"]\nlink = \"</a>\"\n[[routes]]\npath = \"/\"\nuse = [\"headers:a b\"]\nheaders = { link = \"</b>\" }\nrespond = {}",
        "routes = [\n  { path = \"/a\", respond = { body = '''\nlines\nof text\n''' } },\n]",
        "[[routes]]\npath = \"/rooms/{room}\"\nchannel = { topic = \"rooms/{room}\" }",
        "[[routes]]\npath = \"/r/{a}/{*rest}\"\nmethods = [\"GET\"]\nchannel = { topic = \"r-{a}/x{rest}\", history = 0, history_bytes = \"0B\", history_age = \"1ms\", message = \"1B\", publish = false, publish_sockets = true, origins = [], slow = \"drop-oldest\", wait = \"1ms\", topics = 1 }",
        "[[routes]]\npath = \"/news\"\nmethods = [\"POST\"]\nchannel = { topic = \"news\", origins = [\"*\", \"https://example.org:8443\", \"http://[::1]\"], slow = \"drop-newest\" }\n[[routes]]\npath = \"/news\"\nrespond = {}",
        "errors = { 404 = \"404.html\", \"500\" = \"404.html\" }\nroutes = [{ path = \"/\", respond = {} }]",
    ] {
        passes(config, config.as_bytes());
    }
}

#[test]
fn variables() {
    for body in [
        "${PORT}",
        "${PORT}${PORT}",
        "${NOT_SET:-}",
        "${NOT_SET:-a}b}",
        "${NOT_SET:-http://example.org}",
        "${EMPTY}",
        "${file:secret.txt}",
        "$${PORT}",
        "$$${PORT}",
        "$PORT, $ and $$",
        "{PORT}",
        "100 %",
    ] {
        let config = format!("[[routes]]\npath = \"/\"\nrespond = {{ body = \"{body}\" }}\n");
        passes(body, config.as_bytes());
    }
    each(
        "server",
        "listen",
        &[
            "\"127.0.0.1:${PORT}\"",
            "\"${A:-127.0.0.1:80}\"",
            "\"${EMPTY:-127.0.0.1:80}\"",
        ],
    );
    each("limits", "body", &["\"${BODY:-1MiB}\"", "\"${PORT}KiB\""]);
    each("timeouts", "idle", &["\"${IDLE:-75s}\""]);
}

/// As editors on other systems write them. A byte order mark says nothing about UTF-8, and is taken
/// for nothing.
#[test]
fn files_from_elsewhere() {
    let config = "# Größe\n[server]\nlisten = \"127.0.0.1:8080\" # here\n\n[[routes]]\npath = \"/\"\nrespond = {}\n";
    passes("as it is", config.as_bytes());
    passes("CRLF", config.replace('\n', "\r\n").as_bytes());
    passes("BOM", format!("\u{feff}{config}").as_bytes());
    let both = format!("\u{feff}{}", config.replace('\n', "\r\n"));
    passes("BOM and CRLF", both.as_bytes());
    passes("no end of line", config.trim_end().as_bytes());
    passes("tabs", config.replace(" = ", "\t=\t").as_bytes());
}

/// A mistake is shown in the right place behind a byte order mark, and behind CRLF.
#[test]
fn places_in_files_from_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let config =
        "\u{feff}[server]\r\nlisten = 80\r\n\r\n[[routes]]\r\npath = \"/\"\r\nrespond = {}\r\n";
    fs::write(folder.path().join("site.toml"), config).expect("the config");
    let said = run(&mut loopwright(
        folder.path(),
        &["check", "-c", "site.toml"],
    ));
    assert_eq!(said.code, Some(78));
    assert!(said.err.contains("--> site.toml:2:10"), "{}", said.err);
    assert!(said.err.contains("| listen = 80\n"), "{:?}", said.err);
}

/// The welcome site shows a config to begin with.
#[test]
fn the_config_of_the_welcome_site() {
    let config = include_str!("../../src/service/welcome/sample.toml");
    passes("sample.toml", config.as_bytes());
}

/// One upstream, and a route that uses it.
const UPSTREAM: &str = "[[routes]]\npath = \"/api/{*rest}\"\nproxy = \"api\"\n[upstreams.api]\n";

#[test]
fn upstreams() {
    let servers = [
        "\"http://127.0.0.1:9000\"",
        "\"http://127.0.0.1:9000/\"",
        "\"127.0.0.1:9000\"",
        "\"http://example.org\"",
        "\"example.org:9000\"",
        "\"dns:example.org:9000\"",
        "\"srv:_http._tcp.example.org\"",
        "\"http://[::1]:9000\"",
        "\"unix:/run/app.sock\"",
        "\"http://127.0.0.1:${PORT}\"",
        "{ to = \"localhost:1\" }",
        "{ to = \"localhost:1\", weight = 1000 }",
        "\"localhost:1\", { to = \"localhost:2\", backup = true }",
    ];
    for servers in servers {
        let config = format!("{UPSTREAM}servers = [{servers}]\n");
        passes(&config, config.as_bytes());
    }
    for rest in [
        "balance = \"round_robin\"",
        "balance = \"random\"",
        "balance = \"least_connections\"",
        "balance = \"two_choices\"",
        "balance = \"latency\"",
        "balance = \"first\"",
        "balance = { by = \"first\" }",
        "balance = { by = \"latency\", decay = \"1s\" }",
        "balance = { hash = \"address\" }",
        "balance = { hash = \"path\", load = 2 }",
        "balance = { hash = \"header:X-User\", load = 1.05 }",
        "balance = { hash = \"cookie:user\", load = \"none\" }",
        "sticky = { cookie = \"a\", secret = \"0123456789abcdef\" }",
        "proxy_protocol = \"v1\"",
        "proxy_protocol = \"v2\"",
        "pool = { idle = 0, warm = 0, jitter = \"0%\" }",
        "pool = { idle = 2, warm = 2, connections = 2, jitter = \"100%\" }",
        "health = { path = \"/\" }",
        "health = { path = \"/a?b\", status = 200, jitter = \"50%\" }",
        "health = { path = \"/\", status = \"200-299, 304\", body = \"ok\", within = \"2B\" }",
        "outliers = { consecutive_failures = 0, interval = \"0s\", panic_threshold = \"0%\" }",
        "outliers = { stdev_factor = 2, margin = \"2.5%\", slow_start = \"1m\" }",
        "retries = { tries = 1, statuses = [], budget = \"0%\", floor = 0, replay = \"0B\" }",
        "retries = { tries = 16, statuses = [429, 503], timeouts = true, hedge = \"99%\" }",
        "timeouts = { total = \"0s\", tunnel = \"1day\" }",
        "limits = { body = \"0B\", pending = 0, retries = 0, head = \"1MiB\", fields = 1 }",
    ] {
        let config = format!("{UPSTREAM}servers = [\"localhost:1\"]\n{rest}\n");
        passes(&config, config.as_bytes());
    }
    for proxy in [
        "\"api\"",
        "{ to = \"api\" }",
        "{ to = \"api\", strip = \"/api\" }",
        "{ to = \"api\", strip = \"/api/\" }",
        "{ to = \"api\", path = \"/v2/{rest}\" }",
        "{ to = \"api\", path = \"/always\" }",
        "{ to = \"api\", host = \"keep\" }",
        "{ to = \"api\", host = \"upstream\" }",
        "{ to = \"api\", host = \"example.org:81\" }",
        "{ to = \"api\", request = { set = { x-a = \"{client_ip} {{\" }, add = { x-b = \"\" } } }",
        "{ to = \"api\", response = { remove = [\"Server\", \"x-powered-by\"] } }",
        "{ to = \"api\", forwarded = \"both\", via = \"edge-1.example.org:80\", visits = 1 }",
        "{ to = \"api\", forwarded = \"none\", proxy_status = true }",
        "{ to = \"api\", spool = { request = \"1MiB\", response = \"1MiB\" } }",
    ] {
        let api = "[upstreams.api]\nservers = [\"localhost:1\"]\n";
        let route = format!("[[routes]]\npath = \"/api/{{*rest}}\"\nproxy = {proxy}\n");
        let config = format!("{route}{api}");
        passes(&config, config.as_bytes());
        // And beside what every route may have.
        let more = "methods = [\"GET\", \"POST\"]\nhost = \"example.org\"\nheaders = { x-c = \"d\" }\nlimits = { body = \"1KiB\" }\n";
        let config = format!("{route}{more}{api}");
        passes(&config, config.as_bytes());
    }
    // One that nobody uses may be there, as sets of fields may.
    let unused = format!("{ROUTE}[upstreams.spare]\nservers = [\"localhost:1\"]\n");
    passes("unused", unused.as_bytes());
    let trusted = [
        "[\"10.0.0.0/8\"]",
        "[]",
        "[\"unix\", \"::1\", \"fd00::/8\", \"192.0.2.1\"]",
    ];
    each("server", "trusted_proxies", &trusted);
    let fields = ["\"either\"", "\"x-forwarded\"", "\"forwarded\""];
    each("server", "trusted_fields", &fields);
}

#[test]
fn databases() {
    let database = "[databases.main]\nurl = \"postgres://app@localhost/app\"\n";
    let route = "[[routes]]\npath = \"/{id}\"\n";
    for (key, value) in [
        ("warm", "10"),
        ("connections", "1"),
        ("idle", "\"0s\""),
        ("jitter", "\"0%\""),
        ("queue", "1"),
        ("statement_timeout", "\"1ms\""),
        ("connect_timeout", "\"1s\""),
        ("result", "\"64KiB\""),
        (
            "parameters",
            "{ search_path = \"a, b\", \"shop.user\" = \"\" }",
        ),
    ] {
        let config = format!("{route}respond = {{}}\n{database}{key} = {value}\n");
        passes(&config, config.as_bytes());
    }
    for url in [
        "postgres://app:p%20w@[::1]:5433/app?application_name=web",
        "postgresql://app@/app?host=/run/postgresql",
        "postgres://app:${PORT}@db/app?sslmode=disable",
    ] {
        let config = format!("{route}respond = {{}}\n[databases.a-b_1]\nurl = \"{url}\"\n");
        passes(&config, config.as_bytes());
    }
    for (methods, query) in [
        ("", "sql = \"select 1\""),
        (
            "",
            "sql = \"select $1, $1\", params = [\"{id}\"], shape = \"value\"",
        ),
        (
            "",
            "sql = \"(values ($1))\", params = [{ from = \"{query.a}\", default = \"\" }], rows = 0",
        ),
        (
            "",
            "sql = \"with a as (select 1) select 2;\", rows = 1, status = 203",
        ),
        (
            "[\"GET\", \"POST\"]",
            "sql = \"select $1\", params = [\"{header.X-User}\"], timeout = \"1s\"",
        ),
        (
            "[\"POST\"]",
            "sql = \"select $1, $2\", params = [{ from = \"{body}\", required = true }, \"{body.a}\"]",
        ),
        (
            "[\"PUT\", \"PATCH\"]",
            "sql = \"call p($1)\", params = [\"fixed\"]",
        ),
        (
            "[\"DELETE\"]",
            "sql = \"\"\"delete from a -- ; $1\n\"\"\", shape = \"one\", status = 204",
        ),
    ] {
        let methods = match methods {
            "" => String::new(),
            methods => format!("methods = {methods}\n"),
        };
        let config =
            format!("{route}{methods}query = {{ database = \"main\", {query} }}\n{database}");
        passes(&config, config.as_bytes());
    }
}
