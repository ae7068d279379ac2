// Node's own WebSocket against the server; one case a run.

import assert from "node:assert/strict";

const [name, port] = process.argv.slice(2);
if (typeof WebSocket === "undefined") {
  console.error("this Node has no WebSocket: 20.10 or later is wanted");
  process.exit(1);
}

/** A socket whose messages can be waited for, one by one; the last is its end. */
function dial(path, protocols) {
  const ws = new WebSocket(`ws://127.0.0.1:${port}${path}`, protocols);
  ws.binaryType = "arraybuffer";
  const arrived = [];
  const waiting = [];
  const put = (what) => (waiting.length ? waiting.shift()(what) : arrived.push(what));
  ws.addEventListener("message", ({ data }) => put(data));
  ws.addEventListener("close", ({ code, reason, wasClean }) => put({ code, reason, wasClean }));
  const opened = new Promise((resolve, reject) => {
    ws.addEventListener("open", () => resolve());
    ws.addEventListener("error", () => reject(new Error(`${path} does not open`)));
  });
  const next = () =>
    arrived.length ? Promise.resolve(arrived.shift()) : new Promise((resolve) => waiting.push(resolve));
  return { ws, opened, next };
}

async function same(socket, message) {
  socket.ws.send(message);
  const got = await socket.next();
  if (typeof message === "string") assert.equal(got, message);
  else assert.deepEqual(Buffer.from(got), Buffer.from(message));
}

const noise = (length) => Uint8Array.from({ length }, (_, n) => (n * n * 31 + (n >> 8)) % 251);

const cases = {
  async echo() {
    const socket = dial("/echo");
    await socket.opened;
    for (const message of ["", "hello", "ä€😀".repeat(1000), new Uint8Array(0), noise(77_000)]) {
      await same(socket, message);
    }
    socket.ws.close(1000, "done");
    assert.deepEqual(await socket.next(), { code: 1000, reason: "", wasClean: true });
  },

  async compression() {
    const socket = dial("/echo");
    await socket.opened;
    assert.match(socket.ws.extensions, /^(permessage-deflate.*)?$/);
    for (let n = 0; n < 3; n++) {
      await same(socket, "x".repeat(100_000));
      await same(socket, noise(50_000));
    }
    socket.ws.close();
  },

  async large() {
    const socket = dial("/echo");
    await socket.opened;
    await same(socket, noise(8 << 20));
    socket.ws.close();
  },

  async close_codes() {
    const asked = dial("/close");
    await asked.opened;
    asked.ws.send("as asked");
    assert.deepEqual(await asked.next(), { code: 4321, reason: "as asked", wasClean: true });
    const limited = dial("/limited");
    await limited.opened;
    await same(limited, "x".repeat(1000));
    limited.ws.send("x".repeat(1001));
    assert.equal((await limited.next()).code, 1009);
  },

  async subprotocol() {
    const socket = dial("/spoken", ["first", "second"]);
    await socket.opened;
    assert.equal(socket.ws.protocol, "second");
    socket.ws.close();
    await socket.next();
  },
};

await cases[name]();
console.log(`ok ${name}`);
