// An EventSource against examples/ticker.rs: node --experimental-eventsource events.mjs HOST PORT.

import assert from 'node:assert/strict';

const [host, port] = process.argv.slice(2);
const source = new EventSource(`http://${host}:${port}/ticks`);
// Node's EventSource keeps nobody awake while it waits to connect again.
setInterval(() => {}, 1000);
const ticks = [];
let connections = 0;
source.onopen = () => connections++;
source.addEventListener('gap', () => assert.fail('a gap'));
source.addEventListener('tick', (event) => {
  assert.equal(event.data, `tick ${event.lastEventId}`);
  ticks.push(Number(event.lastEventId));
  // The server cuts it off now and then, and goes on ticking.
  if (connections < 3 || ticks.length < 20) return;
  assert.deepEqual(ticks, ticks.map((_, n) => ticks[0] + n), 'a tick is missing, or came twice');
  console.log('ok');
  process.exit();
});
