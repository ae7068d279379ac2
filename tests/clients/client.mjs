// Node's http and fetch against the site. One case per call: client.mjs CASE HOST PORT.

import assert from 'node:assert/strict';
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

const [name, host, port] = process.argv.slice(2);
const url = (path) => `http://${host}:${port}${path}`;
const MEGABYTE = 1 << 20;

const pattern = (size) => Buffer.alloc(size, Buffer.from([...Array(251).keys()]));

/** The pattern in pieces of odd sizes. */
function* pieces(size) {
  const all = pattern(size);
  for (let at = 0, step = 1; at < size; at += step, step = (step * 3) % 70_001 + 1) {
    yield all.subarray(at, at + step);
  }
}

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Begins a request; `answer` is there when its head is. */
function open(method, path, options = {}) {
  const req = http.request({ host, port, method, path, ...options });
  const answer = new Promise((resolve, reject) => req.on('response', resolve).on('error', reject));
  // Whoever waits for it is told; whoever does not need not be.
  answer.catch(() => {});
  return { req, answer };
}

async function ask(method, path, body, options) {
  const { req, answer } = open(method, path, options);
  req.end(body);
  const res = await answer;
  return { res, body: await collect(res), req };
}

const cases = {
  async keep_alive() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const ports = new Set();
    for (let n = 0; n < 10; n++) {
      const { body, req } = await ask('GET', '/remote', undefined, { agent });
      assert.equal(req.reusedSocket, n > 0);
      ports.add(body.toString());
      const posted = await ask('POST', '/mirror', `body ${n}`, { agent });
      assert.equal(posted.body.toString(), `body ${n}`);
    }
    assert.equal(ports.size, 1);
    agent.destroy();
  },

  async methods() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const head = await ask('HEAD', '/', undefined, { agent });
    assert.deepEqual([head.res.statusCode, head.res.headers['content-length'], head.body.length], [200, '4', 0]);
    const get = await ask('GET', '/', undefined, { agent });
    assert.deepEqual([get.body.toString(), get.req.reusedSocket], ['home', true]);
    const options = await ask('OPTIONS', '/', undefined, { agent });
    assert.deepEqual([options.res.statusCode, options.res.headers.allow], [204, 'GET, HEAD, OPTIONS']);
    const refused = await ask('DELETE', '/', undefined, { agent });
    assert.deepEqual([refused.res.statusCode, refused.res.headers.allow], [405, 'GET, HEAD, OPTIONS']);
    assert.equal((await ask('GET', '/nowhere', undefined, { agent })).res.statusCode, 404);
    agent.destroy();
  },

  async trailers_in() {
    const { req, answer } = open('POST', '/trailers', { headers: { Trailer: 'X-Sum' } });
    req.write('some');
    req.write('thing');
    req.addTrailers({ 'X-Sum': '1234' });
    req.end();
    assert.equal((await collect(await answer)).toString(), '1234');
  },

  async trailers_out() {
    const { res, body } = await ask('GET', '/trailers');
    assert.equal(body.toString(), 'summed');
    assert.equal(res.headers.trailer, 'x-sum');
    assert.deepEqual({ ...res.trailers }, { 'x-sum': '42' });
  },

  async streams_up() {
    const { req, answer } = open('POST', '/check');
    await pipeline(Readable.from(pieces(16 * MEGABYTE)), req);
    assert.equal((await collect(await answer)).toString(), `${16 * MEGABYTE} bytes, right`);
  },

  async streams_both_ways() {
    const { req, answer } = open('POST', '/echo');
    const [, echoed] = await Promise.all([
      pipeline(Readable.from(pieces(16 * MEGABYTE)), req),
      answer.then(collect),
    ]);
    assert.ok(echoed.equals(pattern(16 * MEGABYTE)));
  },

  async pausing_reader() {
    const { req, answer } = open('GET', '/megabytes/24');
    req.end();
    const res = await answer;
    const chunks = [];
    let since = 0;
    for await (const chunk of res) {
      chunks.push(chunk);
      since += chunk.length;
      if (since > 6 * MEGABYTE) {
        since = 0;
        await sleep(150);
      }
    }
    assert.ok(Buffer.concat(chunks).equals(pattern(24 * MEGABYTE)));
  },

  async leave_to_continue() {
    const { req, answer } = open('POST', '/check', { headers: { Expect: '100-continue' } });
    req.flushHeaders();
    await new Promise((resolve, reject) => req.on('continue', resolve).on('error', reject));
    await pipeline(Readable.from(pieces(MEGABYTE)), req);
    assert.equal((await collect(await answer)).toString(), `${MEGABYTE} bytes, right`);
  },

  async refused_before_it_is_sent() {
    for (const [path, status] of [['/small', 413], ['/refuse', 403]]) {
      const headers = { Expect: '100-continue', 'Content-Length': MEGABYTE };
      const { req, answer } = open('POST', path, { headers });
      req.on('continue', () => assert.fail('it was given leave'));
      req.flushHeaders();
      const res = await answer;
      assert.deepEqual([res.statusCode, res.headers.connection], [status, 'close']);
      req.destroy();
    }
  },

  // The upload has no end: only an answer that overtakes it ends this.
  async early_answer() {
    const { req, answer } = open('POST', '/refuse');
    let answered = false;
    req.on('error', () => {});
    const sending = (async () => {
      const piece = Buffer.alloc(64 * 1024);
      while (!answered) {
        if (!req.write(piece)) await Promise.race([new Promise((r) => req.once('drain', r)), sleep(50)]);
      }
    })();
    const res = await answer;
    answered = true;
    assert.deepEqual([res.statusCode, (await collect(res)).toString()], [403, 'not you']);
    await sending;
    req.destroy();
  },

  async parallel() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
    const one = async (n) => {
      const { body } = await ask('GET', n % 10 ? `/users/${n}` : '/slow', undefined, { agent });
      assert.equal(body.toString(), n % 10 ? `${n}` : 'worth the wait');
    };
    await Promise.all([...Array(200).keys()].map(one));
    agent.destroy();
  },

  async fetch_client() {
    const headers = { 'content-type': 'application/json' };
    const json = await fetch(url('/json'), { method: 'POST', headers, body: JSON.stringify({ x: 5, y: 6 }) });
    assert.deepEqual(await json.json(), { x: 6, y: 5 });
    const form = await fetch(url('/form'), { method: 'POST', body: new URLSearchParams({ a: '1 & 2', b: 'é' }) });
    assert.equal(await form.text(), 'a=1 & 2\nb=é\n');
    const moved = await fetch(url('/old'));
    assert.deepEqual([moved.redirected, await moved.text()], [true, 'from=old']);
    const cookies = (await fetch(url('/cookies'))).headers.getSetCookie();
    assert.deepEqual(cookies.map((line) => line.split('=')[0]), ['theme', 'visits']);
    const seen = await fetch(url('/cookies'), { headers: { cookie: cookies.map((c) => c.split(';')[0]).join('; ') } });
    assert.equal(await seen.text(), 'theme=dark & blue; =\nvisits=1\n');
    const stream = ReadableStream.from(pieces(4 * MEGABYTE));
    const sent = await fetch(url('/check'), { method: 'POST', body: stream, duplex: 'half' });
    assert.equal(await sent.text(), `${4 * MEGABYTE} bytes, right`);
    const down = await fetch(url('/megabytes/8'));
    assert.ok(Buffer.from(await down.arrayBuffer()).equals(pattern(8 * MEGABYTE)));
  },

  async unix_socket() {
    const unix = { socketPath: host, host: 'localhost' };
    const { body } = await ask('GET', '/remote', undefined, unix);
    assert.equal(body.toString(), 'unix');
    const { req, answer } = open('POST', '/echo', unix);
    const [, echoed] = await Promise.all([
      pipeline(Readable.from(pieces(8 * MEGABYTE)), req),
      answer.then(collect),
    ]);
    assert.ok(echoed.equals(pattern(8 * MEGABYTE)));
  },
};

// A case that waits for ever fails: it must not hang, and must not just end.
setTimeout(() => {
  console.error('too slow');
  process.exit(1);
}, 20_000).unref();
await cases[name]();
console.log('ok', name);
process.exit(0);
