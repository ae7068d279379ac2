//! The smallest server: `cargo run --example hello`, then open http://127.0.0.1:8080.

use loopwright::{App, Server};

fn main() -> std::io::Result<()> {
    let mut app = App::new();
    app.get("/", |_, _, res| res.text("Hello, World!"));
    app.get("/hello/{name}", |_, req, res| res.text(req.param("name")));
    Server::bind("127.0.0.1:8080", app, ())?.run()
}
