//! curl, Python and Node in front of the proxy, our own server behind it: the cases of `tests/clients`, which have to come
//! out as they do without a proxy.

use crate::site::site;
use crate::support::{run_case, serve};
use crate::under_test::{config, proxy};
use std::process::Command;

fn case(program: &str, script: &str, name: &str) {
    let server = serve(site);
    let proxy = proxy(&config(&[server.tcp()], ""));
    let port = proxy.address.port().to_string();
    run_case(program, script, name, &["127.0.0.1", &port]);
}

macro_rules! cases {
    ($program:ident $script:literal $($name:ident)*) => {
        mod $program {$(
            #[test]
            fn $name() {
                super::case(stringify!($program), $script, stringify!($name));
            }
        )*}
    };
}

// Without those that look at the connection to the server, which is another one here.
cases! {
    python3 "client.py"
    methods json_both_ways forms_and_queries cookies percent_encoding redirects deferred
    chunked_uploads large_bodies pausing_reader http_1_0 many_threads
}

cases! {
    node "client.mjs"
    keep_alive methods trailers_in trailers_out streams_up streams_both_ways pausing_reader
    leave_to_continue early_answer parallel fetch_client
}

#[test]
fn curl() {
    let server = serve(site);
    let proxy = proxy(&config(&[server.tcp()], ""));
    let url = |path: &str| format!("http://{}{path}", proxy.address);
    for (args, want) in [
        (&["-d", "a=b&c=d"][..], "/form"),
        (&["-H", "expect: 100-continue", "-d", "hello"], "/small"),
        (
            &["-H", "transfer-encoding: chunked", "-d", "hello"],
            "/small",
        ),
        (&["-0"], "/"),
        (&["-I"], "/"),
        (&[], "/megabytes/2"),
        (&["--compressed"], "/sized/2"),
    ] {
        let run = |url: String| {
            let mut command = Command::new("curl");
            command.args(["-q", "-sS", "--noproxy", "*", "--max-time", "20"]);
            let output = command.args(["-w", "%{http_code}"]).args(args).arg(url);
            let output = crate::support::run(output);
            assert!(output.status.success(), "curl {args:?}: {output:?}");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            // The head without what each server says for itself, and the body.
            let mut lines: Vec<String> = text.lines().map(str::to_ascii_lowercase).collect();
            let own = ["date:", "via:", "server:", "connection:"];
            lines.retain(|line| !own.iter().any(|name| line.starts_with(name)));
            lines.sort();
            lines
        };
        assert!(
            run(url(want)) == run(server.url(want)),
            "curl {args:?} {want}"
        );
    }
}
