package deploy

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// echoServer answers with a JSON body that holds what the request held, so secrets travel both ways.
const echoServer = `
import http.server, json, ssl, sys, urllib.parse
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        out = json.dumps({"token": self.headers.get("x-api-key"), "echo": json.loads(body), self.headers.get("x-name", "k"): 1}).encode()
        self.send_response(200); self.send_header("content-type", "application/json"); self.send_header("set-cookie", "sid=" + self.headers.get("x-api-key", ""))
        self.send_header("content-length", str(len(out))); self.end_headers(); self.wfile.write(out)
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), H)
if len(sys.argv) > 3:
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); ctx.load_cert_chain(sys.argv[1] + "/cert.pem", sys.argv[1] + "/key.pem"); s.socket = ctx.wrap_socket(s.socket, server_side=True)
s.serve_forever()
`

// TestSmokeCanary sends random secrets in every place a request has, through the real capture, and searches for them,
// plain and encoded, in everything that the agent and the collector wrote, sent or printed.
func TestSmokeCanary(t *testing.T) {
	needsRoot(t)
	dir := t.TempDir()
	writeCertificate(t, dir)
	p := startPair(t)
	start(t, "python3", "-c", echoServer, dir, "9445", "tls")
	start(t, "python3", "-c", echoServer, dir, "9446")
	startNginx(t)
	recording := filepath.Join(dir, "recording")
	recorder := start(t, p.bin.agent, "record", recording, "--target", "netns=self", "--data", filepath.Join(dir, "recorder"))
	eventually(t, 10*time.Second, "the servers listen", func() bool { return dials("127.0.0.1:9445") && dials("127.0.0.1:9446") })
	time.Sleep(2 * time.Second)
	var canaries [][]byte
	for i := range 40 {
		where := [][2]string{{"https://127.0.0.1:9445", "--http1.1"}, {"http://127.0.0.1:9446", "--http1.1"},
			{"https://127.0.0.1:8443", "--http2"}}[i/4%3]
		base, version := where[0], where[1]
		secret := func() string {
			raw := make([]byte, 18)
			rand.Read(raw)
			s := hex.EncodeToString(raw)
			if i%4 > 1 {
				s = base64.RawURLEncoding.EncodeToString(raw)
			}
			canaries = append(canaries, []byte(s))
			return s
		}
		body := fmt.Sprintf(`{"password": %q, %q: "x", "nested": {"deep": [%q]}, "card": 4111111111111111}`, secret(), secret(), secret())
		output(t, "curl", "-sk", version, "-o", "/dev/null", "-X", "POST", "-H", "content-type: application/json", "-d", body,
			"-H", "authorization: Bearer "+secret(), "-H", "x-api-key: "+secret(), "-H", "x-name: "+secret(), "-H", "cookie: session="+secret()+"; "+secret()+"=1",
			"-H", "x-"+strings.ToLower(hex.EncodeToString([]byte(secret())))+": 1", "-H", "user-agent: "+secret(), "-H", "referer: https://a.example/?t="+secret(),
			base+"/reset/"+secret()+"/x?token="+secret()+"&"+secret()+"=1&q="+url.QueryEscape(secret()+"/+ "))
	}
	eventually(t, 20*time.Second, "40 calls", func() bool { return len(p.calls()) >= 40 })
	if code := recorder.stop(t, 10*time.Second); code != 0 {
		t.Errorf("record ended with %d:\n%s", code, recorder.log)
	}
	places := map[string][]byte{"agent log": []byte(p.agentProc.log.String()), "collector log": []byte(p.log.String()), "recorder log": []byte(recorder.log.String())}
	for _, verb := range [][]string{{"calls", "--since", "1h"}, {"services"}, {"endpoints"}, {"findings"}, {"agents"}, {"status"}} {
		places["spile "+verb[0]] = p.verb(verb...)
	}
	metrics := output(t, "curl", "-s", "http://127.0.0.1:7742/metrics")
	places["metrics"] = metrics
	replayed, err := exec.Command(p.bin.agent, "replay", recording, "-o", "json").Output()
	must(t, err)
	places["replay of the recording"] = replayed
	if !bytes.Contains(replayed, []byte(`"status_code":200`)) {
		t.Errorf("the masked recording replays to no call")
	}
	p.agentProc.stop(t, 15*time.Second)
	p.stop(t, 15*time.Second)
	for _, root := range []string{p.data, p.dir, recording} {
		must(t, filepath.WalkDir(root, func(f string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				places[f], err = os.ReadFile(f)
			}
			return err
		}))
	}
	search(t, places, canaries)
}

// search looks for each canary plain, in hexadecimal and in base64 at every alignment, also inside zstd frames.
func search(t *testing.T, places map[string][]byte, canaries [][]byte) {
	t.Helper()
	var total int
	decoder, err := zstd.NewReader(nil)
	must(t, err)
	defer decoder.Close()
	for place, data := range places {
		texts := [][]byte{bytes.ToLower(data), data}
		for at := 0; ; {
			i := bytes.Index(data[at:], []byte{0x28, 0xb5, 0x2f, 0xfd})
			if i < 0 {
				break
			}
			if plain := unzstd(data[at+i:]); plain != nil {
				texts = append(texts, plain, bytes.ToLower(plain))
			}
			at += i + 4
		}
		for _, text := range texts {
			total += len(text)
			for _, c := range canaries {
				for how, needle := range disguises(c) {
					if bytes.Contains(text, needle) {
						t.Errorf("%s holds a canary (%s): %s", place, how, c)
					}
				}
			}
		}
	}
	if total < 100_000 {
		t.Errorf("only %d bytes were searched: the search is not looking where it should", total)
	}
}

func disguises(c []byte) map[string][]byte {
	all := map[string][]byte{"plain": c, "lower case": bytes.ToLower(c), "hex": []byte(hex.EncodeToString(c))}
	var percent strings.Builder
	for _, b := range c {
		fmt.Fprintf(&percent, "%%%02x", b)
	}
	all["percent"] = []byte(percent.String())
	for shift := range 3 {
		padded := append(bytes.Repeat([]byte{'x'}, shift), c...)
		s := base64.StdEncoding.EncodeToString(padded)
		all[fmt.Sprintf("base64+%d", shift)] = []byte(s[4 : len(s)-4])
	}
	return all
}

// unzstd decodes as much of the frame at the start of data as there is.
func unzstd(data []byte) []byte {
	r, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return nil
	}
	defer r.Close()
	var out bytes.Buffer
	buf := make([]byte, 32<<10)
	for out.Len() < 32<<20 {
		n, err := r.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			break
		}
	}
	return out.Bytes()
}
