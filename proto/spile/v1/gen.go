// Package spilev1 is the vocabulary that agent and collector share: Call, Endpoint, Finding, and the services between them.
//
// The .proto files beside this one are the source; everything else here is generated from them by `make generate`.
package spilev1

//go:generate sh -c "cd ../.. && protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative spile/v1/call.proto spile/v1/ingest.proto spile/v1/query.proto"
