package offsets

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
)

// Script writes what apply would do as commands of Kafka's own tool, for a shell.
func Script(ctx context.Context, maxFrame int64, brokers string, in io.Reader, out io.Writer) error {
	groups, end, err := readTranslated(ctx, in, maxFrame)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	fmt.Fprintln(w, "# Commits consumer groups' offsets with Kafka's own tool; paste it into bash, or run it.")
	if brokers == "" {
		fmt.Fprintln(w, `: "${BROKERS:?set it to HOST:PORT of a broker}"`)
	} else {
		fmt.Fprintf(w, "BROKERS=%s\n", quote(brokers))
	}
	// The tool wants to know the size of the file: a pipe does not do.
	fmt.Fprintln(w, "PLAN=$(mktemp)")
	for _, g := range groups {
		var numbers, ends strings.Builder
		for p, o := range each(g) {
			if o.AtEnd {
				fmt.Fprintf(&ends, " --topic %s", quote(fmt.Sprintf("%s:%d", p.topic, p.num)))
				continue
			}
			fmt.Fprintf(&numbers, "%s,%d,%d\n", p.topic, p.num, o.Offset) // a topic's name has no comma and no quote
		}
		const tool = `kafka-consumer-groups.sh --bootstrap-server "$BROKERS" --reset-offsets --execute --group `
		if numbers.Len() > 0 {
			fmt.Fprintf(w, "\ncat >\"$PLAN\" <<'END'\n%sEND\n%s%s --from-file \"$PLAN\"\n", numbers.String(), tool, quote(g.ID))
		}
		if ends.Len() > 0 {
			fmt.Fprintf(w, "\n%s%s --to-latest%s\n", tool, quote(g.ID), ends.String())
		}
		for _, u := range g.Unplaced {
			fmt.Fprintf(w, "# no place: %s\n", oneLine(fmt.Sprintf("%s/%d, offset %d: %s", u.Topic, u.Partition, u.Offset, u.Why)))
		}
	}
	fmt.Fprintln(w, "\nrm \"$PLAN\"")
	if err := w.Flush(); err != nil {
		return err
	}
	return endStatus(end, "the script is incomplete", lossOf(count(groups)))
}

// quote quotes a word for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// oneLine keeps what came from elsewhere inside a comment.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
