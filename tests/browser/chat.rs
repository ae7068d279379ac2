//! `examples/chat.rs`, in two browsers.

use crate::driver::Browser;
use crate::support::{TestServer, local, serve_with};
use loopwright::Builder;

#[allow(dead_code)] // Its main.
#[path = "../../examples/chat.rs"]
mod example;

fn chat(builder: Builder) -> TestServer<example::Chat> {
    let server = serve_with(builder, || (example::app(), example::Chat::default()));
    let begun = server.handle.post(|cx| example::start(cx, "one".into()));
    begun.expect("the loop runs");
    server
}

/// A browser in a room, under a name.
fn enter(url: &str, name: &str) -> Browser {
    let browser = Browser::start();
    browser.set_window(390, 844);
    browser.open(url);
    knock(&browser, name);
    browser
}

fn knock(browser: &Browser, name: &str) {
    browser.script(&format!(
        "document.getElementById('name').value = '{name}'; document.querySelector('#door button').click()"
    ));
    browser.wait_for("document.getElementById('state').classList.contains('open')");
}

fn say(browser: &Browser, text: &str) {
    browser.script(&format!(
        "document.getElementById('text').value = {text:?}; document.getElementById('send').click()"
    ));
}

fn wait_for_line(browser: &Browser, text: &str) {
    browser.wait_for(&format!(
        "[...document.querySelectorAll('#log .text, #log .note')].some(line => line.textContent === {text:?})"
    ));
}

fn here(browser: &Browser) -> String {
    let names =
        "return [...document.querySelectorAll('#here li')].map(li => li.textContent).join()";
    let names = browser.script(names);
    names.as_str().expect("a text").to_string()
}

#[test]
fn two_talk_and_a_third_comes_later() {
    let server = chat(local());
    let ada = enter(&server.url("/garden"), "Ada");
    assert_eq!(here(&ada), "Ada");
    let bob = enter(&server.url("/garden"), "Bob <b>");
    wait_for_line(&ada, "Bob <b> has come");
    assert_eq!(
        (here(&ada), here(&bob)),
        ("Ada,Bob <b>".into(), "Ada,Bob <b>".into())
    );
    say(&ada, "Is the gate open?");
    wait_for_line(&bob, "Is the gate open?");
    wait_for_line(&ada, "Is the gate open?");
    // What is said is text, whatever it looks like.
    let evil = "<img src=x onerror=\"window.evil = 1\"><script>window.evil = 1</script>";
    say(&bob, evil);
    wait_for_line(&ada, evil);
    wait_for_line(&bob, evil);
    say(
        &ada,
        "It is, and a long word comes: Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    );
    say(&bob, "Good. שלום, and 👋");
    wait_for_line(&ada, "Good. שלום, and 👋");
    for browser in [&ada, &bob] {
        assert_eq!(
            browser.script("return window.evil ?? null"),
            serde_json::Value::Null
        );
        assert_eq!(browser.console(), Vec::<String>::new());
    }
    // Who comes later sees what was said; in another room, nothing of it.
    let mia = enter(&server.url("/garden"), "Mia");
    wait_for_line(&mia, "Is the gate open?");
    let elsewhere =
        "location.pathname === '/cellar' && document.getElementById('door').hidden === false";
    mia.open(&server.url("/cellar"));
    mia.wait_for(elsewhere);
    wait_for_line(&ada, "Mia has left");
    knock(&mia, "Mia");
    assert_eq!(here(&mia), "Mia");
    wait_for_line(&mia, "Nothing has been said yet.");
    for (window, width, height) in [
        ("phone", 390, 844),
        ("small", 320, 568),
        ("desktop", 1280, 800),
    ] {
        for scheme in ["light", "dark"] {
            ada.set_window(width, height);
            ada.set_media(&[("prefers-color-scheme", scheme)]);
            let fits = "return [document.documentElement.scrollWidth <= innerWidth, \
                        document.getElementById('send').getBoundingClientRect().bottom <= innerHeight, \
                        document.getElementById('log').scrollWidth <= document.getElementById('log').clientWidth]";
            assert_eq!(
                ada.script(fits),
                serde_json::json!([true, true, true]),
                "{window}"
            );
            ada.screenshot(&format!("chat-{window}-{scheme}"));
        }
    }
    drop(bob);
    wait_for_line(&ada, "Bob <b> has left");
    drop((ada, mia));
}

#[test]
fn the_door_asks_for_a_name() {
    let server = chat(local());
    let browser = Browser::start();
    browser.set_window(390, 844);
    browser.open(&server.url("/"));
    browser.wait_for("location.pathname === '/lobby'");
    browser.screenshot("chat-door");
    browser.script("document.querySelector('#door button').click()");
    assert_eq!(
        browser.script("return document.getElementById('door').hidden"),
        false
    );
    // Another room is another page.
    browser.script(
        "document.getElementById('name').value = 'Ada'; document.getElementById('room').value = 'küche'; \
         document.querySelector('#door button').click()",
    );
    browser.wait_for("decodeURIComponent(location.pathname) === '/küche'");
    let name = "document.getElementById('name').value === 'Ada'";
    browser.wait_for(name);
    browser.script("document.querySelector('#door button').click()");
    browser.wait_for("document.getElementById('state').classList.contains('open')");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn a_page_comes_back_by_itself() {
    let server = chat(local());
    let port = server.port();
    let ada = enter(&server.url("/lobby"), "Ada");
    say(&ada, "before");
    wait_for_line(&ada, "before");
    server.stop();
    ada.wait_for("!document.getElementById('state').classList.contains('open')");
    assert_eq!(
        ada.script("return document.getElementById('send').disabled"),
        true
    );
    let again = loopwright::Server::builder().listen(format!("127.0.0.1:{port}"));
    let server = chat(again.timeouts(crate::support::timeouts()));
    ada.wait_for("document.getElementById('state').classList.contains('open')");
    say(&ada, "after");
    wait_for_line(&ada, "after");
    drop(ada);
    drop(server);
}

/// What another process says of who is with it: its people are shown, and go when it says so.
#[test]
fn who_is_elsewhere_is_shown() {
    let server = chat(local());
    let ada = enter(&server.url("/lobby"), "Ada");
    for (names, seen) in [
        ("[\"Zoe\",\"Ada\"]", "Zoe has come"),
        ("[]", "Zoe has left"),
    ] {
        let said = format!("{{\"process\":\"two\",\"names\":{names}}}");
        let posted = server.handle.post(move |cx| {
            cx.deliver("presence/lobby", &said).expect("taken");
            cx.deliver("presence/lobby", "no JSON").expect("taken");
        });
        posted.expect("the loop runs");
        wait_for_line(&ada, seen);
    }
    assert_eq!(here(&ada), "Ada");
}
