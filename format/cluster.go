package format

import (
	"fmt"
	"slices"

	"github.com/fxamacker/cbor/v2"
)

// The kinds of what a [Cluster] has, in [ClusterInfo.Kinds].
const (
	ClusterACLs       = "acls"
	ClusterQuotas     = "quotas"
	ClusterUsers      = "users"
	ClusterConfigs    = "configs"
	ClusterSchemas    = "schemas" // subjects, too
	ClusterConnectors = "connectors"
)

// ClusterKinds are the kinds of what a [Cluster] has, in the order in which they are written.
var ClusterKinds = []string{ClusterACLs, ClusterQuotas, ClusterUsers, ClusterConfigs, ClusterSchemas, ClusterConnectors}

// OfCluster tells whether a frame belongs to a snapshot of a cluster: it is a [Cluster], or one
// of the frames that follow it.
func (k Kind) OfCluster() bool { return k >= KindCluster && k <= KindConnector }

// DecodeOfCluster decodes a frame of a snapshot of a cluster, of whichever kind it is.
func DecodeOfCluster(f *Frame) (Encoder, error) {
	switch f.Kind {
	case KindCluster:
		return DecodeCluster(f.Raw)
	case KindACL:
		return DecodeACL(f.Raw)
	case KindQuota:
		return DecodeQuota(f.Raw)
	case KindUser:
		return DecodeUser(f.Raw)
	case KindConfig:
		return DecodeConfig(f.Raw)
	case KindSubject:
		return DecodeSubject(f.Raw)
	case KindSchema:
		return DecodeSchema(f.Raw)
	case KindConnector:
		return DecodeConnector(f.Raw)
	}
	return nil, fmt.Errorf("a %s frame is none of a cluster", f.Name)
}

// A Cluster begins a snapshot of what a cluster has besides its records. The frames of ACLs,
// quotas, users, configs, subjects, schemas and connectors behind it, up to the next Cluster or
// the end of the stream, are what it has of each of Kinds, all of it: of a kind that is not
// named nothing is known.
type Cluster struct {
	ID   string // names the snapshot
	Time int64  // when it was begun, in milliseconds since the epoch
	ClusterInfo
}

// ClusterInfo is the part of a [Cluster] that may be missing.
type ClusterInfo struct {
	Cluster  string   `cbor:"cluster,omitempty"` // Kafka's cluster id
	Tool     string   `cbor:"tool,omitempty"`
	Kinds    []string `cbor:"kinds"`              // of [ClusterKinds]: those that were read
	Registry string   `cbor:"registry,omitempty"` // URL of the schema registry, without credentials
	Connect  string   `cbor:"connect,omitempty"`  // URL of Kafka Connect, likewise
	// Features are the finalized feature levels (KIP-584), metadata.version among them.
	Features map[string]int64 `cbor:"features,omitempty"`
	// LeftOut names, in a line for people each, what could not be had: passwords, sensitive
	// values, what there was no right to read.
	LeftOut []string `cbor:"left_out,omitempty"`
}

// An ACL is a binding of Kafka's authorizer (KIP-11, KIP-290). The names are those of Kafka's
// enums, in capitals: "TOPIC", "LITERAL", "READ", "ALLOW".
type ACL struct {
	ResourceType string `cbor:"resource_type" json:"resource_type"`
	ResourceName string `cbor:"resource_name" json:"resource_name"`
	PatternType  string `cbor:"pattern_type" json:"pattern_type"` // LITERAL or PREFIXED
	Principal    string `cbor:"principal" json:"principal"`
	Host         string `cbor:"host" json:"host"`
	Operation    string `cbor:"operation" json:"operation"`
	Permission   string `cbor:"permission" json:"permission"` // ALLOW or DENY
}

// A Quota is the quotas of one entity (KIP-546), "producer_byte_rate", say.
type Quota struct {
	Entity []QuotaEntity
	Values map[string]float64
}

// A QuotaEntity is a part of what a quota is of: "user", "client-id" or "ip". The name nil is the
// default of the type.
type QuotaEntity struct {
	_    struct{} `cbor:",toarray"`
	Type string
	Name *string
}

// A User has SCRAM credentials (KIP-554). Kafka does not give the password away, nor what is
// derived from it.
type User struct {
	Name        string
	Credentials []Credential
}

// A Credential is one of a [User]'s.
type Credential struct {
	Mechanism  string `cbor:"mechanism" json:"mechanism"` // "SCRAM-SHA-256" or "SCRAM-SHA-512"
	Iterations int32  `cbor:"iterations" json:"iterations"`
}

