package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/command"
)

// Passwords are those of users that are to be made. A password is never printed.
type Passwords struct {
	file   map[string]string
	getenv func(string) string
}

// passwords reads those in a file, which may be "".
func passwords(file string, getenv func(string) string, log *slog.Logger) (*Passwords, error) {
	p := &Passwords{make(map[string]string), getenv}
	if file == "" {
		return p, nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, command.WithStatus(command.Usage, fmt.Errorf("--passwords-file: %w", err))
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && info.Mode().IsRegular() && runtime.GOOS != "windows" {
		log.Warn(fmt.Sprintf("others on this machine may read %s (mode %04o): chmod 600 it", file, mode))
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, command.WithStatus(command.Usage, fmt.Errorf("--passwords-file: %w", err))
	}
	if p.file, err = parsePasswords(text); err != nil {
		return nil, command.WithStatus(command.Usage, fmt.Errorf("--passwords-file %s: %w", file, err))
	}
	return p, nil
}

// parsePasswords reads USER=PASSWORD lines, or a JSON object. Its errors quote nothing.
func parsePasswords(text []byte) (map[string]string, error) {
	out := make(map[string]string)
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		if err := json.Unmarshal(text, &out); err != nil {
			return nil, fmt.Errorf("it is not a JSON object of texts")
		}
		return out, nil
	}
	n := 0
	for l := range strings.Lines(string(text)) {
		n++
		l = strings.TrimRight(l, "\r\n")
		if trimmed := strings.TrimSpace(l); trimmed == "" || strings.HasPrefix(trimmed, "#") {
			continue
		}
		user, password, ok := strings.Cut(l, "=")
		if user = strings.TrimSpace(user); !ok || user == "" || password == "" {
			return nil, fmt.Errorf("line %d is not USER=PASSWORD", n)
		}
		if _, twice := out[user]; twice {
			return nil, fmt.Errorf("line %d: user %s is there twice", n, user)
		}
		out[user] = password
	}
	return out, nil
}

// Of is the password of a user, or "".
func (p *Passwords) Of(user string) string {
	if p == nil {
		return ""
	}
	if password, ok := p.file[user]; ok {
		return password
	}
	if password := p.getenv(passwordVariable + user); password != "" {
		return password
	}
	return p.getenv(variableOf(user))
}

const passwordVariable = "KBK_PASSWORD_"

// variableOf is the variable of a user's password, as a shell can set it.
func variableOf(user string) string {
	return passwordVariable + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, user)
}

// give says of changes of users whose password is known that nothing is lacking. A variable
// that might be meant for two users is for none.
func (p *Passwords) give(changes []change.Change) {
	users := make(map[string]map[string]bool)
	for _, c := range changes {
		if u, ok := c.After.(*format.User); ok {
			v := variableOf(u.Name)
			if users[v] == nil {
				users[v] = make(map[string]bool)
			}
			users[v][u.Name] = true
		}
	}
	for i := range changes {
		u, ok := changes[i].After.(*format.User)
		if !ok || p.Of(u.Name) == "" {
			continue
		}
		_, inFile := p.file[u.Name]
		if v := variableOf(u.Name); len(users[v]) > 1 && !inFile && p.getenv(passwordVariable+u.Name) == "" {
			changes[i].Lacks = "the password is missing: the variable " + v + " might be for another user, too"
			continue
		}
		changes[i].Lacks = ""
	}
}
