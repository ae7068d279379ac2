// Node's http server, as people use it: server.mjs PORT
import { createServer } from "node:http";
const large = Buffer.alloc(1 << 20, "0123456789abcdef");
createServer((request, response) => {
  if (request.url === "/") return response.end("hello");
  if (request.url === "/large") return response.end(large);
  if (request.url === "/chunks") {
    response.write("a");
    setTimeout(() => response.end("b"), 20);
    return;
  }
  if (request.url === "/echo") return request.pipe(response);
  response.writeHead(404).end("nowhere");
}).listen(Number(process.argv[2]), "127.0.0.1");
