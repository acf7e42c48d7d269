package siem

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/spile/spile/proto/spile/v1"
)

const (
	ocsfVersion = "1.8.0"
	// Class Detection Finding of category Findings.
	findingsCategory = 2
	detectionFinding = 2004

	activityCreate = 1
	activityUpdate = 2
	activityClose  = 3
)

// ocsf maps a finding to a Detection Finding. Attributes that Spile does not know are absent, never guessed; no value of any
// request or response can occur, because a finding holds none.
func ocsf(w World) func(*v1.Finding) ([]byte, error) {
	return func(f *v1.Finding) ([]byte, error) {
		line, err := json.Marshal(detection(f, w))
		if err != nil {
			return nil, fmt.Errorf("encode finding as OCSF: %w", err)
		}
		return append(line, '\n'), nil
	}
}

func detection(f *v1.Finding, w World) ocsfDetection {
	activity, name, status, statusName := activityUpdate, "Update", 1, "New"
	switch {
	case f.GetState() == "closed":
		activity, name, status, statusName = activityClose, "Close", 4, "Resolved"
	case f.GetRevision() <= 1:
		activity, name = activityCreate, "Create"
	}
	severity, caption := ocsfSeverity(f.GetSeverity())
	score, confidence, confidenceName := ocsfConfidence(f.GetConfidence())
	d := ocsfDetection{
		ActivityID: activity, ActivityName: name,
		CategoryUID: findingsCategory, CategoryName: "Findings", ClassUID: detectionFinding, ClassName: "Detection Finding",
		TypeUID: detectionFinding*100 + activity, TypeName: "Detection Finding: " + name,
		SeverityID: severity, Severity: caption, StatusID: status, Status: statusName,
		Time: millis(f.GetLastSeen()), StartTime: millis(f.GetFirstSeen()), EndTime: millis(f.GetLastSeen()),
		Count: int32(min(f.GetCount(), math.MaxInt32)), Message: f.GetTitle(), IsAlert: activity != activityClose,
		ConfidenceScore: score, ConfidenceID: confidence, Confidence: confidenceName,
		Metadata: ocsfMetadata{
			Version: ocsfVersion, UID: f.GetId() + ":" + strconv.FormatUint(f.GetRevision(), 10), TenantUID: w.Tenant,
			EventCode: f.GetRule(), LogName: "findings",
			Product: ocsfProduct{Name: "Spile", VendorName: "Spile", Version: w.Version, UID: "spile"},
		},
		FindingInfo: ocsfFindingInfo{
			UID: f.GetId(), Title: f.GetTitle(), Types: []string{f.GetRule()}, Tags: tags(f),
			FirstSeen: millis(f.GetFirstSeen()), LastSeen: millis(f.GetLastSeen()),
			Created: millis(f.GetFirstSeen()), Modified: millis(f.GetLastSeen()),
			Analytic: ocsfAnalytic{TypeID: 1, Type: "Rule", UID: f.GetRule(), Name: f.GetTitle()},
		},
	}
	if len(f.GetEvidence()) > 0 {
		d.FindingInfo.Desc = f.GetEvidence()[0].GetWhy()
	}
	if id := f.GetAttack(); id != "" {
		d.FindingInfo.Attacks = []ocsfAttack{attack(id)}
	}
	if id := f.GetCwe(); id != "" {
		d.Vulnerabilities = []ocsfVulnerability{{CWE: ocsfCWE{
			UID: id, SrcURL: "https://cwe.mitre.org/data/definitions/" + strings.TrimPrefix(id, "CWE-") + ".html",
		}}}
	}
	if f.GetService() != "" {
		d.Resources = []ocsfResource{{Name: f.GetService(), Type: "API", Hostname: hostname(f.GetService())}}
	}
	for _, e := range f.GetEvidence() {
		d.Evidences = append(d.Evidences, evidence(f, e))
	}
	return d
}

