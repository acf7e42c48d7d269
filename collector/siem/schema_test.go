package siem

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// schemaDir holds the source form of the OCSF schema, beside the checkout.
const schemaDir = "../../../shared/ocsf"

type object = map[string]any

// source reads the uncompiled OCSF schema: objects and events extend one another, include profiles and take what they leave
// out from the dictionary.
type source struct {
	t          *testing.T
	dictionary object
	types      object
	files      map[string]object
}

func openSource(t *testing.T) *source {
	t.Helper()
	if _, err := os.Stat(schemaDir); err != nil {
		t.Skipf("the OCSF schema is not in %s: %v", schemaDir, err)
	}
	s := &source{t: t, files: map[string]object{}}
	dict := s.read("dictionary.json")
	s.dictionary = dict["attributes"].(object)
	s.types = dict["types"].(object)["attributes"].(object)
	if v := s.read("version.json")["version"]; v != ocsfVersion {
		t.Fatalf("the schema is %v, findings say %s", v, ocsfVersion)
	}
	err := filepath.WalkDir(filepath.Join(schemaDir, "events"), func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".json") {
			rel, _ := filepath.Rel(schemaDir, path)
			s.files["event:"+strings.TrimSuffix(filepath.Base(path), ".json")] = s.read(rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *source) read(name string) object {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(schemaDir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	var o object
	if err := json.Unmarshal(b, &o); err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	return o
}

// resolved is a class or object after extends, includes and the dictionary.
type resolved struct {
	attributes  map[string]object
	constraints object
}

// resolve merges a definition over what it extends. profiles names those that the event applies.
func (s *source) resolve(def object, parent func(string) object, profiles []string) resolved {
	out := resolved{attributes: map[string]object{}, constraints: object{}}
	if name, ok := def["extends"].(string); ok {
		out = s.resolve(parent(name), parent, profiles)
	}
	attrs, _ := def["attributes"].(object)
	var includes []any
	switch v := attrs["$include"].(type) {
	case string:
		includes = []any{v}
	case []any:
		includes = v
	}
	for _, inc := range includes {
		profile := s.read(inc.(string))
		if profile["meta"] == "profile" && !slices.Contains(profiles, profile["name"].(string)) {
			continue
		}
		for name, a := range profile["attributes"].(object) {
			out.merge(name, a.(object))
		}
	}
	for name, a := range attrs {
		if name != "$include" {
			out.merge(name, a.(object))
		}
	}
	if c, ok := def["constraints"].(object); ok {
		out.constraints = c
	}
	return out
}

func (r resolved) merge(name string, over object) {
	m := object{}
	maps.Copy(m, r.attributes[name])
	for k, v := range over {
		if k == "enum" && m["enum"] != nil {
			e := maps.Clone(m["enum"].(object))
			maps.Copy(e, v.(object))
			v = e
		}
		m[k] = v
	}
	r.attributes[name] = m
}

// jsonSchema makes a JSON Schema (2020-12) of a class: no attribute beyond its own, those required present, types, lengths,
// ranges, patterns, enums and constraints as the class, its objects and the dictionary say.
func (s *source) jsonSchema(class string) object {
	def, ok := s.files["event:"+class]
	if !ok {
		s.t.Fatalf("no class %s", class)
	}
	category := def["category"]
	defs := object{}
	event := s.resolve(def, func(n string) object {
		p := s.files["event:"+n]
		if category == nil {
			category = p["category"]
		}
		return p
	}, nil)
	root := s.shape(event, defs)
	// The class decides these; the source form leaves them to the compiler.
	uid := s.read("categories.json")["attributes"].(object)[category.(string)].(object)["uid"].(float64)
	classUID := uid*1000 + def["uid"].(float64)
	props := root["properties"].(object)
	props["category_uid"] = object{"const": uid}
	props["class_uid"] = object{"const": classUID}
	var types []any
	for id := range event.attributes["activity_id"]["enum"].(object) {
		n, _ := strconv.Atoi(id)
		types = append(types, object{"properties": object{"activity_id": object{"const": n}, "type_uid": object{"const": classUID*100 + float64(n)}}})
	}
	root["oneOf"] = types
	root["$defs"] = defs
	return root
}

func (s *source) shape(r resolved, defs object) object {
	props, required := object{}, []any{}
	for name, a := range r.attributes {
		if a["profile"] != nil {
			continue // belongs to a profile that the event does not apply
		}
		d, ok := s.dictionary[name].(object)
		if !ok {
			s.t.Fatalf("attribute %s is not in the dictionary", name)
		}
		props[name] = s.attribute(d, a, defs)
		if a["requirement"] == "required" {
			required = append(required, name)
		}
	}
	out := object{"type": "object", "properties": props, "required": required, "additionalProperties": false}
	for kind, keyword := range map[string]string{"at_least_one": "anyOf", "just_one": "oneOf"} {
		names, _ := r.constraints[kind].([]any)
		var each []any
		for _, n := range names {
			each = append(each, object{"required": []any{n}})
		}
		if each != nil {
			out[keyword] = each
		}
	}
	return out
}

func (s *source) attribute(dict, own object, defs object) object {
	typ := dict["type"].(string)
	if t, ok := own["type"].(string); ok {
		typ = t
	}
	var schema object
	if _, primitive := s.types[typ]; primitive {
		schema = s.primitive(typ)
	} else {
		schema = object{"$ref": "#/$defs/" + typ}
		if _, done := defs[typ]; !done {
			defs[typ] = true // an object may hold itself
			defs[typ] = s.shape(s.resolve(s.read("objects/"+typ+".json"), func(n string) object { return s.read("objects/" + n + ".json") }, nil), defs)
		}
	}
	enum, _ := dict["enum"].(object)
	if e, ok := own["enum"].(object); ok {
		merged := object{}
		maps.Copy(merged, enum)
		maps.Copy(merged, e)
		enum = merged
	}
	if enum != nil {
		var values []any
		for v := range enum {
			if n, err := strconv.Atoi(v); err == nil && schema["type"] == "integer" {
				values = append(values, n)
			} else {
				values = append(values, v)
			}
		}
		schema["enum"] = values
	}
	if dict["is_array"] == true {
		return object{"type": "array", "items": schema}
	}
	return schema
}

func (s *source) primitive(name string) object {
	out := object{}
	switch name {
	case "boolean_t":
		out["type"] = "boolean"
	case "float_t":
		out["type"] = "number"
	case "integer_t":
		out["type"], out["minimum"], out["maximum"] = "integer", -1<<31, 1<<31-1
	case "long_t":
		out["type"] = "integer"
	case "string_t":
		out["type"] = "string"
	case "json_t", "object":
	default:
		out = s.primitive(s.types[name].(object)["type"].(string))
	}
	def := s.types[name].(object)
	if re, ok := def["regex"].(string); ok {
		out["pattern"] = re
	}
	if n, ok := def["max_len"].(float64); ok {
		out["maxLength"] = n
	}
	if r, ok := def["range"].([]any); ok {
		out["minimum"], out["maximum"] = r[0], r[1]
	}
	return out
}

// validator compiles the JSON Schema of a class.
func validator(t *testing.T, class string) func(line []byte) error {
	t.Helper()
	b, err := json.Marshal(openSource(t).jsonSchema(class))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("ocsf:"+class, doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("ocsf:" + class)
	if err != nil {
		t.Fatal(err)
	}
	return func(line []byte) error {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(line)))
		if err != nil {
			return fmt.Errorf("not JSON: %w", err)
		}
		return schema.Validate(v)
	}
}
