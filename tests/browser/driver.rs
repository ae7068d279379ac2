//! A browser to test pages with: chromedriver's protocol (W3C WebDriver), as much as the tests need.
//!
//! ```text
//! Browser::start() ─► open(url) ─► script(js), wait_for(js), console(), screenshot(name)
//! ```

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const INSTALL: &str = "apt-get install chromium chromium-driver";

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A driver, and the port it listens on. `None`: it has ended.
fn launch() -> Option<(Child, u16)> {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("chromedriver: {e}; {INSTALL}"));
    let said = driver.stdout.take().expect("it is piped");
    let port = BufReader::new(said)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| {
            let port = line.split_once("successfully on port ")?.1;
            port.trim_end_matches('.').parse().ok()
        });
    if port.is_none() {
        let _ = driver.wait();
    }
    Some((driver, port?))
}

/// A driver and the one window of the browser it has started. Both end when this is dropped.
pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// Last, so that it is removed when nobody writes to it any more.
    _profile: TempDir,
}

impl Browser {
    pub(crate) fn start() -> Browser {
        // The port that it draws for one family of addresses may be taken in the other: it ends then.
        let (driver, port) = (0..5)
            .find_map(|_| launch())
            .unwrap_or_else(|| panic!("chromedriver did not start; {INSTALL}"));
        let profile = TempDir::new().expect("no temporary folder");
        let mut browser = Browser {
            driver,
            port,
            session: String::new(),
            _profile: profile,
        };
        let data = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &data,
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.request("POST", "/session", &wanted);
        let id = session["sessionId"].as_str();
        browser.session = id.expect("a session has an id").to_string();
        browser
    }

    pub(crate) fn open(&self, url: &str) {
        self.command("url", json!({ "url": url }));
    }

    /// The size of the page's window, in CSS pixels.
    pub(crate) fn set_window(&self, width: u32, height: u32) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size);
    }

    /// What the media features say, such as `prefers-color-scheme`; the others are as they are.
    pub(crate) fn set_media(&self, features: &[(&str, &str)]) {
        let feature = |(name, value): &(&str, &str)| json!({ "name": name, "value": value });
        let features: Vec<Value> = features.iter().map(feature).collect();
        self.devtools(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        );
    }

    /// Runs a function's body in the page; what it returns. A promise is waited for.
    pub(crate) fn script(&self, js: &str) -> Value {
        self.command("execute/sync", json!({ "script": js, "args": [] }))
    }

    /// Waits until an expression is true.
    pub(crate) fn wait_for(&self, js: &str) {
        let start = Instant::now();
        while self.script(&format!("return Boolean({js})")) != true {
            assert!(start.elapsed() < PATIENCE, "never: {js}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Presses a key, and lets it go: `Tab`, `Enter`.
    pub(crate) fn press(&self, key: &str) {
        let code = match key {
            "Tab" => "\u{E004}",
            "Enter" => "\u{E007}",
            other => other,
        };
        let strokes = ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": code }));
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": strokes });
        self.command("actions", json!({ "actions": [keyboard] }));
    }

    /// What the page has written to the console, or the browser about it, since this was last asked.
    pub(crate) fn console(&self) -> Vec<String> {
        let log = self.command("se/log", json!({ "type": "browser" }));
        let lines = log.as_array().expect("a list");
        lines
            .iter()
            .map(|line| format!("{} {}", line["level"], line["message"]))
            .collect()
    }

    /// A picture of the whole page, as `target/screenshots/{name}.png`.
    pub(crate) fn screenshot(&self, name: &str) {
        let size = self.script(
            "const page = document.documentElement; return [page.clientWidth, page.scrollHeight]",
        );
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let picture = self.devtools(
            "Page.captureScreenshot",
            json!({ "clip": clip, "captureBeyondViewport": true }),
        );
        let png = base64(picture["data"].as_str().expect("a picture"));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../screenshots");
        std::fs::create_dir_all(&folder).expect("cannot make a folder");
        std::fs::write(folder.join(format!("{name}.png")), png).expect("cannot write");
    }

    /// A command of the Chrome DevTools Protocol.
    pub(crate) fn devtools(&self, name: &str, parameters: Value) -> Value {
        self.command(
            "goog/cdp/execute",
            json!({ "cmd": name, "params": parameters }),
        )
    }

    fn command(&self, name: &str, parameters: Value) -> Value {
        let path = format!("/session/{}/{name}", self.session);
        self.request("POST", &path, &parameters)
    }

    fn request(&self, method: &str, path: &str, parameters: &Value) -> Value {
        let (is_ok, value) = self
            .exchange(method, path, parameters)
            .unwrap_or_else(|e| panic!("chromedriver, {path}: {e}"));
        let hint = if path == "/session" { INSTALL } else { "" };
        assert!(is_ok, "{path} {parameters}: {} {hint}", value["message"]);
        value
    }

    /// One request, on a connection of its own; whether it was answered 200, and the value.
    fn exchange(
        &self,
        method: &str,
        path: &str,
        parameters: &Value,
    ) -> std::io::Result<(bool, Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = parameters.to_string();
        let (port, length) = (self.port, body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all((head + &body).as_bytes())?;

        let mut stream = BufReader::new(stream);
        let mut status = String::new();
        stream.read_line(&mut status)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().map_err(std::io::Error::other)?;
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let mut answer: Value = serde_json::from_slice(&body)?;
        Ok((status.contains(" 200 "), answer["value"].take()))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver closes the browser with the session; killed first, it would leave it behind.
        if !self.session.is_empty() {
            let path = format!("/session/{}", self.session);
            let _ = self.exchange("DELETE", &path, &json!({}));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Decodes base64 (RFC 4648 §4).
fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |c: u8| DIGITS.iter().position(|&known| known == c);
    let digits: Vec<usize> = text.bytes().filter_map(digit).collect();
    let group = |four: &[usize]| {
        let bits = (0..4).fold(0, |bits, n| bits << 6 | four.get(n).unwrap_or(&0));
        let bytes = [bits >> 16, bits >> 8, bits].map(|byte| byte as u8);
        bytes.into_iter().take(four.len() - 1)
    };
    digits.chunks(4).flat_map(group).collect()
}
