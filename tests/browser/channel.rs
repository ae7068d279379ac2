//! A channel, as a page sees it that has no code of ours: EventSource, WebSocket, fetch.

use crate::driver::Browser;
use crate::support::serve;
use loopwright::App;
use loopwright::service::channel::Channel;

#[test]
fn a_page_follows_and_publishes() {
    let server = serve(|| {
        let mut app = App::new();
        app.get("/", |_, _, res| {
            res.html("<!doctype html><link rel=icon href=data:,><title>a page</title>")
        });
        let channel = Channel::new("rooms/{room}").publish_sockets(true);
        channel.mount(&mut app, "/rooms/{room}");
        app
    });
    let browser = Browser::start();
    browser.open(&server.url("/"));
    browser.script(
        "window.heard = []; window.ids = [];
         const source = new EventSource('/rooms/7');
         source.onmessage = (event) => { heard.push('event ' + event.data); ids.push(event.lastEventId) };
         source.addEventListener('binary', (event) => heard.push('binary ' + event.data));
         window.ws = new WebSocket(location.origin.replace('http', 'ws') + '/rooms/7');
         ws.onmessage = (event) => heard.push('socket ' + event.data);
         return new Promise((joined) => { let n = 0; source.onopen = ws.onopen = () => { if (++n === 2) joined() } })",
    );
    browser.script("ws.send('from the socket')");
    browser.wait_for("heard.length === 2");
    let status = "return fetch('/rooms/7', { method: 'POST', body: 'from fetch' }).then(answer => answer.status)";
    assert_eq!(browser.script(status), 202);
    browser.wait_for("heard.length === 4");
    browser.script("return fetch('/rooms/7', { method: 'POST', body: new Uint8Array([1, 2]), headers: { 'content-type': 'application/octet-stream' } })");
    browser.wait_for("heard.length === 6");
    let heard = browser.script("return heard.sort().join('|')");
    assert_eq!(
        heard,
        "binary AQI=|event from fetch|event from the socket|socket [object Blob]|socket from fetch|socket from the socket"
    );
    // Polls: what is held, and what is newer than the first.
    let texts = browser.script("return fetch('/rooms/7').then(a => a.json()).then(list => list.map(m => m.text ?? m.base64).join())");
    assert_eq!(texts, "from the socket,from fetch,AQI=");
    let newer = browser.script(
        "return fetch('/rooms/7?since=' + ids[0]).then(a => a.json()).then(list => list.length)",
    );
    assert_eq!(newer, 2);
    assert_eq!(browser.console(), Vec::<String>::new());
    // Another origin is another site: 127.0.0.1 is not localhost.
    browser.open("data:text/html,<title>another site</title>");
    let port = server.port();
    let refused = browser.script(&format!(
        "return new Promise((end) => {{ const ws = new WebSocket('ws://127.0.0.1:{port}/rooms/7'); ws.onopen = () => end('open'); ws.onerror = () => end('refused') }})"
    ));
    assert_eq!(refused, "refused");
}
