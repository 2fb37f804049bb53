package kafkatest

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

//go:embed pom.xml
var pom []byte

//go:embed log4j2.properties
var log4jConfig []byte

// kit is what it takes to run Kafka's classes.
type kit struct {
	java      string // path of the JVM
	dir       string // of the jars, in the cache
	classPath string
	sharing   []string // JVM flags about the archive of loaded classes
}

// flags returns the JVM flags up to the main class. They favour a quick start:
// a test broker does not live long enough for the optimising compiler.
func (k *kit) flags(heapMB int, logConfig, tmp string) []string {
	return append([]string{
		fmt.Sprintf("-Xmx%dm", heapMB),
		"-XX:+UseSerialGC",
		"-XX:TieredStopAtLevel=1",
		"-XX:-UsePerfData",
		// The JVM's own warnings would go to stdout, amid the data of a tool.
		"-Xlog:disable", "-Xlog:all=warning:stderr",
		"-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8",
		// Native libraries are unpacked there, and left there by a killed JVM.
		"-Djava.io.tmpdir=" + tmp,
		"-Dlog4j2.configurationFile=" + logConfig,
		"-cp", k.classPath,
	}, k.sharing...)
}

// versionInPOM is where pom.xml says which release it brings.
var versionInPOM = regexp.MustCompile(`<kafka\.version>(.*)</kafka\.version>`)

// pomOf is pom.xml for a release of Kafka; "" is the one that it names.
func pomOf(version string) []byte {
	if version == "" {
		return pom
	}
	return versionInPOM.ReplaceAll(pom, []byte("<kafka.version>"+version+"</kafka.version>"))
}

// install returns the kit of a release from the cache and fills the cache first if needed.
// Any number of processes may do so at once.
func install(ctx context.Context, version string) (*kit, error) {
	pom := pomOf(version)
	java, err := findJava()
	if err != nil {
		return nil, err
	}
	root, err := cacheFolder()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(root, fmt.Sprintf("kafka-%x", sha256.Sum256(pom))[:len("kafka-")+12])

	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return nil, fmt.Errorf("locking the cache: %w", err)
	}
	defer unlock()
	if err := download(ctx, dir, pom, "-DincludeScope=runtime"); err != nil {
		return nil, fmt.Errorf("downloading Kafka: %w", err)
	}
	jars, err := filepath.Glob(filepath.Join(dir, "*.jar")) // sorted
	if err != nil {
		return nil, err
	}
	k := &kit{java: java, dir: dir, classPath: strings.Join(jars, string(filepath.ListSeparator))}
	if err := k.shareClasses(ctx, filepath.Join(dir, "classes.jsa")); err != nil {
		return nil, fmt.Errorf("running a first broker: %w", err)
	}
	return k, nil
}

// cacheFolder returns the folder for what is downloaded, and creates it if need be.
func cacheFolder() (string, error) {
	root := os.Getenv("KBK_TEST_CACHE")
	if root == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("finding a cache folder (set KBK_TEST_CACHE): %w", err)
		}
		root = filepath.Join(cache, "kbk-test")
	}
	// A class path of relative jars would not do for the archive of classes.
	root, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", fmt.Errorf("creating the cache folder: %w", err)
	}
	return root, nil
}

// JavaTool returns the path of a program that comes with the JVM, such as keytool.
func JavaTool(name string) (string, error) {
	java, err := findJava()
	if err == nil {
		java, err = filepath.EvalSymlinks(java)
	}
	return filepath.Join(filepath.Dir(java), name), err
}

// findJava returns the path of the JVM.
func findJava() (string, error) {
	name := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		name = filepath.Join(home, "bin", "java")
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("the tests need java 17 or newer, in $JAVA_HOME or on the path: %w", err)
	}
	return path, nil
}

// tieredStorage returns the jar with Kafka's LocalTieredStorage, and downloads it first if
// need be.
func (k *kit) tieredStorage(ctx context.Context) (string, error) {
	dir := k.dir + "-tiered"
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", fmt.Errorf("locking the cache: %w", err)
	}
	defer unlock()
	if err := download(ctx, dir, pom, "-Ptiered-storage", "-DincludeClassifiers=test"); err != nil {
		return "", fmt.Errorf("downloading LocalTieredStorage: %w", err)
	}
	jars, err := filepath.Glob(filepath.Join(dir, "*.jar"))
	if err != nil || len(jars) != 1 {
		return "", fmt.Errorf("one jar is expected in %s: %q, %w", dir, jars, err)
	}
	return jars[0], nil
}

// download lets Maven copy jars of a POM into dir, those that the arguments say.
func download(ctx context.Context, dir string, pom []byte, args ...string) error {
	return maven(ctx, dir, pom, append([]string{"dependency:copy-dependencies"}, args...)...)
}

// maven lets Maven fill dir, by a goal of a POM or, where that is nil, of none. The folder gets its name when
// all is there, so a folder of that name is complete.
func maven(ctx context.Context, dir string, pom []byte, args ...string) error {
	_, err := os.Stat(dir)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return fmt.Errorf("the tests need Maven (mvn) on the path: %w", err)
	}
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil { // of a run that was killed
		return err
	}
	if err := os.Mkdir(part, 0o755); err != nil {
		return err
	}
	if pom != nil {
		if err := os.WriteFile(filepath.Join(part, "pom.xml"), pom, 0o644); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, mvn, append([]string{"-q", "-B", "-DoutputDirectory=" + part}, args...)...)
	cmd.Dir = part // with its POM, if there is one
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mvn: %w\n%s", err, tail(out))
	}
	return os.Rename(part, dir)
}

// shareClasses makes the JVM start from archive, a dump of the classes that a
// broker loads. If there is none yet, it runs a broker that writes it when it
// ends. A JVM that cannot write or read the archive does without it.
func (k *kit) shareClasses(ctx context.Context, archive string) error {
	use := []string{"-Xshare:auto", "-XX:SharedArchiveFile=" + archive}
	_, err := os.Stat(archive)
	if !errors.Is(err, os.ErrNotExist) {
		k.sharing = use
		return err
	}
	part := archive + ".part"
	trainer := *k
	trainer.sharing = []string{"-XX:ArchiveClassesAtExit=" + part}
	c, err := trainer.start(ctx, Options{})
	if err != nil {
		return err
	}
	if err := errors.Join(c.StopBroker(0), c.Close()); err != nil {
		return err
	}
	err = os.Rename(part, archive)
	if errors.Is(err, os.ErrNotExist) {
		// This JVM cannot write one. It ignores an empty one, and is not asked again.
		err = os.WriteFile(archive, nil, 0o644)
	}
	k.sharing = use
	return err
}

// lock takes the lock that the file path stands for, waiting for another
// process or goroutine that has it, and returns how to give it back.
func lock(ctx context.Context, path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
