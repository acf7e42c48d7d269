// The Node server of `make bench`: HTTPS, and every file of a directory as a JSON reply from memory.
// `node serve.js HOST:PORT CERT KEY DIRECTORY`
'use strict';
const [, , address, cert, key, dir] = process.argv;
const fs = require('fs'), https = require('https');
const pages = new Map(fs.readdirSync(dir).map((name) => ['/pages/' + name, fs.readFileSync(dir + '/' + name)]));
const server = https.createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) }, (req, res) => {
  const page = pages.get(req.url);
  if (!page) {
    res.writeHead(404).end();
    return;
  }
  res.writeHead(200, { 'content-type': 'application/json', 'content-length': page.length });
  res.end(page);
});
server.keepAliveTimeout = 300000;
const [host, port] = address.split(':');
server.listen(Number(port), host, 1024);
