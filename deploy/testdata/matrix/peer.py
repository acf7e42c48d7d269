"""A TLS server or client of Python's ssl module. `peer.py serve threads|asyncio HOST:PORT CERT KEY`, `peer.py call threads|asyncio HOST:PORT`.

threads: blocking sockets. asyncio: TLS over memory BIOs. What a client reads, asks and answers is told in peer/main.go.
"""
import asyncio, http.client, http.server, resource, socket, socketserver, ssl, sys, threading, time

verb, mode, address = sys.argv[1:4]
host, port = address.split(":")[0], int(address.split(":")[1])
SIZES = [40, 20000, 16, 4]
POST = b'{"b":"' + b"y" * 2992 + b'"}'


def answer(path):
    n = int(path.rsplit("/", 1)[1]) % 4
    if n == 3:
        return 404, "text/plain", b"none"
    return 200, "application/json", b'{"a":"' + b"x" * (SIZES[n] - 8) + b'"}'


def check(path, n, status, size):
    if status != (404 if n % 4 == 3 else 200) or n % 4 < 2 and size != SIZES[n % 4]:
        raise ValueError(f"{path}: status {status}, {size} bytes")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        self.request.do_handshake()
        super().setup()

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        status, kind, body = answer(self.path)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *args):
        pass


class Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 1024


def server_context():
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ctx.load_cert_chain(sys.argv[4], sys.argv[5])
    return ctx


def serve_threads():
    with Threads((host, port), Handler) as server:
        server.socket = server_context().wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.serve_forever()


async def read_message(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    return head[0].split(" "), headers, await reader.readexactly(int(headers.get("content-length", 0)))


async def serve_one(reader, writer):
    try:
        last = False
        while not last:
            (_, path, _), headers, _ = await read_message(reader)
            last = headers.get("connection") == "close"
            status, kind, body = answer(path)
            writer.write(f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        pass
    writer.close()


async def serve_asyncio():
    server = await asyncio.start_server(serve_one, host, port, ssl=server_context(), backlog=1024)
    await server.serve_forever()


def client_context():
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
    return ctx


def in_threads(jobs):
    failed = []

    def run(job):
        try:
            job()
        except Exception as err:
            failed.append(err)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failed:
        raise failed[0]


def round_threads(prefix, conns, requests, pause):
    clients = [http.client.HTTPSConnection(host, port, context=client_context()) for _ in range(conns)]
    in_threads([c.connect for c in clients])
    ports = [c.sock.getsockname()[1] for c in clients]

    def talk(c, own):
        for n in range(requests):
            path = f"/{prefix}/{own}/{n}"
            if n % 4 == 2:
                c.request("POST", path, POST, {"Content-Type": "application/json"})
            else:
                c.request("GET", path)
            res = c.getresponse()
            check(path, n, res.status, len(res.read()))
            time.sleep(pause)

    in_threads([lambda c=c, own=own: talk(c, own) for c, own in zip(clients, ports)])
    for c in clients:
        c.close()
    return ports


async def round_asyncio(prefix, conns, requests, pause):
    ctx, gate, clients = client_context(), asyncio.Semaphore(32), []

    async def connect():
        async with gate:
            clients.append(await asyncio.open_connection(host, port, ssl=ctx))

    await asyncio.gather(*(connect() for _ in range(conns)))
    ports = [w.get_extra_info("sockname")[1] for _, w in clients]

    async def talk(reader, writer, own):
        for n in range(requests):
            path, method, body, more = f"/{prefix}/{own}/{n}", "GET", b"", ""
            if n % 4 == 2:
                method, body, more = "POST", POST, f"Content-Type: application/json\r\nContent-Length: {len(POST)}\r\n"
            writer.write(f"{method} {path} HTTP/1.1\r\nHost: {address}\r\n{more}\r\n".encode() + body)
            first, _, got = await read_message(reader)
            check(path, n, int(first[1]), len(got))
            await asyncio.sleep(pause)

    await asyncio.gather(*(talk(r, w, own) for (r, w), own in zip(clients, ports)))
    for _, w in clients:
        w.close()
    return ports


async def call_asyncio():
    for line in iter(sys.stdin.readline, ""):
        prefix, conns, requests, pause = line.split()
        report(await round_asyncio(prefix, int(conns), int(requests), int(pause) / 1000))


def call_threads():
    for line in iter(sys.stdin.readline, ""):
        prefix, conns, requests, pause = line.split()
        report(round_threads(prefix, int(conns), int(requests), int(pause) / 1000))


def report(ports):
    print("ports", *ports)
    print("done", flush=True)


resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
threading.stack_size(256 << 10)
try:
    if mode == "asyncio":
        asyncio.run(serve_asyncio() if verb == "serve" else call_asyncio())
    elif verb == "serve":
        serve_threads()
    else:
        call_threads()
except Exception as err:
    print("error", repr(err), flush=True)
    sys.exit(1)
