// Package initenv keeps the command line and the RCLONE_* variables from package
// initialisers.
//
// rclone's read both: they take -vv and --config in os.Args for their own, exit the
// process at a variable that does not parse, and create ~/.config/rclone unless
// RCLONE_CONFIG is set. So this package puts them away when it is initialised, and
// package store, which imports rclone, puts them back with [Restore].
//
// Go initialises packages in the order of their import paths as soon as what they
// import is ready (the language specification, "Program initialization"):
// github.com/kbkio sorts before github.com/rclone, and this package imports next to
// nothing. It must stay that way.
package initenv

import (
	"os"
	"strings"
)

var (
	args []string
	vars [][2]string
)

func init() {
	args = os.Args
	os.Args = os.Args[:min(1, len(os.Args))]
	for _, kv := range os.Environ() {
		if name, value, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "RCLONE_") {
			vars = append(vars, [2]string{name, value})
			os.Unsetenv(name)
		}
	}
	os.Setenv("RCLONE_CONFIG", "")
}

// Restore gives back what was put away.
func Restore() {
	os.Args = args
	os.Unsetenv("RCLONE_CONFIG")
	for _, v := range vars {
		os.Setenv(v[0], v[1])
	}
}