// A Config is the dynamic configs of one resource: those that were set, and none of the
// defaults. A sensitive value is nil, because Kafka does not give it away.
type Config struct {
	ResourceType string // "broker", "topic", "group" or "client-metrics"
	Name         string // of a broker its id; "" is the default of all brokers
	Values       map[string]*string
	ConfigInfo
}

// ConfigInfo is the part of a [Config] that may be missing.
type ConfigInfo struct {
	Partitions        int `cbor:"partitions,omitempty" json:"partitions,omitempty"`                 // of a topic
	ReplicationFactor int `cbor:"replication_factor,omitempty" json:"replication_factor,omitempty"` // of a topic
}

// A Subject is one of a schema registry. The name "" is the registry's defaults; one of a
// context other than the default begins with ":.context:".
type Subject struct {
	Name string
	SubjectInfo
}

// SubjectInfo is the part of a [Subject] that may be missing. What is missing is as the
// registry's defaults have it.
type SubjectInfo struct {
	Compatibility string `cbor:"compatibility,omitempty" json:"compatibility,omitempty"` // "BACKWARD", say
	Mode          string `cbor:"mode,omitempty" json:"mode,omitempty"`                   // "READWRITE", say
	// Config is all of the subject's config, as JSON, as the registry gave it.
	Config  string `cbor:"config,omitempty" json:"config,omitempty"`
	Deleted bool   `cbor:"deleted,omitempty" json:"deleted,omitempty"` // softly: its versions can be had
}

// A Schema is a version of a subject.
type Schema struct {
	Subject string
	Version int
	SchemaInfo
}

// SchemaInfo is what a [Schema] is.
type SchemaInfo struct {
	ID         int               `cbor:"id" json:"id"`
	Type       string            `cbor:"type,omitempty" json:"type,omitempty"` // "" is AVRO
	Schema     string            `cbor:"schema" json:"schema"`                 // its text
	References []SchemaReference `cbor:"references,omitempty" json:"references,omitempty"`
	Deleted    bool              `cbor:"deleted,omitempty" json:"deleted,omitempty"`   // softly
	Metadata   string            `cbor:"metadata,omitempty" json:"metadata,omitempty"` // JSON, as the registry gave it
	Rules      string            `cbor:"rules,omitempty" json:"rules,omitempty"`       // likewise
}

// A SchemaReference names another schema that one uses.
type SchemaReference struct {
	Name    string `cbor:"name" json:"name"`
	Subject string `cbor:"subject" json:"subject"`
	Version int    `cbor:"version" json:"version"`
}

// A Connector is one of Kafka Connect.
type Connector struct {
	Name   string
	Config map[string]string // as the worker shows it
	ConnectorInfo
}

// ConnectorInfo is the part of a [Connector] that may be missing.
type ConnectorInfo struct {
	State string `cbor:"state,omitempty" json:"state,omitempty"` // "RUNNING", "PAUSED", "STOPPED"
	// Offsets are the connector's, as JSON, as KIP-875's REST API gave them. "" is not known.
	Offsets string `cbor:"offsets,omitempty" json:"offsets,omitempty"`
}

// A Snapshot is what is known of a packed snapshot of a cluster without opening it. The bytes go
// beside it: see [Writer.WriteSnapshot] and [DecodeSnapshot].
type Snapshot struct {
	ID      string           `cbor:"id"`   // as in [Cluster]
	Time    int64            `cbor:"time"` // likewise
	Cluster string           `cbor:"cluster,omitempty"`
	Frames  map[string]int64 `cbor:"frames"`             // how many of each kind of frame, "acl", say
	Kinds   []string         `cbor:"kinds"`              // as in [ClusterInfo]
	LeftOut int64            `cbor:"left_out,omitempty"` // how many lines [ClusterInfo.LeftOut] has
	Codec   string           `cbor:"codec"`              // as in [Segment], and so are those below
	Cipher  string           `cbor:"cipher,omitempty"`
	RawSize int64            `cbor:"raw_size"`
	Size    int64            `cbor:"size"`
	SHA256  []byte           `cbor:"sha256"`
}

// AppendFrame implements [Encoder].
func (c *Cluster) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "cluster", c.ID, c.Time, c.ClusterInfo)
}

// DecodeCluster decodes a cluster frame.
func DecodeCluster(b []byte) (*Cluster, error) {
	c := new(Cluster)
	if err := decodeFrame(b, "cluster", &c.ID, &c.Time, &c.ClusterInfo); err != nil {
		return nil, err
	}
	if c.ID == "" {
		return nil, corrupt("cluster without an id")
	}
	return c, nil
}

