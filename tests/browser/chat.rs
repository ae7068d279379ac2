//! `examples/chat.rs`, in two browsers.

use crate::driver::Browser;
use crate::support::{PATIENCE, TestServer, local, serve_with};
use loopwright::service::bus::{Redis, RedisSettings};
use loopwright::{App, Builder};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[allow(dead_code)] // Its main.
#[path = "../../examples/chat.rs"]
mod example;

pub(crate) fn chat(builder: Builder) -> TestServer<example::Chat> {
    chat_with(builder, "one", |_| ())
}

/// A chat that is called so among others.
fn chat_with(
    builder: Builder,
    name: &'static str,
    prepare: impl FnOnce(&mut App<example::Chat>) + Send + 'static,
) -> TestServer<example::Chat> {
    let server = serve_with(builder, || {
        let mut app = example::app();
        prepare(&mut app);
        (app, example::Chat::default())
    });
    let begun = server.handle.post(|cx| example::start(cx, name.into()));
    begun.expect("the loop runs");
    server
}

/// A browser in a room, under a name.
pub(crate) fn enter(url: &str, name: &str) -> Browser {
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

pub(crate) fn say(browser: &Browser, text: &str) {
    browser.script(&format!(
        "document.getElementById('text').value = {text:?}; document.getElementById('send').click()"
    ));
}

pub(crate) fn wait_for_line(browser: &Browser, text: &str) {
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

/// Killed when it is dropped.
struct RedisServer(Child);

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A Redis, and its URL.
fn redis() -> (RedisServer, String) {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("its address").port();
    drop(free);
    let number = port.to_string();
    let child = Command::new("redis-server")
        .args(["--port", &number, "--bind", "127.0.0.1", "--save", ""])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server: apt-get install redis-server");
    let server = RedisServer(child);
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(start.elapsed() < PATIENCE, "it does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    (server, format!("redis://127.0.0.1:{port}"))
}

/// Two loops that share nothing but a Redis, as two processes would.
#[test]
fn two_talk_through_a_bus() {
    let (_redis, url) = redis();
    let [one, two] = ["one", "two"].map(|name| {
        let url = url.parse().expect("a URL");
        chat_with(local(), name, move |app| {
            app.bus(Redis::new(url, RedisSettings::default()));
        })
    });
    let ada = enter(&one.url("/lobby"), "Ada");
    let bob = enter(&two.url("/lobby"), "Bob");
    // Whichever heard of the other first: each is told who is with the other.
    for browser in [&ada, &bob] {
        browser.wait_for("document.querySelectorAll('#here li').length === 2");
        assert_eq!(here(browser), "Ada,Bob");
    }
    say(&ada, "from one");
    wait_for_line(&bob, "from one");
    say(&bob, "from the other");
    wait_for_line(&ada, "from the other");
    // A process that leaves takes its people along, and ours stay.
    drop(bob);
    wait_for_line(&ada, "Bob has left");
    assert_eq!(here(&ada), "Ada");
    drop(ada);
}
