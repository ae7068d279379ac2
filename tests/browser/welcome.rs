//! The welcome site.

use crate::driver::Browser;
use crate::support::{TestServer, serve};
use loopwright::App;
use loopwright::service::welcome;
use serde_json::json;

const PAGES: [&str; 3] = ["", "demos", "next"];
const WINDOWS: [(&str, u32, u32); 4] = [
    ("desktop", 1280, 800),
    ("wide", 1440, 900),
    ("phone", 390, 844),
    ("small", 360, 640),
];

fn site() -> TestServer {
    serve(welcome::site)
}

/// A browser that is shown a page of a site.
fn look_at(url: &str) -> Browser {
    let browser = Browser::start();
    browser.set_window(1280, 800);
    browser.open(url);
    browser
}

pub(crate) const HAS_FIGURES: &str =
    "/\\d/.test(document.querySelector('#turns-rate').textContent)";

/// Nothing on the console: no error, no warning, nothing that the policy has refused.
fn expect_silence(browser: &Browser, where_: &str) {
    assert_eq!(browser.console(), Vec::<String>::new(), "{where_}");
}

#[test]
fn each_page_fits_each_window_in_light_and_dark_and_nothing_is_on_the_console() {
    let server = site();
    let browser = Browser::start();
    for page in PAGES {
        let name = if page.is_empty() { "loop" } else { page };
        for (window, width, height) in WINDOWS {
            let mut seen = Vec::new();
            for scheme in ["light", "dark"] {
                browser.set_window(width, height);
                browser.set_media(&[("prefers-color-scheme", scheme)]);
                browser.open(&server.url(&format!("/{page}")));
                if page.is_empty() {
                    browser.wait_for(HAS_FIGURES);
                }
                let place = format!("{name}, {window}, {scheme}");
                let widths = browser.script(
                    "const page = document.documentElement;
                     return [innerWidth, page.scrollWidth - page.clientWidth]",
                );
                assert_eq!(widths, json!([width, 0]), "{place}");
                seen.push(browser.script("return getComputedStyle(document.body).backgroundColor"));
                browser.screenshot(&format!("welcome-{name}-{window}-{scheme}"));
                expect_silence(&browser, &place);
            }
            assert_ne!(seen[0], seen[1], "{name}: dark is as light");
        }
    }
}

#[test]
fn the_figures_move_and_come_from_one_stream() {
    let server = site();
    let browser = look_at(&server.url("/"));
    browser.wait_for(HAS_FIGURES);
    let turns = || {
        let text =
            browser.script("return document.querySelector('[data-total=turns]').textContent");
        let digits = text.as_str().unwrap_or_default().replace(',', "");
        digits.parse::<u64>().expect("a figure")
    };
    let before = turns();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let after = turns();
    assert!(after >= before + 3, "{before} turns, then {after}");
    let asked = browser.script(
        "return performance.getEntriesByType('resource').filter(entry => /loop/.test(entry.name)).length",
    );
    assert!(asked.as_u64() <= Some(1), "asked {asked} times");

    browser.script("document.querySelector('#work button').click()");
    browser
        .wait_for("/^1,000 requests in/.test(document.querySelector('#work output').textContent)");
    let requests = server.get("/loop.json");
    let requests: serde_json::Value = serde_json::from_slice(&requests.body).expect("JSON");
    assert!(requests["requests"].as_u64() > Some(1000), "{requests}");
    std::thread::sleep(std::time::Duration::from_secs(2));
    browser.script("document.querySelector('details').open = true");
    browser.screenshot("welcome-loop-at-work");
    expect_silence(&browser, "after the work");
}

#[test]
fn nothing_moves_for_who_wants_it_still() {
    let server = site();
    for (wish, moves) in [("no-preference", true), ("reduce", false)] {
        let browser = Browser::start();
        browser.set_media(&[("prefers-reduced-motion", wish)]);
        browser.open(&server.url("/"));
        browser.wait_for(HAS_FIGURES);
        let moved = browser.script(
            "return new Promise(tell => {
                 let moved = false;
                 const look = setInterval(() => moved ||= document.getAnimations().length > 0, 10);
                 setTimeout(() => { clearInterval(look); tell(moved) }, 1000);
             })",
        );
        assert_eq!(moved, moves, "{wish}");
    }
}

