package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/kbkio/kbk/pkg/command"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/config"
)

// apiError is what the libraries of S3 and of services like it have their errors be.
type apiError interface {
	error
	ErrorCode() string
	ErrorMessage() string
}

// plainly says in a user's words what a server has refused: without ids of requests, which only
// its operator can look up. bucket is the one that the remote names, or "".
func plainly(err error, bucket string) error {
	text := err.Error()
	if answer, ok := errors.AsType[apiError](err); ok {
		before, _, _ := strings.Cut(text, answer.Error())
		return &redacted{noise.ReplaceAllString(before, "") + refusal(answer.ErrorCode(), answer.ErrorMessage(), bucket), err}
	}
	if strings.Contains(text, "failed to refresh cached credentials") {
		return &redacted{"no credentials: none are in the remote's configuration, nor where the provider's tools look for them (environment, profile, role)", err}
	}
	if plain := noise.ReplaceAllString(text, ""); plain != text {
		return &redacted{plain, err}
	}
	return err
}

// noise is what the library of S3 puts before what happened.
var noise = regexp.MustCompile(`operation error \S+: \w+, (exceeded maximum number of attempts, \d+, )?(https? response error StatusCode: \d+, RequestID: [^,]*, HostID: [^,]*, )?(request send failed, )?`)

// refusal is the text for a code of S3's, and what its server adds.
func refusal(code, message, bucket string) string {
	in := "the bucket"
	if bucket != "" {
		in = fmt.Sprintf("bucket %q", bucket)
	}
	said := strings.TrimSpace(code)
	if m := strings.TrimSpace(message); m != "" && !strings.EqualFold(strings.ReplaceAll(m, " ", ""), code) {
		said += ": " + m
	}
	why := ""
	switch code {
	case "AccessDenied", "Forbidden", "AllAccessDisabled", "AccountProblem", "403":
		why = "access denied to " + in
	case "NoSuchBucket":
		why = "no such bucket"
		if bucket != "" {
			why = fmt.Sprintf("no bucket %q", bucket)
		}
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "IncorrectEndpoint", "MovedPermanently", "301":
		why = "wrong region or endpoint for " + in
	case "InvalidAccessKeyId", unknownUser:
		why = "the store does not know the access key"
	case "SignatureDoesNotMatch":
		why = "the secret key does not fit the access key"
	case "ExpiredToken", "InvalidToken", "TokenRefreshRequired":
		why = "the session's credentials are not valid any more"
	case "RequestTimeTooSkewed":
		why = "the clock of this machine differs too much from the store's"
	default:
		return said
	}
	return why + " (" + said + ")"
}

// unknownUser is the code of versitygw for an access key that it does not know. Its answer has
// the status 404, which rclone takes for a folder that is not there.
const unknownUser = "XAdminUserNotFound"

// refused asks a store like S3, whose folder is not there, whether it knows who asks. Whether it
// may be asked that is another matter.
func (s *Store) refused(ctx context.Context) error {
	ask := fs.UnWrapFs(s.fs).Features().Command
	if ask == nil {
		return nil
	}
	_, err := ask(ctx, "versioning", nil, nil) // other kinds of stores know no such command
	if answer, ok := errors.AsType[apiError](err); ok && answer.ErrorCode() == unknownUser {
		return err
	}
	return nil
}

// bucketOf is the bucket of a remote, or "" where it has none.
func bucketOf(f fs.Fs) string {
	if f = fs.UnWrapFs(f); !f.Features().BucketBased {
		return ""
	}
	bucket, _, _ := strings.Cut(f.Root(), "/")
	return bucket
}

// asURL is a URL. The parameters of a connection string may hold one, behind a colon.
var asURL = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9+.-]*)://(.*)$`)

// checkRemote refuses what was most probably meant otherwise: it would make a folder here, or look
// for one, and say that all is well.
func checkRemote(remote string) error {
	exists := func(name string) bool {
		_, err := os.Stat(name)
		return err == nil
	}
	known := func(name string) (remote, backend bool) {
		_, err := fs.Find(name)
		return slices.Contains(config.GetRemoteNames(), name), err == nil
	}
	why, hint := mistaken(remote, exists, known)
	if why == "" {
		return nil
	}
	return command.WithHint(command.WithStatus(command.Usage, errors.New(why)), hint)
}

// mistaken says why remote is not what it seems, and what to write instead. exists tells of a local
// path, known of a name whether it is a remote that is configured, or a backend.
func mistaken(remote string, exists func(string) bool, known func(string) (remote, backend bool)) (why, hint string) {
	if m := asURL.FindStringSubmatch(remote); m != nil {
		if m[1] == "file" {
			return "a URL is not a remote", "for a local folder write its path"
		}
		return "a URL is not a remote", instead(strings.ToLower(m[1]), m[2], known)
	}
	first, rest, deeper := strings.Cut(remote, "/")
	if !deeper || first == "" || strings.ContainsAny(first, ":.") || first == "local" || exists(first) {
		return "", ""
	}
	configured, backend := known(first)
	if !configured && !backend {
		return "", ""
	}
	what := "the name of a remote"
	if !configured {
		what = "what rclone calls a kind of store"
	}
	return fmt.Sprintf("there is no local folder %q here, and it is %s", first, what),
		instead(first, rest, known) + "; for a new local folder ./" + remote
}

// instead is how rclone writes a place in a store.
func instead(name, path string, known func(string) (remote, backend bool)) string {
	if configured, _ := known(name); configured {
		return fmt.Sprintf("write %s:%s", name, path)
	}
	backend := map[string]string{"s3": "s3", "s3a": "s3", "s3n": "s3", "gs": "gcs", "gcs": "gcs", "azblob": "azureblob", "azureblob": "azureblob"}[name]
	switch backend {
	case "":
		return "write REMOTE:PATH, with a remote that rclone config lists"
	case "gcs":
		return fmt.Sprintf("write REMOTE:%s with a remote that rclone config lists, or :gcs,env_auth:%s for the credentials in the environment", path, path)
	}
	return fmt.Sprintf("write REMOTE:%s with a remote that rclone config lists, or :%s,env_auth:%s for the credentials in the environment", path, backend, path)
}
