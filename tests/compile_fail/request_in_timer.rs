//! A request is a view into the receive buffer: it ends with its callback.
use loopwright::App;
use std::time::Duration;

fn main() {
    let mut app: App = App::new();
    app.get("/{name}", |cx, req, res| {
        let name = req.param("name");
        let res = res.defer();
        cx.after(Duration::from_secs(1), move |_| res.text(name));
    });
}
