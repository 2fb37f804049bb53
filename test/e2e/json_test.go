package e2e

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdJSON prints a value of a file in JSON: json FILE PATH, such as topics.name=orders.id
// for the id of the topic of that name, or points.0.id.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	only(ts, neg, args, 2, "json FILE PATH")
	var v any
	check(ts, json.Unmarshal([]byte(ts.ReadFile(args[0])), &v))
	for _, step := range strings.Split(args[1], ".") {
		v = within(v, step)
	}
	if v == nil {
		ts.Fatalf("there is no %s", args[1])
	}
	fmt.Fprintln(ts.Stdout(), v)
}

// within is a member of an object, an element of an array, or the element that has a
// member of a value; nil where there is none.
func within(v any, step string) any {
	switch v := v.(type) {
	case map[string]any:
		return v[step]
	case []any:
		if i, err := strconv.Atoi(step); err == nil && i < len(v) {
			return v[i]
		}
		name, value, _ := strings.Cut(step, "=")
		for _, e := range v {
			if m, ok := e.(map[string]any); ok && m[name] == value {
				return e
			}
		}
	}
	return nil
}
