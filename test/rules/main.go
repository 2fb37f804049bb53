// Command rules reads alerts for Prometheus and dashboards for Grafana with Prometheus' own
// parser: make rules. It is a module of its own, since the parser brings much along.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	failed := false
	for _, file := range os.Args[1:] {
		n, err := check(file)
		if err != nil {
			fmt.Fprintf(os.Stderr, "rules: error: %s: %v\n", file, err)
			failed = true
			continue
		}
		fmt.Printf("%s: %d expressions\n", file, n)
	}
	if failed || len(os.Args) == 1 {
		os.Exit(1)
	}
}

// check parses what is in a file, and returns how many expressions that was.
func check(file string) (n int, err error) {
	p := parser.NewParser(parser.Options{})
	if strings.HasSuffix(file, ".json") {
		n, err = dashboard(file, p)
	} else {
		n, err = rules(file, p)
	}
	if err == nil && n == 0 {
		err = errors.New("there is nothing in it")
	}
	return n, err
}

func rules(file string, p parser.Parser) (n int, err error) {
	groups, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, p, slog.Default())
	if len(errs) > 0 {
		return 0, errors.Join(errs...)
	}
	for _, g := range groups.Groups {
		n += len(g.Rules)
	}
	return n, nil
}

// variables are what Grafana puts in for those of the dashboard, or something like it.
var variables = strings.NewReplacer("$__rate_interval", "1m", "$job", "kbk", "$instance", "127.0.0.1:9101")

func dashboard(file string, p parser.Parser) (n int, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var d struct {
		Panels []panel
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return 0, err
	}
	for _, panel := range d.Panels {
		k, bad := panel.check(p)
		n, err = n+k, errors.Join(err, bad)
	}
	return n, err
}

// A panel of a dashboard; a row has others in it.
type panel struct {
	Title   string
	Targets []struct{ Expr string }
	Panels  []panel
}

func (a *panel) check(p parser.Parser) (n int, err error) {
	for _, t := range a.Targets {
		expr := variables.Replace(t.Expr)
		if _, bad := p.ParseExpr(expr); bad != nil {
			err = errors.Join(err, fmt.Errorf("panel %q: %s: %w", a.Title, t.Expr, bad))
		} else if strings.Contains(expr, "$") {
			err = errors.Join(err, fmt.Errorf("panel %q: %s has a variable that is not known", a.Title, t.Expr))
		}
		n++
	}
	for i := range a.Panels {
		k, bad := a.Panels[i].check(p)
		n, err = n+k, errors.Join(err, bad)
	}
	return n, err
}
