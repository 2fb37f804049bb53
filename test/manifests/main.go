// Command manifests has the manifests on standard input decoded, completed and validated by the
// code that Kubernetes' API server has for it, and fails where that would refuse one: make
// manifests.
//
// It is a module of its own, so that kbk does not depend on Kubernetes.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/batch"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	"k8s.io/kubernetes/pkg/apis/batch/validation"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
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
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, legacyscheme.Scheme, legacyscheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	decoder := legacyscheme.Codecs.DecoderToVersion(strict, runtime.InternalGroupVersioner) // it fills in defaults
	known := 0
	for _, doc := range bytes.Split(raw, []byte("\n---\n")) {
		var some any
		if err := yaml.Unmarshal(doc, &some); err != nil {
			return err
		}
		if some == nil { // only comments
			continue
		}
		manifest, kind, err := decoder.Decode(doc, nil, nil)
		if err != nil {
			return err
		}
		name, err := validate(manifest)
		if err != nil {
			return fmt.Errorf("%s %s: %w", kind.Kind, name, err)
		}
		known++
		fmt.Printf("ok: %s %s\n", kind.Kind, name)
	}
	if known == 0 {
		return errors.New("no manifest on standard input")
	}
	return nil
}

// validate validates a manifest as it is when the server has given it a name and a namespace.
func validate(manifest runtime.Object) (name string, err error) {
	job, ok := manifest.(*batch.CronJob)
	if single, isJob := manifest.(*batch.Job); isJob {
		// The server gives a job a selector, and labels to match. The job of a cron job, which is
		// validated by the same rules, has neither yet.
		job, ok = new(batch.CronJob), true
		job.ObjectMeta = single.ObjectMeta
		job.Spec.Schedule, job.Spec.ConcurrencyPolicy = "@daily", batch.AllowConcurrent
		job.Spec.JobTemplate.Spec = single.Spec
	}
	if !ok {
		return "", fmt.Errorf("this program does not know %T", manifest)
	}
	if name = job.Name; name == "" && job.GenerateName != "" {
		name = job.GenerateName
		job.Name = name + "abcde"
	}
	if job.Namespace == "" {
		job.Namespace = metav1.NamespaceDefault
	}
	return name, validation.ValidateCronJobCreate(job, corevalidation.PodValidationOptions{}).ToAggregate()
}
