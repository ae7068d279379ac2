//! A response is consumed by answering.
use loopwright::App;

fn main() {
    let mut app: App = App::new();
    app.get("/", |_, _, res| {
        res.text("once");
        res.text("twice");
    });
}
