//! Node's http and fetch against the site; the cases are in `client.mjs`.

use crate::site::site;
use crate::support::{local, run_case, serve, serve_with};

fn case(name: &str) {
    let server = serve(site);
    run_case(
        "node",
        "client.mjs",
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
    keep_alive methods trailers_in trailers_out streams_up streams_both_ways pausing_reader
    leave_to_continue refused_before_it_is_sent early_answer parallel fetch_client
}

#[test]
fn unix_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("site.sock");
    let builder = local().listen(format!("unix:{}", path.display()));
    let _server = serve_with(builder, || (site(), ()));
    run_case(
        "node",
        "client.mjs",
        "unix_socket",
        &[path.to_str().expect("UTF-8"), "0"],
    );
}
