package jsonline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/kbkio/kbk/format"
)

// The frames of a snapshot of a cluster have one member besides their kind: "data", an object with
// the names that format/SPEC.md has.

type clusterData struct {
	ID       string           `json:"id"`
	Time     int64            `json:"time"`
	Cluster  string           `json:"cluster,omitempty"`
	Tool     string           `json:"tool,omitempty"`
	Kinds    []string         `json:"kinds"`
	Registry string           `json:"registry,omitempty"`
	Connect  string           `json:"connect,omitempty"`
	Features map[string]int64 `json:"features,omitempty"`
	LeftOut  []string         `json:"left_out,omitempty"`
}

type quotaData struct {
	Entity [][2]*string       `json:"entity"` // [type, name or null]
	Values map[string]float64 `json:"values"`
}

type userData struct {
	Name        string              `json:"name"`
	Credentials []format.Credential `json:"credentials"`
}

type configData struct {
	ResourceType string             `json:"resource_type"`
	Name         string             `json:"name"`
	Values       map[string]*string `json:"values"`
	format.ConfigInfo
}

type subjectData struct {
	Name string `json:"name"`
	format.SubjectInfo
}

type schemaData struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
	format.SchemaInfo
}

type connectorData struct {
	Name   string            `json:"name"`
	Config map[string]string `json:"config"`
	format.ConnectorInfo
}

// describeCluster returns the "data" of a frame of a snapshot of a cluster.
func describeCluster(f *format.Frame) (json.RawMessage, error) {
	data, err := clusterDataOf(f)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(data); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func clusterDataOf(f *format.Frame) (any, error) {
	of, err := format.DecodeOfCluster(f)
	if err != nil {
		return nil, err
	}
	switch f := of.(type) {
	case *format.Cluster:
		return clusterData{f.ID, f.Time, f.Cluster, f.Tool, f.Kinds, f.Registry, f.Connect, f.Features, f.LeftOut}, nil
	case *format.Quota:
		d := quotaData{Values: f.Values}
		for i := range f.Entity {
			d.Entity = append(d.Entity, [2]*string{&f.Entity[i].Type, f.Entity[i].Name})
		}
		return d, nil
	case *format.User:
		return userData{f.Name, f.Credentials}, nil
	case *format.Config:
		return configData{f.ResourceType, f.Name, f.Values, f.ConfigInfo}, nil
	case *format.Subject:
		return subjectData{f.Name, f.SubjectInfo}, nil
	case *format.Schema:
		return schemaData{f.Subject, f.Version, f.SchemaInfo}, nil
	case *format.Connector:
		return connectorData{f.Name, f.Config, f.ConnectorInfo}, nil
	}
	return of, nil
}

// encodeCluster makes a frame of a kind, and of the "data" of its line.
func encodeCluster(kind string, raw json.RawMessage) (format.Encoder, error) {
	if len(raw) == 0 {
		return nil, fmt.Errorf("the data of the %s is missing", kind)
	}
	read := func(v any) error {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(v); err != nil {
			return fmt.Errorf("the data of the %s: %w", kind, err)
		}
		return nil
	}
	switch kind {
	case "cluster":
		var c clusterData
		err := read(&c)
		return &format.Cluster{ID: c.ID, Time: c.Time, ClusterInfo: format.ClusterInfo{
			Cluster: c.Cluster, Tool: c.Tool, Kinds: c.Kinds, Registry: c.Registry, Connect: c.Connect, Features: c.Features, LeftOut: c.LeftOut,
		}}, err
	case "acl":
		a := new(format.ACL)
		return a, read(a)
	case "quota":
		var d quotaData
		if err := read(&d); err != nil {
			return nil, err
		}
		q := &format.Quota{Values: d.Values}
		for _, e := range d.Entity {
			if e[0] == nil {
				return nil, errors.New("the data of the quota: an entity without a type")
			}
			q.Entity = append(q.Entity, format.QuotaEntity{Type: *e[0], Name: e[1]})
		}
		return q, nil
	case "user":
		var u userData
		err := read(&u)
		return &format.User{Name: u.Name, Credentials: u.Credentials}, err
	case "config":
		var c configData
		err := read(&c)
		return &format.Config{ResourceType: c.ResourceType, Name: c.Name, Values: c.Values, ConfigInfo: c.ConfigInfo}, err
	case "subject":
		var s subjectData
		err := read(&s)
		return &format.Subject{Name: s.Name, SubjectInfo: s.SubjectInfo}, err
	case "schema":
		var s schemaData
		err := read(&s)
		return &format.Schema{Subject: s.Subject, Version: s.Version, SchemaInfo: s.SchemaInfo}, err
	}
	var c connectorData
	err := read(&c)
	return &format.Connector{Name: c.Name, Config: c.Config, ConnectorInfo: c.ConnectorInfo}, err
}
