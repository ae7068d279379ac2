//! WebSockets through the proxy: those of tests/websocket, with our own server behind it.

use crate::support::{TestServer, local, run, serve_with};
use crate::under_test::{config, proxy};
use loopwright::{App, Limits};
use std::path::Path;
use std::process::Command;

fn site() -> TestServer {
    let limits = Limits {
        message: 16 << 20,
        socket_output: 32 << 20,
        ..Limits::default()
    };
    serve_with(local().limits(limits), || {
        let mut app: App = App::new();
        app.ws("/echo", |_, ws, message| ws.send(message));
        (app, ())
    })
}

fn case(program: &str, args: &[&str], script: &str, case: &str) {
    let server = site();
    let proxy = proxy(&config(&[server.tcp()], ""));
    let script = format!("{}/tests/websocket/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(program);
    command.args(args).arg(script).arg(case);
    let output = run(command.arg(proxy.address.port().to_string()));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.trim_end() == format!("ok {case}"),
        "{program} {case}: {said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// With `websockets`: the one that `scripts/test` has made, if it has.
fn python() -> String {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("python/bin/python3");
    match made.exists() {
        true => made.display().to_string(),
        false => "python3".into(),
    }
}

macro_rules! cases {
    ($($name:ident)*) => {
        mod python {$(
            #[test]
            #[ignore = "there is no action `proxy` yet"]
            fn $name() {
                super::case(&super::python(), &[], "client.py", stringify!($name));
            }
        )*}
        mod node {$(
            #[test]
            #[ignore = "there is no action `proxy` yet"]
            fn $name() {
                super::case("node", &["--experimental-websocket"], "client.mjs", stringify!($name));
            }
        )*}
    };
}

cases! { echo compression large }
