//! The sites of docs/samples, each run by the real binary and opened at two sizes.

use crate::driver::Browser;
use crate::program::{Running, in_crate, loopwright};
use std::path::Path;

#[test]
fn each_sample_is_a_site() {
    let browser = Browser::start();
    for (name, path, heading) in [
        ("static", "/", "Harbour notes"),
        ("static", "/about", "About"),
        ("spa", "/some/where/else", "Harbour notes"),
        ("redirects", "/about.html", "About"),
        ("workers", "/", "Harbour notes"),
    ] {
        let config = in_crate(&format!("docs/samples/{name}.toml"));
        let log = tempfile::tempdir().expect("a folder");
        let args = ["run", "-c", config.to_str().expect("UTF-8")];
        let mut command = loopwright(Path::new("/"), &args);
        let access_log = log.path().join("access.log");
        command
            .env("LISTEN", "127.0.0.1:0")
            .env("WORKERS", "2")
            .env("ACCESS_LOG", access_log);
        let mut server = Running::start(&mut command);
        let url = server.url();
        for (width, height) in [(1280, 800), (390, 844)] {
            browser.set_window(width, height);
            browser.open(&format!("{url}{path}"));
            let shown = browser.script("return document.querySelector('h1').textContent");
            assert_eq!(shown, heading, "{name} {path}");
            let fits = "return document.documentElement.scrollWidth <= innerWidth";
            assert_eq!(browser.script(fits), true, "{name} {path} at {width}");
            // The style sheet is there, and allowed.
            let styled = "return document.styleSheets[0].cssRules.length > 0";
            assert_eq!(browser.script(styled), true, "{name} {path}");
            assert_eq!(browser.console(), Vec::<String>::new(), "{name} {path}");
            browser.screenshot(&format!("sample-{name}-{width}"));
        }
        assert_eq!(server.stop(), Some(0), "{name}");
    }
}

#[test]
fn a_listing_can_be_sorted_and_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, size) in [("b.txt", 10), ("a.txt", 3000), ("c & <d>.txt", 200)] {
        std::fs::write(folder.path().join(name), vec![b'x'; size]).expect("a file");
    }
    std::fs::create_dir(folder.path().join("sub")).expect("a folder");
    std::fs::write(folder.path().join("sub/inner.txt"), "inner").expect("a file");
    let args = ["files", ".", "--listing", "--listen", "127.0.0.1:0"];
    let mut server = Running::start(&mut loopwright(folder.path(), &args));
    let url = server.url();
    let browser = Browser::start();
    browser.open(&url);
    let names = "return [...document.querySelectorAll('tbody a')].map(a => a.textContent)";
    let shown = browser.script(names).to_string();
    let at = |name: &str| {
        shown
            .find(name)
            .unwrap_or_else(|| panic!("{name} in {shown}"))
    };
    assert!(
        at("sub") < at("a.txt") && at("a.txt") < at("b.txt") && at("b.txt") < at("c & <d>.txt")
    );
    browser.script("document.querySelector('thead a[href*=\"size\"]').click()");
    browser.wait_for("location.search.includes('size')");
    let shown = browser.script(names).to_string();
    let at = |name: &str| {
        shown
            .find(name)
            .unwrap_or_else(|| panic!("{name} in {shown}"))
    };
    assert!(at("b.txt") < at("c & <d>.txt") && at("c & <d>.txt") < at("a.txt"));
    browser.screenshot("listing");
    assert_eq!(browser.console(), Vec::<String>::new());
    let follow = "[...document.querySelectorAll('tbody a')].find(a => a.textContent.startsWith('c &')).click()";
    browser.script(follow);
    browser.wait_for("document.body.textContent === 'x'.repeat(200)");
    assert_eq!(server.stop(), Some(0));
}