// evidence maps one call of a finding.
func evidence(f *v1.Finding, e *v1.Evidence) ocsfEvidence {
	operation := strings.TrimSpace(f.GetMethod() + " " + f.GetRoute())
	if operation == "" {
		operation = f.GetRule()
	}
	out := ocsfEvidence{
		UID:         e.GetCall(),
		API:         ocsfAPI{Operation: operation},
		SrcEndpoint: endpoint(e.GetSource()), DstEndpoint: endpoint(e.GetDestination()),
		Data: ocsfWhy{Why: e.GetWhy(), Time: millis(e.GetTime())},
	}
	if f.GetService() != "" {
		out.API.Service = &ocsfService{Name: f.GetService()}
	}
	if f.GetRoute() != "" || f.GetMethod() != "" {
		request := &ocsfRequest{}
		if slices.Contains([]string{"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}, f.GetMethod()) {
			request.Method = f.GetMethod()
		}
		if f.GetRoute() != "" {
			request.URL = &ocsfURL{Path: f.GetRoute(), Hostname: hostname(f.GetService())}
		}
		if request.Method != "" || request.URL != nil {
			out.HTTPRequest = request
		}
	}
	if code := e.GetStatusCode(); code > 0 && code < 1000 {
		out.HTTPResponse = &ocsfResponse{Code: code}
		out.API.Response = &ocsfAPIResponse{Code: code}
	}
	if p := f.GetPrincipal(); p != "" {
		out.Actor = &ocsfActor{User: ocsfUser{UID: p}}
	}
	return out
}

// endpoint is nil where nothing identifies it: an endpoint needs at least one of address and names.
func endpoint(p *v1.Peer) *ocsfEndpoint {
	e := &ocsfEndpoint{InstanceUID: p.GetPodUid(), ServiceName: p.GetWorkload()}
	if e.ServiceName == "" {
		e.ServiceName = p.GetProcess()
	}
	if a, err := netip.ParseAddr(p.GetAddress()); err == nil {
		e.IP = a.Unmap().WithZone("").String()
	}
	if e.IP == "" && e.InstanceUID == "" && e.ServiceName == "" {
		return nil
	}
	if p.GetPort() <= math.MaxUint16 {
		e.Port = p.GetPort()
	}
	return e
}

// hostname is the service where it is a host's name: one named after a process or address and port is not.
func hostname(service string) string {
	if strings.ContainsAny(service, ":/ ") {
		return ""
	}
	return service
}

func tags(f *v1.Finding) []ocsfTag {
	var t []ocsfTag
	for _, kv := range [][2]string{{"owasp", f.GetOwasp()}, {"cwe", f.GetCwe()}, {"scope", f.GetScope()}} {
		if kv[1] != "" {
			t = append(t, ocsfTag{Name: kv[0], Value: kv[1]})
		}
	}
	return t
}

// attack maps a technique ("T1040") or sub-technique ("T1552.001") of MITRE ATT&CK.
func attack(id string) ocsfAttack {
	url := "https://attack.mitre.org/techniques/" + strings.ReplaceAll(id, ".", "/") + "/"
	if parent, _, ok := strings.Cut(id, "."); ok {
		return ocsfAttack{Technique: ocsfTechnique{UID: parent}, SubTechnique: &ocsfTechnique{UID: id, SrcURL: url}}
	}
	return ocsfAttack{Technique: ocsfTechnique{UID: id, SrcURL: url}}
}

func ocsfSeverity(s string) (id int, caption string) {
	switch s {
	case "info":
		return 1, "Informational"
	case "low":
		return 2, "Low"
	case "medium":
		return 3, "Medium"
	case "high":
		return 4, "High"
	case "critical":
		return 5, "Critical"
	}
	return 0, "Unknown"
}

func ocsfConfidence(c float64) (score, id int, caption string) {
	switch {
	case !(c > 0): // also not a number
		return 0, 0, "Unknown"
	case c < 0.5:
		id, caption = 1, "Low"
	case c < 0.8:
		id, caption = 2, "Medium"
	default:
		id, caption = 3, "High"
	}
	return int(math.Round(100 * min(c, 1))), id, caption
}

// millis is a time as OCSF counts it: milliseconds since the Unix epoch.
func millis(t *timestamppb.Timestamp) int64 {
	if t == nil {
		return 0
	}
	return t.AsTime().UnixMilli()
}
