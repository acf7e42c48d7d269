package query

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	v1 "github.com/spile/spile/proto/spile/v1"
)

func TestTokenOpensTheRemoteDoorOnly(t *testing.T) {
	_, local, remote := serve(t, &world{}, nil)
	ctx := bounded(t)
	if _, err := v1.NewAgentsClient(local).GetStatus(ctx, &v1.GetStatusRequest{}); err != nil {
		t.Errorf("socket: %v", err)
	}
	for name, c := range map[string]struct {
		tok  string
		want codes.Code
	}{"none": {"", codes.Unauthenticated}, "wrong": {"0123456789abcdee", codes.Unauthenticated}, "prefix": {token[:8], codes.Unauthenticated},
		"right": {token, codes.OK}} {
		ask := ctx
		if c.tok != "" {
			ask = withToken(ctx, c.tok)
		}
		_, err := v1.NewAgentsClient(remote).GetStatus(ask, &v1.GetStatusRequest{})
		if status.Code(err) != c.want {
			t.Errorf("%s token: %v, want %v", name, err, c.want)
		}
		if c.want != codes.OK && !strings.Contains(err.Error(), "/data/token") {
			t.Errorf("%s token: the error does not say where the token is: %v", name, err)
		}
		stream, err := v1.NewEventsClient(remote).GetEvents(ask, &v1.GetEventsRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if got := status.Code(err); c.want != codes.OK && got != c.want {
			t.Errorf("%s token, stream: %v, want %v", name, err, c.want)
		}
	}
	twice := withToken(withToken(ctx, token), "x")
	if _, err := v1.NewAgentsClient(remote).GetStatus(twice, &v1.GetStatusRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("two tokens: %v", err)
	}
}

func TestPanicAnswersInternalAndTheServerLives(t *testing.T) {
	w := &world{boom: true}
	heard := make(chan string, 1)
	_, local, _ := serve(t, w, func(c *Config) {
		c.Panicked = func(method string, value any, stack []byte) { heard <- method }
	})
	ctx := bounded(t)
	_, err := v1.NewAgentsClient(local).ListAgents(ctx, &v1.ListAgentsRequest{})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "boom") {
		t.Errorf("panic: %v", err)
	}
	if m := <-heard; m != v1.Agents_ListAgents_FullMethodName {
		t.Errorf("heard of %q", m)
	}
	if _, err := v1.NewAgentsClient(local).GetStatus(ctx, &v1.GetStatusRequest{}); err != nil {
		t.Errorf("after the panic: %v", err)
	}
}

func TestHealthAndReflection(t *testing.T) {
	_, local, remote := serve(t, &world{}, nil)
	ctx := bounded(t)
	res, err := healthv1.NewHealthClient(local).Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil || res.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v %v", res, err)
	}
	stream, err := reflectionv1.NewServerReflectionClient(local).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	list, err := stream.Recv()
	if err != nil || !strings.Contains(list.String(), "spile.v1.Inventory") {
		t.Errorf("reflection: %v %v", list, err)
	}
	if _, err := healthv1.NewHealthClient(remote).Check(ctx, &healthv1.HealthCheckRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("health without the token: %v", err)
	}
}

func TestARequestIsBounded(t *testing.T) {
	_, local, _ := serve(t, &world{}, nil)
	_, err := v1.NewInventoryClient(local).ListEndpoints(bounded(t), &v1.ListEndpointsRequest{Service: strings.Repeat("x", maxRequestBytes+1)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("oversized request: %v", err)
	}
}
