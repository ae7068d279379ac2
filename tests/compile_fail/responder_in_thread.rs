//! A responder stays on its loop; another thread posts to the loop instead.
use loopwright::App;

fn main() {
    let mut app: App = App::new();
    app.get("/", |_, _, res| {
        let res = res.defer();
        std::thread::spawn(move || res.text("from elsewhere"));
    });
}
