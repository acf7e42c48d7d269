// A TLS server or client of Node. `node peer.js serve h1|h2 HOST:PORT CERT KEY`, `node peer.js call h1|h2 HOST:PORT`.
// What a client reads, asks and answers is told in peer/main.go.
'use strict';
const fs = require('fs'), tls = require('tls'), https = require('https'), http2 = require('http2'), readline = require('readline');
const [, , verb, mode, address, cert, key] = process.argv;
const [host, port] = [address.split(':')[0], Number(address.split(':')[1])];
const sizes = [40, 20000, 16, 4];

function fail(err) {
  console.log('error', err);
  process.exit(1);
}

function answer(req, res) {
  req.on('data', () => {}).on('end', () => {
    const n = Number(req.url.slice(req.url.lastIndexOf('/') + 1)) % 4;
    if (n === 3) {
      res.writeHead(404, { 'content-type': 'text/plain', 'content-length': 4 });
      res.end('none');
      return;
    }
    res.writeHead(200, { 'content-type': 'application/json', 'content-length': sizes[n] });
    res.end('{"a":"' + 'x'.repeat(sizes[n] - 8) + '"}');
  });
}

function serve() {
  const options = { cert: fs.readFileSync(cert), key: fs.readFileSync(key) };
  const server = mode === 'h2' ? http2.createSecureServer(options, answer) : https.createServer(options, answer);
  server.keepAliveTimeout = 60000;
  server.listen(port, host, 1024);
}

function connect() {
  return new Promise((done) => {
    const options = { host, port, rejectUnauthorized: false, ALPNProtocols: [mode === 'h2' ? 'h2' : 'http/1.1'] };
    const socket = tls.connect(options, () => done(socket));
    socket.on('error', fail);
  });
}

// open gives a function that asks for a path over the one connection.
async function open() {
  const socket = await connect();
  const own = socket.localPort;
  if (mode === 'h2') {
    const session = http2.connect('https://' + address, { createConnection: () => socket });
    session.on('error', fail);
    const ask = (method, path, body) => new Promise((done) => {
      const headers = { ':method': method, ':path': path };
      if (body) headers['content-type'] = 'application/json';
      const stream = session.request(headers);
      let status, size = 0;
      stream.on('response', (h) => { status = h[':status']; }).on('data', (d) => { size += d.length; }).on('error', fail);
      stream.on('end', () => done([status, size])).end(body);
    });
    return { own, ask, close: () => session.close() };
  }
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
  agent.createConnection = () => socket;
  const ask = (method, path, body) => new Promise((done) => {
    const headers = body ? { 'content-type': 'application/json', 'content-length': body.length } : {};
    const req = https.request({ agent, host, port, method, path, headers }, (res) => {
      let size = 0;
      res.on('data', (d) => { size += d.length; }).on('end', () => done([res.statusCode, size]));
    });
    req.on('error', fail).end(body);
  });
  return { own, ask, close: () => agent.destroy() };
}

// each calls f for 0 to n-1, width at a time.
async function each(n, width, f) {
  let next = 0;
  const lane = async () => { while (next < n) await f(next++); };
  await Promise.all(Array.from({ length: Math.min(n, width) }, lane));
}

async function round(prefix, conns, requests, pause) {
  const clients = [];
  await each(conns, 32, async (i) => { clients[i] = await open(); });
  await each(conns, conns, (i) => each(requests, mode === 'h2' ? 4 : 1, async (n) => {
    const c = clients[i], path = `/${prefix}/${c.own}/${n}`;
    const [status, size] = await (n % 4 === 2 ? c.ask('POST', path, '{"b":"' + 'y'.repeat(2992) + '"}') : c.ask('GET', path));
    if (status !== (n % 4 === 3 ? 404 : 200) || (n % 4 < 2 && size !== sizes[n % 4])) fail(`${path}: status ${status}, ${size} bytes`);
    if (pause) await new Promise((done) => setTimeout(done, pause));
  }));
  console.log('ports ' + clients.map((c) => c.own).join(' '));
  clients.forEach((c) => c.close());
  console.log('done');
}

async function call() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [prefix, conns, requests, pause] = line.trim().split(' ');
    await round(prefix, Number(conns), Number(requests), Number(pause));
  }
}

(verb === 'serve' ? serve : call)();
