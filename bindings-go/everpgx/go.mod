module github.com/everstep/everstep/bindings-go/everpgx

go 1.24.0

require (
	github.com/everstep/everstep/bindings-go v0.1.0
	// The newest that Go 1.24 can build: a requirement is a minimum, and yours may be newer.
	github.com/jackc/pgx/v5 v5.8.0
)

require (
	github.com/everstep/everstep/bindings-go/lib/linux-amd64 v0.1.0 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.2 // indirect
	golang.org/x/sync v0.17.0 // indirect
	golang.org/x/text v0.29.0 // indirect
)

// In this repository the modules are built together; a program that requires this one does not see these lines.
replace (
	github.com/everstep/everstep/bindings-go => ../
	github.com/everstep/everstep/bindings-go/lib/linux-amd64 => ../lib/linux-amd64
)
