// Reads lines of hexadecimal requests, feeds each to Node's HTTP parser, and prints what that saw:
// `METHOD=body` for each request, bodies in hexadecimal; `!` behind them if it refused what followed.
import http from 'node:http';
import net from 'node:net';
import { createInterface } from 'node:readline';

let seen = [];
let refused = false;
const server = http.createServer((request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    seen.push(`${request.method}=${Buffer.concat(pieces).toString('hex')}`);
    response.end();
  });
});
server.on('clientError', (error, socket) => {
  refused = true;
  socket.destroy();
});
server.listen(0, '127.0.0.1', async () => {
  const { port } = server.address();
  for await (const line of createInterface({ input: process.stdin })) {
    seen = [];
    refused = false;
    await new Promise((done) => {
      const socket = net.connect(port, '127.0.0.1');
      socket.on('close', done).on('error', () => {}).resume();
      socket.end(Buffer.from(line, 'hex'));
    });
    console.log(seen.join(' ') + (refused ? '!' : ''));
  }
  server.close();
});
