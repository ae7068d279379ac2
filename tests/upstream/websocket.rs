//! WebSockets through the proxy: those of tests/websocket, with our own server behind it.

use crate::support::{TestServer, local, run_script, serve_with};
use crate::under_test::{config, proxy};
use loopwright::{App, Limits};

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

fn case(program: &[&str], script: &str, case: &str) {
    let server = site();
    let proxy = proxy(&config(&[server.tcp()], ""));
    let port = proxy.address.port().to_string();
    run_script(program, &format!("websocket/{script}"), case, &[&port]);
}

macro_rules! cases {
    ($($name:ident)*) => {
        mod python {$(
            #[test]
            fn $name() {
                super::case(&[&crate::programs::python()], "client.py", stringify!($name));
            }
        )*}
        mod node {$(
            #[test]
            fn $name() {
                super::case(&crate::programs::NODE, "client.mjs", stringify!($name));
            }
        )*}
    };
}

cases! { echo compression large }
