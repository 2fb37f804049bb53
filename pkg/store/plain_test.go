package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/smithy-go"
)

// TestPlainly has errors as S3's library returns them.
func TestPlainly(t *testing.T) {
	for _, test := range []struct{ code, message, bucket, want string }{
		{"AccessDenied", "Access Denied", "b", `access denied to bucket "b" (AccessDenied)`},
		{"AccessDenied", "User u may not s3:PutObject", "b", `access denied to bucket "b" (AccessDenied: User u may not s3:PutObject)`},
		{"Forbidden", "Forbidden", "", "access denied to the bucket (Forbidden)"},
		{"NoSuchBucket", "The specified bucket does not exist", "b", `no bucket "b" (NoSuchBucket: The specified bucket does not exist)`},
		{"AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-1'", "b", `wrong region or endpoint for bucket "b" (AuthorizationHeaderMalformed: the region 'us-east-1' is wrong; expecting 'eu-west-1')`},
		{"InvalidAccessKeyId", "", "b", "the store does not know the access key (InvalidAccessKeyId)"},
		{"XAdminUserNotFound", "No user exists with the provided access key ID.", "b", "the store does not know the access key (XAdminUserNotFound: No user exists with the provided access key ID.)"},
		{"SignatureDoesNotMatch", "", "b", "the secret key does not fit the access key (SignatureDoesNotMatch)"},
		{"XMinioStorageFull", "Storage backend has reached its minimum free drive threshold", "b", "XMinioStorageFull: Storage backend has reached its minimum free drive threshold"},
	} {
		inner := &smithy.GenericAPIError{Code: test.code, Message: test.message}
		err := fmt.Errorf("failed to prepare upload: %w", &smithy.OperationError{ServiceID: "S3", OperationName: "PutObject",
			Err: fmt.Errorf("https response error StatusCode: 403, RequestID: 18C1, HostID: dd9025bab, %w", inner)})
		got := plainly(err, test.bucket)
		if want := "failed to prepare upload: " + test.want; got.Error() != want {
			t.Errorf("%s: %q, not %q", test.code, got, want)
		}
		if !errors.Is(got, err) {
			t.Errorf("%s: it is another error", test.code)
		}
	}
	down := errors.New(`gave up after 5s: operation error S3: PutObject, exceeded maximum number of attempts, 3, https response error StatusCode: 0, RequestID: , HostID: , request send failed, Put "http://127.0.0.1:1/b": dial tcp: connection refused`)
	if got, want := plainly(down, "b").Error(), `gave up after 5s: Put "http://127.0.0.1:1/b": dial tcp: connection refused`; got != want {
		t.Errorf("%q, not %q", got, want)
	}
	if err := errors.New("disk full"); plainly(err, "") != err {
		t.Error("another error is changed")
	}
}

// TestMistaken has what people write who do not think of rclone.
func TestMistaken(t *testing.T) {
	known := func(name string) (remote, backend bool) {
		return name == "nas", map[string]bool{"s3": true, "drive": true, "local": true}[name]
	}
	exists := func(name string) bool { return name == "drive" }
	for remote, want := range map[string]string{
		"s3:bucket/nightly":                   "",
		":s3,endpoint='http://x:9000':bucket": "",
		"backup":                              "",
		"s3":                                  "",
		"./s3/bucket":                         "",
		"/s3/bucket":                          "",
		"../nas/b":                            "",
		"local/b":                             "",
		"drive/b":                             "", // there is a folder of this name
		"data/b":                              "",
		"s3/bucket/nightly":                   `there is no local folder "s3" here, and it is what rclone calls a kind of store: write REMOTE:bucket/nightly with a remote that rclone config lists, or :s3,env_auth:bucket/nightly for the credentials in the environment; for a new local folder ./s3/bucket/nightly`,
		"nas/nightly":                         `there is no local folder "nas" here, and it is the name of a remote: write nas:nightly; for a new local folder ./nas/nightly`,
		"s3://bucket/nightly":                 "a URL is not a remote: write REMOTE:bucket/nightly with a remote that rclone config lists, or :s3,env_auth:bucket/nightly for the credentials in the environment",
		"S3://bucket":                         "a URL is not a remote: write REMOTE:bucket with a remote that rclone config lists, or :s3,env_auth:bucket for the credentials in the environment",
		"gs://bucket":                         "a URL is not a remote: write REMOTE:bucket with a remote that rclone config lists, or :gcs,env_auth:bucket for the credentials in the environment",
		"nas://x/y":                           "a URL is not a remote: write nas:x/y",
		"https://example.com/b":               "a URL is not a remote: write REMOTE:PATH, with a remote that rclone config lists",
		"file:///srv/b":                       "a URL is not a remote: for a local folder write its path",
		strings.Repeat("x", 10) + "://user:pw@h/b": "a URL is not a remote: write REMOTE:PATH, with a remote that rclone config lists",
	} {
		why, hint := mistaken(remote, exists, known)
		got := why
		if hint != "" {
			got += ": " + hint
		}
		if got != want {
			t.Errorf("%s:\n got %q\nwant %q", remote, got, want)
		}
	}
}
