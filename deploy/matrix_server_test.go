package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
)

// matrixServers is the table of servers.
func matrixServers(t *testing.T) []matrixServer {
	t.Helper()
	both := []string{"h1", "h2"}
	servers := []matrixServer{
		{participant: installed("nginx", "nginx", both), start: func(t *testing.T, m *matrix, _ string) *process { return startPages(t, m, m.port) }, early: true},
		{participant: heavy(installed("haproxy", "haproxy", both)), start: startHaproxy, proxy: true, early: true},
		{participant: heavy(installed("apache2", "apache2", []string{"h1"})), start: startApache},
		{participant: installed("gnutls-serv", "gnutls-serv", []string{"h1"}), start: startGnuTLS, single: true},
	}
	for _, p := range peers(t) {
		servers = append(servers, matrixServer{participant: p.participant, start: func(t *testing.T, m *matrix, mode string) *process {
			argv := append(p.argv(t, "serve", mode), m.address, m.dir+"/cert.pem", m.dir+"/key.pem")
			return start(t, argv[0], argv[1:]...)
		}})
	}
	return forThisRun(t, servers, func(s matrixServer) participant { return s.participant })
}

// installed is a program of a Debian package.
func installed(name, process string, modes []string) participant {
	p := participant{name: name, process: process, modes: modes}
	if _, err := exec.LookPath(name); err != nil {
		p.lacks = name + " is not installed: `make matrix` installs it"
	}
	return p
}

// heavy marks a program that only the whole matrix asks for.
func heavy(p participant) participant {
	p.heavy = true
	return p
}

// forThisRun drops what only the whole matrix has, and fails where the whole matrix lacks something.
func forThisRun[T any](t *testing.T, all []T, of func(T) participant) []T {
	t.Helper()
	return slices.DeleteFunc(all, func(v T) bool {
		p := of(v)
		if wholeMatrix() && p.lacks != "" {
			t.Fatalf("%s: %s", p.name, p.lacks)
		}
		return p.heavy && !wholeMatrix()
	})
}

const pagesConf = `
daemon off;
master_process on;
worker_processes 2;
worker_rlimit_nofile 8192;
pid %[1]s/nginx/pid;
error_log %[1]s/nginx/error.log warn;
user root;
events { worker_connections 4096; }
http {
	log_format truth '$remote_port $request_uri';
	access_log %[1]s/nginx/access.log truth;
	default_type application/json;
	keepalive_requests 1000000;
	keepalive_timeout 300s;
	client_body_temp_path %[1]s/nginx/body; proxy_temp_path %[1]s/nginx/p; fastcgi_temp_path %[1]s/nginx/f; uwsgi_temp_path %[1]s/nginx/u; scgi_temp_path %[1]s/nginx/s;
	server {
		listen 127.0.0.1:%[2]d ssl http2 backlog=1024;
		ssl_certificate %[1]s/cert.pem;
		ssl_certificate_key %[1]s/key.pem;
		location ~ "[04]$" { alias %[1]s/0.json; }
		location ~ "[15]$" { alias %[1]s/1.json; }
		location ~ "[26]$" { return 200 '{"a":"xxxxxxxx"}'; }
		location ~ "[37]$" { default_type text/plain; return 404 'none'; }
	}
}
`

// startPages starts an nginx that answers as all servers of the matrix do; its log tells each request's source port.
func startPages(t testing.TB, m *matrix, port int) *process {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(m.dir, "nginx"), 0o755))
	conf := filepath.Join(m.dir, "nginx", "nginx.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, pagesConf, m.dir, port), 0o644))
	return start(t, "nginx", "-p", m.dir, "-c", conf)
}

const haproxyConf = `
global
	maxconn 4000
defaults
	mode http
	timeout connect 5s
	timeout client 60s
	timeout server 60s
frontend tls
	bind %[2]s ssl crt %[1]s/both.pem alpn h2,http/1.1
	default_backend pages
backend pages
	server nginx 127.0.0.1:%[3]d ssl verify none
`

func startHaproxy(t *testing.T, m *matrix, _ string) *process {
	conf := filepath.Join(m.dir, "haproxy.conf")
	must(t, os.WriteFile(conf, fmt.Appendf(nil, haproxyConf, m.dir, m.address, m.port+behindProxy), 0o644))
	return start(t, "haproxy", "-db", "-f", conf)
}

// Apache's event worker: many connections per process, and responses that mod_ssl writes when its buffer says so.
const apacheConf = `
ServerRoot %[1]s
ServerName localhost
PidFile %[1]s/apache.pid
ErrorLog %[1]s/apache.log
Mutex file:%[1]s default
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so
LoadModule mime_module /usr/lib/apache2/modules/mod_mime.so
LoadModule socache_shmcb_module /usr/lib/apache2/modules/mod_socache_shmcb.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
User www-data
Group www-data
Listen %[2]s
StartServers 1
MaxKeepAliveRequests 0
TypesConfig /etc/mime.types
AddType application/json .json
DocumentRoot %[1]s/none
AliasMatch "[04]$" %[1]s/0.json
AliasMatch "[15]$" %[1]s/1.json
AliasMatch "[26]$" %[1]s/2.json
<Location />
	Require all granted
</Location>
SSLEngine on
SSLCertificateFile %[1]s/cert.pem
SSLCertificateKeyFile %[1]s/key.pem
`

func startApache(t *testing.T, m *matrix, _ string) *process {
	conf := filepath.Join(m.dir, "apache.conf")
	must(t, os.MkdirAll(filepath.Join(m.dir, "none"), 0o755))
	must(t, os.WriteFile(conf, fmt.Appendf(nil, apacheConf, m.dir, m.address), 0o644))
	return start(t, "apache2", "-d", m.dir, "-f", conf, "-DFOREGROUND")
}

func startGnuTLS(t *testing.T, m *matrix, _ string) *process {
	return start(t, "gnutls-serv", "--http", "--port", strconv.Itoa(m.port), "--x509certfile", m.dir+"/cert.pem", "--x509keyfile", m.dir+"/key.pem")
}
