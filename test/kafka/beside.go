package kafkatest

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

//go:embed connect.xml
var connectPOM []byte

// apicurio is the registry that the tests use: 109 MB. Version 3.3 and newer need java 21.
const apicurio = "io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all"

// A Server is a server beside Kafka: a schema registry, or a worker of Kafka Connect. It ends with this
// process.
type Server struct {
	URL string // of its API

	proc *process
	dir  string // removed by Close
}

// Close ends the server.
func (s *Server) Close() error { return errors.Join(s.proc.kill(), os.RemoveAll(s.dir)) }

// serve starts a server and waits until path below its URL answers.
func serve(ctx context.Context, dir, url, path, name string, args ...string) (*Server, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	log := filepath.Join(dir, "server.log")
	proc, err := startProcess(log, name, args...)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s := &Server{URL: url, proc: proc, dir: dir}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return s, nil
			}
			err = errors.New(res.Status)
		}
		text, _ := os.ReadFile(log)
		select {
		case <-proc.done:
			return nil, errors.Join(fmt.Errorf("the server died while starting: %w\n%s", proc.err, tail(text)), os.RemoveAll(dir))
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("waiting for the server: %w: %w\n%s", ctx.Err(), err, tail(text)), s.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Apicurio starts Apicurio's schema registry with its data in memory. Its URL is that of the API that is
// Confluent's. The first one on a machine downloads it.
func Apicurio(ctx context.Context) (*Server, error) {
	java, err := findJava()
	if err != nil {
		return nil, err
	}
	jar, err := apicurioJar(ctx)
	if err != nil {
		return nil, fmt.Errorf("downloading Apicurio: %w", err)
	}
	dir, err := os.MkdirTemp("", "kafkatest-")
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("http://127.0.0.1:%d/apis/ccompat/v7", ports[0])
	return serve(ctx, dir, url, "/subjects", java, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.io.tmpdir="+dir,
		"-Dquarkus.http.host=127.0.0.1", fmt.Sprintf("-Dquarkus.http.port=%d", ports[0]), "-jar", jar)
}

func apicurioJar(ctx context.Context) (string, error) {
	root, err := cacheFolder()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "apicurio-"+strings.Split(apicurio, ":")[2])
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", fmt.Errorf("locking the cache: %w", err)
	}
	defer unlock()
	// This version needs no POM of it: the one that it builds on is not published.
	err = maven(ctx, dir, nil, "org.apache.maven.plugins:maven-dependency-plugin:2.8:unpack", "-Dartifact="+apicurio)
	if err != nil {
		return "", err
	}
	jars, err := filepath.Glob(filepath.Join(dir, "*-runner.jar"))
	if err != nil || len(jars) != 1 {
		return "", fmt.Errorf("one runner is expected in %s: %q, %w", dir, jars, err)
	}
	return jars[0], nil
}

// ConnectWorker starts a worker of Kafka Connect in distributed mode, which has the connectors for files
// and keeps its state in c. The first one on a machine downloads it.
func (c *Cluster) ConnectWorker(ctx context.Context) (*Server, error) {
	version := versionInPOM.FindSubmatch(pom)
	if version == nil {
		return nil, errors.New("pom.xml names no kafka.version")
	}
	jars := c.kit.dir + "-connect"
	unlock, err := lock(ctx, jars+".lock")
	if err != nil {
		return nil, fmt.Errorf("locking the cache: %w", err)
	}
	err = download(ctx, jars, bytes.ReplaceAll(connectPOM, []byte("KAFKA_VERSION"), version[1]), "-DincludeScope=runtime")
	if err := errors.Join(err, unlock()); err != nil {
		return nil, fmt.Errorf("downloading Kafka Connect: %w", err)
	}
	dir, err := os.MkdirTemp("", "kafkatest-")
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	properties := filepath.Join(dir, "worker.properties")
	text := fmt.Sprintf(`bootstrap.servers=%[1]s
listeners=%[2]s
group.id=workers-%[3]d
config.storage.topic=connect-configs-%[3]d
offset.storage.topic=connect-offsets-%[3]d
status.storage.topic=connect-status-%[3]d
config.storage.replication.factor=1
offset.storage.replication.factor=1
offset.storage.partitions=2
status.storage.replication.factor=1
status.storage.partitions=1
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
offset.flush.interval.ms=200
scheduled.rebalance.max.delay.ms=0
plugin.discovery=service_load
`, c.Bootstrap(), url, ports[0])
	if err := os.WriteFile(properties, []byte(text), 0o644); err != nil {
		return nil, err
	}
	k := *c.kit
	k.classPath, k.sharing = filepath.Join(jars, "*")+string(filepath.ListSeparator)+k.classPath, nil
	args := append(k.flags(256, c.logConfig(), dir), "org.apache.kafka.connect.cli.ConnectDistributed", properties)
	return serve(ctx, dir, url, "/connectors", k.java, args...)
}
