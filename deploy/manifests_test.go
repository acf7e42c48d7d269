package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// documents decodes each YAML document of a manifest strictly into the API type of its kind: an unknown, misplaced or
// mistyped field fails. This is the schema of k8s.io/api, without a cluster.
func documents(t *testing.T, file string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]any{}
	for _, doc := range regexp.MustCompile(`(?m)^---$`).Split(string(data), -1) {
		if err := decode([]byte(doc), out); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	return out
}

func decode(doc []byte, into map[string]any) error {
	var head struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal(doc, &head); err != nil {
		return err
	}
	kinds := map[string]any{
		"v1/Namespace": &corev1.Namespace{}, "v1/ServiceAccount": &corev1.ServiceAccount{}, "v1/Service": &corev1.Service{},
		"apps/v1/DaemonSet": &appsv1.DaemonSet{}, "apps/v1/StatefulSet": &appsv1.StatefulSet{},
	}
	object, ok := kinds[head.APIVersion+"/"+head.Kind]
	if !ok {
		return &json.UnmarshalTypeError{Value: head.APIVersion + "/" + head.Kind}
	}
	data, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return err
	}
	// The decoder of the API server: names are compared with their case, unknown and repeated fields are told.
	strict, err := kjson.UnmarshalStrict(data, object)
	if err = errors.Join(append(strict, err)...); err != nil {
		return err
	}
	into[head.Kind] = object
	return nil
}

func TestManifestsAreStrict(t *testing.T) {
	broken := []byte("apiVersion: apps/v1\nkind: DaemonSet\nspec: {template: {spec: {hostPid: true}}}\n")
	if err := decode(broken, map[string]any{}); err == nil {
		t.Error("a misspelt field was accepted: the check cannot fail")
	}
	documents(t, "agent.yaml")
	documents(t, "collector.yaml")
}

// TestManifestsAskForNoMoreThanTheyNeed holds the agent's pod to what the kernel needs and the collector's to nothing.
func TestManifestsAskForNoMoreThanTheyNeed(t *testing.T) {
	ds := documents(t, "agent.yaml")["DaemonSet"].(*appsv1.DaemonSet)
	pod := ds.Spec.Template.Spec
	if !pod.HostPID || pod.HostNetwork || pod.HostIPC {
		t.Errorf("agent: hostPID %v hostNetwork %v hostIPC %v, want only hostPID", pod.HostPID, pod.HostNetwork, pod.HostIPC)
	}
	for _, v := range pod.Volumes {
		if v.HostPath != nil && v.HostPath.Path != agentDir {
			t.Errorf("agent: volume %s is the host's %s", v.Name, v.HostPath.Path)
		}
	}
	c := pod.Containers[0].SecurityContext
	want := []corev1.Capability{"BPF", "PERFMON", "SYS_PTRACE"}
	if !slices.Equal(c.Capabilities.Add, want) || !slices.Equal(c.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("agent: capabilities %v", c.Capabilities)
	}
	if c.Privileged != nil || *c.RunAsUser != 0 || !*c.ReadOnlyRootFilesystem || *c.AllowPrivilegeEscalation {
		t.Errorf("agent: security context %+v", c)
	}
	ss := documents(t, "collector.yaml")["StatefulSet"].(*appsv1.StatefulSet)
	pod = ss.Spec.Template.Spec
	c = pod.Containers[0].SecurityContext
	if !*pod.SecurityContext.RunAsNonRoot || len(c.Capabilities.Add) != 0 || !*c.ReadOnlyRootFilesystem || pod.HostPID {
		t.Errorf("collector: it needs no privilege, has %+v", c)
	}
}

// agentDir is where an agent keeps its data, in a pod and outside.
const agentDir = "/var/lib/spile-agent"

// TestADenialOutlivesThePod: --data of the agent is a directory of the node. In the pod's own a restart would forget which
// builds crash when they are probed, and probe them again.
func TestADenialOutlivesThePod(t *testing.T) {
	pod := documents(t, "agent.yaml")["DaemonSet"].(*appsv1.DaemonSet).Spec.Template.Spec
	c := pod.Containers[0]
	at := slices.Index(c.Args, "--data")
	if at < 0 || at+1 == len(c.Args) {
		t.Fatalf("no --data in %q", c.Args)
	}
	data := c.Args[at+1]
	mount := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == data })
	if mount < 0 || c.VolumeMounts[mount].ReadOnly || c.VolumeMounts[mount].SubPath != "" {
		t.Fatalf("--data %s is not a writable volume: %+v", data, c.VolumeMounts)
	}
	volume := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == c.VolumeMounts[mount].Name })
	if volume < 0 {
		t.Fatalf("no volume %s", c.VolumeMounts[mount].Name)
	}
	host := pod.Volumes[volume].HostPath
	if host == nil || host.Path != agentDir || host.Type == nil || *host.Type != corev1.HostPathDirectoryOrCreate {
		t.Errorf("%s is kept in %+v, want the node's %s, made where it is missing", data, pod.Volumes[volume].VolumeSource, agentDir)
	}
}

// TestManifestsNameFlagsThatExist runs each container's arguments against the real binary's --help.
func TestManifestsNameFlagsThatExist(t *testing.T) {
	bin := binaries(t)
	ds := documents(t, "agent.yaml")["DaemonSet"].(*appsv1.DaemonSet)
	ss := documents(t, "collector.yaml")["StatefulSet"].(*appsv1.StatefulSet)
	for _, c := range []struct {
		help []byte
		args []string
	}{
		{output(t, bin.agent, "--help"), ds.Spec.Template.Spec.Containers[0].Args},
		{output(t, bin.spile, "collector", "--help"), ss.Spec.Template.Spec.Containers[0].Args},
	} {
		for _, a := range c.args {
			if strings.HasPrefix(a, "--") && !bytes.Contains(c.help, []byte(a)) {
				t.Errorf("no flag %s in --help", a)
			}
		}
	}
}
