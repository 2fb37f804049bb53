package kafka

import (
	"errors"
	"strings"
)

// A login is what sasl.jaas.config holds: one login module and its options.
type login struct {
	module  string // the class
	options map[string]string
}

var errJAAS = errors.New(`not of the form CLASS required name="value" …;`)

// parseJAAS reads the value of sasl.jaas.config as Kafka's JaasConfig does: a class, a
// flag, options whose values may be quoted, and a semicolon.
func parseJAAS(s string) (*login, error) {
	words, err := jaasWords(s)
	if err != nil {
		return nil, err
	}
	if len(words) < 3 || words[len(words)-1] != ";" {
		return nil, errJAAS
	}
	switch strings.ToLower(words[1]) {
	case "required", "requisite", "sufficient", "optional":
	default:
		return nil, errJAAS
	}
	l := &login{module: words[0], options: make(map[string]string)}
	rest := words[2 : len(words)-1]
	for ; len(rest) >= 3 && rest[1] == "="; rest = rest[3:] {
		l.options[rest[0]] = rest[2]
	}
	if len(rest) > 0 {
		return nil, errJAAS
	}
	return l, nil
}

// jaasWords splits at spaces, and takes = and ; for words of their own, outside of
// quotes. In quotes a backslash takes the next character as it is.
func jaasWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	end := func() {
		if inWord {
			words = append(words, word.String())
			word.Reset()
			inWord = false
		}
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case ' ', '\t', '\r', '\n':
			end()
		case '=', ';':
			end()
			words = append(words, string(c))
		case '"', '\'':
			inWord = true
			for i++; i < len(s) && s[i] != c; i++ {
				if s[i] == '\\' && i+1 < len(s) {
					i++
				}
				word.WriteByte(s[i])
			}
			if i == len(s) {
				return nil, errors.New("a quote is not closed")
			}
		default:
			inWord = true
			word.WriteByte(c)
		}
	}
	end()
	return words, nil
}
