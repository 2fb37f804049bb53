package timespec

import (
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	berlin := time.FixedZone("CET", 3600)
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, berlin)
	for in, want := range map[string]string{
		"2026-11-20T22:00:00Z":          "2026-11-20T22:00:00Z",
		"2026-11-20T22:00:00.123+02:00": "2026-11-20T20:00:00.123Z",
		"2026-11-20T22:00:00":           "2026-11-20T21:00:00Z",
		"2026-11-20T22:00":              "2026-11-20T21:00:00Z",
		"2026-11-20":                    "2026-11-19T23:00:00Z",
		"1700000000123":                 "2023-11-14T22:13:20.123Z",
		"0":                             "1970-01-01T00:00:00Z",
		"@0":                            "1970-01-01T00:00:00Z",
		"@20":                           "1970-01-01T00:00:00.02Z",
		"@2026":                         "1970-01-01T00:00:02.026Z",
		"@-5":                           "1969-12-31T23:59:59.995Z",
		"100000000000":                  "1973-03-03T09:46:40Z",
		"9999999999999":                 "2286-11-20T17:46:39.999Z",
		"@20261120220000":               "2612-01-19T16:57:00Z",
		"@2026-11-20":                   "2026-11-19T23:00:00Z",
		"@24h":                          "2026-11-19T11:00:00Z",
		"24h":                           "2026-11-19T11:00:00Z",
		"7d":                            "2026-11-13T11:00:00Z",
		"1w1d1h":                        "2026-11-12T10:00:00Z",
		"90s":                           "2026-11-20T10:58:30Z",
	} {
		got, err := Parse(in, now)
		if err != nil || got.UTC().Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %s, %v; want %s", in, got.UTC().Format(time.RFC3339Nano), err, want)
		}
	}
	for _, in := range []string{"", "yesterday", "-24h", "d", "1d2w", "1x", "2026-13-01", "1.5d", "99999999999d"} {
		if got, err := Parse(in, now); err == nil {
			t.Errorf("%q was taken as %s", in, got)
		}
	}
	for in, want := range map[string]string{
		"2026":                `"2026" may be a year or milliseconds since the epoch: write 2026-01-01, or @2026 for milliseconds`,
		"1790000000":          `"1790000000" looks like seconds: times are RFC 3339 or milliseconds since the epoch, so that is 2026-09-21T14:13:20Z or 1790000000000`,
		"@1790000000":         `"@1790000000" looks like seconds: times are RFC 3339 or milliseconds since the epoch, so that is 2026-09-21T14:13:20Z or 1790000000000`,
		"20261120":            `"20261120" is not plainly milliseconds since the epoch: write a date as 2026-11-20, or @20261120 for milliseconds`,
		"24":                  `"24" is not plainly`,
		"-5":                  `"-5" is not plainly`,
		"20261120220000":      `"20261120220000" is not plainly`,
		"1790000000000000":    `"1790000000000000" is not plainly`,
		"1790000000000000000": `"1790000000000000000" is not plainly`,
	} {
		if got, err := Parse(in, now); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %s, %v", in, got, err)
		}
	}
}
