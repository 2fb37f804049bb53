package catalog

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"path/filepath"
	"time"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/store"
)

// A verifyReport is what was found in a backup, to be kept or shown.
type verifyReport struct {
	KBK     string           `json:"kbk"` // says what this file is
	Version int              `json:"version"`
	Tool    string           `json:"tool"`
	Backup  string           `json:"backup"`
	ID      string           `json:"id,omitempty"`
	Source  commitlog.Source `json:"source,omitzero"`
	Entries int              `json:"entries"`              // of the log
	Last    string           `json:"last_entry,omitempty"` // of them
	Began   time.Time        `json:"began"`
	Ended   time.Time        `json:"ended"`
	Deep    bool             `json:"deep"`            // segments were read
	Signers bool             `json:"allowed_signers"` // the log had to be signed
	Verdict *Verdict         `json:"verdict"`
	Found   []Problem        `json:"found"`
	More    int              `json:"found_more,omitempty"` // that are left out of Found

	file string
	sign func([]byte) ([]byte, error)
}

// mostFound is how much of what was found a report has. There may be a million of it.
const mostFound = 10_000

func newReport(backup string, cfg VerifyConfig, began time.Time) *verifyReport {
	return &verifyReport{KBK: "verify report", Version: 1, Tool: "kbk-catalog " + command.Version(), Backup: backup, Began: began.UTC(),
		Deep: cfg.Deep, Signers: cfg.Signers != nil, Found: []Problem{}, file: cfg.Report, sign: cfg.Sign}
}

func isReport(file string) bool {
	return filepath.Ext(file) == ".html" || filepath.Ext(file) == ".json"
}

func (r *verifyReport) of(state *commitlog.State) {
	if r == nil {
		return
	}
	sums := state.Manifest()
	r.ID, r.Source, r.Entries, r.Last = state.Backup(), state.Source(), sums.Entries, sums.LastID
}

func (r *verifyReport) add(p Problem) {
	switch {
	case r == nil:
	case len(r.Found) < mostFound:
		r.Found = append(r.Found, p)
	default:
		r.More++
	}
}

//go:embed report.html
var reportPage string

var reportTemplate = template.Must(template.New("report").Funcs(pageFuncs).Parse(reportPage))

// write writes the report, and its signature before it.
func (r *verifyReport) write(v *Verdict, now time.Time) error {
	r.Verdict, r.Ended = v, now.UTC()
	var b bytes.Buffer
	var err error
	if filepath.Ext(r.file) == ".html" {
		err = reportTemplate.Execute(&b, r)
	} else {
		enc := json.NewEncoder(&b)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	}
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if r.sign != nil {
		sig, err := r.sign(b.Bytes())
		if err != nil {
			return fmt.Errorf("report: %w", err)
		}
		if err := writeFile(r.file+store.SignatureSuffix, bytesTo(sig)); err != nil {
			return err
		}
	}
	return writeFile(r.file, bytesTo(b.Bytes()))
}

func bytesTo(data []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	}
}
