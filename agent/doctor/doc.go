// Package doctor asks this host whether the agent can work, and says what to do where it cannot.
//
// Each check does the real thing (loads a program, creates a map, attaches a probe to its own executable) instead of
// comparing versions: kernels are patched, and what a container may do is nowhere written down. A failed check means
// that the agent cannot work; a warning names what it will do without.
//
// It also reads the code of the TLS libraries that are installed, and tells for each function what a probe there will cost
// (probe_sites).
//
// The probe that it attaches goes to a function that nobody calls and is gone when Doctor returns.
package doctor
