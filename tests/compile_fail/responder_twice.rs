//! A responder is consumed by answering, too.
use loopwright::App;

fn main() {
    let mut app: App = App::new();
    app.get("/", |_, _, res| {
        let res = res.defer();
        res.text("once");
        res.text("twice");
    });
}
