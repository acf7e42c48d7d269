// Package route makes the template of a path: which endpoint a request was for, without which object.
//
//	/v2/users/42/orders?page=3            /v2/users/{id}/orders
//	/files//2026-11-21/report-17.pdf/     /files/{date}/{file}
//	/projects/shop-7f3a2b91:close         /projects/{id}:close
//	/grpc.health.v1.Health/Check          /grpc.health.v1.Health/Check
//
// Each segment is judged by itself, by proto/segment's lexer, and by nothing that came before: the same path has the same
// template for ever, on every collector, and a path masked on the node has the template of the path as sent.
//
// A parameter is named after what kind of value it is, not after its format. Numbers, UUIDs, ULIDs, hex, prefixed and short
// random ids all are {id}, because one position often holds several of them and they are one endpoint. The names are {id},
// {number}, {date}, {ip}, {file}, {slug}, and the masks of proto/segment: {secret}, {email}, {card}, {phone}, {iban}, {ssn}.
// Names, versions (v2) and locales (de-DE) stay literal; so do files whose name is a word (openapi.json).
//
// What this cannot do: tell a word that is an identifier from a word that names a resource. /users/alice and
// /repos/octocat/hello-world stay literal, as does a random id that happens to have no digit. The inventory bounds what
// comes of that. Learning from many paths which position is a parameter is another matter and needs state.
package route
