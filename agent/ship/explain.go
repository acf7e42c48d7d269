package ship

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const diagnoseTimeout = 2 * time.Second

// sendError is one line for a person; err keeps the status.
type sendError struct {
	text string
	err  error
}

func (e *sendError) Error() string { return e.text }

func (e *sendError) Unwrap() error { return e.err }

// ports matches the addresses of one connection, which differ at each try and would make old trouble look new.
var ports = regexp.MustCompile(`(read|write) tcp \S+->\S+: `)

// explain turns what gRPC says into one line with a remedy.
func (s *Shipper) explain(ctx context.Context, err error) error {
	text := err.Error()
	code := status.Code(err)
	if st, ok := status.FromError(err); ok {
		text = st.Message()
	}
	if code == codes.Unavailable && ports.MatchString(text) {
		if alert := s.diagnose(ctx); alert != nil {
			text = alert.Error()
		}
	}
	remedy := "is the collector running?"
	switch {
	case code == codes.PermissionDenied, code == codes.Unauthenticated, strings.Contains(text, "tls: "), strings.Contains(text, "x509: "):
		remedy = "enrol this node with this collector again"
	case code == codes.InvalidArgument && strings.Contains(text, "node"):
		remedy = "set --node or use this node's own certificate"
	case code == codes.InvalidArgument, code == codes.Unimplemented:
		remedy = "do agent and collector have the same version?"
	}
	text = strings.ReplaceAll(ports.ReplaceAllString(text, "$1: "), "\n", " ")
	return &sendError{text: fmt.Sprintf("send to collector %s: %s (calls are kept in the spool; %s)", s.cfg.Address, text, remedy), err: err}
}

// diagnose finds out why a server hung up. In TLS 1.3 it judges the client's certificate after the
// client has finished (RFC 8446 section 2), and a client that is writing by then sees its write fail
// instead of the alert. One that only reads sees the alert.
func (s *Shipper) diagnose(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, diagnoseTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{NetDialer: &net.Dialer{}, Config: s.cfg.TLS}).DialContext(ctx, "tcp", s.cfg.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetReadDeadline(deadline)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil && strings.Contains(err.Error(), "tls: ") {
		return err
	}
	return nil
}