#[test]
fn it_says_so_when_the_server_has_gone() {
    let server = site();
    let browser = look_at(&server.url("/"));
    browser.wait_for(HAS_FIGURES);
    // It asserts that the stream has not held up the drain.
    drop(server);
    browser.wait_for("document.querySelector('#state').className === 'state gone'");
}

#[test]
fn the_page_asks_for_readings_when_too_many_watch() {
    let server = site();
    let _others: Vec<_> = (0..64)
        .map(|_| {
            let mut other = server.connect();
            other.send("GET /loop HTTP/1.1\r\nhost: test\r\n\r\n");
            assert_eq!(other.head().status, 200);
            other
        })
        .collect();
    let browser = look_at(&server.url("/"));
    browser.wait_for(HAS_FIGURES);
    browser.wait_for("/Many watch/.test(document.querySelector('#state').textContent)");
}

#[test]
fn each_demo_shows_its_answer() {
    let server = site();
    let browser = look_at(&server.url("/demos"));
    for (demo, said) in [
        ("hello", "^200 OK, \\d+ msHello, Ada!"),
        ("slow", "^200 OK, \\d,\\d+ msa second later"),
        ("count", "^200 OK, \\d,\\d+ ms10\\n9\\n[^]*1\\n$"),
        ("upload", "^200 OK, [\\d,]+ ms16777216 bytes"),
    ] {
        let form = format!("document.querySelector('[data-demo={demo}]')");
        browser.script(&format!(
            "{form}.querySelector('button:not([data-copy])').click()"
        ));
        browser.wait_for(&format!(
            "/{said}/.test({form}.querySelector('output').textContent)"
        ));
    }
    let line = "document.querySelector('[data-demo=hello] [data-curl]').textContent";
    let line = browser.script(&format!("return {line}"));
    assert_eq!(line, format!("curl {}", server.url("/hello/Ada")));
    browser.screenshot("welcome-demos-tried");
    expect_silence(&browser, "after the demos");
}

#[test]
fn a_demo_works_by_keyboard() {
    let server = site();
    let browser = look_at(&server.url("/demos"));
    // The mark, three links; then the first form's field, copy button and button.
    for _ in 0..7 {
        browser.press("Tab");
    }
    let focus = browser.script("return document.activeElement.textContent");
    assert_eq!(focus, "Try it");
    browser.screenshot("welcome-demos-focus");
    browser.press("Enter");
    browser.wait_for(
        "/Hello, Ada!/.test(document.querySelector('[data-demo=hello] output').textContent)",
    );
}

#[test]
fn every_link_leads_somewhere_also_when_mounted() {
    let mounted = || {
        let mut app = App::new();
        app.mount("/welcome", welcome::site());
        app.mount("/a/b", welcome::site());
        app
    };
    for (server, root) in [
        (site(), "/"),
        (serve(mounted), "/welcome"),
        (serve(mounted), "/a/b"),
    ] {
        let browser = Browser::start();
        browser.set_window(1280, 800);
        let below = root.trim_end_matches('/');
        for page in PAGES {
            let path = if page.is_empty() {
                root.to_string()
            } else {
                format!("{below}/{page}")
            };
            browser.open(&server.url(&path));
            let found = browser.script(
                "const links = [...document.querySelectorAll('a[href], link[href], script[src]')];
                 const urls = [...new Set(links.map(link => link.href || link.src))];
                 return Promise.all(urls.map(async url => [new URL(url).pathname, (await fetch(url)).status]))",
            );
            let found = found.as_array().expect("a list").clone();
            assert!(found.len() >= 6, "{found:?}");
            for link in found {
                let leads =
                    link[0].as_str().unwrap_or_default().starts_with(below) && link[1] == 200;
                assert!(leads, "{path}: {link}");
            }
            let current = browser.script(
                "return [...document.querySelectorAll('[aria-current]')].map(link => new URL(link.href).pathname)",
            );
            assert_eq!(current, json!([path]));
        }
        browser.open(&server.url(root));
        browser.wait_for(HAS_FIGURES);
        browser.open(&server.url(&format!("{below}/demos")));
        browser
            .script("document.querySelector('[data-demo=hello] button:not([data-copy])').click()");
        browser.wait_for(
            "/Hello, Ada!/.test(document.querySelector('[data-demo=hello] output').textContent)",
        );
        expect_silence(&browser, root);
    }
}
