//! Pages through a proxy: a browser on one side, a site of ours on the other.

use crate::chat::{chat, enter, say, wait_for_line};
use crate::driver::Browser;
use crate::support::{TestServer, local, serve, timeouts};
use crate::welcome::HAS_FIGURES;
use loopwright::service::{proxy::Proxy, welcome};
use loopwright::{App, Server, Upstream};

/// A proxy in front of a server on this port.
fn in_front_of(port: u16) -> TestServer {
    serve(move || {
        let mut app = App::new();
        app.upstream("site", Upstream::new([format!("127.0.0.1:{port}")]));
        Proxy::to("site").on(&mut app, "/{*rest}");
        app
    })
}

#[test]
fn a_page_and_its_stream_of_events() {
    let site = serve(welcome::site);
    let front = in_front_of(site.port());
    let browser = Browser::start();
    browser.set_window(1280, 800);
    browser.open(&front.url("/"));
    browser.wait_for(HAS_FIGURES);
    browser.script("document.querySelector('#work button').click()");
    browser
        .wait_for("/^1,000 requests in/.test(document.querySelector('#work output').textContent)");
    assert_eq!(browser.console(), Vec::<String>::new());
    let requests: serde_json::Value =
        serde_json::from_slice(&site.get("/loop.json").body).expect("JSON");
    assert!(requests["requests"].as_u64() > Some(1000), "{requests}");
    // The stream has no end of its own: neither drain waits for it.
    front.stop();
    browser.wait_for("document.querySelector('#state').className === 'state gone'");
    drop(site);
}

#[test]
fn two_talk_of_whom_one_comes_through_a_proxy() {
    let site = chat(local());
    let port = site.port();
    let front = in_front_of(port);
    let ada = enter(&front.url("/garden"), "Ada");
    let bob = enter(&site.url("/garden"), "Bob");
    wait_for_line(&ada, "Bob has come");
    for (from, to, text) in [
        (&ada, &bob, "from behind the hedge"),
        (&bob, &ada, "שלום, and 👋"),
    ] {
        say(from, text);
        wait_for_line(to, text);
    }
    drop(ada);
    wait_for_line(&bob, "Ada has left");
    drop(bob);

    // The site is restarted; who waits in front of the proxy comes back by itself.
    let ada = enter(&front.url("/garden"), "Ada");
    site.stop();
    ada.wait_for("!document.getElementById('state').classList.contains('open')");
    let again = Server::builder().listen(format!("127.0.0.1:{port}"));
    let site = chat(again.timeouts(timeouts()));
    ada.wait_for("document.getElementById('state').classList.contains('open')");
    say(&ada, "after");
    wait_for_line(&ada, "after");
    drop((ada, front, site));
}
