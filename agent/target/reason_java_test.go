package target

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// javaTLS is a server and a client in one program: they exchange a line over TLS, and stay.
const javaTLS = `import java.io.*;
import java.net.InetAddress;
import java.security.KeyStore;
import javax.net.ssl.*;

class Talk {
	public static void main(String[] args) throws Exception {
		char[] password = "changeit".toCharArray();
		KeyStore keys = KeyStore.getInstance("PKCS12");
		try (InputStream in = new FileInputStream(args[0])) { keys.load(in, password); }
		KeyManagerFactory own = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
		own.init(keys, password);
		TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
		trust.init(keys);
		SSLContext context = SSLContext.getInstance("TLS");
		context.init(own.getKeyManagers(), trust.getTrustManagers(), null);
		SSLServerSocket server = (SSLServerSocket) context.getServerSocketFactory().createServerSocket(0, 1, InetAddress.getByName("127.0.0.1"));
		Thread answer = new Thread(() -> {
			try (SSLSocket s = (SSLSocket) server.accept()) {
				String line = new BufferedReader(new InputStreamReader(s.getInputStream())).readLine();
				s.getOutputStream().write(("got " + line + "\n").getBytes());
				s.getOutputStream().flush();
			} catch (IOException e) {
				e.printStackTrace();
			}
		});
		answer.start();
		try (SSLSocket s = (SSLSocket) context.getSocketFactory().createSocket("127.0.0.1", server.getLocalPort())) {
			s.getOutputStream().write("hello\n".getBytes());
			s.getOutputStream().flush();
			System.out.println(new BufferedReader(new InputStreamReader(s.getInputStream())).readLine() + " over " + s.getSession().getProtocol());
		}
		answer.join();
		Thread.sleep(60000);
	}
}
`

// A Java program that really spoke TLS is named by its runtime, and the search of the whole JVM finds nothing that it has
// not: no other stack is blamed.
func TestReasonOfJava(t *testing.T) {
	needRoot(t)
	var tools [3]string
	for i, name := range []string{"java", "javac", "keytool"} {
		var err error
		if tools[i], err = exec.LookPath(name); err != nil {
			t.Skip("no JDK: ", err)
		}
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := t.TempDir()
	store, source := filepath.Join(dir, "keys.p12"), filepath.Join(dir, "Talk.java")
	if out, err := exec.Command(tools[2], "-genkeypair", "-keyalg", "EC", "-alias", "own", "-dname", "CN=localhost", "-storetype", "PKCS12",
		"-storepass", "changeit", "-keystore", store).CombinedOutput(); err != nil {
		t.Fatalf("keytool: %v: %s", err, out)
	}
	if err := os.WriteFile(source, []byte(javaTLS), 0o644); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(tools[0], source, store)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "got hello over TLSv1.") {
		t.Fatalf("java said %q, %v", line, err)
	}
	const want = "it runs Java, whose own TLS (JSSE) is not decoded yet"
	if name, reason := ask(t, explainer(unknownToProbe), uint32(c.Process.Pid)); name != "java" || reason != want {
		t.Errorf("%s: got %s\nwant %s", name, reason, want)
	}
}
