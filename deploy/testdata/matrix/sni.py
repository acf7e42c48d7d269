"""A TLS server of Python that asks another server while it shakes hands. `sni.py HOST:PORT CERT KEY UPSTREAM_PORT`.

The same as sni.js, but with blocking sockets: the callback asks and reads the answer before it returns, so reads and
writes of one connection nest in the handshake of another.
"""
import http.client, http.server, socketserver, ssl, sys, threading

host, port = sys.argv[1].split(":")
SIZES = [40, 20000, 16, 4]
upstream, prefix, hellos = [], "", 0
lock = threading.Lock()


class Upstream:
    def __init__(self):
        ctx = ssl.create_default_context()
        ctx.check_hostname, ctx.verify_mode = False, ssl.CERT_NONE
        self.http = http.client.HTTPSConnection(host, int(sys.argv[4]), context=ctx, timeout=10)
        self.http.connect()
        self.asked = 0

    def ask(self):
        self.http.request("GET", f"/{prefix}/{self.http.sock.getsockname()[1]}/{self.asked}0")
        self.asked += 1
        answer = self.http.getresponse()
        if answer.status != 200 or len(answer.read()) != SIZES[0]:
            raise ValueError(f"upstream: status {answer.status}")


def hello(connection, name, context):
    global hellos
    with lock:
        if upstream:
            upstream[hellos % 3].ask()
            hellos += 1


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        self.request.do_handshake()
        super().setup()

    def do_GET(self):
        global prefix
        first, second = self.path.split("/")[1:3]
        if first == "open":
            prefix = second
            for _ in range(3):
                upstream.append(Upstream())
                upstream[-1].ask()
        n = int(self.path.rsplit("/", 1)[1]) % 4
        body = b"none" if n == 3 else b'{"a":"' + b"x" * (SIZES[n] - 8) + b'"}'
        self.send_response(404 if n == 3 else 200)
        self.send_header("Content-Type", "text/plain" if n == 3 else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 128


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
context.sni_callback = hello
with Server((host, int(port)), Handler) as server:
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()
