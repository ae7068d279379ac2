//! A response borrows from the loop: it cannot wait in a timer. `defer` is the step from now to later.
use loopwright::App;
use std::time::Duration;

fn main() {
    let mut app: App = App::new();
    app.get("/", |cx, _, res| {
        cx.after(Duration::from_secs(1), move |_| res.text("too late"));
    });
}
