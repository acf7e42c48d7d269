package query

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// door holds what stands between a request and its handler.
type door struct {
	token     []byte
	tokenFile string
	panicked  func(method string, value any, stack []byte)
}

func (d door) check(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) == 0 {
		return status.Errorf(codes.Unauthenticated, "no token: send the content of %[1]s as a bearer token (--token-file %[1]s)", d.tokenFile)
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	// Hashes have one length, so that the comparison does not tell the token's.
	want, got := sha256.Sum256(d.token), sha256.Sum256([]byte(strings.TrimSpace(token)))
	if len(values) > 1 || !strings.EqualFold(scheme, "bearer") || subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
		return status.Errorf(codes.Unauthenticated, "wrong token: the right one is in %[1]s (--token-file %[1]s)", d.tokenFile)
	}
	return nil
}

func (d door) tokenUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := d.check(ctx); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (d door) tokenStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := d.check(stream.Context()); err != nil {
		return err
	}
	return next(srv, stream)
}

func (d door) recoverUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (out any, err error) {
	defer d.caught(info.FullMethod, &err)
	return next(ctx, req)
}

func (d door) recoverStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer d.caught(info.FullMethod, &err)
	return next(srv, stream)
}

func (d door) caught(method string, err *error) {
	if value := recover(); value != nil {
		d.panicked(method, value, debug.Stack())
		*err = status.Error(codes.Internal, "the collector failed to answer; its log says why")
	}
}
