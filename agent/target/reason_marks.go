package target

import (
	"bytes"
	"io"
	"strings"
)

// stack is a TLS implementation that can be told by texts in the constants of a program that carries it, stripped or
// not: names of source files in its error messages, of functions in its logs, of C++ types, of errors.
type stack struct {
	name     string
	bySymbol bool // with symbols it would be decoded
	needs    int  // of the marks below; two where one could be a coincidence
	marks    []string
}

// stacks is the table behind "linked into the executable". A mark stands in the part that does TLS, never in the part
// that only encrypts, which many programs use alone.
func stacks() []stack {
	return []stack{
		// ERR_raise and ossl_statem_fatal (ssl/statem, since 1.1.0).
		{"OpenSSL", true, 2, []string{"ssl/statem/statem_lib.c", "ssl/statem/statem_clnt.c", "ssl/statem/extensions.c", "ssl/record/rec_layer_s3.c",
			"ossl_statem_client_read_transition", "ossl_statem_server_read_transition"}},
		// Before 1.1.0 the names have no directory.
		{"OpenSSL 1.0", true, 2, []string{"s3_clnt.c\x00", "s3_srvr.c\x00", "s3_pkt.c\x00"}},
		// AWS-LC has kept BoringSSL's names.
		{"BoringSSL or AWS-LC", true, 2, []string{"ssl/tls13_client.cc", "ssl/tls13_server.cc", "ssl/handshake_client.cc", "ssl/handshake_server.cc",
			"ssl/s3_pkt.cc", "ssl/ssl_lib.cc"}},
		// Places of panics, names of functions (both manglings), messages of rustls::Error. tokio-rustls and
		// rustls-webpki do not match: there is no "/" before, or no digit behind the name.
		{"rustls", false, 2, []string{"/rustls-0.", "/rustls-1.", "__rustls-0.", "/rustls/src/", "6rustls4conn", "6rustls6client", "6rustls6server",
			"received corrupt message of type ", "received unexpected handshake message: got ", "peer is incompatible: ", "peer misbehaved: "}},
		// errors.c has the name of each error beside its message.
		{"GnuTLS", false, 2, []string{"GNUTLS_E_UNSUPPORTED_VERSION_PACKET", "GNUTLS_E_UNEXPECTED_HANDSHAKE_PACKET", "GNUTLS_E_DECRYPTION_FAILED"}},
		// sslerrstrs.c, the same way.
		{"NSS", false, 2, []string{"SSL_ERROR_EXPORT_ONLY_SERVER", "SSL_ERROR_NO_CYPHER_OVERLAP", "SSL_ERROR_RX_RECORD_TOO_LONG"}},
		// MBEDTLS_SSL_DEBUG_RET and mbedtls_strerror.
		{"Mbed TLS", false, 2, []string{"mbedtls_ssl_fetch_input", "mbedtls_ssl_flush_output", "mbedtls_ssl_read_record", "mbedtls_ssl_write_record",
			"SSL - Bad input parameters to function"}},
		{"wolfSSL", false, 2, []string{"wolfSSL_connect", "wolfSSL_accept", "TLSX_SNI_VerifyParse", "DTLSv1_2 read Server Hello",
			"wolfSSL_verify_client_post_handshake"}},
		// Names of C++ types, which exceptions and virtual functions need at run time.
		{"Botan", false, 2, []string{"N5Botan3TLS7ChannelE", "N5Botan3TLS12Channel_ImplE", "N5Botan3TLS6ClientE", "N5Botan3TLS6ServerE",
			"N5Botan3TLS15Handshake_StateE", "N5Botan3TLS17Handshake_MessageE"}},
		// S2N_ERROR.
		{"s2n-tls", false, 2, []string{"tls/s2n_connection.c", "tls/s2n_recv.c", "tls/s2n_send.c", "tls/s2n_handshake_io.c"}},
	}
}

// goMark ends the name of a method that crypto/tls has, and no other package but copies of it, under whatever name. The
// line table of a Go program names every function.
const goMark = ".(*Conn).readRecordOrCCS\x00"

// marks lists the texts to look for: those of all stacks, in order, then goMark.
func marks(of []stack) []string {
	var all []string
	for _, s := range of {
		all = append(all, s.marks...)
	}
	return append(all, goMark)
}

// carried names the stacks that a finished search found marks of.
func carried(of []stack, s *search) []string {
	var names []string
	places := s.ends
	for _, one := range of {
		n := 0
		for _, ends := range places[:len(one.marks)] {
			if len(ends) > 0 {
				n++
			}
		}
		if places = places[len(one.marks):]; n >= one.needs {
			names = append(names, one.name)
		}
	}
	return names
}

// goForks names the packages of a Go program that are copies of crypto/tls.
func goForks(r io.ReaderAt, s *search) []string {
	var names []string
	for _, end := range s.ends[len(s.ends)-1] {
		buf := make([]byte, min(end, 256))
		if n, _ := r.ReadAt(buf, int64(end)-int64(len(buf))); n < len(buf) {
			continue // the file is being changed
		}
		name := buf[:len(buf)-len(goMark)]
		name = name[bytes.LastIndexByte(name, 0)+1:]
		// The linker escapes a dot in the last element of a path.
		if pkg := strings.ReplaceAll(string(name), "%2e", "."); pkg != "" && pkg != "crypto/tls" {
			add(&names, "the Go package "+pkg)
		}
	}
	return names
}
