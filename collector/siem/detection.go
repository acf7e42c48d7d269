package siem

// The types below spell the attributes of OCSF 1.8.0 that Spile fills, in the order in which they are printed.

type ocsfDetection struct {
	ClassUID        int                 `json:"class_uid"`
	ClassName       string              `json:"class_name"`
	CategoryUID     int                 `json:"category_uid"`
	CategoryName    string              `json:"category_name"`
	ActivityID      int                 `json:"activity_id"`
	ActivityName    string              `json:"activity_name"`
	TypeUID         int                 `json:"type_uid"`
	TypeName        string              `json:"type_name"`
	Time            int64               `json:"time"`
	StartTime       int64               `json:"start_time,omitempty"`
	EndTime         int64               `json:"end_time,omitempty"`
	SeverityID      int                 `json:"severity_id"`
	Severity        string              `json:"severity"`
	StatusID        int                 `json:"status_id"`
	Status          string              `json:"status"`
	IsAlert         bool                `json:"is_alert"`
	ConfidenceID    int                 `json:"confidence_id"`
	Confidence      string              `json:"confidence"`
	ConfidenceScore int                 `json:"confidence_score,omitempty"`
	Count           int32               `json:"count,omitempty"`
	Message         string              `json:"message,omitempty"`
	Metadata        ocsfMetadata        `json:"metadata"`
	FindingInfo     ocsfFindingInfo     `json:"finding_info"`
	Resources       []ocsfResource      `json:"resources,omitempty"`
	Vulnerabilities []ocsfVulnerability `json:"vulnerabilities,omitempty"`
	Evidences       []ocsfEvidence      `json:"evidences,omitempty"`
}

type ocsfMetadata struct {
	Version   string      `json:"version"`
	UID       string      `json:"uid"`
	TenantUID string      `json:"tenant_uid,omitempty"`
	EventCode string      `json:"event_code,omitempty"`
	LogName   string      `json:"log_name"`
	Product   ocsfProduct `json:"product"`
}

type ocsfProduct struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name"`
	Version    string `json:"version,omitempty"`
	UID        string `json:"uid"`
}

type ocsfFindingInfo struct {
	UID       string       `json:"uid"`
	Title     string       `json:"title,omitempty"`
	Desc      string       `json:"desc,omitempty"`
	Types     []string     `json:"types,omitempty"`
	Created   int64        `json:"created_time,omitempty"`
	Modified  int64        `json:"modified_time,omitempty"`
	FirstSeen int64        `json:"first_seen_time,omitempty"`
	LastSeen  int64        `json:"last_seen_time,omitempty"`
	Analytic  ocsfAnalytic `json:"analytic"`
	Attacks   []ocsfAttack `json:"attacks,omitempty"`
	Tags      []ocsfTag    `json:"tags,omitempty"`
}

type ocsfAnalytic struct {
	TypeID int    `json:"type_id"`
	Type   string `json:"type"`
	UID    string `json:"uid"`
	Name   string `json:"name,omitempty"`
}

type ocsfAttack struct {
	Technique    ocsfTechnique  `json:"technique"`
	SubTechnique *ocsfTechnique `json:"sub_technique,omitempty"`
}

type ocsfTechnique struct {
	UID    string `json:"uid"`
	SrcURL string `json:"src_url,omitempty"`
}

type ocsfTag struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type ocsfResource struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Hostname string `json:"hostname,omitempty"`
}

type ocsfVulnerability struct {
	CWE ocsfCWE `json:"cwe"`
}

type ocsfCWE struct {
	UID    string `json:"uid"`
	SrcURL string `json:"src_url"`
}

type ocsfEvidence struct {
	UID          string        `json:"uid,omitempty"`
	API          ocsfAPI       `json:"api"`
	HTTPRequest  *ocsfRequest  `json:"http_request,omitempty"`
	HTTPResponse *ocsfResponse `json:"http_response,omitempty"`
	SrcEndpoint  *ocsfEndpoint `json:"src_endpoint,omitempty"`
	DstEndpoint  *ocsfEndpoint `json:"dst_endpoint,omitempty"`
	Actor        *ocsfActor    `json:"actor,omitempty"`
	Data         ocsfWhy       `json:"data"`
}

type ocsfAPI struct {
	Operation string           `json:"operation"`
	Service   *ocsfService     `json:"service,omitempty"`
	Response  *ocsfAPIResponse `json:"response,omitempty"`
}

type ocsfService struct {
	Name string `json:"name"`
}

type ocsfAPIResponse struct {
	Code uint32 `json:"code"`
}

type ocsfRequest struct {
	Method string   `json:"http_method,omitempty"`
	URL    *ocsfURL `json:"url,omitempty"`
}

type ocsfURL struct {
	Hostname string `json:"hostname,omitempty"`
	Path     string `json:"path"`
}

type ocsfResponse struct {
	Code uint32 `json:"code"`
}

type ocsfEndpoint struct {
	IP          string `json:"ip,omitempty"`
	Port        uint32 `json:"port,omitempty"`
	ServiceName string `json:"svc_name,omitempty"`
	InstanceUID string `json:"instance_uid,omitempty"`
}

type ocsfActor struct {
	User ocsfUser `json:"user"`
}

type ocsfUser struct {
	UID string `json:"uid"`
}

// ocsfWhy is the evidence in words; OCSF has no attribute for it.
type ocsfWhy struct {
	Why  string `json:"why,omitempty"`
	Time int64  `json:"time,omitempty"`
}
