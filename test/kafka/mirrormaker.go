package kafkatest

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
)

//go:embed mirrormaker.xml
var mirrorMakerPOM []byte

// MirrorMaker returns a command that runs MirrorMaker 2 as connect-mirror-maker.sh does, with
// a file of properties. The first one on a machine downloads it. It logs as the brokers of c.
func (c *Cluster) MirrorMaker(ctx context.Context, properties string) (*exec.Cmd, error) {
	version := versionInPOM.FindSubmatch(pom)
	if version == nil {
		return nil, errors.New("pom.xml names no kafka.version")
	}
	dir := c.kit.dir + "-mirror-maker"
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return nil, fmt.Errorf("locking the cache: %w", err)
	}
	defer unlock()
	if err := download(ctx, dir, bytes.ReplaceAll(mirrorMakerPOM, []byte("KAFKA_VERSION"), version[1]), "-DincludeScope=runtime"); err != nil {
		return nil, fmt.Errorf("downloading MirrorMaker 2: %w", err)
	}
	return exec.CommandContext(ctx, c.kit.java,
		"-Xms256M", "-Xmx2G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
		"-Djava.awt.headless=true", "-Dlog4j2.configurationFile="+c.logConfig(), "-cp", filepath.Join(dir, "*")+string(filepath.ListSeparator)+c.kit.classPath,
		"org.apache.kafka.connect.mirror.MirrorMaker", properties), nil
}
