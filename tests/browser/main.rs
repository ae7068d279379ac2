//! Pages in a real browser: headless Chromium, driven by chromedriver.
//!
//! What is looked at is what a person would see: is anything on the console, does the page fit the
//! window, do figures move and buttons work? Pictures of it go to `target/screenshots`. A browser that is
//! not installed is a failure.

mod channel;
mod chat;
mod driver;
#[path = "../check/support.rs"]
#[allow(dead_code)]
mod program;
mod proxy;
mod samples;
#[path = "../clients/support.rs"]
#[allow(dead_code)]
mod support;
mod welcome;

/// Else the tests for silence would prove nothing.
#[test]
fn the_driver_hears_the_console() {
    let browser = driver::Browser::start();
    browser.open("data:text/html,<script>console.warn('careful'); no.such.thing</script>");
    let heard = browser.console().join(" ");
    assert!(
        heard.contains("careful") && heard.contains("no is not defined"),
        "{heard}"
    );
}
