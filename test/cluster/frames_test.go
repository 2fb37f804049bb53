package cluster

import (
	"os"

	"github.com/kbkio/kbk/format"
)

// frames are the frames of a snapshot without the first, which has its id and time.
func (w *world) frames(file string) (out []string) {
	w.Helper()
	f, err := os.Open(w.path(file))
	if err != nil {
		w.Fatal(err)
	}
	defer f.Close()
	r := format.NewReader(f, 0)
	if _, err := r.Header(); err != nil {
		w.Fatal(err)
	}
	for {
		f, err := r.Next()
		if err != nil {
			w.Fatal(err)
		}
		switch f.Kind {
		case format.KindEnd:
			return out
		case format.KindCluster:
		default:
			out = append(out, string(f.Raw))
		}
	}
}
