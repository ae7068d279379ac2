//! Pages in a real browser: headless Chromium, driven by chromedriver.
//!
//! What is looked at is what a person would see: is anything on the console, does the page fit the
//! window, do figures move and buttons work? Pictures of it go to `target/screenshots`. A browser that is
//! not installed is a failure.

mod driver;
#[path = "../clients/support.rs"]
#[allow(dead_code)]
mod support;
mod welcome;
