// Package deploy holds how Spile ships, and the tests that see the whole.
//
// house_test.go is the police: who may import whom, which rooms are pure, how long a file may be. The smoke tests build
// the real binaries and run them against real programs, each in a network namespace that it makes for itself.
// Nothing here is linked into a binary.
package deploy
