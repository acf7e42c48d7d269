package main

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const landing = `Spile collector.

/metrics   for Prometheus
/healthz   200 while this process runs
/readyz    200 while agents and queries are answered

Everything else is at the query socket: spile status, spile endpoints, spile findings.
`

// newHTTP serves metrics and health. Nothing behind it changes anything, and nothing of a call is behind it.
func newHTTP(names []string, metrics prometheus.Gatherer, ready func() error, log *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4, Timeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			text(w, http.StatusServiceUnavailable, err.Error()+"\n")
			return
		}
		text(w, http.StatusOK, "ready\n")
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, landing) })
	return &http.Server{
		Handler: hostChecked(names, mux), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

func text(w http.ResponseWriter, status int, body string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// The reader may have left; there is nobody to tell.
	_, _ = w.Write([]byte(body))
}

// hostChecked refuses requests for names that are not ours. A page of another site can make a browser ask 127.0.0.1
// under that site's name (DNS rebinding); it cannot make it send one of these.
func hostChecked(names []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !hostAllowed(r, names) {
			text(w, http.StatusMisdirectedRequest, "this name is not served here: ask localhost or allow the name with --http-name\n")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func hostAllowed(r *http.Request, names []string) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, host) }) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	// An address cannot be rebound, so the one that was connected to is fine: kubelet and Prometheus use it.
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	at, _ := netip.ParseAddrPort(addrString(local))
	return ip.IsLoopback() || ip.Unmap() == at.Addr().Unmap()
}

func addrString(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}

// serveHTTP runs until the server is shut down.
func serveHTTP(s *http.Server, l net.Listener) error {
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
