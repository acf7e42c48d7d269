// A TLS server of Node that asks another server while it shakes hands. `node sni.js HOST:PORT CERT KEY UPSTREAM_PORT`.
// After GET /open/... it holds three connections to the upstream. From then on its SNICallback writes a request on one of
// them, in turn, before it returns: Node runs that callback inside OpenSSL's read of the handshake. Every second time the
// certificate is chosen only when the upstream has answered. Requests to the upstream are /PREFIX/PORT/N, as in peer/main.go.
'use strict';
const fs = require('fs'), tls = require('tls'), https = require('https');
const [, , address, cert, key, upstreamPort] = process.argv;
const [host, port] = address.split(':');
const sizes = [40, 20000, 16, 4];
const options = { cert: fs.readFileSync(cert), key: fs.readFileSync(key) };
const context = tls.createSecureContext(options);
const upstream = [];
let prefix, hellos = 0;

function connect() {
  return new Promise((done) => {
    const socket = tls.connect({ host, port: Number(upstreamPort), rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] }, () => {
      const waiting = [];
      let left = 0, asked = 0;
      socket.on('data', (data) => {
        while (data.length) {
          if (left === 0) {
            const end = data.indexOf('\r\n\r\n');
            left = Number(/content-length: (\d+)/i.exec(data.subarray(0, end).toString('latin1'))[1]);
            data = data.subarray(end + 4);
          }
          const take = Math.min(left, data.length);
          left -= take;
          data = data.subarray(take);
          if (left === 0) waiting.shift()();
        }
      });
      const ask = (answered) => {
        waiting.push(answered);
        socket.write(`GET /${prefix}/${socket.localPort}/${asked++}0 HTTP/1.1\r\nHost: ${host}:${upstreamPort}\r\n\r\n`);
      };
      done({ ask });
    });
    socket.on('error', (err) => { throw err; });
  });
}

async function open() {
  while (upstream.length < 3) upstream.push(await connect());
  await Promise.all(upstream.map((u) => new Promise((answered) => u.ask(answered))));
}

function SNICallback(_, chosen) {
  const n = hellos++;
  if (upstream.length < 3) return chosen(null, context);
  upstream[n % 3].ask(() => { if (n % 2) chosen(null, context); });
  if (n % 2 === 0) chosen(null, context);
}

https.createServer({ ...options, SNICallback }, async (req, res) => {
  const [, first, second] = req.url.split('/');
  if (first === 'open') {
    prefix = second;
    await open();
  }
  const n = Number(req.url.slice(req.url.lastIndexOf('/') + 1)) % 4;
  req.on('data', () => {}).on('end', () => {
    res.writeHead(n === 3 ? 404 : 200, { 'content-type': n === 3 ? 'text/plain' : 'application/json', 'content-length': sizes[n] });
    res.end(n === 3 ? 'none' : '{"a":"' + 'x'.repeat(sizes[n] - 8) + '"}');
  });
}).listen(Number(port), host);
