//! Python's http.client and urllib against the site; the cases are in `client.py`.

use crate::site::site;
use crate::support::{local, run_case, serve, serve_with};

fn case(name: &str) {
    let server = serve(site);
    run_case(
        "python3",
        "client.py",
        name,
        &["127.0.0.1", &server.port().to_string()],
    );
}

macro_rules! cases {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            case(stringify!($name));
        }
    )*};
}

cases! {
    keep_alive methods json_both_ways forms_and_queries cookies percent_encoding dots_in_a_path redirects deferred
    chunked_uploads large_bodies pausing_reader http_1_0 many_threads
}

#[test]
fn unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("site.sock");
    let builder = local().listen(format!("unix:{}", path.display()));
    let _server = serve_with(builder, || (site(), ()));
    run_case(
        "python3",
        "client.py",
        "unix_socket",
        &[path.to_str().expect("UTF-8"), "0"],
    );
}
