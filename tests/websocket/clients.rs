//! WebSocket clients that people really use: Python's `websockets`, and Node's own.

use crate::support::*;
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

fn case(program: &[&str], script: &str, case: &str) {
    let server = site();
    let port = server.port().to_string();
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

cases! { echo compression large close_codes subprotocol }
