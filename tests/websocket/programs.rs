//! Programs with a WebSocket.

use std::path::Path;

/// With `websockets`: the one that `scripts/test` has made, if it has.
pub(crate) fn python() -> String {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("python/bin/python3");
    match made.exists() {
        true => made.display().to_string(),
        false => "python3".into(),
    }
}

/// Without the flag from 22 on, and with it from 20.10.
pub(crate) const NODE: [&str; 2] = ["node", "--experimental-websocket"];
