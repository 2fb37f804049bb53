// Package kafkatools writes changes of a cluster as commands of Kafka's own tools, for a shell. It
// is pure.
package kafkatools

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/diff"
)

// Kafka writes the commands for changes of ACLs, quotas, users and configs, in order.
func Kafka(w io.Writer, changes []change.Change) {
	of := func(kind string, remove bool) (out []change.Change) {
		for _, c := range changes {
			if c.Kind == kind && (c.Action == change.Remove) == remove {
				out = append(out, c)
			}
		}
		return out
	}
	kinds := []struct {
		name  string
		write func(io.Writer, []change.Change)
	}{{format.ClusterQuotas, quotas}, {format.ClusterUsers, users}, {format.ClusterConfigs, configs}, {format.ClusterACLs, acls}}
	for _, remove := range []bool{false, true} {
		for _, k := range kinds {
			if some := of(k.name, remove); len(some) > 0 {
				what := k.name
				if remove {
					what = "delete " + what
				}
				fmt.Fprintf(w, "\n# %s\n", what)
				k.write(w, some)
			}
		}
		slices.Reverse(kinds)
	}
}

// Head begins a script: its settings, and functions that run the tools.
func Head(w io.Writer, brokers string, users []string) {
	fmt.Fprintln(w, `#!/usr/bin/env bash
# Changes a cluster with Kafka's own tools, which must be on the PATH. Look at it before you run it.
set -u`)
	if brokers == "" {
		fmt.Fprintln(w, `: "${BROKERS:?set it to HOST:PORT of a broker}"`)
	} else {
		fmt.Fprintf(w, "BROKERS=${BROKERS:-%s}\n", Quote(brokers))
	}
	fmt.Fprintln(w, `CONFIG=${CONFIG:-} # a client.properties, for a cluster that wants TLS or SASL
failed=0
acls() { kafka-acls.sh --bootstrap-server "$BROKERS" ${CONFIG:+--command-config "$CONFIG"} "$@" </dev/null || failed=1; }
configs() { kafka-configs.sh --bootstrap-server "$BROKERS" ${CONFIG:+--command-config "$CONFIG"} --alter "$@" </dev/null || failed=1; }
# A file of properties, for values that do not fit on a command line.
properties() { PROPERTIES=$(mktemp) && cat >"$PROPERTIES"; }`)
	for i, user := range users {
		fmt.Fprintf(w, ": \"${PASSWORD_%d:?set it to the password of user %s}\"\n", i+1, harmless(user))
		// The tool would leave brackets out of it without a word.
		fmt.Fprintf(w, "case $PASSWORD_%d in *[][]*) echo \"kafka-configs.sh takes no password with [ or ]\" >&2; exit 2 ;; esac\n", i+1)
	}
}

// HeadCurl writes the settings for commands of curl, whose server is at url.
func HeadCurl(w io.Writer, variable, url string) {
	fmt.Fprintf(w, "%s=${%s:-%s}\n", variable, variable, Quote(url))
	fmt.Fprintln(w, `CURL_OPTS=${CURL_OPTS:-} # more arguments of curl: -K FILE, with the user
curl() { command curl "$@" || failed=1; }`)
}

// Tail ends a script.
func Tail(w io.Writer) { fmt.Fprintln(w, "\nexit $failed") }

// Users are those whose passwords a script asks for, in the order of its variables.
func Users(changes []change.Change) (out []string) {
	for _, c := range changes {
		if u, ok := c.After.(*format.User); ok && c.Action != change.Remove && !slices.Contains(out, u.Name) {
			out = append(out, u.Name)
		}
	}
	slices.Sort(out)
	return out
}

// Quote quotes a word for a shell.
func Quote(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-:/=,+@", r))
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func words(args ...string) string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = Quote(a)
	}
	return strings.Join(out, " ")
}

// harmless keeps what came from elsewhere inside a comment and inside double quotes.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || strings.ContainsRune("\"$`\\}", r) {
			return '?'
		}
		return r
	}, s)
}

// Comment writes lines that are no commands.
func Comment(w io.Writer, f string, args ...any) {
	fmt.Fprintln(w, "# "+strings.Join(strings.Fields(fmt.Sprintf(f, args...)), " "))
}

