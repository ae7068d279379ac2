//! WebSocket clients that people really use: Python's `websockets`, and Node's own.

use crate::support::*;
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
        app.ws("/close", |_, ws, message| {
            ws.close(4321, message.as_text().unwrap_or("?"))
        });
        app.ws("/small", |_, ws, message| ws.send(message))
            .before(|_, _, res| Some(res));
        app.sockets("/limited", |_, _, handshake| {
            handshake.message_limit(1000);
            let (tell, _) = crate::peer::ear();
            Ok(crate::peer::Probe::new(&tell, crate::peer::echo))
        });
        app.sockets("/spoken", |_, _, handshake| {
            handshake.protocols(&["second", "first"]);
            let (tell, _) = crate::peer::ear();
            Ok(crate::peer::Probe::new(&tell, crate::peer::echo))
        });
        (app, ())
    })
}

fn case(program: &str, args: &[&str], script: &str, case: &str) {
    let server = site();
    let script = format!("{}/tests/websocket/{script}", env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(program);
    let output = run(command
        .args(args)
        .arg(script)
        .arg(case)
        .arg(server.port().to_string()));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.trim_end() == format!("ok {case}"),
        "{program} {case}: {}\n{said}\n{}",
        output.status,
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
            fn $name() {
                super::case(&super::python(), &[], "client.py", stringify!($name));
            }
        )*}
        mod node {$(
            #[test]
            fn $name() {
                // Without the flag from Node 22 on, and with it from 20.10.
                super::case("node", &["--experimental-websocket"], "client.mjs", stringify!($name));
            }
        )*}
    };
}

cases! { echo compression large close_codes subprotocol }
