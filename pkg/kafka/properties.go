package kafka

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/magiconair/properties"
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
)

// aliases are librdkafka's names, and those of older versions, for what Java's clients
// call otherwise.
var aliases = map[string]string{
	"metadata.broker.list":           brokersKey,
	"sasl.mechanisms":                "sasl.mechanism",
	"sasl.oauthbearer.client.id":     "sasl.oauthbearer.client.credentials.client.id",
	"sasl.oauthbearer.client.secret": "sasl.oauthbearer.client.credentials.client.secret",
}

const brokersKey = "bootstrap.servers"

// commandConfigKey is what a section of a cluster may say instead of --command-config.
const commandConfigKey = "command-config"

// honoured are the properties that mean something here. Those of TLS and SASL are
// Java's (SslConfigs, SaslConfigs), and librdkafka's where Java has none.
var honoured = []string{
	brokersKey, "client.id", "security.protocol",
	"sasl.mechanism", "sasl.username", "sasl.password", "sasl.jaas.config",
	"sasl.kerberos.service.name", "sasl.kerberos.principal", "sasl.kerberos.keytab",
	"sasl.oauthbearer.token", // kbk's own: one that does not change
	"sasl.oauthbearer.token.endpoint.url", "sasl.oauthbearer.client.credentials.client.id",
	"sasl.oauthbearer.client.credentials.client.secret", "sasl.oauthbearer.scope",
	"ssl.ca.location", "ssl.ca.pem", "ssl.certificate.location", "ssl.certificate.pem",
	"ssl.key.location", "ssl.key.pem", "ssl.key.password",
	"ssl.keystore.location", "ssl.keystore.password", "ssl.keystore.type", "ssl.keystore.key", "ssl.keystore.certificate.chain",
	"ssl.truststore.location", "ssl.truststore.password", "ssl.truststore.type", "ssl.truststore.certificates",
	"ssl.endpoint.identification.algorithm", "enable.ssl.certificate.verification",
	"ssl.enabled.protocols", "ssl.cipher.suites",
}

// others are the names of all properties of Java's consumer, producer and admin client
// (Kafka 4.3) and of librdkafka 2.0.
//
//go:embed others.txt
var othersText string

var others = func() map[string]bool {
	out := make(map[string]bool)
	for _, name := range strings.Fields(othersText) {
		out[name] = true
	}
	return out
}()

// A setting is a property's value, and where it is from, for errors.
type setting struct{ value, from string }

// settings are properties by their Java names.
type settings map[string]setting

// put sets one property. What other clients know and this one has no use for is an
// error, unless it is in a file that others read too.
func (s settings) put(key, value, from string, shared bool) error {
	name := key
	if java, ok := aliases[key]; ok {
		name = java
	}
	why, narrows := narrowing[key]
	switch {
	case !isName(key): // it may be a password, with the name in front
		return command.Usagef("%s: what is before the = is not the name of a property", from)
	case narrows && value != "":
		return command.WithHint(command.Usagef("%s: %s is not supported: %s", from, key, why), "without it, kbk would trust more than intended; leave it out if that is acceptable")
	case narrows:
		return nil
	case slices.Contains(honoured, name):
		s[name] = setting{value, from + " " + key}
		return nil
	case others[key] && shared:
		return nil
	case others[key]:
		return command.Usagef("%s: kbk does not use %s", from, key)
	}
	known := slices.Concat(honoured, slices.Collect(maps.Keys(aliases)))
	if shared {
		known = slices.AppendSeq(known, maps.Keys(others))
	}
	slices.Sort(known)
	return command.Usagef("%s: property %q is not known%s", from, key, command.Nearest(key, known))
}

// isName says whether a key looks like the name of a property.
func isName(key string) bool {
	return key != "" && strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// settingsOf gathers the properties of the cluster that the flags name.
func settingsOf(c *cli.Context) (settings, error) {
	name := c.String("cluster")
	if name == "" {
		section, err := command.Section(c, command.ClusterSection)
		if err != nil {
			return nil, err
		}
		return gather(section, name, c.String("command-config"), c.StringSlice("X"))
	}
	for _, flag := range []string{"brokers", "command-config"} {
		if command.Given(c, flag) {
			return nil, command.Usagef("--%s and --cluster exclude one another", flag)
		}
	}
	section, err := command.Cluster(c, name)
	if err != nil {
		return nil, err
	}
	return gather(section, name, "", c.StringSlice("X"))
}

// gather gathers the properties of a cluster: of the configuration file's section, of a
// file that Kafka's tools take, of the environment, of -X. Later ones win.
//
// A cluster that has a name has properties of its own: nothing that is said of the other
// one, in the file or in the environment, is said of it.
func gather(section map[string]string, name, file string, xs []string) (settings, error) {
	s := make(settings)
	from, prefix := "--config: cluster:", "KBK_"
	if name != "" {
		from, prefix = "--config: clusters: "+name+":", "KBK_CLUSTERS_"+variable(name)+"_"
	}
	if file == "" {
		file = section[commandConfigKey]
	}
	for _, key := range slices.Sorted(maps.Keys(section)) {
		if key == commandConfigKey {
			continue
		}
		if err := s.put(key, section[key], from, false); err != nil {
			return nil, err
		}
	}
	if file != "" {
		if err := s.file(file); err != nil {
			return nil, err
		}
	}
	for _, key := range slices.Concat(honoured, slices.Sorted(maps.Keys(aliases))) {
		env := prefix + variable(key)
		if v, ok := os.LookupEnv(env); ok {
			if err := s.put(key, v, env+":", false); err != nil {
				return nil, err
			}
		}
	}
	for _, x := range xs {
		key, value, ok := strings.Cut(x, "=")
		if !ok {
			// No word of it: sasl.password:secret is a mistake that people make.
			return nil, command.Usagef("-X: a property is NAME=VALUE, and there is no =")
		}
		if err := s.put(strings.TrimSpace(key), value, "-X", false); err != nil {
			return nil, err
		}
	}
	if name != "" && s.get(brokersKey) == "" {
		return nil, command.Usagef("%s it has no %s", from, brokersKey)
	}
	return s, nil
}

// variable is a name as variables of the environment have it.
func variable(name string) string {
	return strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(name))
}

// file reads a file of properties.
func (s settings) file(name string) error {
	from := "--command-config " + name + ":"
	raw, err := os.ReadFile(name)
	if err != nil {
		return command.Usagef("%s %w", from, errors.Unwrap(err))
	}
	return s.load(raw, from)
}

// load reads properties as java.util.Properties.load does.
func (s settings) load(raw []byte, from string) error {
	loader := properties.Loader{Encoding: properties.ISO_8859_1, DisableExpansion: true}
	p, err := loader.LoadBytes(raw)
	if err != nil {
		// Its message may quote the file, and with it a password.
		return command.Usagef("%s it is not a file of Java properties", from)
	}
	for _, key := range p.Keys() {
		value, _ := p.Get(key)
		if strings.HasPrefix(value, "${") {
			return command.Usagef("%s %s: config providers are not supported: put the value there, or into the environment", from, key)
		}
		if err := s.put(key, value, from, true); err != nil {
			return err
		}
	}
	return nil
}

// get returns a property, or "".
func (s settings) get(key string) string { return s[key].value }

// failf is an error about a property, which names where it is from and never its value.
func (s settings) failf(key, f string, args ...any) error {
	from := key
	if v, ok := s[key]; ok {
		from = v.from
	}
	return command.WithStatus(command.Usage, fmt.Errorf("%s: %w", from, fmt.Errorf(f, args...)))
}