// acls writes ACLs. Those that differ in their operation or the name of their resource alone
// go into one command: each starts a JVM.
func acls(w io.Writer, changes []change.Change) {
	denies := func(c change.Change) bool { return aclOf(c).Permission == "DENY" }
	allow := slices.DeleteFunc(slices.Clone(changes), denies)
	deny := slices.DeleteFunc(slices.Clone(changes), func(c change.Change) bool { return !denies(c) })
	// What allows comes first and goes last, so that nobody is locked out in between.
	order := [][]change.Change{allow, deny}
	if len(changes) > 0 && changes[0].Action == change.Remove {
		order = [][]change.Change{deny, allow}
	}
	for _, some := range order {
		for _, g := range aclCommands(some) {
			fmt.Fprintln(w, "acls "+g)
		}
	}
}

func aclOf(c change.Change) *format.ACL {
	if a, ok := c.After.(*format.ACL); ok {
		return a
	}
	if a, ok := c.Before.(*format.ACL); ok {
		return a
	}
	return new(format.ACL)
}

var resourceFlags = map[string]string{
	"TOPIC": "--topic", "GROUP": "--group", "TRANSACTIONAL_ID": "--transactional-id", "DELEGATION_TOKEN": "--delegation-token", "USER": "--user-principal", "CLUSTER": "--cluster",
}

// aclCommands are the arguments of kafka-acls.sh for ACLs.
func aclCommands(changes []change.Change) (out []string) {
	// First the operations of one resource, and then the resources with the same operations.
	type resource struct{ kind, pattern, principal, host, permission, name string }
	operations := make(map[resource][]string)
	var resources []resource
	for _, c := range changes {
		a := aclOf(c)
		r := resource{a.ResourceType, a.PatternType, a.Principal, a.Host, a.Permission, a.ResourceName}
		if operations[r] == nil {
			resources = append(resources, r)
		}
		operations[r] = append(operations[r], operationName(a.Operation))
	}
	type group struct {
		resource
		operations string
	}
	names := make(map[group][]string)
	var groups []group
	for _, r := range resources {
		ops := operations[r]
		slices.Sort(ops)
		g := group{r, strings.Join(ops, " ")}
		g.name = ""
		if names[g] == nil {
			groups = append(groups, g)
		}
		names[g] = append(names[g], r.name)
	}
	const most = 100 // names in a command
	for _, g := range groups {
		who := "allow"
		if g.permission == "DENY" {
			who = "deny"
		}
		for some := range slices.Chunk(names[g], most) {
			args := []string{"--add"}
			if len(changes) > 0 && changes[0].Action == change.Remove {
				args = []string{"--remove", "--force"}
			}
			args = append(args, "--"+who+"-principal", g.principal, "--"+who+"-host", g.host)
			for _, op := range strings.Fields(g.operations) {
				args = append(args, "--operation", op)
			}
			for _, name := range some {
				args = append(args, resourceFlags[g.kind])
				if g.kind != "CLUSTER" {
					args = append(args, name)
				}
			}
			if g.pattern != "LITERAL" {
				args = append(args, "--resource-pattern-type", strings.ToLower(g.pattern))
			}
			out = append(out, words(args...))
		}
	}
	return out
}

// operationName is DescribeConfigs for DESCRIBE_CONFIGS.
func operationName(op string) string {
	var b strings.Builder
	for _, part := range strings.Split(op, "_") {
		if part != "" {
			b.WriteString(part[:1] + strings.ToLower(part[1:]))
		}
	}
	return b.String()
}

var entityTypes = map[string]string{"user": "users", "client-id": "clients", "ip": "ips", diff.Broker: "brokers", diff.Topic: "topics", diff.Group: "groups", diff.ClientMetrics: "client-metrics"}

