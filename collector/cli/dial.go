package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// DefaultSocket is where a collector that runs as root can be found.
	DefaultSocket = "/run/spile/query.sock"
	// DefaultData is where a collector keeps what it has when it is not told otherwise.
	DefaultData   = "/var/lib/spile"
	socketName    = "query.sock"
	tokenName     = "token"
	callTimeout   = 15 * time.Second
	maxReplyBytes = 64 << 20
	maxTokenBytes = 4096
	// serverName is in a collector's certificate whatever address it has.
	serverName = "collector.spile"
)

// where tells which collector to ask.
type where struct {
	data, server, tokenFile, ca string
}

func (a *where) flags(f *pflag.FlagSet, w World) {
	f.StringVar(&a.data, "data", w.Getenv("SPILE_DATA"), "data directory of the collector to ask")
	f.StringVar(&a.server, "server", w.Getenv("SPILE_SERVER"), "address of the collector to ask: HOST:PORT or unix:PATH")
	f.StringVar(&a.tokenFile, "token-file", w.Getenv("SPILE_TOKEN_FILE"), "file with the token for HOST:PORT (default: token in --data)")
	f.StringVar(&a.ca, "ca", "", "certificate authority of a collector on another host (ca.crt of agents enroll)")
}

// client is a connection to one collector.
type client struct {
	*grpc.ClientConn
	name   string
	socket string
	token  string
}

func (a *where) dial() (*client, error) {
	c := &client{}
	target, creds := "", insecure.NewCredentials()
	switch {
	case strings.HasPrefix(a.server, "unix:"):
		c.socket = strings.TrimPrefix(strings.TrimPrefix(a.server, "unix:"), "//")
	case strings.HasPrefix(a.server, "/"):
		c.socket = a.server
	case a.server != "":
		host, _, err := net.SplitHostPort(a.server)
		if err != nil {
			return nil, Usage("--server %q: not HOST:PORT or unix:PATH", a.server)
		}
		if creds, err = a.credentials(host); err != nil {
			return nil, err
		}
		if err := a.readToken(c); err != nil {
			return nil, err
		}
		c.name, target = a.server, "passthrough:///"+a.server
	case a.data != "":
		c.socket = filepath.Join(a.data, socketName)
	default:
		c.socket = DefaultSocket
	}
	if c.socket != "" {
		path, err := filepath.Abs(c.socket)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", c.socket, err)
		}
		c.socket, c.name, target = path, path, "unix://"+path
	}
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(creds),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReplyBytes)))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", c.name, err)
	}
	c.ClientConn = conn
	return c, nil
}

// credentials choose between clear text, which stays on this host, and TLS. A token never crosses a network in clear text.
func (a *where) credentials(host string) (credentials.TransportCredentials, error) {
	if a.ca != "" {
		pem, err := os.ReadFile(a.ca)
		if err != nil {
			return nil, fmt.Errorf("read the authority: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the authority: %s holds no certificate", a.ca)
		}
		return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: serverName}), nil
	}
	if addr, err := netip.ParseAddr(host); host == "localhost" || err == nil && addr.IsLoopback() {
		return insecure.NewCredentials(), nil
	}
	return nil, Usage("--server %s is another host: name its authority with --ca (ca.crt that agents enroll wrote), or forward the port and ask 127.0.0.1", a.server)
}

// readToken takes the token that was named. None is sent unasked: whoever listens on that port would get it.
func (a *where) readToken(c *client) error {
	path := a.tokenFile
	if path == "" && a.data != "" {
		path = filepath.Join(a.data, tokenName)
	}
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the token: %w; name another with --token-file or --data", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxTokenBytes))
	if err != nil {
		return fmt.Errorf("read the token: %w", err)
	}
	if c.token = strings.TrimSpace(string(raw)); c.token == "" || strings.ContainsAny(c.token, "\r\n\x00") {
		return fmt.Errorf("read the token: %s does not hold one", path)
	}
	return nil
}

// place names the collector and, where the socket is the well-known link, what it leads to.
func (c *client) place() string {
	if real, err := filepath.EvalSymlinks(c.socket); c.socket != "" && err == nil && real != c.socket {
		return c.name + " (" + real + ")"
	}
	return c.name
}

// call bounds one unary call and carries the token.
func (c *client) call(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.stream(ctx), callTimeout)
}

func (c *client) stream(ctx context.Context) context.Context {
	if c.token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token)
}

// explain turns a gRPC error into one line with a remedy and the exit code.
func (c *client) explain(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	if ctx.Err() != nil {
		return ErrStopped
	}
	// What pages asked for is explained already.
	if explained := new(Failure); errors.As(err, &explained) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return &Failure{Code: ExitFailed, Err: err}
	}
	switch st.Code() {
	case codes.Unavailable:
		if loading(err) {
			return &Failure{Code: ExitUnreachable, Err: fmt.Errorf("the collector at %s: %s; ask again, or see its log", c.name, st.Message())}
		}
		return &Failure{Code: ExitUnreachable, Err: fmt.Errorf("cannot reach the collector at %s: %s", c.name, c.remedy(st.Message()))}
	case codes.DeadlineExceeded:
		return &Failure{Code: ExitUnreachable, Err: fmt.Errorf("the collector at %s did not answer within %s: see its log", c.name, callTimeout)}
	case codes.Unauthenticated:
		return &Failure{Code: ExitFailed, Err: fmt.Errorf("the collector at %s refused: %s", c.name, st.Message())}
	case codes.InvalidArgument:
		return &Failure{Code: ExitUsage, Err: errors.New(st.Message())}
	case codes.Unimplemented:
		return &Failure{Code: ExitFailed, Err: fmt.Errorf("the collector at %s does not know this question: its version differs from ours", c.name)}
	default:
		return &Failure{Code: ExitFailed, Err: fmt.Errorf("the collector at %s: %s", c.name, st.Message())}
	}
}

func (c *client) remedy(message string) string {
	const start = "start it with `spile up`, or name another with --data DIR or --server HOST:PORT"
	if strings.Contains(message, "is stopping") {
		return "it is stopping"
	}
	if c.socket == "" {
		return start
	}
	conn, err := net.DialTimeout("unix", c.socket, time.Second)
	switch {
	case err == nil:
		conn.Close()
		return "it closed the connection; try again"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied: run this as the collector's user (sudo), or use --server 127.0.0.1:7740 with --token-file"
	case errors.Is(err, syscall.ENOENT):
		return "no socket there: " + start
	default:
		return "nobody answers: " + start
	}
}