// AppendFrame implements [Encoder].
func (a *ACL) AppendFrame(b []byte) ([]byte, error) { return appendFrame(b, "acl", *a) }

// DecodeACL decodes an acl frame.
func DecodeACL(b []byte) (*ACL, error) {
	a := new(ACL)
	if err := decodeFrame(b, "acl", a); err != nil {
		return nil, err
	}
	if slices.Contains([]string{a.ResourceType, a.ResourceName, a.PatternType, a.Principal, a.Host, a.Operation, a.Permission}, "") {
		return nil, corrupt("acl with an empty field")
	}
	return a, nil
}

// AppendFrame implements [Encoder].
func (q *Quota) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "quota", q.Entity, q.Values)
}

// DecodeQuota decodes a quota frame.
func DecodeQuota(b []byte) (*Quota, error) {
	q := new(Quota)
	if err := decodeFrame(b, "quota", &q.Entity, &q.Values); err != nil {
		return nil, err
	}
	if len(q.Entity) == 0 {
		return nil, corrupt("quota of nobody")
	}
	return q, nil
}

// AppendFrame implements [Encoder].
func (u *User) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "user", u.Name, u.Credentials)
}

// DecodeUser decodes a user frame.
func DecodeUser(b []byte) (*User, error) {
	u := new(User)
	if err := decodeFrame(b, "user", &u.Name, &u.Credentials); err != nil {
		return nil, err
	}
	return u, nil
}

// AppendFrame implements [Encoder].
func (c *Config) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "config", c.ResourceType, c.Name, c.Values, c.ConfigInfo)
}

// DecodeConfig decodes a config frame.
func DecodeConfig(b []byte) (*Config, error) {
	c := new(Config)
	if err := decodeFrame(b, "config", &c.ResourceType, &c.Name, &c.Values, &c.ConfigInfo); err != nil {
		return nil, err
	}
	return c, nil
}

// AppendFrame implements [Encoder].
func (s *Subject) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "subject", s.Name, s.SubjectInfo)
}

// DecodeSubject decodes a subject frame.
func DecodeSubject(b []byte) (*Subject, error) {
	s := new(Subject)
	if err := decodeFrame(b, "subject", &s.Name, &s.SubjectInfo); err != nil {
		return nil, err
	}
	return s, nil
}

// AppendFrame implements [Encoder].
func (s *Schema) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "schema", s.Subject, s.Version, s.SchemaInfo)
}

// DecodeSchema decodes a schema frame.
func DecodeSchema(b []byte) (*Schema, error) {
	s := new(Schema)
	if err := decodeFrame(b, "schema", &s.Subject, &s.Version, &s.SchemaInfo); err != nil {
		return nil, err
	}
	if s.Version < 1 || s.ID < 0 {
		return nil, corrupt("schema %d of subject %q in version %d", s.ID, s.Subject, s.Version)
	}
	return s, nil
}

// AppendFrame implements [Encoder].
func (c *Connector) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "connector", c.Name, c.Config, c.ConnectorInfo)
}

// DecodeConnector decodes a connector frame.
func DecodeConnector(b []byte) (*Connector, error) {
	c := new(Connector)
	if err := decodeFrame(b, "connector", &c.Name, &c.Config, &c.ConnectorInfo); err != nil {
		return nil, err
	}
	return c, nil
}

// DecodeSnapshot decodes a snapshot frame. The data shares b's memory.
func DecodeSnapshot(b []byte) (*Snapshot, []byte, error) {
	s := new(Snapshot)
	var raw cbor.RawMessage
	if err := decodeFrame(b, "snapshot", s, &raw); err != nil {
		return nil, nil, err
	}
	elems, err := split(b, 3)
	if err != nil {
		return nil, nil, err
	}
	data, ok := bytesOf(elems[2])
	if !ok {
		return nil, nil, corrupt("snapshot whose content is not bytes")
	}
	return s, data, s.Validate()
}

// Validate tells whether the snapshot's figures agree with one another.
func (s *Snapshot) Validate() error {
	switch {
	case s.ID == "":
		return corrupt("snapshot without an id")
	case s.RawSize < 0 || s.Size < 0 || s.LeftOut < 0 || len(s.SHA256) != 32:
		return corrupt("snapshot without its sizes and sha256")
	}
	for kind, n := range s.Frames {
		if n < 0 || kind == "cluster" || !kinds[kind].OfCluster() {
			return corrupt("snapshot with %d frames of kind %q", n, kind)
		}
	}
	return nil
}
