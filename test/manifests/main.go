// Command manifests decodes the manifests on standard input into the types of Kubernetes' API,
// and fails on a field that is not known or that has another type: make manifests.
//
// It is a module of its own, so that kbk does not depend on Kubernetes.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	batchv1 "k8s.io/api/batch/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "manifests: error: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	raw, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	known := 0
	for _, doc := range bytes.Split(raw, []byte("\n---\n")) {
		var head struct {
			Kind     string
			Metadata struct{ Name, GenerateName string }
		}
		if err := yaml.Unmarshal(doc, &head); err != nil {
			return err
		}
		var manifest any
		switch head.Kind {
		case "":
			continue // only comments
		case "CronJob":
			manifest = &batchv1.CronJob{}
		case "Job":
			manifest = &batchv1.Job{}
		default:
			return fmt.Errorf("%s is not among the kinds that this program knows", head.Kind)
		}
		if err := yaml.UnmarshalStrict(doc, manifest); err != nil {
			return fmt.Errorf("%s %s%s: %w", head.Kind, head.Metadata.Name, head.Metadata.GenerateName, err)
		}
		known++
		fmt.Printf("ok: %s %s%s\n", head.Kind, head.Metadata.Name, head.Metadata.GenerateName)
	}
	if known == 0 {
		return errors.New("no manifest on standard input")
	}
	return nil
}
