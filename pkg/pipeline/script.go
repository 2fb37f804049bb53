package pipeline

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kbkio/kbk/pkg/command"
)

// Script writes the steps as a command for sh. name says how a command is called there.
func Script(steps []Step, name func(string) string) string {
	pipes := make([]string, len(steps))
	for i, step := range steps {
		stages := make([]string, len(step.Stages))
		for j, s := range step.Stages {
			words := []string{Quote(name(s.Name))}
			for _, arg := range s.Args {
				words = append(words, Quote(arg))
			}
			stages[j] = strings.Join(words, " ")
		}
		pipes[i] = strings.Join(stages, " |\n    ")
		if step.Out != "" {
			pipes[i] += " > " + Quote(step.Out)
		}
		if i > 0 && steps[i-1].Apart {
			pipes[i] += " &&\n(exit $apart)"
		}
		switch {
		case step.Apart && i < len(steps)-1:
			pipes[i] += "; apart=$?\n"
		case i < len(steps)-1:
			pipes[i] += " &&\n"
		}
	}
	return strings.Join(pipes, "") + "\n"
}

// plain are the characters that mean nothing to a shell.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-"

// Quote writes a word so that sh reads it as it is.
func Quote(word string) string {
	if word != "" && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// Find looks for a command beside the executable of this process, and then in PATH.
func Find(name string) (string, error) {
	if own, err := os.Executable(); err == nil {
		beside, err := exec.LookPath(filepath.Join(filepath.Dir(own), name)) // .exe where that is wanted
		if err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		err = fmt.Errorf("%s is neither beside this command nor in PATH", name)
		return "", command.WithHint(err, "install the commands of kbk into one folder")
	}
	return path, nil
}

// Called is how a shell calls the command that [Find] finds: by its name where PATH leads
// to the same file.
func Called(name string) string {
	found, err := Find(name)
	if err != nil {
		return name
	}
	if inPath, err := exec.LookPath(name); err == nil && same(found, inPath) {
		return name
	}
	return found
}

func same(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}