// quotas writes the quotas of an entity as one command.
func quotas(w io.Writer, changes []change.Change) {
	values := make(map[string][]setting)
	entities := make(map[string][]string)
	var order []string
	for _, c := range changes {
		q, ok := c.After.(*format.Quota)
		if !ok {
			q, ok = c.Before.(*format.Quota)
		}
		if !ok {
			continue
		}
		var args []string
		for _, e := range q.Entity {
			args = append(args, "--entity-type", entityTypes[e.Type])
			if e.Name == nil {
				args = append(args, "--entity-default")
			} else {
				args = append(args, "--entity-name", *e.Name)
			}
		}
		name := words(args...)
		if entities[name] == nil {
			order = append(order, name)
			entities[name] = args
		}
		for key, v := range q.Values {
			values[name] = append(values[name], setting{key, diff.Number(v), c.Action == change.Remove})
		}
	}
	for _, name := range order {
		set(w, entities[name], values[name])
	}
}

// users writes credentials. The password is a variable, which Head asks for.
func users(w io.Writer, changes []change.Change) {
	all := Users(changes)
	for _, c := range changes {
		u, ok := c.After.(*format.User)
		if !ok {
			u, ok = c.Before.(*format.User)
		}
		if !ok {
			continue
		}
		for _, credential := range u.Credentials {
			entity := words("--entity-type", "users", "--entity-name", u.Name)
			if c.Action == change.Remove {
				fmt.Fprintf(w, "configs %s --delete-config %s\n", entity, Quote(credential.Mechanism))
				continue
			}
			fmt.Fprintf(w, "configs %s --add-config \"%s=[iterations=%d,password=$PASSWORD_%d]\"\n", entity, credential.Mechanism, credential.Iterations, slices.Index(all, u.Name)+1)
		}
	}
}

// configs writes the configs of a resource as one command.
func configs(w io.Writer, changes []change.Change) {
	values := make(map[string][]setting)
	entities := make(map[string][]string)
	var order []string
	for _, c := range changes {
		f, ok := c.After.(*format.Config)
		if !ok {
			f, ok = c.Before.(*format.Config)
		}
		if !ok {
			continue
		}
		args := []string{"--entity-type", entityTypes[f.ResourceType]}
		if f.ResourceType == diff.Broker && f.Name == "" {
			args = append(args, "--entity-default")
		} else {
			args = append(args, "--entity-name", f.Name)
		}
		name := words(args...)
		if entities[name] == nil {
			order = append(order, name)
			entities[name] = args
		}
		for key, v := range f.Values {
			value := ""
			if v != nil {
				value = *v
			}
			values[name] = append(values[name], setting{key, value, c.Action == change.Remove})
		}
	}
	for _, name := range order {
		set(w, entities[name], values[name])
	}
}

// A setting is a config of an entity that is set or deleted.
type setting struct {
	key, value string
	remove     bool
}

// set writes a command that sets and deletes configs. What kafka-configs.sh would take apart goes
// through a file.
func set(w io.Writer, entity []string, settings []setting) {
	slices.SortFunc(settings, func(a, b setting) int { return strings.Compare(a.key, b.key) })
	var add, remove, file []string
	for _, s := range settings {
		switch {
		case s.remove:
			remove = append(remove, s.key)
		case strings.ContainsAny(s.value, ",=[]\\ \t\r\n") || s.value == "":
			file = append(file, property(s.key)+"="+property(s.value))
		default:
			add = append(add, s.key+"="+s.value)
		}
	}
	if len(file) > 0 { // kafka-configs.sh takes a file or --add-config, not both
		file = append(file, add...)
		slices.Sort(file)
		const end = "END_OF_PROPERTIES"
		fmt.Fprintf(w, "properties <<'%s'\n%s\n%s\nconfigs %s --add-config-file \"$PROPERTIES\"\nrm -f \"$PROPERTIES\"\n", end, strings.Join(file, "\n"), end, words(entity...))
	} else if len(add) > 0 {
		fmt.Fprintf(w, "configs %s\n", words(append(slices.Clone(entity), "--add-config", strings.Join(add, ","))...))
	}
	if len(remove) > 0 {
		fmt.Fprintf(w, "configs %s\n", words(append(slices.Clone(entity), "--delete-config", strings.Join(remove, ","))...))
	}
}

// property writes a key or a value as a Java properties file has it.
func property(s string) string {
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\\', r == '=', r == ':', r == '#', r == '!', r == ' ' && i == 0:
			b.WriteString(`\` + string(r))
		case r < ' ' || r > '~':
			for _, u := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, `\u%04x`, u)
			}
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
